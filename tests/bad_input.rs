//! Bad input: each gets an errno and its reason on the mount, a message and an exit status on the command line; nothing
//! is remembered as a success, and the mount goes on.

mod common;

use common::{ENDLESS, Node, manifest, noise};
use gridfs_modules::manifest::{ArgKind, Limits, Returns};

const EIO: i32 = 5;
const ENOEXEC: i32 = 8;
const ENOMEM: i32 = 12;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const EFBIG: i32 = 27;
const ENOENT: i32 = 2;
const ELOOP: i32 = 40;
const EBADMSG: i32 = 74;
const ETIMEDOUT: i32 = 110;
const EHOSTUNREACH: i32 = 113;

/// A failing call, seen from the mount and from the command line.
#[track_caller]
fn fails(node: &Node, path: &str, call: &[&str], errno: i32, status: i32, reason: &str) {
    let memos = node.stat("memos");
    assert_eq!(node.errno(path), errno, "{path}\n{}", node.log());
    let said = node.xattr(path, "error").unwrap_or_else(|| panic!("{path} has no user.grid.error"));
    assert!(said.contains(reason), "{path}: {said}");
    assert_eq!(node.xattr(path, "state").as_deref(), Some("failed"));
    let (ran, stderr) = node.grid(call).failed();
    assert_eq!(ran, status, "{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.contains(reason), "{stderr}");
    assert_eq!(node.stat("memos"), memos, "a failure was remembered");
    // Again the same, and the mount lives.
    assert_eq!(node.errno(path), errno);
    assert!(node.log().contains(reason), "{}", node.log());
}

#[test]
fn paths_that_do_not_parse() {
    let node = Node::mounted();
    node.put("x", "x\n");
    for (path, reason) in [
        ("local/wc/%zz", "write %25 for a percent sign"),
        ("local/wc/100%", "write %25 for a percent sign"),
        ("local/wc/%FF", "does not decode to UTF-8"),
        ("local/wc/x,,-l", "empty argument"),
        ("local/wc/,", "needs an argument"),
        ("local/wc/@nonsense", "not followed by a CID"),
        ("local/cas/x,x", "at most 1 argument"),
        ("local/wc/%2Flocal", "it starts with /promise/module"),
        ("local/wc/%2Flocal%2Fgrep%2Fa", "stops before the last argument"),
    ] {
        assert_eq!(node.errno(path), EINVAL, "{path}");
        let said = node.xattr(path, "error").unwrap();
        assert!(said.contains(reason), "{path}: {said}");
    }
    assert_eq!(node.errno("%zz/wc/x"), EINVAL);
    assert!(node.log().contains("%zz"));
    assert_eq!(node.read("local/cas/x"), "x\n");
    let (status, stderr) = node.gridfs(["get", "/local"]).failed();
    assert_eq!(
        (status, stderr.as_str()),
        (2, "error: \"/local\" is not a grid path: it starts with /promise/module\n")
    );
}

#[test]
fn names_that_are_unknown() {
    let node = Node::mounted();
    node.put("x", "x\n");
    for path in ["nope/wc/x", "local/nope/x", "local/wc/nope", "local/cas/x-not", "local/wc/%2Flocal%2Fcas%2Fnope"] {
        assert_eq!(node.errno(path), ENOENT, "{path}");
    }
    for call in [&["nope", "x"][..], &["wc", "nope"], &["--promise", "nope", "wc", "x"], &["wc", "/local/cas/nope"]] {
        let (status, stderr) = node.grid(call).failed();
        assert_eq!(
            (status, stderr.as_str()),
            (10, "error: there is no name \"nope\"; `gridfs name list` shows the names there are\n")
        );
    }
    assert_eq!(node.gridfs(["name", "rm", "nope"]).failed().0, 10);
    assert_eq!(node.gridfs(["module", "show", "nope"]).failed().0, 10);
}

#[test]
fn objects_that_are_not_here() {
    let node = Node::mounted();
    let absent = "bafkr4ibu6ysuvdgy6abikcdi3kcv76malx7pru2ptuy6nu2vaojseqjphy";
    fails(&node, &format!("local/wc/{absent}"), &["wc", absent], EHOSTUNREACH, 13, "is not stored on this node");
    fails(&node, &format!("local/cas/{absent}"), &["cas", absent], EHOSTUNREACH, 13, "is not stored on this node");
    assert_eq!(node.errno(&format!("local/{absent}/x")), EHOSTUNREACH);
    assert_eq!(node.gridfs(["get", absent]).failed().0, 13);
}

#[test]
fn promises_that_are_not_accepted() {
    let node = Node::mounted();
    node.put("x", "x\n");
    let cid = std::fs::read_link(node.at("local/cas/x")).unwrap();
    let cid = cid.to_str().unwrap();
    assert_eq!(node.errno(&format!("{cid}/wc/x")), EACCES);
    assert!(node.log().contains("does not accept the promise"));
    let (status, stderr) = node.grid(["--promise", "x", "wc", "x"]).failed();
    assert_eq!((status, stderr.contains("`gridfs promise list` shows")), (1, true), "{stderr}");
}

#[test]
fn arguments_of_the_wrong_type() {
    let node = Node::mounted();
    node.put("x", "x\n");
    node.sh("mkdir tree && gridfs put --name tree tree").ok();
    let typed = [("n", ArgKind::Int), ("t", ArgKind::Tree)];
    node.add_wat("typed", ENDLESS, Some(&manifest("typed", &typed, Returns::Blob, Limits::default())));
    fails(&node, "local/wc/tree", &["wc", "/local/cas/tree"], EINVAL, 2, "must be a file");
    fails(&node, "local/typed/1/x", &["typed", "1", "/local/cas/x"], EINVAL, 2, "must be a directory");
    for n in ["one", "1.5", "01", "+1", "", "99999999999999999999"] {
        let path = format!("local/typed/{}/tree", if n.is_empty() { "%" } else { n });
        fails(&node, &path, &["typed", n, "/local/cas/tree"], EINVAL, 2, "must be an integer in decimal");
    }
    let (status, stderr) = node.grid(["wc"]).failed();
    assert_eq!((status, stderr.as_str()), (2, "error: wc needs an argument \"file\"; see grid --show wc\n"));
}

#[test]
fn what_is_no_module() {
    let node = Node::mounted();
    node.put("x", "x\n");
    assert_eq!(node.errno("local/x/x"), ENOEXEC);
    assert_eq!(node.grid(["x", "x"]).failed().0, 11);
    let add = |name: &str, bytes: &[u8]| {
        std::fs::write(node.scratch(name), bytes).unwrap();
        node.gridfs(["module", "add", "--name", "bad", node.scratch(name).to_str().unwrap()]).failed()
    };
    let library = r#"(module (memory (export "memory") 1) (func (export "run")))"#;
    let foreign = r#"(module (import "env" "now" (func)) (memory (export "memory") 1) (func (export "_start")))"#;
    for (name, bytes, reason) in [
        ("text", b"no module".to_vec(), "not a WASM module"),
        ("empty", Vec::new(), "not a WASM module"),
        ("cut", b"\0asm\x01\0\0\0\x01".to_vec(), "not a WASM module"),
        ("library", wat::parse_str(library).unwrap(), "does not export \"_start\""),
        ("foreign", wat::parse_str(foreign).unwrap(), "it imports env.now"),
    ] {
        let (status, stderr) = add(name, &bytes);
        assert_eq!(status, 11, "{stderr}");
        assert!(stderr.contains(reason), "{stderr}");
        assert_eq!(node.gridfs(["module", "show", "bad"]).failed().0, 10);
    }
    // Bytes that only look like a module, named by hand.
    node.put("fake", b"\0asm\x01\0\0\0\x01");
    assert_eq!(node.errno("local/fake/x"), ENOEXEC);
}

#[test]
fn modules_that_trap_or_fail() {
    let node = Node::mounted();
    let trap = r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#;
    node.add_wat("trap", trap, None);
    fails(&node, "local/trap/,", &["trap"], EIO, 11, "trapped: wasm trap: wasm `unreachable` instruction executed");
    let exit = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 3))))"#;
    node.add_wat("exit", exit, None);
    fails(&node, "local/exit/,", &["exit"], EIO, 11, "exit status 3");
    let deep = r#"(module (memory (export "memory") 1) (func $f (call $f)) (func (export "_start") (call $f)))"#;
    node.add_wat("deep", deep, None);
    fails(&node, "local/deep/,", &["deep"], EIO, 11, "call stack exhausted");
    node.put("x.tar", noise(1, 5000));
    fails_tree(&node, "local/untar/x.tar", EIO, "it said: ");
    node.put("bad", "x\n");
    fails(&node, "local/grep/%28/bad", &["grep", "(", "bad"], EIO, 11, "exit status 2; it said: ");
}

