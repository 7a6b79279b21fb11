//! Capabilities: who may call under a promise that demands one, and what tokens give to whom.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use common::{Node, Ran};

/// Makes a promise that demands a capability.
fn guard(node: &Node, name: &str, more: &[&str]) {
    let terms = ["promise", "new", "--capability", "--text", "For few.", "--name", name];
    node.gridfs(terms.iter().chain(more)).ok();
}

fn key(node: &Node) -> String {
    node.gridfs(["cap", "key"]).ok().trim().to_owned()
}

/// A token of `node` with these terms.
fn grant(node: &Node, to: &str, terms: &[&str]) -> String {
    node.gridfs(["cap", "grant", "--to", to].iter().chain(terms)).ok().trim().to_owned()
}

fn call(node: &Node, token: &str, arguments: &[&str]) -> Ran {
    node.grid(["--cap", token].iter().chain(arguments))
}

#[track_caller]
fn refused(ran: Ran, words: &str) {
    let (status, stderr) = ran.failed();
    assert!(status == 1 && stderr.contains(words), "{status} {stderr}");
}

#[test]
fn a_token_gives_its_prefix_and_nothing_else_to_its_holder() {
    let node = Node::mounted();
    node.put("text", "a b\nc\n");
    node.put("other", "d\n");
    guard(&node, "few", &[]);
    assert!(node.gridfs(["promise", "show", "few"]).ok().contains("demands    a capability\n"));
    let own = key(&node);
    assert!(own.starts_with("12D3KooW") && own == key(&node));
    let counts = node.grid(["-p", "few", "wc", "text"]).ok();

    let token = grant(&node, &own, &["--prefix", "/few/wc/text"]);
    assert_eq!(call(&node, &token, &["-p", "few", "wc", "text"]).ok(), counts);
    assert_eq!(call(&node, &token, &["-p", "few", "wc", "text", "-l"]).ok(), "2\n");
    let runs = node.stat("runs");
    // What the owner may and what is remembered is not the token's, nor is what no promise guards.
    node.grid(["-p", "few", "wc", "other"]).ok();
    refused(call(&node, &token, &["-p", "few", "wc", "other"]), "no authority for /bafyr");
    refused(call(&node, &token, &["-p", "few", "sha256", "text"]), "ask who granted it for one with that --prefix");
    refused(call(&node, &token, &["-p", "local", "wc", "text"]), "the token covers /bafyr");
    refused(call(&node, &token, &["-p", "few", "wc", "/local/cas/text"]), "no authority for /bafyr");
    assert_eq!(node.stat("runs"), runs + 1);
    // A token is told by the environment too, and from a file.
    let file = node.scratch("token");
    let written = node.gridfs(["cap", "grant", "--to", &own, "--prefix", "/few/wc", "-o", file.to_str().unwrap()]);
    assert_eq!(written.ok(), "");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(node.sh("GRID_CAP=token grid -p few wc other").ok(), node.grid(["wc", "other"]).ok());
    refused(node.sh("GRID_CAP=token grid wc other"), "no authority for");
    // Without a daemon it is the same.
    node.umount();
    refused(call(&node, &token, &["-p", "few", "wc", "other"]), "no authority for /bafyr");
    assert_eq!(call(&node, &token, &["-p", "few", "wc", "text"]).ok(), counts);
}

