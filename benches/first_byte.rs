//! How soon a result that a connected peer remembers is read through the mount: `cargo bench --bench first_byte`.
//!
//! Two daemons on loopback. One remembers results of 1 KiB, each another; the other believes it, and reads each once: open, read
//! and close of a file that was never looked at. Behind that are a question for claims, the fetch of the result, verified, and
//! its commit to disk. For comparison: the same results computed by the first, and read again by the second.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{LOOPBACK, Node};

const RESULTS: usize = 1000;

/// Prints its arguments in 1,024 bytes.
const PRINT: &str = r#"(module
    (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_get" (func $get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (drop (call $sizes (i32.const 0) (i32.const 4)))
        (drop (call $get (i32.const 1024) (i32.const 2048)))
        (i32.store (i32.const 8) (i32.const 2048))
        (i32.store (i32.const 12) (i32.const 1024))
        (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))))"#;

fn main() {
    let (knows, reads) = (Node::new(), Node::mounted());
    knows.gridfs(["mount", "--serve", "--listen", LOOPBACK, knows.mnt().to_str().unwrap()]).ok();
    [&knows, &reads].iter().for_each(|node| node.add_wat("print", PRINT, None));
    let trusted = ["--source", "fetch", "--trust", &knows.id()];
    let promise = ["promise", "new", "--name", "team", "--text", "Together.", "--share"];
    knows.gridfs(promise.iter().chain(&trusted)).ok();
    let document = knows.scratch("team");
    knows.gridfs(["get", "team", document.to_str().unwrap()]).ok();
    reads.gridfs(["put", "--name", "team", document.to_str().unwrap()]).ok();
    reads.gridfs(["promise", "accept", document.to_str().unwrap()]).ok();
    reads.meet(&knows);

    println!("{:<36} {:>10} {:>10} {:>10}", "1 KiB, open to close", "p50", "p99", "longest");
    report("computed", read_all(&knows));
    report("of a connected peer", read_all(&reads));
    assert_eq!((reads.stat("claimed"), reads.stat("runs")), (RESULTS as u64, 0));
    report("read again", read_all(&reads));
    knows.stop();
}

fn read_all(node: &Node) -> Vec<Duration> {
    let read = |number| {
        let path = node.at(&format!("team/print/{number}"));
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
