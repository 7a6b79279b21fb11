//! What a million announced keys cost, measured on a small network. The figures are in PROTOCOL.md.

use std::time::{Duration, Instant};

use gridfs_p2p::Limits;
use gridfs_store::Hash;

use crate::node::{Node, limits};

const NODES: usize = 40;
const KEYS: u64 = 1_000_000;
/// Those of them that are announced here.
const ANNOUNCED: u64 = 4_000;
/// Those that are announced one at a time.
const SINGLE: u64 = 40;
const LOOKUPS: u64 = 400;

fn key(number: u64) -> Hash {
    Hash::of(&number.to_le_bytes())
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    resident.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// Bytes that have passed over the loopback device, with all their headers.
fn passed_bytes() -> u64 {
    let devices = std::fs::read_to_string("/proc/self/net/dev").unwrap();
    let loopback = devices.lines().find_map(|line| line.trim().strip_prefix("lo:")).unwrap();
    loopback.split_whitespace().next().unwrap().parse().unwrap()
}

/// Waits until a count has not grown for two seconds; returns it, and when it last did.
async fn settled(count: impl Fn() -> u64) -> (u64, Instant) {
    let (mut last, mut since) = (count(), Instant::now());
    while since.elapsed() < Duration::from_secs(2) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = count();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    (last, since)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes, and traffic of others counts: \
    unshare --net sh -c 'ip link set lo up; cargo test --workspace --test peers -- --ignored --nocapture million'"]
async fn a_million_keys_have_a_price() {
    let before = resident_mib();
    let alone = Node::start().await;
    for from in (0..KEYS).step_by(10_000) {
        alone.network.provide((from..from + 10_000).map(key).collect()).await.unwrap();
    }
    crate::node::eventually("they are taken", || alone.network.stats().announced_keys == KEYS).await;
    println!("{KEYS} keys to be announced take {:.0} MiB", resident_mib() - before);
    drop(alone);

    let mut nodes = Vec::new();
    for _ in 0..NODES {
        let limits = Limits { announced_per_s: 1_000_000, ..limits() };
        nodes.push(Node::start_with(|config| config.limits = limits).await);
    }
    for node in &nodes[1..] {
        node.meet(&nodes[0]).await;
    }
    let connections = || nodes.iter().map(|node| node.network.stats().connected).sum::<u64>();
    println!("{NODES} nodes with {} connections", settled(connections).await.0 / 2);
    // Who has just joined still asks for its neighbours.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let (began, idle) = (Instant::now(), passed_bytes());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let idle_per_s = (passed_bytes() - idle) as f64 / began.elapsed().as_secs_f64();
    println!("idle: {:.0} bytes a second of each node", idle_per_s / NODES as f64);

    let (began, from) = (Instant::now(), passed_bytes());
    nodes[1].network.provide((0..ANNOUNCED).map(key).collect()).await.unwrap();
    let records = || nodes.iter().map(|node| node.network.stats().provider_records).sum::<u64>();
    crate::node::eventually("it begins", || records() > 0).await;
    let (kept, ended) = settled(records).await;
    let took = ended.duration_since(began).as_secs_f64();
    let bytes = (passed_bytes() - from) as f64 - idle_per_s * began.elapsed().as_secs_f64();
    println!(
        "{ANNOUNCED} keys announced in {took:.1} s ({:.0} a second): {:.1} records and {:.0} bytes for each",
        ANNOUNCED as f64 / took,
        kept as f64 / ANNOUNCED as f64,
        bytes / ANNOUNCED as f64
    );

    let (began, from) = (Instant::now(), passed_bytes());
    for number in 0..SINGLE {
        nodes[1].network.provide(vec![key(KEYS + number)]).await.unwrap();
        // Longer than until the next one would be taken along.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let bytes = (passed_bytes() - from) as f64 - idle_per_s * began.elapsed().as_secs_f64();
    println!("one announced alone: {:.0} bytes", bytes / SINGLE as f64);

    let (mut times, from) = (Vec::new(), passed_bytes());
    for number in 0..LOOKUPS {
        let asker = &nodes[2 + number as usize % (NODES - 2)];
        let began = Instant::now();
        let mut found = asker.network.find(key(number * (ANNOUNCED / LOOKUPS)), 1).await.unwrap();
        assert_eq!(found.recv().await, Some(nodes[1].id()), "lookup {number}");
        times.push(began.elapsed());
    }
    let bytes = (passed_bytes() - from) as f64 - idle_per_s * times.iter().sum::<Duration>().as_secs_f64();
    times.sort();
    println!(
        "a lookup: median {:.1?}, p99 {:.1?}, {:.0} bytes",
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        bytes / LOOKUPS as f64
    );
}
