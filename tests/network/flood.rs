//! Floods: what strangers send in masses takes a bounded part of the machine, and others are answered all the while.

use std::net::TcpStream;

use futures::AsyncWriteExt;
use gridfs_store::{Cid, Hash};

use crate::Held;
use crate::common::{Node, serving, wait_for};
use crate::rogue::{ADD_PROVIDER, Rogue, Speaks, message};

/// Records of one peer that a node keeps.
const QUOTA: u64 = 1 << 18;

/// Tells that the rogue provides these keys, and hears whether all was taken in.
async fn announces(rogue: &Rogue, keys: impl Iterator<Item = Hash>) {
    let address = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    let mut stream = rogue.open(Speaks::Kademlia).await.unwrap();
    for key in keys {
        stream.write_all(&message(ADD_PROVIDER, &key.0, Some((&rogue.id, &address)))).await.unwrap();
    }
    stream.flush().await.unwrap();
    stream.close().await.unwrap();
}

fn records(node: &Node) -> u64 {
    node.seen()["provider_records"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute: cargo test --workspace --test network -- --ignored --nocapture flood"]
async fn a_flood_of_provider_records_drives_nobody_s_out() {
    let (keeper, honest) = (serving(), serving());
    honest.meet(&keeper);
    let early = honest.share("early", b"told before the flood");
    wait_for("the record", || records(&keeper) == 1);
    let before = Held::by(&keeper);
    let wanted: Cid = early.parse().unwrap();
    for number in 0..5u64 {
        let rogue = Rogue::meet(&keeper.address()).await.unwrap();
        let keys = (0..QUOTA + 50_000).map(|key| Hash::of(&[number.to_le_bytes(), key.to_le_bytes()].concat()));
        announces(&rogue, [wanted.hash].into_iter().chain(keys)).await;
        let most = (QUOTA * (number + 1)).min(1 << 20);
        wait_for("the flood to be taken in", || records(&keeper) >= most);
        println!("{} records kept of {} rogues: {:?}", records(&keeper), number + 1, Held::by(&keeper));
    }
    assert_eq!(records(&keeper), 1 << 20);
    let after = Held::by(&keeper);
    assert!(after.resident_mib < before.resident_mib + 300, "{before:?}, then {after:?}");
    let stranger = serving();
    stranger.meet(&keeper);
    assert_eq!(stranger.grid(["-p", "pub", "cas", &early]).ok(), "told before the flood");
    // The table is full, but who is connected is asked without it.
    let late = honest.share("late", b"told after the flood");
    let neighbour = serving();
    neighbour.meet(&honest);
    assert_eq!(neighbour.grid(["-p", "pub", "cas", &late]).ok(), "told after the flood");
    keeper.stop();
    println!(
        "the file of {} records has {} bytes",
        1 << 20,
        keeper.home().join("peers/providers").metadata().unwrap().len()
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute: cargo test --workspace --test network -- --ignored --nocapture flood"]
async fn a_flood_of_connections_is_turned_away() {
    let (node, friend, later) = (serving(), serving(), serving());
    friend.meet(&node);
    let before = Held::by(&node);
    // Some that say nothing, and some that are proper.
    let (_, address) = gridfs::peers::split(&node.address()).unwrap();
    let port = address.iter().find_map(|part| match part {
        gridfs_p2p::Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent.extend(TcpStream::connect(("127.0.0.1", port.unwrap())));
    }
    let during_silence = Held::by(&node);
    drop(silent);
    let mut rogues = Vec::new();
    for _ in 0..400 {
        rogues.extend(Rogue::meet(&node.address()).await);
    }
    let full = Held::by(&node);
    println!("before {before:?}; 500 silent {during_silence:?}; {} proper of 400 {full:?}", rogues.len());
    assert!(full.descriptors < before.descriptors + 300 && during_silence.descriptors < before.descriptors + 300);
    let cid = node.share("file", b"still here");
    assert_eq!(friend.grid(["-p", "pub", "cas", &cid]).ok(), "still here", "who is connected is answered");
    // It still reaches others itself.
    node.meet(&later);
    drop(rogues);
    wait_for("the rogues to go", || node.seen()["connected"].as_u64().unwrap() <= 2);
    println!("after {:?}", Held::by(&node));
    assert!(Held::by(&node).descriptors < before.descriptors + 50);
}
