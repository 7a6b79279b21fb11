//! How soon a result that a connected peer remembers is read through the mount: `cargo bench --bench first_byte`.
//!
//! Two daemons on loopback. One has sorted inputs of 1 KiB, each another; the other has no inputs, believes the first, and reads
//! each result once: open, read and close of a file that was never looked at. Behind that are a question for claims, the fetch of
//! the result, verified, and its commit to disk. For comparison: the first computes them, and the second reads them again.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{LOOPBACK, Node};
use gridfs_store::{Cid, Codec};

const RESULTS: usize = 1000;

/// 1,024 bytes in lines that are not sorted; only the first node has them, and does not share them.
fn input(number: usize) -> String {
    let line = |line: usize| format!("{}\n", &blake3::hash(format!("{number} {line}").as_bytes()).to_hex()[..63]);
    (0..16).map(line).collect()
}

fn main() {
    let (knows, reads) = (Node::new(), Node::mounted());
    knows.gridfs(["mount", "--serve", "--listen", LOOPBACK, knows.mnt().to_str().unwrap()]).ok();
    let inputs = knows.scratch("inputs");
    std::fs::create_dir(&inputs).unwrap();
    (0..RESULTS).for_each(|number| std::fs::write(inputs.join(number.to_string()), input(number)).unwrap());
    knows.gridfs(["put", inputs.to_str().unwrap()]).ok();
    let trusted = ["--source", "fetch", "--trust", &knows.id()];
    let promise = ["promise", "new", "--name", "team", "--text", "Together.", "--share"];
    knows.gridfs(promise.iter().chain(&trusted)).ok();
    let document = knows.scratch("team");
    knows.gridfs(["get", "team", document.to_str().unwrap()]).ok();
    reads.gridfs(["promise", "accept", document.to_str().unwrap()]).ok();
    reads.meet(&knows);
    let promise = std::fs::read_link(knows.at("team")).unwrap();
    let promise = promise.to_str().unwrap();

    println!("{:<36} {:>10} {:>10} {:>10}", "1 KiB, open to close", "p50", "p99", "longest");
    report("computed", read_all(&knows, promise));
    report("of a connected peer", read_all(&reads, promise));
    assert_eq!((reads.stat("claimed"), reads.stat("runs")), (RESULTS as u64, 0));
    report("read again", read_all(&reads, promise));
    knows.stop();
}

fn read_all(node: &Node, promise: &str) -> Vec<Duration> {
    let read = |number| {
        let input = Cid::of(Codec::Raw, input(number).as_bytes());
        let path = node.at(&format!("{promise}/sort/{input}"));
        let began = Instant::now();
        let bytes = std::fs::read(path).unwrap();
        let took = began.elapsed();
        assert_eq!(bytes.len(), 1024);
        took
    };
    (0..RESULTS).map(read).collect()
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| format!("{:.3} ms", times[times.len() * share / 100].as_secs_f64() * 1e3);
    let longest = format!("{:.3} ms", times[times.len() - 1].as_secs_f64() * 1e3);
    println!("{what:<36} {:>10} {:>10} {longest:>10}", at(50), at(99));
}
