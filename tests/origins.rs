//! Where results come from: what is computed again when something changes, and what can be said of a result.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{Node, manifest};
use gridfs::identity::Identity;
use gridfs::receipt::{Memo, Receipt};
use gridfs_modules::Manifest;
use gridfs_modules::manifest::{Accepts, ArgKind, Limits, Returns, embed};
use gridfs_store::cbor::{self, Bytes};
use gridfs_store::{Cid, Codec, Durability, Hash, Options, Store};

/// Shouts what another module that shouts says of the counted words of `src/a`.
const CHAIN: &str = "/grid/local/cry/%2Fgrid%2Flocal%2Fwc%2F%252Flocal%252Fcas%252Fsrc%252Fa";

/// A node with a directory `src` and a chain of three calls over a file in it.
fn chained() -> Node {
    let node = Node::mounted();
    node.add_example("shout", "c/shout.toml");
    let wasm = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/guests/shout.wasm")).unwrap();
    let arguments = [("path", ArgKind::Text)];
    let cry = embed(&wasm, &manifest("cry", &arguments, Returns::Blob, Limits::default())).unwrap();
    std::fs::write(node.scratch("cry.wasm"), cry).unwrap();
    node.gridfs(["module", "add", node.scratch("cry.wasm").to_str().unwrap()]).ok();
    change(&node, "a", "one two\n");
    change(&node, "b", "untouched\n");
    node
}

/// Changes a file of `src`.
fn change(node: &Node, name: &str, content: &str) {
    let source = node.scratch("src");
    std::fs::create_dir_all(&source).unwrap();
    std::fs::write(source.join(name), content).unwrap();
    node.gridfs(["put", "--name", "src", source.to_str().unwrap()]).ok();
}

/// The CID of a file in a stored directory.
fn cid_of(node: &Node, what: &str) -> String {
    node.xattr(&format!("local/cas/{what}"), "cid").unwrap()
}

/// Modules run, and results renewed without a run, by reading the end of the chain.
fn counts(node: &Node) -> (String, u64, u64) {
    let (runs, renewed) = (node.stat("runs"), node.stat("renewed"));
    let text = node.grid(["shout", CHAIN]).ok();
    (text, node.stat("runs") - runs, node.stat("renewed") - renewed)
}

#[test]
fn only_what_depends_on_a_change_is_computed_again() {
    let node = chained();
    let (first, runs, renewed) = counts(&node);
    assert_eq!((first.split_whitespace().take(3).collect::<Vec<_>>(), runs, renewed), (vec!["1", "2", "8"], 3, 0));
    assert_eq!(counts(&node), (first.clone(), 0, 0), "nothing changed");
    change(&node, "b", "touched\n");
    assert_eq!(counts(&node), (first.clone(), 0, 2), "another file of the directory");
    assert_eq!(counts(&node), (first.clone(), 0, 0));
    change(&node, "a", "two one\n");
    assert_eq!(counts(&node), (first.clone(), 1, 2), "other words, but as many");
    change(&node, "a", "one two three\n");
    let (other, runs, renewed) = counts(&node);
    assert!(other != first && (runs, renewed) == (3, 0), "{other}: {runs}, {renewed}");
}

#[test]
fn a_result_is_explained_down_to_what_was_put() {
    let node = chained();
    let result = node.grid(["shout", CHAIN]).ok();
    let path = node.grid(["--path", "shout", CHAIN]).ok();
    let why = node.gridfs(["why", path.trim()]).ok();
    let words: Vec<&str> = why.split_whitespace().collect();
    assert_eq!(words.iter().filter(|word| **word == "from").count(), 3, "{why}");
    assert!(why.contains("from wc ") && why.contains("called  ") && why.contains("given "), "{why}");
    assert!(why.contains("by 12D3KooW") && why.contains("with wasmtime "), "{why}");
    let row: serde_json::Value = serde_json::from_str(&node.gridfs(["--json", "why", path.trim()]).ok()).unwrap();
    let counted = &row["call"]["calls"][0]["call"]["calls"][1];
    assert_eq!(counted["call"]["inputs"][0][1]["cid"], cid_of(&node, "src/a"), "{row:#}");
    // By its CID, and below the mount relative to where one stands.
    let cid = row["cid"].as_str().unwrap();
    assert_eq!(node.gridfs(["get", cid]).ok(), result);
    assert!(node.gridfs(["why", cid]).ok().starts_with(cid));
    let relative = node.sh("cd mnt/local && gridfs why cas/src/b").ok();
    assert!(relative.starts_with(&cid_of(&node, "src/b")), "{relative}");
    // What has not been computed has no origin.
    let (status, stderr) = node.gridfs(["why", "/local/sha256/%2Flocal%2Fcas%2Fsrc%2Fb"]).failed();
    assert!(status == 13 && stderr.contains("has no result yet"), "{stderr}");
}

