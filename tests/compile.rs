//! Compiling has limits: whatever a module asks of the compiler, the daemon goes on.

mod common;

use std::path::PathBuf;
use std::process::Child;

use common::*;
use rustix::process::{Pid, Signal, kill_process};

/// A module whose one function makes so many indirect calls: little to read, much to compile.
fn hard(node: &Node, calls: usize) -> PathBuf {
    let calls = "(call_indirect (type 0) (i32.const 0))".repeat(calls);
    let text = format!(
        r#"(module (type (func)) (table 1 funcref) (memory (export "memory") 1)
            (func (export "_start") (if (memory.size) (then (return))) {calls}))"#
    );
    let path = node.scratch("hard.wasm");
    std::fs::write(&path, wat::parse_str(text).unwrap()).unwrap();
    path
}

fn adding(node: &Node, module: &std::path::Path) -> Child {
    node.spawn("gridfs", &["module", "add", "--name", "hard", module.to_str().unwrap()])
}

/// The process in which the daemon has a module compiled.
fn compiler(node: &Node) -> Option<Pid> {
    let daemon = node.daemon_pid();
    let children = std::fs::read_dir(format!("/proc/{daemon}/task")).unwrap().flatten();
    let children = children.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<i32> =
        children.flat_map(|list| list.split(' ').flat_map(str::parse).collect::<Vec<_>>()).collect();
    let compiles = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with("gridfs-compile"))
    };
    children.into_iter().find(compiles).and_then(Pid::from_raw)
}

#[test]
fn a_compiler_that_dies_takes_nothing_with_it() {
    let node = Node::mounted();
    node.put("words", "one two\n");
    let module = hard(&node, 100_000);
    let mut adding = adding(&node, &module);
    wait_for("the compiler", || compiler(&node).is_some());
    assert_eq!(node.read("local/cas/words"), "one two\n", "the daemon answers");
    kill_process(compiler(&node).unwrap(), Signal::ABORT).unwrap();
    assert_eq!(end_of(&mut adding).code(), Some(11));
    assert_eq!(compiler(&node), None);
    assert_eq!(node.grid(["wc", "words"]).ok().split_whitespace().next(), Some("1"));
}

#[test]
fn the_compiler_ends_with_its_daemon() {
    let node = Node::mounted();
    let module = hard(&node, 100_000);
    let mut adding = adding(&node, &module);
    wait_for("the compiler", || compiler(&node).is_some());
    let compiler = compiler(&node).unwrap();
    node.kill_daemon();
    wait_for("the compiler to end", || rustix::process::test_kill_process(compiler).is_err());
    end_of(&mut adding);
}

#[test]
#[ignore = "takes the limit's half minute of CPU time: cargo test --workspace --test compile -- --ignored"]
fn what_takes_too_long_to_compile_is_no_module() {
    let node = Node::mounted();
    let module = hard(&node, 100_000);
    let (status, error) = node.gridfs(["module", "add", "--name", "hard", module.to_str().unwrap()]).failed();
    assert!(status == 11 && error.contains("s of CPU time") || error.contains("MiB of memory"), "{status} {error}");
    node.put("words", "one two\n");
    node.grid(["wc", "words"]).ok();
}
