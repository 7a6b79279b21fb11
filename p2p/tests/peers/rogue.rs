//! Peers that do harm: they stand between a node and an honest one and change what passes, or speak the protocol by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt};
use gridfs_p2p::streams::{Inbound, Opened, Streams};
use gridfs_p2p::wire::{
    self, Done, End, Frame, GetChunks, GetObject, Headed, Kind, Listed, MAX_HEADER_BYTES, Record, Want,
};
use gridfs_p2p::{Blame, Error, Limits, Multiaddr, PeerId};
use gridfs_store::cbor::Bytes;
use gridfs_store::{Chunk, Cid, Codec, Hash, Target, Tree, TreeEntry};
use libp2p::swarm::SwarmEvent;
use libp2p::{Stream, StreamProtocol, SwarmBuilder, noise, tcp, yamux};
use tokio::sync::{mpsc, oneshot};

use crate::node::{Node, limits, random};

/// A peer that answers streams as the test says.
struct Rogue {
    id: PeerId,
    address: Multiaddr,
    opener: Opener,
}

/// Opens streams for a rogue.
#[derive(Clone)]
struct Opener(mpsc::UnboundedSender<(PeerId, Opened)>);

impl Opener {
    async fn open(&self, peer: PeerId) -> Stream {
        let (opened, stream) = oneshot::channel();
        self.0.send((peer, opened)).unwrap();
        stream.await.unwrap().unwrap()
    }
}

type Handle = dyn Fn(Stream, Opener) -> BoxFuture<'static, ()> + Send + Sync;

impl Rogue {
    /// Knows these honest nodes, and answers streams with `handle`.
    async fn start(honest: &[&Node], handle: Arc<Handle>) -> Rogue {
        let mut swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|_| Streams::new(StreamProtocol::new("/gridfs/1")))
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(600)))
            .build();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        for node in honest {
            swarm.dial(node.addresses()[0].clone()).unwrap();
            while !swarm.is_connected(&node.id()) {
                swarm.select_next_some().await;
            }
        }
        let (opens, mut wanted) = mpsc::unbounded_channel();
        let (id, opener) = (*swarm.local_peer_id(), Opener(opens));
        let for_task = opener.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    event = swarm.select_next_some() => if let SwarmEvent::Behaviour(Inbound { stream, .. }) = event {
                        tokio::spawn(handle(stream, for_task.clone()));
                    },
                    open = wanted.recv() => match open {
                        Some((peer, opened)) => swarm.behaviour_mut().open(peer, opened),
                        None => return,
                    },
                }
            }
        });
        Rogue { id, address, opener }
    }

    async fn meets(&self, node: &Node) {
        node.network.connect(self.id, std::slice::from_ref(&self.address)).await.unwrap();
    }
}

/// Changes bytes that pass towards the node that asked: the number of the stream, where they stand in it, and they themselves.
/// `false` ends the stream.
type Tamper = dyn Fn(usize, usize, Vec<u8>) -> BoxFuture<'static, Option<Vec<u8>>> + Send + Sync;

/// Hands all that is asked on to an honest node, and what it answers through `tamper`.
fn between(honest: PeerId, tamper: Arc<Tamper>) -> Arc<Handle> {
    let count = Arc::new(AtomicUsize::new(0));
    Arc::new(move |asker, opener| {
        let (number, tamper) = (count.fetch_add(1, Ordering::SeqCst), tamper.clone());
        async move {
            let answerer = opener.open(honest).await;
            let ((mut from_asker, mut to_asker), (mut from, mut to)) = (asker.split(), answerer.split());
            let ask = async {
                let _ = futures::io::copy(&mut from_asker, &mut to).await;
                let _ = to.close().await;
            };
            let answer = async {
                let (mut at, mut buffer) = (0, vec![0; 64 << 10]);
                while let Ok(read @ 1..) = from.read(&mut buffer).await {
                    let Some(bytes) = tamper(number, at, buffer[..read].to_vec()).await else { return };
                    at += read;
                    if to_asker.write_all(&bytes).await.is_err() || to_asker.flush().await.is_err() {
                        return;
                    }
                }
                let _ = to_asker.close().await;
            };
            futures::future::select(Box::pin(ask), Box::pin(answer)).await;
        }
        .boxed()
    })
}

