//! What a node never tells: its secret key, and the names that its owner gave to things and did not publish.

use futures::future::join_all;
use gridfs::identity::NodeId;
use gridfs::parms::{Parms, Value};
use gridfs::promise::Promise;
use gridfs_p2p::wire::{self, GetCall, GetChunks, GetClaims, GetHead, GetObject, GetRange, Header, Key, Want};
use gridfs_store::cbor::Bytes;
use gridfs_store::{Cid, Codec, Hash};
use multibase::Base;

use crate::common::{ARGS, LOOPBACK, Node, wait_for};
use crate::rogue::{self, Over, Rogue, Speaks};

const LETTER: &str = "to whom it may concern\n";
const DIARY: &str = "dear diary, this is nobody's business\n";
/// Names in the symbol table.
const NAMES: [&str; 4] = ["letter-7c21", "diary-1f3a", "printer-90ab", "circle-4d5e"];
/// The one that is published.
const PUBLISHED: &str = "poem-55d0";

/// Every request there is about a node, an object, a key or a call, and some that there are not.
fn requests(nodes: &[NodeId], cids: &[Cid], keys: &[Hash], calls: &[Parms]) -> Vec<Vec<u8>> {
    let mut requests = Vec::new();
    for node in nodes {
        let known = [None, Some(Key(Hash::of(b"known")))];
        requests.extend(known.map(|known| wire::encode(&GetHead { node: Bytes(node.0.to_vec()), known })));
    }
    requests.push(wire::encode(&GetHead { node: Bytes(vec![7; 5]), known: None }));
    for cid in cids {
        let wants = wire::encode(&Want { hashes: wire::join_hashes(&[cid.hash]) });
        requests.push(wire::encode(&GetObject { cid: *cid }));
        requests.push([wire::encode(&GetChunks { cid: *cid }), wants].concat());
        requests.push(wire::encode(&GetRange { cid: *cid, length: 1 << 20, offset: 0 }));
    }
    requests.extend(keys.iter().map(|key| wire::encode(&GetClaims { key: Key(*key) })));
    for parms in calls {
        let (promise, parms) = (parms.promise, Bytes(parms.to_bytes()));
        requests.push(wire::encode(&GetCall { parms, token: None, promise, deadline_ms: 5_000 }));
    }
    for kind in [0, 7, 31, 64, 73, 255] {
        let mut unknown = wire::encode(&wire::End {});
        unknown[5] = kind;
        requests.push(unknown);
    }
    requests.push(b"GET /keys/node HTTP/1.1\r\n\r\n".to_vec());
    requests
}

