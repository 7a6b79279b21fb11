//! The modules of the library through the mount, and after the daemon was started again.

mod common;

use std::path::Path;

use common::Node;

/// The modules that a node has only once they are added.
const ADDED: [&str; 6] = ["index", "jq", "pipeline", "search", "sql", "thumbnail"];

/// A node with the whole library and something to call it with.
fn node() -> Node {
    let node = Node::mounted();
    for name in ADDED {
        let wasm = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("modules/guests/{name}.wasm"));
        node.gridfs(["module", "add", wasm.to_str().unwrap()]).ok();
    }
    node.put("text", "one fish\ntwo fish\nRed fish\n");
    node.put("new", "one fish\nblue fish\n");
    node.put("people.csv", "name,born\nAda,1815\nGrace,1906\n");
    node.put("data.json", "{\"a\": [1, 2, {\"b\": null}]}\n");
    let image = include_bytes!("../modules/tests/modules/images/opaque.png");
    node.put("image.png", image);
    node.sh("mkdir -p src/deep && echo a >src/a.rs && echo b >src/deep/b.rs && echo fish >src/notes").ok();
    node.sh("gridfs put --name src src && tar cf src.tar src && gridfs put --name src.tar src.tar").ok();
    node.sh("gzip -nc text >text.gz && gridfs put --name text.gz text.gz").ok();
    node
}

/// Paths below the mount with what they hold, if that is said here.
const RESULTS: [(&str, Option<&str>); 14] = [
    ("local/concat/text,new", Some("one fish\ntwo fish\nRed fish\none fish\nblue fish\n")),
    ("local/decompress/text.gz", Some("one fish\ntwo fish\nRed fish\n")),
    ("local/diff/text/new", Some("--- a\n+++ b\n@@ -1,3 +1,2 @@\n one fish\n-two fish\n-Red fish\n+blue fish\n")),
    ("local/find/src,-name,*.rs", Some("a.rs\ndeep/b.rs\n")),
    ("local/hash/sha3-256/text", None),
    ("local/head/text,-n,1", Some("one fish\n")),
    ("local/index/src", None),
    ("local/jq/.a[2]/data.json,-c", Some("{\"b\":null}\n")),
    ("local/pipeline/src.tar/*.rs", Some("src/deep/b.rs\nsrc/a.rs\n")),
    ("local/search/fish/%2Flocal%2Findex%2Fsrc", Some("notes\n")),
    ("local/sort/text,-r", Some("two fish\none fish\nRed fish\n")),
    ("local/sql/SELECT count(*) AS c FROM t/people.csv", Some("c\n2\n")),
    ("local/thumbnail/16/image.png", None),
    ("local/untar/src.tar/src/notes", Some("fish\n")),
];

#[test]
fn the_library_answers_through_the_mount_and_the_same_after_a_restart() {
    let node = node();
    let read = || RESULTS.map(|(path, _)| std::fs::read(node.at(path)).unwrap_or_else(|e| panic!("{path}: {e}")));
    let first = read();
    for ((path, expected), bytes) in RESULTS.iter().zip(&first) {
        assert!(
            expected.is_none_or(|expected| expected.as_bytes() == bytes),
            "{path}: {}",
            String::from_utf8_lossy(bytes)
        );
    }
    let fuel = fuel(&node);
    node.umount();
    node.mount();
    let runs = node.stat("runs");
    for (path, _) in RESULTS {
        let told = node.gridfs(["verify", "--rerun", node.at(path).to_str().unwrap()]).ok();
        assert!(told.contains("another run gives the same"), "{path}: {told}");
    }
    assert!(node.stat("runs") >= runs + RESULTS.len() as u64, "they were run again");
    // What is forgotten is computed anew: the same bytes for the same fuel.
    for module in RESULTS.map(|(path, _)| path.split('/').nth(1).unwrap()) {
        node.gridfs(["revoke", module]).ok();
    }
    let runs = node.stat("runs");
    assert!(read() == first, "a result differs after the restart");
    assert!(node.stat("runs") >= runs + RESULTS.len() as u64, "they were computed anew");
    assert_eq!(self::fuel(&node), fuel);
}

/// What each result, and each below it, cost by its receipt.
fn fuel(node: &Node) -> Vec<(String, String)> {
    let told = RESULTS.map(|(path, _)| node.gridfs(["why", node.at(path).to_str().unwrap()]).ok());
    let cost = |line: &str| Some((line.split(':').next()?.to_owned(), line.split(" ms, ").nth(1)?.to_owned()));
    let fuel: Vec<_> = told.iter().flat_map(|told| told.lines().filter_map(cost)).collect();
    assert!(fuel.len() > RESULTS.len(), "{told:?}");
    fuel
}

#[test]
fn a_pipeline_is_calls_of_calls() {
    let node = node();
    let runs = node.stat("runs");
    assert_eq!(node.read("local/pipeline/src.tar/*.rs"), "src/deep/b.rs\nsrc/a.rs\n");
    assert_eq!(node.stat("runs") - runs, 5, "pipeline, untar, find, sort and head");
    // Its parts were calls like any other.
    let runs = node.stat("runs");
    assert_eq!(node.read("local/untar/src.tar/src/deep/b.rs"), "b\n");
    assert_eq!(node.stat("runs"), runs);
}