#[test]
fn a_token_lowers_the_limits_of_calls_and_ends() {
    let node = Node::new();
    node.put("text", "a b\nc\n".repeat(100_000));
    let own = key(&node);
    let counts = node.grid(["wc", "text"]).ok();
    // Under lower limits it is another call: what is remembered of the owner's does not answer it.
    let weak = grant(&node, &own, &["--fuel", "1000"]);
    assert_eq!(call(&node, &weak, &["wc", "text"]).failed().0, 12);
    let strong = grant(&node, &own, &["--fuel", "1000000000", "--memory", "64MiB"]);
    assert_eq!(call(&node, &strong, &["wc", "text"]).ok(), counts);
    let past = grant(&node, &own, &["--from", "2020-01-01T00:00:00Z", "--until", "2021-01-01T00:00:00Z"]);
    refused(call(&node, &past, &["wc", "text"]), "ended at 2021-01-01T00:00:00Z");
    let future = grant(&node, &own, &["--from", "1d", "--for", "2d"]);
    refused(call(&node, &future, &["wc", "text"]), "holds only from");
    let packed = grant(&node, &own, &["--prefix", "/local/wc", "--wall-ms", "60000", "--packed"]);
    assert_eq!(packed.len(), 188);
    assert_eq!(call(&node, &packed, &["wc", "text"]).ok(), counts);
    refused(call(&node, &packed, &["sha256", "text"]), "the token covers the prefix whose hash is");
    let (status, stderr) = node.gridfs(["cap", "grant", "--to", &own, "--packed", "--fuel", "1"]).failed();
    assert!(status == 2 && stderr.contains("no field for a limit on fuel"), "{stderr}");
}

#[test]
fn a_grant_is_handed_on_between_nodes_never_wider() {
    let (a, b) = (Node::mounted(), Node::mounted());
    a.put("text", "a b\nc\n");
    let (key_a, key_b) = (key(&a), key(&b));
    let given = grant(&a, &key_b, &["--prefix", "/local/wc", "--delegable", "1", "--wall-ms", "5000"]);
    // It is b's, and it holds at a: neither can use it at home.
    refused(call(&a, &given, &["wc", "text"]), &format!("was given to {key_b}, and {key_a} presents it"));
    refused(call(&b, &given, &["wc", "text"]), &format!("holds at {key_a}, and this node is {key_b}"));
    assert_eq!(a.gridfs(["cap", "verify", &given]).ok().split(" until").next(), Some("good"));
    assert!(b.gridfs(["cap", "verify", &given, "--node", &key_a]).ok().starts_with("good until"));
    // b hands it back, narrower; the names it says are its own, so it names the object by its CID.
    let text = a.gridfs(["name", "list", "--json"]).ok();
    let names: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cid = names.as_array().unwrap().iter().find(|row| row["name"] == "text").unwrap()["cid"].as_str().unwrap();
    let narrower =
        ["cap", "attenuate", &given, "--to", &key_a, "--prefix", &format!("/local/wc/{cid}")].map(str::to_owned);
    let handed = b.gridfs(&narrower).ok().trim().to_owned();
    assert_eq!(call(&a, &handed, &["wc", "text"]).ok(), a.grid(["wc", "text"]).ok());
    a.put("other", "d\n");
    refused(call(&a, &handed, &["wc", "other"]), "the token covers /bafyr");
    a.gridfs(["cap", "verify", &handed, "--path", "/local/wc/text"]).ok();
    refused(a.gridfs(["cap", "verify", &handed, "--path", "/local/wc/other"]), "no authority for");
    refused(b.gridfs(["cap", "verify", &handed]), "holds at");
    // Wider in anything is refused where it is signed.
    for (terms, words) in [
        (["--prefix", "/local"], "but its parent only /bafyr"),
        (["--wall-ms", "5001"], "limit on wall_ms is higher"),
        (["--until", "90d"], "earlier or longer than its parent"),
        (["--audience", &key_b], "but its parent at"),
        (["--delegable", "1"], "its parent 1 times, this one included"),
    ] {
        refused(b.gridfs(["cap", "attenuate", &given, "--to", &key_a].iter().chain(&terms)), words);
    }
    refused(a.gridfs(["cap", "attenuate", &given, "--to", &key_a]), "handed on by");
    refused(a.gridfs(["cap", "attenuate", &handed, "--to", &key_b]), "may not be handed on");
    // What it says is shown, from the last link to the first.
    let shown = a.gridfs(["cap", "show", &handed]).ok();
    let lines: Vec<&str> =
        shown.lines().filter(|line| line.starts_with("granted") || line.starts_with("limits")).collect();
    let (by_a, by_b) = (format!("granted by  {key_a}"), format!("granted by  {key_b}"));
    assert_eq!(lines, [&by_b, "limits      5000 ms", &by_a, "limits      5000 ms"]);
    let shown: serde_json::Value = serde_json::from_str(&a.gridfs(["cap", "show", "--json", &handed]).ok()).unwrap();
    assert_eq!((&shown["form"], &shown["links"][1]["holder"]), (&"chain".into(), &key_b.as_str().into()));
    // What was changed on the way is no token any more.
    let (start, end) = handed.split_at(handed.len() - 10);
    let changed = format!("{start}{}{}", if end.starts_with('A') { 'B' } else { 'A' }, &end[1..]);
    let (status, stderr) = a.gridfs(["cap", "verify", &changed]).failed();
    assert!(status == 14 && stderr.contains("it was changed, or made up"), "{stderr}");
    assert_eq!(call(&a, &changed, &["wc", "text"]).failed().0, 14);
    assert_eq!(call(&a, "nonsense", &["wc", "text"]).failed().0, 2);
}

