//! Objects on their way from store to store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gridfs_p2p::{Code, Error, Fetch};
use gridfs_store::{Cid, Codec, Durability, Target};

use crate::node::{Node, eventually, random};

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_all_sizes_come_whole() {
    let (to, from) = (Node::start().await, Node::start().await);
    to.meet(&from).await;
    let mixed = [random(1, 9 << 20), b"all work and no play ".repeat(500_000)].concat();
    for bytes in [&b""[..], b"x", &random(2, 10_000), &[7; 3_000_000], &mixed] {
        let cid = from.put(bytes);
        let fetched = to.fetch(cid, &[from.id()]).await.unwrap();
        assert_eq!((fetched.size_bytes, fetched.blamed.len()), (bytes.len() as u64, 0));
        assert!(to.has(&cid, bytes));
        let again = to.fetch(cid, &[from.id()]).await.unwrap();
        assert_eq!((again.size_bytes, again.moved_bytes), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_over_every_transport() {
    for listen in ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0/ws"] {
        let from = Node::start_with(|config| config.listen = vec![listen.parse().unwrap()]).await;
        let to = Node::start_with(|config| config.listen.clear()).await;
        to.meet(&from).await;
        let bytes = random(3, 2 << 20);
        let cid = from.put(&bytes);
        to.fetch(cid, &[from.id()]).await.unwrap();
        assert!(to.has(&cid, &bytes), "{listen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_comes_with_all_that_is_in_it() {
    let (to, from) = (Node::start().await, Node::start().await);
    to.meet(&from).await;
    let root = from.put_tree(1_000);
    let before = from.network.stats().requests;
    let fetched = to.fetch(root, &[from.id()]).await.unwrap();
    assert!(fetched.moved_bytes < fetched.size_bytes, "it came compressed");
    assert_eq!(from.network.stats().requests - before, 2, "one list, one stream of chunks");
    let (mut open, mut files) = (vec![root], 0);
    while let Some(cid) = open.pop() {
        let tree = to.store.tree(&cid).unwrap();
        assert_eq!(tree, from.store.tree(&cid).unwrap());
        for entry in tree.entries() {
            match &entry.target {
                Target::Directory { cid } => open.push(*cid),
                Target::File { cid, .. } => {
                    files += 1;
                    assert!(to.has(cid, &from.store.read(cid, 1 << 20).unwrap()));
                }
                Target::Symlink { .. } => {}
            }
        }
    }
    assert_eq!(files, 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_comes_as_it_is() {
    let (to, from) = (Node::start().await, Node::start().await);
    to.meet(&from).await;
    let record = gridfs_store::cbor::to_vec(&("a receipt", 7));
    let mut batch = from.store.batch();
    let cid = batch.put_bytes(Codec::DagCbor, &record).unwrap();
    batch.commit(Durability::Durable).unwrap();
    to.fetch(cid, &[from.id()]).await.unwrap();
    assert!(to.has(&cid, &record));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_next_version_only_what_is_new_moves() {
    let (to, from) = (Node::start().await, Node::start().await);
    to.meet(&from).await;
    let mut bytes = random(4, 20 << 20);
    let first = from.put(&bytes);
    to.fetch(first, &[from.id()]).await.unwrap();
    let before = from.store.stats().unwrap().plain_bytes;
    bytes.splice(5_000_000..5_000_010, *b"something else");
    bytes.extend_from_slice(&random(5, 1 << 20));
    let next = from.put(&bytes);
    let new_bytes = from.store.stats().unwrap().plain_bytes - before;
    let fetched = to.fetch(next, &[from.id()]).await.unwrap();
    assert!(to.has(&next, &bytes));
    assert!(fetched.moved_bytes <= new_bytes + new_bytes / 10, "{} moved, {new_bytes} are new", fetched.moved_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_goes_on_where_an_earlier_one_ended() {
    let (to, from) = (Node::start().await, Node::start().await);
    to.meet(&from).await;
    let bytes = random(6, 60 << 20);
    let cid = from.put(&bytes);
    let done = Arc::new(AtomicU64::new(0));
    let first = tokio::spawn({
        let (network, providers, done) = (to.network.clone(), vec![from.id()], done.clone());
        let progress: Arc<dyn Fn(gridfs_p2p::Progress) + Send + Sync> = Arc::new(move |progress| {
            done.store(progress.done_bytes, Ordering::SeqCst);
            // So that it is interrupted before its end.
            std::thread::sleep(std::time::Duration::from_millis(20));
        });
        async move {
            network
                .fetch(Fetch {
                    cid,
                    providers,
                    max_bytes: 1 << 30,
                    durability: Durability::Durable,
                    progress: Some(progress),
                })
                .await
                .map(drop)
        }
    });
    eventually("a third has come", || done.load(Ordering::SeqCst) > 20 << 20).await;
    first.abort();
    let had = done.load(Ordering::SeqCst);
    assert!(first.await.unwrap_err().is_cancelled());
    assert!(!to.store.contains(&cid).unwrap(), "nothing is visible before all of it is there");
    // What was dropped commits what it has, on its own thread.
    let chunks = || to.store.counters().chunks > 100;
    eventually("what has come is kept", chunks).await;
    let second = to.fetch(cid, &[from.id()]).await.unwrap();
    assert!(to.has(&cid, &bytes));
    assert!(second.moved_bytes + had / 2 < bytes.len() as u64, "{} moved again after {had}", second.moved_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_provider_goes_away_another_goes_on() {
    let (to, one, two) = (Node::start().await, Node::start().await, Node::start().await);
    to.meet(&one).await;
    to.meet(&two).await;
    let bytes = random(7, 60 << 20);
    let cid = one.put(&bytes);
    two.put(&bytes);
    let stopping = {
        let (network, to) = (one.network.clone(), to.network.clone());
        async move {
            while to.stats().received_bytes < 10 << 20 {
                tokio::task::yield_now().await;
            }
            network.stop().await;
        }
    };
    let providers = [one.id(), two.id()];
    let (fetched, ()) = tokio::join!(to.fetch(cid, &providers), stopping);
    let fetched = fetched.unwrap();
    assert!(to.has(&cid, &bytes));
    assert!(fetched.moved_bytes < 2 * bytes.len() as u64, "not from the start again");
    assert!(two.network.stats().sent_bytes > 20 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_provider_lacks_another_gives() {
    let (to, poor, rich) = (Node::start().await, Node::start().await, Node::start().await);
    to.meet(&poor).await;
    to.meet(&rich).await;
    let bytes = random(8, 4 << 20);
    let cid = rich.put(&bytes);
    let fetched = to.fetch(cid, &[poor.id(), rich.id()]).await.unwrap();
    assert!(to.has(&cid, &bytes) && fetched.blamed.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_shared_is_given_and_no_more_than_is_taken() {
    let (to, from) = (Node::start().await, Node::start().await);
    to.meet(&from).await;
    let (secret, absent) = (from.put(b"secret"), Cid::of(Codec::Raw, b"absent"));
    from.shares.secret.lock().unwrap().push(secret);
    for cid in [secret, absent] {
        match to.fetch(cid, &[from.id()]).await.err().expect("it is not shared") {
            Error::NoProvider { failures, .. } => match &failures[..] {
                [(_, Error::Refused { refusal, .. })] => {
                    assert_eq!(
                        (refusal.code, refusal.words.as_str()),
                        (Code::Unknown, &*format!("{cid} is not shared here"))
                    );
                }
                other => panic!("{other:?}"),
            },
            other => panic!("{other}"),
        }
    }
    let cid = from.put(&random(9, 1 << 20));
    let fetch = Fetch {
        cid,
        providers: vec![from.id()],
        max_bytes: (1 << 20) - 1,
        durability: Durability::Durable,
        progress: None,
    };
    match to.network.fetch(fetch).await.err().expect("it is too large") {
        Error::NoProvider { failures, .. } => assert!(matches!(failures[0].1, Error::TooLarge { .. })),
        other => panic!("{other}"),
    }
    let nobody = to.fetch(cid, &[]).await.err().expect("nobody was asked").to_string();
    assert!(nobody.contains("gridfs peer add"), "{nobody}");
}