/// A failing call that would have resulted in a directory.
#[track_caller]
fn fails_tree(node: &Node, path: &str, errno: i32, reason: &str) {
    assert_eq!(std::fs::read_dir(node.at(path)).unwrap_err().raw_os_error(), Some(errno));
    assert_eq!(node.errno(&format!("{path}/inside")), errno);
    assert!(node.xattr(path, "error").unwrap().contains(reason), "{:?}", node.xattr(path, "error"));
}

#[test]
fn modules_that_want_too_much() {
    let node = Node::mounted();
    let limits = |limits| Some(manifest("greedy", &[], Returns::Blob, limits));
    let wall = Limits { wall_ms: Some(300), ..Limits::default() };
    node.add_wat("slow", ENDLESS, limits(wall).as_ref());
    fails(&node, "local/slow/,", &["slow"], ETIMEDOUT, 12, "still running after its 300 ms");
    let fuel = Limits { fuel: Some(10_000_000), ..Limits::default() };
    node.add_wat("busy", ENDLESS, limits(fuel).as_ref());
    fails(&node, "local/busy/,", &["busy"], ETIMEDOUT, 12, "burnt all of its 10000000 units of fuel");
    // Prints for ever.
    let print = r#"(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 17) (func (export "_start")
            (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1000000))
            (loop $again (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br $again))))"#;
    let output = Limits { output_bytes: Some(50_000_000), ..Limits::default() };
    node.add_wat("print", print, limits(output).as_ref());
    fails(&node, "local/print/,", &["print"], EFBIG, 12, "more than its 50000000 bytes of output");
    // Takes memory for ever, and traps when it gets no more.
    let hoard = r#"(module (memory (export "memory") 1) (func (export "_start")
        (loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable))"#;
    let memory = Limits { memory_bytes: Some(32 << 20), ..Limits::default() };
    node.add_wat("hoard", hoard, limits(memory).as_ref());
    fails(&node, "local/hoard/,", &["hoard"], ENOMEM, 12, "more than its 33554432 bytes of memory");
    // Asks for more than there is from the start.
    let vast = r#"(module (memory (export "memory") 10000) (func (export "_start")))"#;
    node.add_wat("vast", vast, limits(memory).as_ref());
    fails(&node, "local/vast/,", &["vast"], ENOMEM, 12, "more than its 33554432 bytes of memory");
}