/// A module that counts for so long, and then copies what it opens at a path below /grid.
fn copier(path: &str, count: u32) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 1024) "{path}")
            (func (export "_start") (local $count i32)
                (loop $again
                    (local.set $count (i32.add (local.get $count) (i32.const 1)))
                    (br_if $again (i32.lt_u (local.get $count) (i32.const {count}))))
                (drop (call $open (i32.const 5) (i32.const 0) (i32.const 1024) (i32.const {}) (i32.const 0)
                    (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 0)))
                (i32.store (i32.const 8) (i32.const 4096))
                (i32.store (i32.const 12) (i32.const 4096))
                (drop (call $read (i32.load (i32.const 0)) (i32.const 8) (i32.const 1) (i32.const 12)))
                (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))))"#,
        path.len()
    )
}

#[test]
fn what_is_remembered_is_told_only_to_who_might_compute_it() {
    let node = Node::mounted();
    node.put("text", "a b\nc\n");
    guard(&node, "few", &[]);
    node.add_wat("copy", &copier("few/wc/text", 0), None);
    let own = key(&node);
    let counts = node.grid(["copy"]).ok();
    assert_eq!(counts, node.grid(["wc", "text"]).ok());
    // The outer call is covered, the one in it is not: neither computed nor remembered it is told.
    let outer = grant(&node, &own, &["--prefix", "/local/copy"]);
    refused(call(&node, &outer, &["copy"]), "a nested call failed: no authority for");
    let all = grant(&node, &own, &[]);
    let runs = node.stat("runs");
    assert_eq!(call(&node, &all, &["copy"]).ok(), counts);
    assert_eq!(node.stat("runs"), runs, "from memory");
    refused(call(&node, &outer, &["copy"]), "a nested call failed: no authority for");
    assert_eq!(node.grid(["copy"]).ok(), counts);
}

#[test]
fn a_module_that_is_asked_whether_it_accepts_has_no_more_right_than_who_asks() {
    use gridfs_modules::Manifest;
    use gridfs_modules::manifest::Accepts;
    let node = Node::mounted();
    node.put("text", "a b\nc\n");
    guard(&node, "few", &[]);
    let manifest = Manifest { accept: Accepts::Dynamic, ..Manifest::untyped() };
    node.add_wat("sly", &copier("few/wc/text", 0), Some(&manifest));
    let token = grant(&node, &key(&node), &["--prefix", "/local/sly"]);
    let words = "asking the module whether it accepts the call: a nested call failed: no authority for";
    refused(call(&node, &token, &["sly"]), words);
    assert_eq!(node.grid(["sly"]).ok(), node.grid(["wc", "text"]).ok());
    refused(call(&node, &token, &["sly"]), words);
    // Who may make the call in it may ask too.
    let token = grant(&node, &key(&node), &[]);
    assert_eq!(call(&node, &token, &["sly"]).ok(), node.grid(["wc", "text"]).ok());
}

/// As another user of the machine.
fn as_nobody(node: &Node, line: &str) -> Ran {
    let script = format!("exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -c '{line}'");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(node.scratch("")).stdin(Stdio::null());
    Ran::from(command.output().unwrap())
}