#[test]
fn what_an_object_went_into_is_listed_and_can_be_forgotten() {
    let node = chained();
    let (_, runs, _) = counts(&node);
    assert_eq!(runs, 3);
    node.grid(["wc", "/local/cas/src/b"]).ok();
    let affected = |what: &str| node.gridfs(["affected", what]).ok().lines().count();
    let file = cid_of(&node, "src/a");
    assert_eq!(affected(&file), 3, "the file went into the whole chain");
    assert_eq!((affected("shout"), affected("cry")), (1, 2), "an outer call went through an inner one");
    assert_eq!(affected("wc"), 4, "also into the other file's count");
    assert_eq!(affected("md"), 0);
    assert_eq!(node.gridfs(["revoke", &file]).ok().lines().count(), 3);
    assert_eq!(affected(&file), 0);
    assert_eq!(counts(&node).1, 3, "all of the chain is computed again");
    let runs = node.stat("runs");
    node.grid(["wc", "/local/cas/src/b"]).ok();
    assert_eq!(node.stat("runs"), runs, "the other count was left alone");
    assert_eq!(node.gridfs(["affected", "nothing"]).failed().0, 10);
}

#[test]
fn what_others_were_told_is_forgotten_with_the_owners_result() {
    let node = Node::mounted();
    node.put("text", "one two\n");
    let key = node.gridfs(["cap", "key"]).ok();
    let token = node.gridfs(["cap", "grant", "--to", key.trim(), "--prefix", "/local/wc", "--fuel", "900000000"]).ok();
    let by_token = ["--cap", token.trim(), "wc", "text"];
    assert_eq!(node.grid(["wc", "text"]).ok(), node.grid(by_token).ok());
    let runs = node.stat("runs");
    node.grid(by_token).ok();
    assert_eq!(node.stat("runs"), runs, "it is remembered by the token's limits");
    assert_eq!(node.gridfs(["revoke", "wc"]).ok().lines().count(), 1, "one call, remembered twice");
    node.grid(by_token).ok();
    node.grid(["wc", "text"]).ok();
    assert_eq!(node.stat("runs"), runs + 2);
}

#[test]
fn results_are_checked() {
    let node = chained();
    node.grid(["shout", CHAIN]).ok();
    let path = node.grid(["--path", "shout", CHAIN]).ok();
    for arguments in [&["verify", path.trim()][..], &["verify", "--rerun", path.trim()], &["verify", "src"]] {
        let told = node.gridfs(arguments).ok();
        assert!(told.lines().step_by(2).all(|line| line.starts_with("fine ")), "{told}");
    }
    let runs = node.stat("runs");
    let told = node.gridfs(["verify", "--rerun", path.trim()]).ok();
    assert_eq!((told.matches("another run gives the same").count(), node.stat("runs") - runs), (3, 3), "{told}");
    let ran = node.gridfs(["verify", "--agree", "2", path.trim()]);
    assert!(ran.status == 17 && ran.stderr.contains("alone, not by 2 nodes"), "{ran:?}");
}