/// The spellings in which 32 bytes might be told.
fn spellings(secret: &[u8]) -> Vec<Vec<u8>> {
    let bases =
        [Base::Base16Lower, Base::Base16Upper, Base::Base32Lower, Base::Base58Btc, Base::Base64, Base::Base64Url];
    // Of base 64 and 32 the last character depends on what comes behind.
    let spelled = bases.map(|base| base.encode(secret).into_bytes()).map(|text| text[..text.len() - 1].to_vec());
    [secret.to_vec()].into_iter().chain(spelled).collect()
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_key_and_private_names_are_never_sent() {
    let a = Node::new();
    let listen = ["--listen", LOOPBACK, "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"];
    a.gridfs(["mount", "--serve"].iter().chain(&listen).chain(&[a.mnt().to_str().unwrap()])).ok();
    let addresses = a.seen()["addresses"].clone();
    let address = |part: &str| {
        let all = addresses.as_array().unwrap().iter().map(|address| address.as_str().unwrap());
        all.into_iter().find(|address| address.contains(part)).unwrap()
    };
    let mut rogues = Vec::new();
    for (over, part) in [(Over::Noise, "tcp"), (Over::Tls, "tcp"), (Over::Quic, "quic")] {
        rogues.push((over, Rogue::meet_over(over, address(part)).await.unwrap()));
    }
    wait_for("connections", || a.seen()["connected"].as_u64() == Some(3));
    let [letter, diary, printer, circle] = NAMES;
    a.put(letter, LETTER);
    a.put(diary, DIARY);
    a.add_wat(printer, ARGS, None);
    a.add_example("shout", "c/shout.toml");
    a.gridfs(["share", letter]).ok();
    a.put(PUBLISHED, "roses are red\n");
    a.gridfs(["name", "publish", PUBLISHED, diary]).ok();
    a.gridfs(["name", "unpublish", diary]).ok();
    a.gridfs(["promise", "new", "--name", circle, "--text", "For us.", "--share", "--source", "fetch"]).ok();
    // Results that are shared, that went by a name, and that are nobody's.
    let by_name = format!("/grid/local/cas/{diary}");
    let read = |promise: &str, rest: &str| a.read(&format!("{promise}/{rest}"));
    let shouted = format!("shout/%2Fgrid%2Flocal%2Fcas%2F{diary}");
    for promise in ["pub", circle, "local"] {
        read(promise, &format!("{printer}/hello"));
        assert_eq!(read(promise, &shouted), DIARY.to_uppercase());
    }
    // It asks for something itself.
    let nowhere = Cid::of(Codec::Raw, b"nowhere");
    assert_eq!(a.errno(&format!("pub/wc/{nowhere}")), 113);

    let told = |rogue: &Rogue| rogue.told.lock().unwrap().iter().map(|key| Hash(*key)).collect::<Vec<_>>();
    wait_for("announcements", || rogues.iter().all(|(_, rogue)| told(rogue).len() >= 3));
    let cid = |name: &str| -> Cid { a.cid(name).parse().unwrap() };
    let settings = std::fs::read_to_string(a.home().join("config.toml")).unwrap();
    let root =
        settings.lines().find_map(|line| line.strip_prefix("root = ")).unwrap().trim_matches('"').parse().unwrap();
    let mut keys = told(&rogues[0].1);
    let state =
        |path: String| a.xattr(&path, "key").map(|key| Hash::from(blake3::Hash::from_hex(key).expect("a memo key")));
    keys.extend(["pub", circle, "local"].into_iter().filter_map(|promise| state(format!("{promise}/{shouted}"))));
    assert!(keys.len() >= 6, "keys of what is not announced are known too");
    let mut cids: Vec<Cid> =
        keys.iter().flat_map(|hash| [Codec::Raw, Codec::DagCbor].map(|codec| Cid { codec, hash: *hash })).collect();
    cids.extend([root, cid(letter), cid(diary), cid(printer), cid(circle), cid("shout")]);
    let call = |promise, module: &str, text: &str| Parms {
        promise,
        module: cid(module),
        arguments: vec![Value::Text(text.into())],
    };
    let promises = [Promise::public().cid(), Promise::local().cid(), cid(circle)];
    let calls: Vec<Parms> = promises
        .iter()
        .flat_map(|promise| [call(*promise, printer, "hello"), call(*promise, "shout", &by_name)])
        .collect();
    let nodes = [a.id().parse().unwrap(), NodeId([7; 32])];
    let requests = requests(&nodes, &cids, &keys, &calls);
    join_all(rogues.iter().map(|(_, rogue)| interrogate(rogue, &requests, &keys))).await;
    a.stop();

    let seed = std::fs::read(a.home().join("keys/node")).unwrap();
    assert_eq!(seed.len(), 32);
    let home = a.home().to_str().unwrap();
    for (over, rogue) in &rogues {
        let heard = rogue.heard.lock().unwrap().concat();
        for expected in [LETTER.as_bytes(), b"module\0hello\0", b"gridfs/0.", b"signature", PUBLISHED.as_bytes()] {
            assert!(holds(&heard, expected), "{:?} was to be heard, {over:?}", expected.escape_ascii().to_string());
        }
        for secret in spellings(&seed) {
            let secret_text = secret.escape_ascii().to_string();
            assert!(!holds(&heard, &secret), "the secret key was sent, as {secret_text:?}, {over:?}");
        }
        for private in NAMES.into_iter().chain([DIARY.trim(), DIARY.to_uppercase().trim(), "keys/node", home]) {
            assert!(!holds(&heard, private.as_bytes()), "{private:?} was sent, {over:?}");
        }
    }
}

/// Asks all that there is to ask, and hears the answers.
async fn interrogate(rogue: &Rogue, requests: &[Vec<u8>], keys: &[Hash]) {
    for request in requests {
        // What the asker itself says does not come back to it.
        rogue.ask(Speaks::Grid, request, request[5] != GetCall::KIND).await;
    }
    for kind in 0..=6 {
        let messages: Vec<_> = keys.iter().map(|key| rogue::message(kind, &key.0, None)).collect();
        join_all(messages.iter().map(|message| rogue.ask(Speaks::Kademlia, message, true))).await;
    }
}
