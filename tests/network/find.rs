//! Twenty nodes, each of which was told of one other only: what one shares all the others find.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use gridfs_p2p::{Answers, CallAnswer, CallRequest, Code, Config, Head, Limits, Network, PeerId, Refusal};
use gridfs_store::{Cid, Hash, Options, Store};

use crate::common::{Node, noise, serving, wait_for};
use crate::print_times;

const NODES: u64 = 20;

/// Asks, and has nothing.
struct Nothing;

impl Answers for Nothing {
    fn call(&self, _: PeerId, _: CallRequest) -> BoxFuture<'static, Result<CallAnswer, Refusal>> {
        async { Err(Refusal::new(Code::Unknown, "nothing is here")) }.boxed()
    }

    fn claims(&self, _: PeerId, _: Hash) -> BoxFuture<'static, Vec<Vec<u8>>> {
        async { Vec::new() }.boxed()
    }

    fn head(&self, _: PeerId, _: [u8; 32]) -> BoxFuture<'static, Option<Head>> {
        async { None }.boxed()
    }

    fn may_read(&self, _: PeerId, _: &Cid) -> bool {
        false
    }
}

/// How long it takes to find each key for who knows one node only.
async fn lookups(node: &Node, keys: &[(PeerId, Cid)]) -> Vec<Duration> {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&directory.path().join("store"), Options::default()).unwrap());
    let seed = *blake3::hash(node.home().as_os_str().as_encoded_bytes()).as_bytes();
    let dir = directory.path().join("peers");
    let config = Config {
        seed,
        listen: Vec::new(),
        dir,
        grid: None,
        allow: None,
        mdns: false,
        relay: false,
        limits: Limits::default(),
    };
    let network = Network::start(config, store, Arc::new(Nothing)).await.unwrap();
    let (peer, address) = gridfs::peers::split(&node.address()).unwrap();
    network.connect(peer, &[address]).await.unwrap();
    // Until the two have told each other which protocols they speak, nobody can be asked.
    while network.find(keys[0].1.hash, 1).await.unwrap().recv().await.is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut times = Vec::new();
    for (provider, cid) in keys {
        let began = Instant::now();
        let mut found = network.find(cid.hash, 1).await.unwrap();
        assert_eq!(found.recv().await, Some(*provider), "{cid}, asked through {peer}");
        times.push(began.elapsed());
    }
    network.stop().await;
    times
}

#[test]
#[ignore = "twenty daemons: cargo test --workspace --test network -- --ignored --nocapture twenty"]
fn twenty_nodes_find_each_key_from_anywhere() {
    let nodes: Vec<Node> = (0..NODES).map(|_| serving()).collect();
    nodes.windows(2).for_each(|pair| pair[1].meet(&pair[0]));
    let contents: Vec<Vec<u8>> = (0..NODES).map(|number| noise(number, 1024)).collect();
    let share = |(node, content): (&Node, &Vec<u8>)| {
        let cid: Cid = node.share("file", content).parse().unwrap();
        (gridfs::peers::split(&node.address()).unwrap().0, cid)
    };
    let keys: Vec<(PeerId, Cid)> = nodes.iter().zip(&contents).map(share).collect();
    let records = |node: &Node| node.seen()["provider_records"].as_u64().unwrap();
    wait_for("the table to spread", || nodes.iter().map(records).sum::<u64>() >= 2 * NODES);

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let times = nodes.iter().flat_map(|node| runtime.block_on(lookups(node, &keys))).collect();
    print_times("a lookup through one of 20 nodes", times);
    let mut times = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        for (key, (_, cid)) in keys.iter().enumerate().filter(|(key, _)| *key != at) {
            let (began, to) = (Instant::now(), node.scratch(&cid.to_string()));
            node.gridfs(["get", &format!("/pub/cas/{cid}"), to.to_str().unwrap()]).ok();
            times.push(began.elapsed());
            assert!(std::fs::read(to).unwrap() == contents[key], "{cid} at node {at}");
        }
    }
    print_times("a command that gets a file of 1 KiB from one of the other 19", times);
    let connected: Vec<u64> = nodes.iter().map(|node| node.seen()["connected"].as_u64().unwrap()).collect();
    println!("peers connected at the end: {connected:?}");
}
