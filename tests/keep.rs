//! What is kept and what goes: names, pins, results, garbage and the quota.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use common::Node;

/// Incompressible bytes.
fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// The bytes of a stored file.
fn get(node: &Node, what: &str) -> Vec<u8> {
    let copy = node.scratch("copy");
    node.gridfs(["get", what, copy.to_str().unwrap()]).ok();
    let bytes = std::fs::read(&copy).unwrap();
    std::fs::remove_file(copy).unwrap();
    bytes
}

#[test]
fn what_no_name_stands_for_gives_its_space_back() {
    let node = Node::mounted();
    for seed in 0..6 {
        node.put(&format!("file{seed}"), noise(seed, 2_000_000));
    }
    let before = node.stat("stored_bytes");
    node.sh("for n in 1 3 5; do gridfs name rm file$n; done").ok();
    let wish = node.gridfs(["--json", "gc", "--dry-run"]).ok();
    assert!(wish.contains("\"dry_run\": true"), "{wish}");
    assert_eq!(get(&node, "file0").len(), 2_000_000);
    // An open file stays readable although its name is gone.
    let open = File::open(node.at("local/cas/file4")).unwrap();
    node.gridfs(["name", "rm", "file4"]).ok();
    let done = node.gridfs(["gc"]).ok();
    assert!(done.lines().any(|line| line.starts_with("freed ")), "{done}");
    let after = node.stat("stored_bytes");
    assert!((5_900_000..6_100_000).contains(&(before - after)), "{before} {after}");
    let mut bytes = vec![0; 2_000_000];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == noise(4, 2_000_000));
    for seed in [0, 2] {
        assert!(std::fs::read(node.at(&format!("local/cas/file{seed}"))).unwrap() == noise(seed, 2_000_000));
    }
    // The state before is still listed, but can't come back.
    let log = node.gridfs(["name", "log"]).ok();
    let root = log.lines().filter(|line| !line.starts_with(' ')).nth(4).unwrap().split(' ').next().unwrap().to_owned();
    let (status, stderr) = node.gridfs(["name", "rollback", &root]).failed();
    assert!(status == 13 && stderr.contains("no longer stored") && stderr.contains("file1 (bafkr4i"), "{stderr}");
    drop(open);
    node.gridfs(["gc"]).ok();
    assert!(after - node.stat("stored_bytes") > 1_900_000);
    node.umount();
    node.mount();
    assert!(std::fs::read(node.at("local/cas/file2")).unwrap() == noise(2, 2_000_000));
}

#[test]
fn what_is_put_without_a_name_is_pinned() {
    let node = Node::new();
    std::fs::write(node.scratch("loose"), noise(1, 300_000)).unwrap();
    let cid = node.sh("gridfs put loose").ok().split(' ').next().unwrap().to_owned();
    let pins = node.gridfs(["pin", "list"]).ok();
    assert!(pins.starts_with(&cid) && pins.ends_with("/loose\n"), "{pins}");
    node.gridfs(["gc"]).ok();
    assert_eq!(get(&node, &cid).len(), 300_000);
    assert_eq!(node.gridfs(["pin", "rm", &cid]).ok(), "");
    let (status, stderr) = node.gridfs(["pin", "rm", &cid]).failed();
    assert!(status == 10 && stderr.contains("is not pinned"), "{stderr}");
    node.gridfs(["gc"]).ok();
    assert_eq!(node.gridfs(["get", &cid]).failed().0, 13);
    assert_eq!(node.gridfs(["pin", "add", &cid]).failed().0, 13);
    // A result is kept by a pin when its input is not.
    node.put("text", "a b c\n");
    let sum = node.grid(["sha256", "text"]).ok();
    node.gridfs(["pin", "add", "/local/sha256/text"]).ok();
    node.gridfs(["name", "rm", "text"]).ok();
    node.gridfs(["gc"]).ok();
    let pinned = node.gridfs(["pin", "list"]).ok();
    assert_eq!(node.gridfs(["get", pinned.split(' ').next().unwrap()]).ok(), sum);
}

