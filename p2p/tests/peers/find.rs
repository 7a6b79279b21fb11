//! Kademlia: who provides what.

use std::time::Duration;

use gridfs_p2p::Limits;
use gridfs_store::Hash;

use crate::node::{Node, eventually, limits, random};

#[tokio::test(flavor = "multi_thread")]
async fn ten_nodes_find_each_others_keys() {
    let mut nodes = Vec::new();
    for _ in 0..10 {
        nodes.push(Node::start_with(|config| config.limits = Limits { announced_per_s: 1000, ..limits() }).await);
    }
    // Each knows the first only.
    for node in &nodes[1..] {
        node.meet(&nodes[0]).await;
    }
    let keys: Vec<Hash> = (0..10u8).map(|n| Hash::of(&[n])).collect();
    for (node, key) in nodes.iter().zip(&keys) {
        node.network.provide(vec![*key]).await.unwrap();
    }
    for (at, node) in nodes.iter().enumerate() {
        let key = (at + 3) % 10;
        let mut found = Vec::new();
        for _ in 0..60 {
            found = node.network.providers(keys[key], 1, Duration::from_secs(10)).await.unwrap();
            if !found.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(found, [nodes[key].id()], "node {at} looks for key {key}");
    }
    // Who was found is reached, though nobody said where it listens.
    let bytes = random(1, 100_000);
    let cid = nodes[7].put(&bytes);
    nodes[4].fetch(cid, &[nodes[7].id()]).await.unwrap();
    assert!(nodes[4].has(&cid, &bytes));
    let missing = nodes[2].network.providers(Hash::of(b"nobody has it"), 3, Duration::from_secs(5)).await.unwrap();
    assert!(missing.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn provider_records_survive_a_restart_and_peers_are_remembered() {
    let (keeper, provider) = (Node::start().await, Node::start().await);
    provider.network.add_peer(keeper.id(), &keeper.addresses()).await.unwrap();
    provider.network.provide((0..20u8).map(|n| Hash::of(&[n])).collect()).await.unwrap();
    eventually("the records are kept", || keeper.network.stats().provider_records == 20).await;
    assert_eq!(provider.network.stats().announced_keys, 20);
    keeper.network.stop().await;
    provider.network.stop().await;
    let config = crate::node::config(keeper.dir.path());
    let again = gridfs_p2p::Network::start(config, keeper.store.clone(), keeper.shares.clone()).await.unwrap();
    eventually("the records are there again", || again.stats().provider_records == 20).await;
    let config = crate::node::config(provider.dir.path());
    let network = gridfs_p2p::Network::start(config, provider.store.clone(), provider.shares.clone()).await.unwrap();
    let (id, known) = network.peers().into_iter().next().unwrap();
    assert_eq!(id, keeper.id());
    assert!(known.named && known.seen_ms > 0 && !known.addresses.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_connected_friends_are_told_of_before_strangers() {
    let (node, named, proven) = (Node::start().await, Node::start().await, Node::start().await);
    let mut strangers = Vec::new();
    for _ in 0..6 {
        strangers.push(Node::start().await);
        strangers.last().unwrap().meet(&node).await;
    }
    node.meet(&proven).await;
    let cid = proven.put(&random(2, 10_000));
    node.fetch(cid, &[proven.id()]).await.unwrap();
    node.network.add_peer(named.id(), &named.addresses()).await.unwrap();
    eventually("all are connected", || node.network.stats().connected == 8).await;
    let connected = node.network.connected().await.unwrap();
    assert_eq!((connected.len(), &connected[..2]), (8, &[named.id(), proven.id()][..]));
}