/// Replaces what a node that does not run remembers of a call.
fn forge(node: &Node, key: &str, change: impl FnOnce(&mut Receipt, &Identity)) {
    let store = Arc::new(Store::open(&node.home().join("cache"), Options::default()).unwrap());
    let identity = Identity::open(&node.home().join("keys")).unwrap();
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(key.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    }
    let memo: Memo = cbor::from_slice(&store.memo(&Hash(bytes)).unwrap().unwrap()).unwrap();
    let mut receipt = Receipt::read(&store, &memo.receipt).unwrap().unwrap();
    change(&mut receipt, &identity);
    let mut batch = store.batch();
    let lie = batch.put_bytes(Codec::Raw, b"a lie\n").unwrap();
    let receipt_cid = batch.put_bytes(Codec::DagCbor, &cbor::to_vec(&receipt)).unwrap();
    let size = if receipt.result == lie { Some(6) } else { memo.size };
    let memo = Memo { size, result: receipt.result, receipt: receipt_cid, ..memo };
    batch.put_memo(Hash(bytes), b"", &memo.to_bytes()).unwrap();
    batch.commit(Durability::Durable).unwrap();
}

#[test]
fn what_is_wrong_with_a_result_is_told_by_the_exit_status() {
    let node = Node::mounted();
    node.put("text", "one two\n");
    let right = node.read("local/wc/text");
    let key = node.xattr("local/wc/text", "key").unwrap();
    let other = tempfile::tempdir().unwrap();
    let other = Identity::open(other.path()).unwrap();
    let lie = Cid::of(Codec::Raw, b"a lie\n");
    type Forging<'a> = Box<dyn FnOnce(&mut Receipt, &Identity) + 'a>;
    let forgeries: [(Forging<'_>, &[&str], i32, &str); 4] = [
        (
            Box::new(|receipt, identity| *receipt = Receipt { result: lie, ..receipt.clone() }.signed_by(identity)),
            &["--rerun"],
            16,
            "diverged",
        ),
        (Box::new(|receipt, _| *receipt = receipt.clone().signed_by(&other)), &[], 17, "untrusted"),
        (Box::new(|receipt, _| receipt.fuel += 1), &[], 14, "not signed by"),
        (Box::new(|receipt, _| receipt.signature = Bytes(vec![0; 64])), &[], 14, "not signed by"),
    ];
    for (forging, options, status, word) in forgeries {
        node.umount();
        forge(&node, &key, forging);
        node.mount();
        let ran = node.gridfs(["verify", "/local/wc/text"].iter().chain(options));
        assert!(ran.status == status && format!("{}{}", ran.stdout, ran.stderr).contains(word), "{ran:?}");
        let _shown = node.read("local/wc/text");
        // Once it is revoked, the mount that showed it shows what the module gives.
        assert_eq!(node.gridfs(["revoke", "text"]).ok().lines().count(), 1);
        assert_eq!(node.read("local/wc/text"), right, "{word}");
        node.gridfs(["verify", "--rerun", "/local/wc/text"]).ok();
    }
}

#[test]
fn a_revoked_lie_does_not_stay_in_the_page_cache() {
    let node = Node::mounted();
    node.put("text", "one two\n");
    let right = node.read("local/wc/text");
    let key = node.xattr("local/wc/text", "key").unwrap();
    node.umount();
    let lie = Cid::of(Codec::Raw, b"a lie\n");
    forge(&node, &key, |receipt, identity| *receipt = Receipt { result: lie, ..receipt.clone() }.signed_by(identity));
    node.mount();
    let canonical = std::fs::canonicalize(node.at("local/wc/text")).unwrap();
    let open = std::fs::File::open(&canonical).unwrap();
    assert_eq!(std::fs::read_to_string(&canonical).unwrap(), "a lie\n");
    node.gridfs(["revoke", "text"]).ok();
    assert_eq!(std::fs::metadata(&canonical).unwrap().len(), 0, "it is pending again");
    assert_eq!(std::fs::read_to_string(&canonical).unwrap(), right);
    assert_eq!(std::io::read_to_string(open).unwrap(), "a lie\n", "what is open stays what it was");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy(&entry.path(), &to),
            kind if kind.is_file() => drop(std::fs::copy(entry.path(), &to).unwrap()),
            _ => {}
        }
    }
}