#[test]
fn results_stay_as_long_as_what_they_were_made_from() {
    let node = Node::mounted();
    node.put("one", "first text\n");
    node.put("two", "second text\n");
    // A chain: the result of one call is the input of the next.
    for name in ["one", "two"] {
        let nested = format!("/local/sha256/{name}");
        node.grid(["wc", &nested]).ok();
    }
    assert_eq!(node.stat("runs"), 4);
    node.gridfs(["gc"]).ok();
    node.grid(["wc", "/local/sha256/one"]).ok();
    assert_eq!(node.stat("runs"), 4, "nothing was lost");
    node.gridfs(["name", "rm", "two"]).ok();
    let done = node.gridfs(["--json", "gc"]).ok();
    assert!(done.contains("\"forgotten\": 2"), "{done}");
    node.grid(["wc", "/local/sha256/one"]).ok();
    assert_eq!(node.stat("runs"), 4);
    node.put("two", "second text\n");
    node.grid(["wc", "/local/sha256/two"]).ok();
    assert_eq!(node.stat("runs"), 6, "what went is computed again");
}

#[test]
fn a_put_over_the_quota_fails_and_says_what_would_help() {
    let node = Node::new();
    node.gridfs(["init"]).ok();
    let config = node.home().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("quota = \"8 MiB\"\n{text}")).unwrap();
    node.put("large", noise(1, 3_000_000));
    node.put("small", noise(2, 1_000_000));
    std::fs::write(node.scratch("more"), noise(3, 5_000_000)).unwrap();
    let (status, stderr) = node.sh("gridfs put --name more more").failed();
    assert!(status == 1 && stderr.contains("may hold 8388608"), "{stderr}");
    assert!(stderr.contains("`gridfs gc` would free about") && stderr.contains("large (3000000 bytes)"), "{stderr}");
    for (name, seed, len) in [("large", 1, 3_000_000), ("small", 2, 1_000_000)] {
        assert!(get(&node, name) == noise(seed, len));
    }
    // Names can be removed, and then there is room.
    node.gridfs(["name", "rm", "large"]).ok();
    node.gridfs(["gc"]).ok();
    node.sh("gridfs put --name more more").ok();
    assert!(get(&node, "more") == noise(3, 5_000_000));
}

/// Results go to make room, the cheapest first, before a put has to fail; names never.
#[test]
fn results_make_room_for_puts() {
    let node = Node::new();
    node.gridfs(["init"]).ok();
    let config = node.home().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("quota = \"8 MiB\"\n{text}")).unwrap();
    node.sh("mkdir d && head -c 3000000 /dev/urandom > d/x && tar cf d.tar d && gridfs put --name src.tar d.tar").ok();
    node.put("keep", noise(2, 1_000_000));
    // Its result holds other chunks than the archive does.
    node.add_wat("inflate", INFLATE, None);
    for n in 0..5 {
        node.grid(["inflate", &n.to_string()]).ok();
    }
    assert!(node.stat("stored_bytes") > 7_600_000, "{}", node.stat("stored_bytes"));
    node.put("new", noise(3, 1_500_000));
    assert!(node.stat("stored_bytes") < 8 << 20);
    assert!(get(&node, "keep") == noise(2, 1_000_000));
    assert!(get(&node, "new") == noise(3, 1_500_000));
    assert_eq!(node.sh("gridfs get src.tar | tar xO | cmp - d/x").ok(), "");
}

/// Writes 640 kB that can't be compressed and depend on the argument.
const INFLATE: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (memory (export "memory") 12)
  (func (export "_start") (local $i i32) (local $x i64)
    (drop (call $args (i32.const 0) (i32.const 64)))
    (local.set $x (i64.add (i64.const 88172645463325252) (i64.load (i32.load (i32.const 4)))))
    (local.set $i (i32.const 1024))
    (loop $next
      (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 13))))
      (local.set $x (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 7))))
      (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 17))))
      (i64.store (local.get $i) (local.get $x))
      (local.set $i (i32.add (local.get $i) (i32.const 8)))
      (br_if $next (i32.lt_u (local.get $i) (i32.const 641024))))
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 640000))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