#[test]
fn calls_that_wait_for_themselves() {
    let node = Node::mounted();
    node.add_example("shout", "c/shout.toml");
    // shout(path of shout of the same path ...) can't be written down; a name makes the circle.
    node.add_wat("a", &opens("/grid/local/b/,"), None);
    node.add_wat("b", &opens("/grid/local/a/,"), None);
    fails(&node, "local/a/,", &["a"], ELOOP, 11, "waits for its own result");
    fails(&node, "local/b/,", &["b"], ELOOP, 11, "waits for its own result");
}

#[test]
fn calls_that_are_nested_too_deep() {
    let node = Node::mounted();
    for depth in 0..16 {
        node.add_wat(&format!("d{depth}"), &opens(&format!("/grid/local/d{}/,", depth + 1)), None);
    }
    node.add_wat("d16", r#"(module (memory (export "memory") 1) (func (export "_start")))"#, None);
    fails(&node, "local/d0/,", &["d0"], ELOOP, 11, "calls are nested more than 12 deep");
    // From further in it is not too deep.
    assert_eq!(node.read("local/d4/,"), "");
    assert_eq!(node.read("local/d0/,"), "");
}

/// Calls itself three times over, with a letter more, until its argument has ten letters.
const FORKS: &str = r#"(module
    (import "wasi_snapshot_preview1" "args_get" (func $get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 1024) "local/forks/")
    (func $fork (param $letter i32) (param $length i32)
        (i32.store8 (i32.add (i32.const 1036) (local.get $length)) (local.get $letter))
        (drop (call $open (i32.const 5) (i32.const 1) (i32.const 1024) (i32.add (i32.const 13) (local.get $length))
            (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 0))))
    (func (export "_start") (local $length i32)
        (drop (call $sizes (i32.const 0) (i32.const 4)))
        ;; The name, "module", and the argument, each with a NUL.
        (drop (call $get (i32.const 8) (i32.const 1029)))
        (local.set $length (i32.sub (i32.load (i32.const 4)) (i32.const 8)))
        (i64.store (i32.const 1024) (i64.const 0x6f662f6c61636f6c))
        (i32.store (i32.const 1032) (i32.const 0x2f736b72))
        (if (i32.ge_u (local.get $length) (i32.const 10)) (then (return)))
        (call $fork (i32.const 0x61) (local.get $length))
        (call $fork (i32.const 0x62) (local.get $length))
        (call $fork (i32.const 0x63) (local.get $length))))"#;