async fn impatient() -> Node {
    let limits = Limits { patience: Duration::from_secs(3), min_bytes_per_s: 1 << 20, ..limits() };
    Node::start_with(|config| config.limits = limits).await
}

fn failures(error: Error) -> Vec<(PeerId, Error)> {
    match error {
        Error::NoProvider { failures, .. } => failures,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_flipped_bit_anywhere_does_no_harm() {
    let victim = Node::start_with(|config| config.limits.patience = Duration::from_secs(5)).await;
    let honest = Node::start().await;
    victim.meet(&honest).await;
    // The list has about 130 bytes, the answer with chunks 90 before the content.
    let of_chunks = (0..100usize).step_by(3).chain([1_000, 20_000]);
    let places = (0..130usize).step_by(3).map(|at| (0, at)).chain(of_chunks.map(|at| (1, at)));
    let flipped = |(turn, (stream, at)): (usize, (usize, usize))| {
        let (victim, honest) = (&victim, &honest);
        async move {
            let bytes = random(turn as u8, 20_000);
            let cid = honest.put(&bytes);
            let flip: Arc<Tamper> = Arc::new(move |number, begin, mut bytes| {
                if let (true, Some(byte)) = (number == stream, at.checked_sub(begin).and_then(|at| bytes.get_mut(at))) {
                    *byte ^= 1 << (turn % 8);
                }
                async { Some(bytes) }.boxed()
            });
            let rogue = Rogue::start(&[honest], between(honest.id(), flip)).await;
            rogue.meets(victim).await;
            match victim.fetch(cid, &[rogue.id]).await {
                // A flag that says nothing about the content may have been changed, or what came after the last byte needed.
                Ok(_) => assert!(victim.has(&cid, &bytes), "byte {at} of stream {stream}"),
                Err(_) => assert!(!victim.store.contains(&cid).unwrap(), "byte {at} of stream {stream}"),
            }
            victim.fetch(cid, &[rogue.id, honest.id()]).await.unwrap();
            assert!(victim.has(&cid, &bytes), "byte {at} of stream {stream}, with an honest provider");
        }
    };
    futures::stream::iter(places.enumerate()).for_each_concurrent(8, flipped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_corrupts_is_blamed_and_another_goes_on() {
    let (victim, honest) = (Node::start().await, Node::start().await);
    victim.meet(&honest).await;
    let bytes = random(1, 30 << 20);
    let cid = honest.put(&bytes);
    let corrupt: Arc<Tamper> = Arc::new(|number, begin, mut bytes| {
        if number > 0 && begin > 2 << 20 {
            bytes[0] ^= 1;
        }
        async { Some(bytes) }.boxed()
    });
    let rogue = Rogue::start(&[&honest], between(honest.id(), corrupt)).await;
    rogue.meets(&victim).await;
    let fetched = victim.fetch(cid, &[rogue.id, honest.id()]).await.unwrap();
    assert!(victim.has(&cid, &bytes));
    assert_eq!(fetched.blamed.iter().map(|blame| blame.peer).collect::<Vec<_>>(), [rogue.id]);
    let known = victim.network.peers().into_iter().find(|(id, _)| *id == rogue.id).unwrap().1;
    assert_eq!(known.broken, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_stalls_is_left_for_another() {
    let (victim, honest) = (Node::start().await, Node::start().await);
    victim.meet(&honest).await;
    let bytes = random(2, 30 << 20);
    let cid = honest.put(&bytes);
    let stall: Arc<Tamper> = Arc::new(|number, begin, bytes| {
        async move {
            if number > 0 && begin > 1 << 20 {
                std::future::pending::<()>().await;
            }
            Some(bytes)
        }
        .boxed()
    });
    let rogue = Rogue::start(&[&honest], between(honest.id(), stall)).await;
    rogue.meets(&victim).await;
    victim.fetch(cid, &[rogue.id, honest.id()]).await.unwrap();
    assert!(victim.has(&cid, &bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_drips_is_dropped() {
    let (victim, honest) = (impatient().await, Node::start().await);
    let bytes = random(3, 200_000);
    let cid = honest.put(&bytes);
    let drip: Arc<Tamper> = Arc::new(|number, begin, bytes| {
        async move {
            if number > 0 && begin > 1_000 {
                // At most 64 KiB pass in this time.
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
            Some(bytes)
        }
        .boxed()
    });
    let rogue = Rogue::start(&[&honest], between(honest.id(), drip)).await;
    rogue.meets(&victim).await;
    let failures = failures(victim.fetch(cid, &[rogue.id]).await.err().expect("it is too slow"));
    assert!(matches!(failures[..], [(_, Error::Slow { .. })]), "{failures:?}");
    assert!(!victim.store.contains(&cid).unwrap());
}

/// Answers every stream with the same frames, whatever is asked.
fn says(frames: Vec<u8>, for_ever: bool) -> Arc<Handle> {
    Arc::new(move |mut stream, _| {
        let frames = frames.clone();
        async move {
            let Ok(_) = wire::read(&mut stream).await else { return };
            while stream.write_all(&frames).await.is_ok() && for_ever {}
            let _ = stream.close().await;
        }
        .boxed()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_at_once() {
    let victim = impatient().await;
    let cid = Cid::of(Codec::Raw, b"wanted");
    let file = |cid, size, chunks: &[Chunk]| {
        let listed = Listed { cid, kind: Kind::File, size, count: chunks.len() as u64 };
        [wire::encode(&listed), wire::join_chunks(chunks)].concat()
    };
    let one = |size: u32| [(cid.hash, size)];
    let other = Cid::of(Codec::Raw, b"other");
    let end = wire::encode(&End {});
    let mut long = wire::encode(&End {});
    long[..4].copy_from_slice(&(MAX_HEADER_BYTES as u32 + 1).to_le_bytes());
    let mut late = wire::encode(&End {});
    late[4] = 2;
    let huge = Listed { cid, kind: Kind::File, size: 1 << 20, count: u64::MAX };
    let record = Listed { cid, kind: Kind::Record, size: 4, count: 0 };
    let dag = Cid { codec: Codec::DagCbor, ..cid };
    let bad_record = Listed { cid: dag, kind: Kind::Record, size: 4, count: 0 };
    let whole = |bytes: &[u8]| {
        let listed = Listed { cid: Cid::of(Codec::Raw, bytes), kind: Kind::Record, size: bytes.len() as u64, count: 0 };
        [wire::encode(&listed), bytes.to_vec(), wire::encode(&End {})].concat()
    };
    let large = vec![7; wire::MAX_WHOLE_BYTES as usize + 1];
    let entry = TreeEntry { name: b"file".to_vec(), target: Target::File { cid, size_bytes: 6, executable: false } };
    let bytes = Tree::new(vec![entry]).unwrap().encode();
    let tree = Cid::of(Codec::DagCbor, &bytes);
    let directory = Listed { cid: tree, kind: Kind::Directory, size: bytes.len() as u64, count: 0 };
    let directory = [wire::encode(&directory), bytes].concat();
    for (what, frames, wanted) in [
        ("nothing at all is listed", end.clone(), cid),
        ("another object", file(other, 5, &[(other.hash, 5)]), cid),
        ("twice the same", [file(cid, 6, &one(6)), file(cid, 6, &one(6))].concat(), cid),
        ("lengths that don't add up", file(cid, 7, &one(6)), cid),
        ("a single chunk that is another object", file(cid, 5, &[(other.hash, 5)]), cid),
        ("no chunks", file(cid, 0, &[]), cid),
        ("an empty chunk among others", file(cid, 6, &[(cid.hash, 6), (other.hash, 0)]), cid),
        ("more chunks than there may be", wire::encode(&huge), cid),
        ("a whole file of other content", [wire::encode(&record), b"1234".to_vec()].concat(), cid),
        ("a record of other content", [wire::encode(&bad_record), b"1234".to_vec()].concat(), dag),
        ("a whole file that is not small", whole(&large), Cid::of(Codec::Raw, &large)),
        ("a whole file in a directory", [directory, whole(b"wanted")].concat(), tree),
        ("a header too long", long, cid),
        ("another version", late, cid),
        ("a frame out of its place", wire::encode(&Record { bytes: 1 }), cid),
        ("no frame", b"HTTP/1.1 400 Bad Request\r\n\r\n".repeat(10), cid),
    ] {
        let rogue = Rogue::start(&[], says(frames, false)).await;
        rogue.meets(&victim).await;
        let failures = failures(victim.fetch(wanted, &[rogue.id]).await.err().expect(what));
        assert!(
            matches!(&failures[..], [(_, Error::Rubbish(Blame { peer, .. }))] if *peer == rogue.id),
            "{what}: {failures:?}"
        );
        let part = victim.network.fetch_range(wanted, 0..5, None, &[rogue.id]).await;
        assert!(part.is_err(), "{what}");
        assert!(victim.network.claims(rogue.id, cid.hash).await.is_err(), "{what}");
        assert!(victim.network.head(rogue.id, [7; 32], Some(cid.hash)).await.is_err(), "{what}");
    }
    let endless = Rogue::start(&[], says(file(cid, 6, &one(6)), true)).await;
    endless.meets(&victim).await;
    assert!(victim.fetch(cid, &[endless.id]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_tables_that_are_too_long_are_not_taken() {
    let victim = Node::start().await;
    for (head_bytes, table_bytes) in
        [(wire::MAX_HEAD_BYTES + 1, 0), (100, wire::MAX_TABLE_BYTES + 1), (u64::MAX, u64::MAX), (0, 0)]
    {
        let rogue = Rogue::start(&[], says(wire::encode(&Headed { head_bytes, table_bytes }), false)).await;
        rogue.meets(&victim).await;
        let told = victim.network.head(rogue.id, [7; 32], None).await;
        assert!(matches!(told, Err(Error::Rubbish(Blame { peer, .. })) if peer == rogue.id), "{told:?}");
    }
}

/// Lists `cid` as it likes, and answers want-lists with `answer`.
fn lists(cid: Cid, chunks: Vec<Chunk>, answer: impl Fn(Frame) -> Vec<u8> + Send + Sync + 'static) -> Arc<Handle> {
    let answer = Arc::new(answer);
    Arc::new(move |mut stream, _| {
        let (chunks, answer) = (chunks.clone(), answer.clone());
        async move {
            let Ok(request) = wire::read(&mut stream).await else { return };
            if request.get::<GetObject>().unwrap().is_some() {
                let size = chunks.iter().map(|(_, size)| u64::from(*size)).sum();
                let listed = Listed { cid, kind: Kind::File, size, count: chunks.len() as u64 };
                wire::write(&mut stream, &listed, &wire::join_chunks(&chunks)).await.unwrap();
                wire::write(&mut stream, &End {}, &[]).await.unwrap();
                stream.close().await.unwrap();
            } else if request.get::<GetChunks>().unwrap().is_some() {
                while let Ok(want) = wire::read(&mut stream).await {
                    if stream.write_all(&answer(want)).await.is_err() || stream.flush().await.is_err() {
                        return;
                    }
                }
            }
        }
        .boxed()
    })
}

fn parts(count: u8) -> (Vec<Vec<u8>>, Vec<Chunk>) {
    let parts: Vec<Vec<u8>> = (0..count).map(|n| random(n, 10_000)).collect();
    let chunks = parts.iter().map(|part| (Hash::of(part), part.len() as u32)).collect();
    (parts, chunks)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_want_lists_with_something_else_is_blamed() {
    let (victim, source) = (impatient().await, Node::start().await);
    let (parts, chunks) = parts(4);
    let cid = Cid::of(Codec::Raw, &parts.concat());
    let mut batch = source.store.batch();
    for part in &parts {
        batch.put_bytes(Codec::Raw, part).unwrap();
    }
    batch.put_bytes(Codec::Raw, &random(99, 60_000)).unwrap();
    batch.commit(gridfs_store::Durability::Durable).unwrap();
    let record = move |wanted: &[Hash]| {
        let mut records = Vec::new();
        let mut sink = |record| {
            records.push(record);
            Ok(())
        };
        gridfs_store::Export::new(source.store.clone())
            .chunks(wanted, &|hash| wanted.contains(hash), &mut sink)
            .unwrap();
        let frames = records.iter().flat_map(|r| [wire::encode(&Record { bytes: r.len() as u64 }), r.clone()]);
        frames.collect::<Vec<_>>().concat()
    };
    let all: Vec<Hash> = chunks.iter().map(|(hash, _)| *hash).collect();
    let (good, foreign) = (record(&all), record(&[Hash::of(&random(99, 60_000))]));
    let done = |missing: &[Hash]| wire::encode(&Done { missing: wire::join_hashes(missing) });
    let mut torn = good.clone();
    *torn.last_mut().unwrap() ^= 1;
    for (what, answer, is_blamed) in [
        ("it is done, and sent nothing", done(&[]), true),
        ("a record that nobody asked for", [foreign, done(&[])].concat(), true),
        ("a record that fails its checks", [torn, done(&[])].concat(), true),
        ("a record longer than any", wire::encode(&Record { bytes: u64::MAX }), true),
        ("it has nothing, and says so", done(&all), false),
        ("a want-list in place of an answer", wire::encode(&Want { hashes: Bytes(Vec::new()) }), true),
        ("the same for ever", good.repeat(200), true),
    ] {
        let rogue = Rogue::start(&[], lists(cid, chunks.clone(), move |_| answer.clone())).await;
        rogue.meets(&victim).await;
        match victim.fetch(cid, &[rogue.id]).await {
            // What was wanted may have come before the rest was looked at.
            Ok(_) => assert_eq!(what, "the same for ever"),
            Err(error) => {
                let blamed = failures(error).iter().any(|(_, error)| error.blame().is_some());
                assert_eq!(blamed, is_blamed, "{what}");
                assert!(!victim.store.contains(&cid).unwrap(), "{what}");
            }
        }
    }
    let rogue = Rogue::start(&[], lists(cid, chunks, move |_| [good.clone(), done(&[])].concat())).await;
    rogue.meets(&victim).await;
    victim.fetch(cid, &[rogue.id]).await.unwrap();
    assert!(victim.has(&cid, &parts.concat()), "spoken by hand, but right");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_chunks_that_are_not_the_object_is_found_out() {
    let (victim, honest) = (Node::start().await, Node::start().await);
    victim.meet(&honest).await;
    let bytes = random(5, 1 << 20);
    let cid = honest.put(&bytes);
    let (parts, chunks) = parts(4);
    let mut batch = honest.store.batch();
    for part in &parts {
        batch.put_bytes(Codec::Raw, part).unwrap();
    }
    batch.commit(gridfs_store::Durability::Durable).unwrap();
    let store = honest.store.clone();
    let answer = move |want: Frame| {
        let wanted = wire::split_hashes(&want.expect::<Want>().unwrap().hashes).unwrap();
        let mut frames = Vec::new();
        let mut sink = |record: Vec<u8>| {
            frames.extend(wire::encode(&Record { bytes: record.len() as u64 }));
            frames.extend(record);
            Ok(())
        };
        gridfs_store::Export::new(store.clone()).chunks(&wanted, &|hash| wanted.contains(hash), &mut sink).unwrap();
        [frames, wire::encode(&Done { missing: Bytes(Vec::new()) })].concat()
    };
    let rogue = Rogue::start(&[], lists(cid, chunks, answer)).await;
    rogue.meets(&victim).await;
    let alone = failures(victim.fetch(cid, &[rogue.id]).await.err().expect("it is another object"));
    assert!(alone[0].1.blame().is_some(), "{alone:?}");
    assert!(!victim.store.contains(&cid).unwrap());
    let fetched = victim.fetch(cid, &[rogue.id, honest.id()]).await.unwrap();
    assert_eq!(fetched.blamed[0].peer, rogue.id);
    assert!(victim.has(&cid, &bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_streams_leaves_room_for_others() {
    let limits = Limits { requests: 12, requests_per_peer: 8, patience: Duration::from_secs(600), ..limits() };
    let server = Node::start_with(|config| config.limits = limits).await;
    let honest = Node::start().await;
    honest.meet(&server).await;
    let rogue = Rogue::start(&[&server], says(Vec::new(), false)).await;
    let mut idle = Vec::new();
    for n in 0..100usize {
        let mut stream = rogue.opener.open(server.id()).await;
        let cut = wire::encode(&GetObject { cid: Cid::of(Codec::Raw, b"") })[..20].to_vec();
        let rubbish = [Vec::new(), vec![0xff; 100], cut];
        if stream.write_all(&rubbish[n % 3]).await.is_ok() && stream.flush().await.is_ok() {
            idle.push(stream);
        }
        // No more than an honest peer could have open, for the multiplexer of the other side.
        if idle.len() > 60 {
            idle.remove(0);
        }
    }
    let bytes = random(6, 1 << 20);
    let cid = server.put(&bytes);
    honest.fetch(cid, &[server.id()]).await.unwrap();
    assert!(honest.has(&cid, &bytes));
}