#[test]
fn a_copied_home_without_its_index_runs_nothing_again() {
    let node = chained();
    let result = node.grid(["shout", CHAIN]).ok();
    node.umount();
    let elsewhere = tempfile::tempdir().unwrap();
    let home = elsewhere.path().join("home");
    copy(node.home(), &home);
    std::fs::remove_dir_all(home.join("cache/index")).unwrap();
    let copied = Node::with_home(&home);
    copied.mount();
    assert_eq!(copied.grid(["shout", CHAIN]).ok(), result);
    assert_eq!((copied.stat("runs"), copied.stat("hits") > 0), (0, true));
    copied.gridfs(["verify", "--rerun", copied.grid(["--path", "shout", CHAIN]).ok().trim()]).ok();
}

/// Accepts, with the terms "gladly", if its first argument begins with `y`; answers "done".
const CHOOSY: &str = r#"(module
    (import "wasi_snapshot_preview1" "args_get" (func $get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 16) "gladly\n") (data (i32.const 32) "done\n") (data (i32.const 48) "only what begins with y\n")
    (func $say (param $fd i32) (param $at i32) (param $length i32)
        (i32.store (i32.const 0) (local.get $at))
        (i32.store (i32.const 4) (local.get $length))
        (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
    (func (export "_start")
        (drop (call $get (i32.const 1024) (i32.const 2048)))
        (if (i32.ne (i32.load (i32.const 2048)) (i32.const 0x65636361)) ;; "acce"
            (then (call $say (i32.const 1) (i32.const 32) (i32.const 5)) (return)))
        (if (i32.eq (i32.load8_u (i32.load (i32.const 1028))) (i32.const 0x79))
            (then (call $say (i32.const 1) (i32.const 16) (i32.const 7)) (return)))
        (call $say (i32.const 2) (i32.const 48) (i32.const 24))
        (call $exit (i32.const 1))))"#;

#[test]
fn a_module_that_says_so_is_asked_before_it_is_run() {
    let node = Node::mounted();
    let manifest = manifest("choosy", &[("word", ArgKind::Text)], Returns::Blob, Limits::default());
    node.add_wat("choosy", CHOOSY, Some(&Manifest { accept: Accepts::Dynamic, ..manifest }));
    let runs = node.stat("runs");
    assert_eq!(node.grid(["choosy", "yes"]).ok(), "done\n");
    assert_eq!(node.stat("runs") - runs, 2, "asked, then run");
    let (status, stderr) = node.grid(["choosy", "no"]).failed();
    assert!(status == 1 && stderr.contains("the module rejects the call: only what begins with y"), "{stderr}");
    assert_eq!(node.errno("local/choosy/no"), 13);
    assert_eq!(node.stat("runs") - runs, 3, "a rejected call runs nothing, and is not asked about twice");
    // The answers are calls of their own.
    let message = node.read("accept/choosy/yes");
    let (call, terms) = message.split_once('\n').unwrap();
    assert_eq!((call.rsplit('/').next(), terms), (Some("yes"), "gladly\n"));
    let promise = |name: &str| std::fs::read_link(node.at(name)).unwrap().to_str().unwrap().to_owned();
    assert_eq!(call.split('/').nth(1).unwrap(), promise("accept"));
    let rejects = node.grid(["-p", "accept", "choosy", "no"]).ok();
    let reject: serde_json::Value =
        serde_json::from_str(&node.gridfs(["--json", "promise", "show", "reject"]).ok()).unwrap();
    assert_eq!(rejects.split('/').nth(1), reject["cid"].as_str());
    assert_eq!(node.stat("runs") - runs, 3);
}

#[test]
fn modules_that_say_nothing_accept_on_the_terms_of_their_manifest() {
    let node = Node::mounted();
    node.put("text", "one two\n");
    let shown = node.grid(["--show", "wc"]).ok();
    for (module, argument) in [("wc", "text"), ("cas", "text"), ("untar", "text")] {
        let runs = node.stat("runs");
        let message = node.grid(["-p", "accept", module, argument]).ok();
        let (_, terms) = message.split_once('\n').unwrap();
        assert_eq!(node.read(&format!("accept/{module}/{argument}")), message);
        assert!(!terms.trim().is_empty() && (module != "wc" || shown.contains(terms.trim())), "{message}");
        assert_eq!(node.stat("runs"), runs, "nothing is run to answer");
    }
}

#[test]
fn a_failure_is_remembered_for_a_while() {
    let node = Node::mounted();
    node.add_wat("fails", r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#, None);
    let runs = node.stat("runs");
    for _ in 0..3 {
        let (status, stderr) = node.grid(["fails"]).failed();
        assert!(status == 11 && stderr.contains("trapped"), "{stderr}");
    }
    assert_eq!(node.stat("runs") - runs, 1);
    let slow = Limits { wall_ms: Some(200), ..Limits::default() };
    node.add_wat("slow", common::ENDLESS, Some(&manifest("slow", &[], Returns::Blob, slow)));
    for _ in 0..2 {
        assert_eq!(node.grid(["slow"]).failed().0, 12);
    }
    assert_eq!(node.stat("runs") - runs, 3, "what ran out of time is tried again");
}

/// Says whether the call /local/wc/text is known here.
const KNOWS: &str = r#"(module
    (import "pg" "pg_access_cache" (func $known (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 1024) "/local/wc/text") (data (i32.const 16) "no\n") (data (i32.const 32) "yes\n")
    (func (export "_start")
        (i32.store (i32.const 0) (i32.const 16))
        (i32.store (i32.const 4) (i32.const 3))
        (if (call $known (i32.const 1024) (i32.const 14))
            (then (i32.store (i32.const 0) (i32.const 32)) (i32.store (i32.const 4) (i32.const 4))))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

#[test]
fn a_volatile_result_holds_until_its_time_and_cuts_off_what_it_went_into() {
    let node = Node::mounted();
    node.put("text", "one two\n");
    node.add_example("shout", "c/shout.toml");
    node.add_wat("knows", KNOWS, None);
    for (name, ttl) in [("long", "1h"), ("short", "1ms")] {
        node.gridfs(["promise", "new", "--name", name, "--text", "For a while.", "--ttl", ttl]).ok();
    }
    let counted = |what: &[&str]| {
        let (runs, renewed) = (node.stat("runs"), node.stat("renewed"));
        let text = node.grid(what).ok();
        (text, node.stat("runs") - runs, node.stat("renewed") - renewed)
    };
    let (long, short) = (["-p", "long", "knows"], ["-p", "short", "knows"]);
    let outer = ["shout", "/grid/short/knows/,"];
    assert_eq!(counted(&long), ("no\n".into(), 1, 0));
    assert_eq!(counted(&short), ("no\n".into(), 1, 0));
    assert_eq!(counted(&outer), ("NO\n".into(), 2, 0), "both are run: the inner result was over");
    assert_eq!(counted(&outer), ("NO\n".into(), 1, 1), "the inner one said the same");
    node.grid(["shout", "/grid/long/knows/,"]).ok();
    let why = node.gridfs(["why", node.grid(["--path", "shout", "/grid/long/knows/,"]).ok().trim()]).ok();
    assert!(why.contains("from shout 1.0.0 under local: volatile"), "{why}");
    assert_eq!(node.read("local/shout/%2Fgrid%2Fshort%2Fknows%2F%2C"), "NO\n");
    node.grid(["wc", "text"]).ok();
    assert_eq!(counted(&long), ("no\n".into(), 0, 0), "it holds for an hour");
    assert_eq!(counted(&short), ("yes\n".into(), 1, 0));
    // The inner one says something else. Once more, if its millisecond is over before the outer one has opened it.
    let (text, runs, renewed) = counted(&outer);
    assert!((text.as_str(), renewed) == ("YES\n", 0) && (2..=3).contains(&runs), "{text} {runs} {renewed}");
    assert_eq!(node.read("local/shout/%2Fgrid%2Fshort%2Fknows%2F%2C"), "YES\n", "the mount shows the new one");
    // Another run may differ, so none is compared.
    node.gridfs(["verify", "--rerun", "/long/knows/,"]).ok();
}