#[test]
fn other_users_of_the_mount_have_no_authority() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: becoming another user takes root");
        return;
    }
    let node = Node::new();
    std::fs::set_permissions(node.scratch(""), PermissionsExt::from_mode(0o755)).unwrap();
    node.gridfs(["mount", "-o", "allow_other", node.mnt().to_str().unwrap()]).ok();
    node.put("text", "a b\nc\n");
    node.sh("tar cf archive text && gridfs put --name tar archive").ok();
    guard(&node, "few", &[]);
    let nested = "local/wc/%2Ffew%2Fwc%2Ftext";
    let guarded = ["few/wc/text", "few/untar/tar/text", nested];
    let attempts = |when: &str| {
        for path in guarded {
            for command in ["cat", "stat -L", "readlink -e", "getfattr -n user.grid.cid"] {
                let ran = as_nobody(&node, &format!("{command} mnt/{path}"));
                let missing_program = ran.stderr.contains("not found");
                assert!(
                    ran.status != 0 && ran.stdout.is_empty() || missing_program,
                    "{when} {command} {path}: {ran:?}"
                );
            }
        }
        let listed = as_nobody(&node, "ls -L mnt/few/wc/ mnt/few/untar/tar/");
        assert!(listed.status != 0 && !listed.stdout.contains("text"), "{when}: {listed:?}");
        assert!(as_nobody(&node, "cat mnt/few/wc/text").stderr.contains("Permission denied"));
    };
    assert_eq!(as_nobody(&node, "cat mnt/local/wc/text").ok(), node.read("local/wc/text"));
    attempts("before");
    assert_eq!(node.stat("runs"), 1);
    assert!(node.log().contains("the promise demands a capability"), "{}", node.log());
    // The owner's reading does not open it for others.
    for path in guarded {
        node.read(path);
    }
    assert_eq!(node.sh("ls mnt/few/untar/tar/").ok(), "text\n");
    attempts("after");
    // Nor does a module that reads it, whoever runs it first.
    node.add_wat("copy", &copier("few/wc/text", 0), None);
    assert!(as_nobody(&node, "cat mnt/local/copy/,").stderr.contains("Permission denied"));
    assert_eq!(node.read("local/copy/,"), node.read("few/wc/text"));
    // The owner does not share the evaluation of who may not, which is under way.
    node.add_wat("slow", &copier("few/wc/text", 500_000_000), None);
    let runs = node.stat("runs");
    std::thread::scope(|scope| {
        let other = scope.spawn(|| as_nobody(&node, "cat mnt/local/slow/,"));
        common::wait_for("the module to run", || node.stat("runs") > runs);
        assert_eq!(node.read("local/slow/,"), node.read("few/wc/text"));
        assert!(other.join().unwrap().stderr.contains("Permission denied"));
    });
}

