//! The syscall tree and the ledger, as commands and as a status file.

mod common;

use common::Node;
use serde_json::Value;

fn json(node: &Node, arguments: &[&str]) -> Value {
    serde_json::from_str(&node.gridfs(arguments.iter().copied().chain(["--json"])).ok()).unwrap()
}

/// What the tree knows of a consulted module at a node.
fn track(node: &Node, named: &str, id: &str) -> Value {
    let tree = json(node, &["syscalls"]);
    let at = tree["nodes"].as_array().unwrap().iter().find(|at| at["named"] == named);
    let at = at.unwrap_or_else(|| panic!("{named} is not in {tree}"));
    let track = at["modules"].as_array().unwrap().iter().find(|track| track["id"] == id);
    track.unwrap_or_else(|| panic!("{id} is not in {at}")).clone()
}

fn row<'a>(rows: &'a Value, who: &str) -> &'a Value {
    let is = |row: &&Value| row["who"] == who || row["names"].as_array().unwrap().iter().any(|name| name == who);
    rows.as_array().unwrap().iter().find(is).unwrap_or_else(|| panic!("{who} is not in {rows}"))
}

#[test]
fn the_tree_starts_empty_learns_from_calls_and_survives_restarts() {
    let node = Node::mounted();
    node.put("text", "a b\nc\n");
    assert_eq!(node.gridfs(["syscalls"]).ok(), "0 replies remembered\n");
    assert_eq!(node.read(".grid/syscalls"), "");
    let counts = node.read("local/wc/text");
    assert_eq!(node.grid(["wc", "text"]).ok(), counts);
    assert_eq!(node.grid(["wc", "text"]).ok(), counts);
    let wasm = track(&node, "/local/wc", "wasm");
    assert_eq!((&wasm["accepts"], &wasm["kept"], &wasm["broken"]), (&true.into(), &1.into(), &0.into()), "{wasm}");
    let cas = track(&node, "/local/wc", "cas");
    assert_eq!((&cas["accepts"], &cas["kept"]), (&false.into(), &0.into()), "{cas}");
    assert_eq!(json(&node, &["syscalls"])["remembered"], 1);
    assert!(node.gridfs(["syscalls"]).ok().starts_with("/local/wc\n"));

    let file = node.read(".grid/syscalls");
    let lines: Vec<Vec<&str>> = file.lines().map(|line| line.split('\t').collect()).collect();
    let prefix = std::fs::canonicalize(node.at("local/wc")).unwrap();
    let prefix = format!("/{}", prefix.strip_prefix(node.mnt()).unwrap().display());
    let seen: Vec<_> = lines.iter().map(|line| [line[0], line[1], line[2], line[4], line[5], line[7]]).collect();
    let rejecting = |id| [prefix.as_str(), id, "rejects", "0", "0", "-"];
    assert_eq!(seen, [rejecting("manifest"), rejecting("cas"), [&prefix, "wasm", "accepts", "1", "0", "-"]]);

    // Replies are not kept, what was learnt is; a command without a daemon knows it and adds to it.
    node.umount();
    assert_eq!(json(&node, &["syscalls"])["remembered"], 0);
    assert_eq!(track(&node, "/local/wc", "wasm")["kept"], 1);
    assert_eq!(node.grid(["wc", "text"]).ok(), counts);
    assert_eq!(track(&node, "/local/wc", "cache")["kept"], 1);
    node.mount();
    assert_eq!(track(&node, "/local/wc", "cache")["kept"], 1);
    assert_eq!(node.read("local/wc/text"), counts);
}

#[test]
fn a_damaged_tree_starts_empty_and_the_log_says_so() {
    let node = Node::new();
    node.put("text", "a b\nc\n");
    let counts = node.grid(["wc", "text"]).ok();
    let path = node.home().join("syscalls");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    node.mount();
    assert_eq!(node.gridfs(["syscalls"]).ok(), "0 replies remembered\n");
    let log = std::fs::read_to_string(node.home().join("run/daemon.log")).unwrap();
    assert!(log.contains("the syscall tree starts empty") && log.contains("its checksum is wrong"), "{log}");
    assert_eq!(node.grid(["wc", "text"]).ok(), counts);
    node.umount();
    assert_eq!(track(&node, "/local/wc", "cache")["kept"], 1);
}

#[test]
fn the_ledger_counts_promises_kept_and_broken_with_the_last_reason() {
    let node = Node::mounted();
    node.put("text", "a b\nc\n");
    assert_eq!(node.gridfs(["promise", "ledger"]).ok(), "called\nconsulted\n");
    node.grid(["wc", "text"]).ok();
    node.grid(["wc", "text", "-l"]).ok();
    assert_eq!(node.grid(["grep", "(", "text"]).failed().0, 11);
    assert_eq!(node.grid(["grep", "b", "text"]).ok(), "a b\n");
    assert_eq!(node.grid(["grep", "(", "text"]).failed().0, 11);
    assert_eq!(node.grid(["-p", "pub", "grep", "b", "text"]).ok(), "a b\n");
    // What is refused before anything was accepted breaks no promise.
    assert_eq!(node.grid(["wc"]).failed().0, 2);

    let ledger = json(&node, &["promise", "ledger"]);
    let grep = row(&ledger["called"], "grep");
    assert_eq!((&grep["kept"], &grep["broken"]), (&2.into(), &2.into()), "{ledger}");
    let reason = grep["last_broken"]["reason"].as_str().unwrap();
    assert!(reason.contains("exit status 2") && reason.contains("unclosed group"), "{reason}");
    let wc = row(&ledger["called"], "wc");
    assert_eq!((&wc["kept"], &wc["broken"], &wc["last_broken"]), (&2.into(), &0.into(), &Value::Null));
    let wasm = row(&ledger["consulted"], "wasm");
    assert_eq!(wasm["kept"], 4);
    let text = node.gridfs(["promise", "ledger"]).ok();
    assert!(text.contains("unclosed group") && text.contains("  grep\n") && text.contains("  wasm\n"), "{text}");
}