#[test]
fn calls_that_lead_to_too_many() {
    let node = Node::mounted();
    node.add_wat("forks", FORKS, None);
    assert_eq!(node.read("local/forks/aaaaaa"), "");
    assert_eq!(node.stat("runs"), 1 + 3 + 9 + 27 + 81);
    let (status, stderr) = node.grid(["forks", "x"]).failed();
    assert!(status == 12 && stderr.contains("the call led to more than 10000 evaluations"), "{stderr}");
}

/// A module that opens a path of the grid.
fn opens(path: &str) -> String {
    let path = path.strip_prefix("/grid/").unwrap();
    format!(
        r#"(module (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 64) "{path}")
        (func (export "_start") (drop (call $open (i32.const 5) (i32.const 1) (i32.const 64) (i32.const {})
            (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 0)))))"#,
        path.len()
    )
}

#[test]
fn a_corrupted_pack_is_told_and_never_read_as_content() {
    let node = Node::new();
    let data = noise(3, 3 << 20);
    node.put("good", "unharmed\n");
    node.put("big", &data);
    let packs = std::fs::read_dir(node.home().join("cache/packs")).unwrap().map(|entry| entry.unwrap().path());
    let pack =
        packs.filter(|path| path.extension().is_some_and(|e| e == "data")).max_by_key(|p| p.metadata().unwrap().len());
    let pack = pack.unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() - (1 << 20);
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).unwrap();

    node.mount();
    let error = std::fs::read(node.at("local/cas/big")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(EBADMSG));
    assert!(node.log().contains("is damaged at offset"), "{}", node.log());
    assert!(node.xattr("local/cas/big", "error").unwrap().contains("is damaged at offset"));
    assert_eq!(node.xattr("local/cas/big", "state").as_deref(), Some("failed"));
    fails(&node, "local/sha256/big", &["sha256", "big"], EBADMSG, 14, "is damaged at offset");
    let (status, stderr) = node.gridfs(["get", "big", node.scratch("out").to_str().unwrap()]).failed();
    assert_eq!((status, stderr.contains("is damaged at offset")), (14, true), "{stderr}");
    assert_eq!(node.read("local/cas/good"), "unharmed\n");
}

#[test]
fn commands_that_make_no_sense() {
    let node = Node::new();
    for arguments in [&["put"][..], &["frobnicate"], &["name", "set", "x"], &["mount", "-o", "nonsense"], &["get"]] {
        assert_eq!(node.gridfs(arguments).failed().0, 2, "{arguments:?}");
    }
    let (status, stderr) = node.gridfs(["put", "--name", "a/b", "/etc/hostname"]).failed();
    assert_eq!((status, stderr.contains("can't be a name")), (2, true), "{stderr}");
    let (status, stderr) = node.gridfs(["put", "/nonexistent"]).failed();
    assert_eq!((status, stderr.contains("/nonexistent")), (1, true), "{stderr}");
    assert_eq!(node.gridfs(["umount"]).failed().0, 15);
    let missing = node.scratch("missing");
    let (status, stderr) = node.gridfs(["mount", missing.to_str().unwrap()]).failed();
    assert_eq!((status, stderr.contains("missing")), (1, true), "{stderr}");
    let file = node.put("file", "x");
    let (_, stderr) = node.gridfs(["mount", file.to_str().unwrap()]).failed();
    assert!(stderr.contains("file"), "{stderr}");
    let (status, stderr) = node.gridfs(["get", "file", file.to_str().unwrap()]).failed();
    assert_eq!((status, stderr.contains("exists")), (1, true), "{stderr}");
}