/// A module that asks with a token, its standard input, about the path that is its second argument.
const VERIFIER: &str = r#"(module
    (import "pg" "pg_verify_capability" (func $verify (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_get" (func $get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 2)
    (func (export "_start") (local $path i32)
        (drop (call $sizes (i32.const 0) (i32.const 4)))
        (drop (call $get (i32.const 16) (i32.const 1024)))
        (local.set $path (i32.load (i32.const 24)))
        (i32.store (i32.const 32) (i32.const 65536))
        (i32.store (i32.const 36) (i32.const 60000))
        (drop (call $read (i32.const 0) (i32.const 32) (i32.const 1) (i32.const 40)))
        (i32.store8 (i32.const 48) (i32.add (i32.const 48) (call $verify
            (i32.const 65536) (i32.load (i32.const 40)) (local.get $path)
            ;; The path ends with the NUL that ends the arguments.
            (i32.sub (i32.add (i32.const 1023) (i32.load (i32.const 4))) (local.get $path)))))
        (i32.store (i32.const 52) (i32.const 48))
        (i32.store (i32.const 56) (i32.const 1))
        (drop (call $write (i32.const 1) (i32.const 52) (i32.const 1) (i32.const 60)))))"#;

/// A module that asks whether the path that is its argument is remembered.
const PEEKER: &str = r#"(module
    (import "pg" "pg_access_cache" (func $access (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_get" (func $get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start") (local $path i32)
        (drop (call $sizes (i32.const 0) (i32.const 4)))
        (drop (call $get (i32.const 16) (i32.const 1024)))
        (local.set $path (i32.load (i32.const 20)))
        (i32.store8 (i32.const 48) (i32.add (i32.const 48) (call $access (local.get $path)
            (i32.sub (i32.add (i32.const 1023) (i32.load (i32.const 4))) (local.get $path)))))
        (i32.store (i32.const 52) (i32.const 48))
        (i32.store (i32.const 56) (i32.const 1))
        (drop (call $write (i32.const 1) (i32.const 52) (i32.const 1) (i32.const 60)))))"#;

/// The number that a module printed as a character.
fn number(ran: Ran) -> i32 {
    i32::from(ran.ok().as_bytes()[0]) - i32::from(b'0')
}

#[test]
fn a_module_verifies_tokens_and_looks_into_memory() {
    use common::manifest;
    use gridfs_modules::manifest::{ArgKind, Limits, Returns};
    let node = Node::mounted();
    node.put("text", "a b\nc\n");
    guard(&node, "few", &[]);
    let arguments = [("token", ArgKind::Blob), ("path", ArgKind::Text)];
    node.add_wat("verify", VERIFIER, Some(&manifest("verify", &arguments, Returns::Blob, Limits::default())));
    let own = key(&node);
    // Each question is asked once: what is answered is remembered until volatile results are told apart.
    let verify = |token: &str, path: &str| {
        std::fs::write(node.scratch("token"), format!("{token}\n")).unwrap();
        number(node.grid(["verify", node.scratch("token").to_str().unwrap(), path]))
    };
    let token = grant(&node, &own, &["--prefix", "/few/wc"]);
    assert_eq!(verify(&token, "/few/wc/text"), 0);
    assert_eq!(verify(&token, "/few/wc/text,-l"), 0);
    assert_eq!(verify(&token, "/few/sha256/text"), 2);
    assert_eq!(verify(&token, "/few/wc/nothing"), 44);
    assert_eq!(verify(&token, "few"), 28);
    assert_eq!(verify("u", "/few/wc/text"), 28);
    assert_eq!(verify(&grant(&node, &own, &["--packed"]), "/few/wc/text"), 0);
    assert_eq!(verify(&grant(&node, &key(&Node::new()), &[]), "/few/wc/text"), 2);
    let past = grant(&node, &own, &["--from", "2020-01-01T00:00:00Z", "--until", "2021-01-01T00:00:00Z"]);
    assert_eq!(verify(&past, "/few/wc/text"), 73);

    node.add_wat("peek", PEEKER, None);
    let runs = node.stat("runs");
    assert_eq!(number(node.grid(["peek", "/few/wc/text"])), 0);
    assert_eq!(node.stat("runs"), runs + 1, "the call itself was not made");
    node.grid(["-p", "few", "wc", "text"]).ok();
    // Another spelling of the same call, so another question.
    assert_eq!(number(node.grid(["peek", "//few/wc/text"])), 1);
    let outer = grant(&node, &own, &["--prefix", "/local/peek"]);
    assert_eq!(number(call(&node, &outer, &["peek", "///few/wc/text"])), -2);
    // An answer that depends on who asked is remembered for who asked alone.
    assert_eq!(number(call(&node, &outer, &["peek", "//few/wc/text"])), -2);
    assert_eq!(number(node.grid(["peek", "///few/wc/text"])), 1);
    let runs = node.stat("runs");
    assert_eq!(number(call(&node, &outer, &["peek", "///few/wc/text"])), -2);
    assert_eq!(number(node.grid(["peek", "///few/wc/text"])), 1);
    assert_eq!(node.stat("runs"), runs, "both from memory");
    assert_eq!(number(node.grid(["peek", "/few/wc/nothing"])), -44);
}
