//! Promises: what a node accepts it answers, and nothing else.

mod common;

use common::Node;

fn cid_of(line: &str) -> String {
    line.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn a_promise_is_made_signed_shown_and_called_under() {
    let node = Node::mounted();
    node.put("text", "a b\nc\n");
    let made = node.gridfs(["promise", "new", "--name", "small", "--text", "Small jobs.", "--module", "wc"]).ok();
    let cid = cid_of(&made);
    assert_eq!(std::fs::metadata(node.home().join("keys/node")).unwrap().len(), 32);
    let shown = node.gridfs(["promise", "show", "small"]).ok();
    assert!(shown.starts_with("Small jobs.\n") && shown.contains("accepted   yes") && shown.contains("12D3KooW"));
    assert!(node.gridfs(["promise", "list"]).ok().contains(&format!("{cid}  small  Small jobs.\n")));
    // By name and by CID, by hand and as a path.
    let counts = node.grid(["-p", "small", "wc", "text"]).ok();
    assert_eq!(counts, node.grid(["wc", "text"]).ok());
    assert_eq!(std::fs::read_to_string(node.at("small/wc/text")).unwrap(), counts);
    assert_eq!(node.grid(["-p", &cid, "wc", "text"]).ok(), counts);
    assert!(node.grid(["--show", "wc"]).ok().contains("  small  "));
    assert!(!node.grid(["--show", "sha256"]).ok().contains("  small  "));
    // What it does not cover is refused.
    let (status, stderr) = node.grid(["-p", "small", "sha256", "text"]).failed();
    assert!(status == 1 && stderr.contains("does not cover the module"), "{stderr}");
    let refused = std::fs::read(node.at("small/sha256/text")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    // It survives a restart, a lost index, and a collection although its name is gone.
    node.gridfs(["name", "rm", "small"]).ok();
    node.gridfs(["gc"]).ok();
    node.umount();
    std::fs::remove_dir_all(node.home().join("cache/index")).unwrap();
    assert_eq!(node.grid(["-p", &cid, "wc", "text"]).ok(), counts);
}

#[test]
fn a_revoked_promise_is_refused_until_it_is_accepted_again() {
    let node = Node::mounted();
    node.put("text", "a b\nc\n");
    let counts = std::fs::read_to_string(node.at("pub/wc/text")).unwrap();
    let canonical = std::fs::canonicalize(node.at("pub/wc/text")).unwrap();
    node.gridfs(["promise", "revoke", "pub"]).ok();
    let refused = std::fs::read(&canonical).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "what was read before is not given either");
    let (status, stderr) = node.grid(["-p", "pub", "wc", "text"]).failed();
    assert!(
        status == 1 && stderr.contains("does not accept the promise") && stderr.contains("promise list"),
        "{stderr}"
    );
    assert!(std::fs::read(node.at("pub/wc/text")).is_err(), "a remembered result is not given either");
    assert!(!node.sh("ls mnt").ok().contains("pub"));
    assert_eq!(node.gridfs(["promise", "revoke", "pub"]).failed().0, 10);
    assert!(node.gridfs(["promise", "show", "pub"]).ok().contains("accepted   no"));
    // A new start of the node accepts no more than the old one did.
    node.umount();
    node.mount();
    assert_eq!(node.grid(["-p", "pub", "wc", "text"]).failed().0, 1);
    node.gridfs(["promise", "accept", "pub"]).ok();
    assert_eq!(std::fs::read_to_string(node.at("pub/wc/text")).unwrap(), counts);
}

#[test]
fn a_promise_holds_in_its_time() {
    let node = Node::new();
    node.put("text", "a b\nc\n");
    let make = |name: &str, from: &str, until: &str| {
        let terms = ["--text", "For a while.", "--from", from, "--until", until];
        node.gridfs(["promise", "new", "--name", name].into_iter().chain(terms))
    };
    make("past", "2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z").ok();
    make("future", "30d", "60d").ok();
    make("now", "2020-01-01T00:00:00Z", "1d").ok();
    assert_eq!(make("never", "2d", "1d").failed().0, 2);
    let (_, stderr) = node.grid(["-p", "past", "wc", "text"]).failed();
    assert!(stderr.contains("ended at 2021-01-01T00:00:00Z"), "{stderr}");
    let (_, stderr) = node.grid(["-p", "future", "wc", "text"]).failed();
    assert!(stderr.contains("holds only from"), "{stderr}");
    assert_eq!(node.grid(["-p", "now", "wc", "text"]).ok(), node.grid(["wc", "text"]).ok());
}

#[test]
fn a_promise_sets_limits_and_what_is_no_promise_is_refused() {
    let node = Node::new();
    node.put("text", "a b\nc\n".repeat(100_000));
    node.gridfs(["promise", "new", "--name", "tiny", "--text", "Next to nothing.", "--fuel", "1000"]).ok();
    assert_eq!(node.grid(["-p", "tiny", "wc", "text"]).failed().0, 12);
    let (status, stderr) = node.gridfs(["promise", "accept", "text"]).failed();
    assert!(status == 2 && stderr.contains("not a promise document"), "{stderr}");
    assert_eq!(node.gridfs(["promise", "accept", "nobody"]).failed().0, 10);
    assert_eq!(node.gridfs(["promise", "new", "--text", "x", "--module", "nobody"]).failed().0, 10);
}

#[test]
fn a_promise_made_elsewhere_is_accepted_from_its_file() {
    let (maker, node) = (Node::new(), Node::mounted());
    let made = maker
        .gridfs([
            "promise",
            "new",
            "--text",
            "Elsewhere.",
            "--ttl",
            "5s",
            "--trust",
            "12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV",
        ])
        .ok();
    let cid = cid_of(&made);
    let file = node.scratch("promise");
    maker.gridfs(["get", &cid, file.to_str().unwrap()]).ok();
    node.put("text", "a b\nc\n");
    assert_eq!(node.grid(["-p", &cid, "wc", "text"]).failed().0, 1);
    assert_eq!(cid_of(&node.gridfs(["promise", "accept", file.to_str().unwrap()]).ok()), cid);
    node.grid(["-p", &cid, "wc", "text"]).ok();
    let shown = node.gridfs(["promise", "show", &cid]).ok();
    assert!(shown.contains("volatile   for 5000 ms") && shown.contains("1 of 1 listed keys"), "{shown}");
    // One that was changed on the way is not.
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 30;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let (status, stderr) = node.gridfs(["promise", "accept", file.to_str().unwrap()]).failed();
    assert!(matches!(status, 2 | 14), "{stderr}");
    assert_eq!(node.gridfs(["promise", "new", "--text", "x", "--agree", "2"]).failed().0, 2);
}
