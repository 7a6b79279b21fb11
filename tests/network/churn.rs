//! Nodes die and come back while others look up and fetch what they share.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Node, noise, serving};
use crate::{Held, print_times};

/// Nodes that come and go.
const PASSING: usize = 6;
const READERS: usize = 3;

/// What was shared: its CID, and the number of its noise.
type Shared = Mutex<Vec<(String, u64)>>;

fn content(number: u64) -> Vec<u8> {
    noise(number, 100_000 + number as usize * 1_000)
}

/// Fetches what was shared last, each once, and what nobody gave again; how long each took, and how many failed.
fn read(reader: &Node, shared: &Shared, over: &AtomicBool, failed: &AtomicUsize) -> Vec<Duration> {
    let (mut times, mut had) = (Vec::new(), BTreeSet::new());
    while !over.load(Ordering::SeqCst) {
        let wanted = shared.lock().unwrap().iter().rev().find(|(cid, _)| !had.contains(cid)).cloned();
        let Some((cid, number)) = wanted else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        let copy = reader.scratch(&cid);
        let began = Instant::now();
        let got = reader.gridfs(["get", &format!("/pub/cas/{cid}"), copy.to_str().unwrap()]);
        match got.status {
            0 => {
                assert!(std::fs::read(&copy).unwrap() == content(number), "{cid} is not what was shared");
                times.push(began.elapsed());
                had.insert(cid);
            }
            13 => {
                failed.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(100));
            }
            _ => panic!("{got:?}"),
        }
        assert!(began.elapsed() < Duration::from_secs(60), "there is a deadline");
    }
    times
}

#[test]
#[ignore = "three minutes, or GRIDFS_CHURN_SECONDS: cargo test --workspace --test network -- --ignored --nocapture churn"]
fn churn_loses_nothing_that_is_still_shared() {
    let seconds = std::env::var("GRIDFS_CHURN_SECONDS").map_or(180, |text| text.parse().expect("a number of seconds"));
    let steady = serving();
    let passing: Vec<Node> = (0..PASSING).map(|_| serving()).collect();
    let readers: Vec<Node> = (0..READERS).map(|_| serving()).collect();
    passing.iter().chain(&readers).for_each(|node| node.meet(&steady));
    let (shared, over, failed) = (Shared::default(), AtomicBool::new(false), AtomicUsize::new(0));
    let (began, mut lives) = (Instant::now(), 0);
    let first = Held::by(&steady);
    let times = std::thread::scope(|scope| {
        let reading: Vec<_> =
            readers.iter().map(|reader| scope.spawn(|| read(reader, &shared, &over, &failed))).collect();
        while began.elapsed() < Duration::from_secs(seconds) && !reading.iter().any(|thread| thread.is_finished()) {
            let node = &passing[lives % PASSING];
            let cid = node.share("file", &content(lives as u64));
            shared.lock().unwrap().push((cid, lives as u64));
            lives += 1;
            // The one that goes is another.
            let gone = &passing[(lives + 2) % PASSING];
            gone.kill_daemon();
            std::thread::sleep(Duration::from_millis(500));
            gone.serve();
            gone.meet(&steady);
        }
        over.store(true, Ordering::SeqCst);
        reading.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    println!("{lives} lives, {} reads that found nobody", failed.load(Ordering::SeqCst));
    print_times("reads while nodes came and went", times);
    let last = Held::by(&steady);
    println!("who stayed: {first:?} at first, {last:?} at the end");
    assert!(last.descriptors < first.descriptors + 64 && last.resident_mib < first.resident_mib + 200);
    // All are there again, so all that they shared is to be had.
    let newcomer = serving();
    newcomer.meet(&steady);
    for (cid, number) in &*shared.lock().unwrap() {
        let (copy, path) = (newcomer.scratch(cid), format!("/pub/cas/{cid}"));
        let deadline = Instant::now() + Duration::from_secs(60);
        while newcomer.gridfs(["get", &path, copy.to_str().unwrap()]).status != 0 {
            assert!(Instant::now() < deadline, "{cid} is not found any more");
            std::thread::sleep(Duration::from_secs(1));
        }
        assert!(std::fs::read(copy).unwrap() == content(*number));
    }
}
