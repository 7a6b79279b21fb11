//! Nodes that get objects from each other: real daemons on loopback, each with a home of its own.

mod common;

use std::sync::Arc;

use common::{ARGS, Node, Ran, serving, wait_for};
use gridfs::identity::Identity;
use gridfs::receipt::{Memo, Receipt};
use gridfs_store::{Cid, Codec, Durability, Options, Store, cbor};

#[path = "peers/calls.rs"]
mod calls;
#[path = "peers/names.rs"]
mod names;

/// Waits until what a node shares has been announced.
fn announced(node: &Node, keys: u64) {
    wait_for("announcements", || node.seen()["announced_keys"].as_u64().unwrap() >= keys);
}

#[test]
fn a_call_is_answered_with_what_a_stranger_shares() {
    let (a, b, c) = (serving(), serving(), Node::new());
    a.meet(&b);
    a.add_wat("args", ARGS, None);
    a.put("words.txt", "one two three\n");
    let (module, words) = (a.cid("args"), a.cid("words.txt"));
    for what in ["args", "words.txt"] {
        a.gridfs(["share", what]).ok();
    }
    announced(&a, 2);
    let counted = a.grid(["--promise", "pub", "wc", "words.txt"]).ok();

    c.mount();
    let path = |promise: &str| format!("{promise}/{module}/hello");
    let (status, error) = c.grid(["--promise", "pub", &module, "hello"]).failed();
    assert_eq!(status, 13, "it knows nobody: {error}");
    c.meet(&b);
    assert_eq!(c.errno(&path("local")), 113, "under local nobody is asked");
    assert_eq!(c.read(&path("pub")), a.grid(["--promise", "pub", &module, "hello"]).ok());
    assert_eq!(c.read(&format!("pub/wc/{words}")), counted);
    assert_eq!(c.stat("fetched"), 2);

    // What it has now it has for good.
    a.stop();
    b.stop();
    c.umount();
    c.mount();
    assert_eq!(c.read(&format!("pub/wc/{words}")), counted);
    assert_eq!(c.grid(["--promise", "pub", &module, "other"]).ok(), "module\0other\0");
    assert_eq!(c.stat("fetched"), 0);
}

#[test]
fn a_ticket_is_all_that_another_node_needs() {
    let (a, c) = (serving(), Node::new());
    let noise = common::noise(1, 3 << 20);
    a.put("noise", &noise);
    let directory = a.scratch("tree");
    std::fs::create_dir_all(directory.join("below")).unwrap();
    for number in 0..50 {
        std::fs::write(directory.join(format!("below/{number}")), format!("file {number}\n")).unwrap();
    }
    a.gridfs(["put", "--name", "tree", directory.to_str().unwrap()]).ok();
    let ticket = |what: &str| a.gridfs(["share", what]).ok().trim().to_owned();

    let copy = c.scratch("copy");
    c.gridfs(["get", &ticket("noise"), copy.to_str().unwrap()]).ok();
    assert!(std::fs::read(&copy).unwrap() == noise);
    let tree = c.scratch("tree");
    c.gridfs(["get", &ticket("tree"), tree.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read_to_string(tree.join("below/49")).unwrap(), "file 49\n");
    // What was fetched and written out goes with the next collection, unless it is pinned.
    let keeper = Node::new();
    let pinned = keeper.gridfs(["pin", "add", &ticket("tree")]).ok();
    assert!(pinned.starts_with(&a.cid("tree")), "{pinned}");
    keeper.gridfs(["gc"]).ok();
    assert_eq!(keeper.gridfs(["get", &format!("/local/cas/{}/below/49", a.cid("tree"))]).ok(), "file 49\n");
    keeper.gridfs(["fsck"]).ok();

    // A call is run here: its module and its inputs came.
    a.add_wat("args", ARGS, None);
    let call = ticket("/pub/args/one,two");
    assert_eq!(c.gridfs(["get", &call]).ok(), "module\0one\0two\0");
    assert_eq!(c.stat("runs"), 0, "that was another process");

    a.put("private", "nobody's business\n");
    let private = a.cid("private");
    let shared = a.cid("noise");
    let listed = a.gridfs(["share", "--list"]).ok();
    assert!(listed.contains(&shared) && !listed.contains(&private), "{listed}");
    a.gridfs(["share", "--stop", "noise"]).ok();
    let again = Node::new();
    let cannot = |what: &str| -> Ran { again.gridfs(["get", what]) };
    let stale = cannot(&ticket_of(&a, &shared));
    assert!(stale.status == 13 && stale.stderr.contains("not shared"), "{stale:?}");
    let guessed = cannot(&ticket_of(&a, &private));
    assert_eq!((guessed.status, guessed.stderr.replace(&private, &shared)), (13, stale.stderr));
    a.stop();
}

/// A ticket that its node never gave.
fn ticket_of(node: &Node, cid: &str) -> String {
    let address: gridfs_p2p::Multiaddr = node.address().parse().unwrap();
    let node = node.seen()["node"].as_str().unwrap().parse().unwrap();
    let what = gridfs::ticket::Shared::Object(cid.parse().unwrap());
    gridfs::ticket::Ticket { node, addresses: vec![address], what }.to_string()
}

#[test]
fn what_nobody_has_ends_with_an_error_and_is_not_asked_for_again_at_once() {
    let (a, c) = (serving(), Node::new());
    c.mount();
    c.meet(&a);
    let nowhere = Cid::of(Codec::Raw, b"nowhere").to_string();
    let path = format!("pub/wc/{nowhere}");
    assert_eq!(c.errno(&path), 113);
    let before = a.seen()["requests"].clone();
    assert_eq!(c.errno(&path), 113);
    assert_eq!(a.seen()["requests"], before);
    assert!(c.log().contains(&nowhere));
    a.stop();
}

#[test]
fn of_a_large_file_elsewhere_only_what_is_read_is_fetched() {
    use std::os::unix::fs::FileExt as _;
    let (a, c) = (serving(), Node::new());
    let noise = common::noise(7, 24 << 20);
    a.put("noise", &noise);
    a.gridfs(["share", "noise"]).ok();
    c.mount();
    c.meet(&a);
    let path = c.at(&format!("pub/cas/{}", a.cid("noise")));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0, "looking asks nobody");
    let file = std::fs::File::open(&path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 24 << 20);
    for offset in [12_345_678, 12_345_678 + 4096, (24 << 20) - 4096] {
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, offset).unwrap();
        assert!(bytes == noise[offset as usize..][..4096], "at {offset}");
    }
    let received = || c.seen()["received_bytes"].as_u64().unwrap();
    assert!(received() < 4 << 20, "{} bytes came for 12 KiB", received());
    assert_eq!(c.stat("fetched"), 0);

    // Who reads all of it gets all of it, also into the store.
    assert!(std::fs::read(&path).unwrap() == noise);
    assert_eq!(c.stat("fetched"), 1);
    assert!(received() < 48 << 20, "{} bytes came", received());
    a.stop();
    let mut bytes = [0; 4096];
    file.read_exact_at(&mut bytes, 20 << 20).unwrap();
    assert!(bytes == noise[20 << 20..][..4096], "from the store");
    drop(file);
    c.umount();
    c.mount();
    assert!(std::fs::read(&path).unwrap() == noise);
}

#[test]
fn nothing_listens_unless_it_is_told_to() {
    let node = Node::mounted();
    node.put("x", "x");
    let (status, error) = node.gridfs(["share", "x"]).failed();
    assert!(status == 15 && error.contains("gridfs mount --serve"), "{error}");
    let seen = node.seen();
    assert_eq!((seen["addresses"].as_array().unwrap().len(), seen["connected"].as_u64()), (0, Some(0)));
    let (status, error) = node.gridfs(["serve"]).failed();
    assert!(status != 0 && error.contains("gridfs umount"), "{error}");
    for wrong in ["nonsense", "/ip4/127.0.0.1/tcp/1", "/p2p/12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV"] {
        let (status, error) = node.gridfs(["peer", "add", wrong]).failed();
        assert!(status == 2 && error.contains("is no peer's address"), "{error}");
    }
    let (status, error) = node.gridfs(["get", "grid:bnonsense"]).failed();
    assert!(status == 2 && error.contains("not a ticket"), "{error}");
}

#[test]
fn a_banned_peer_is_not_talked_to() {
    let (a, c) = (serving(), serving());
    c.meet(&a);
    let id = a.seen()["node"].as_str().unwrap().to_owned();
    c.gridfs(["peer", "ban", &id]).ok();
    wait_for("the connection to close", || c.seen()["connected"].as_u64() == Some(0));
    assert!(c.gridfs(["peer", "show", &id]).ok().contains("banned"));
    let (_, error) = c.gridfs(["peer", "add", &a.address()]).failed();
    assert!(error.contains("can't be reached"), "{error}");
    c.gridfs(["peer", "ban", "--lift", &id]).ok();
    c.meet(&a);
    a.stop();
    c.stop();
}

/// Counts to 10^9 and says nothing.
const SLOW: &str = r#"(module (memory (export "memory") 1)
    (func (export "_start") (local $count i32)
        (loop $next
            (local.set $count (i32.add (local.get $count) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $count) (i32.const 1000000000))))))"#;

/// Has `node` make a promise, and the others accept it.
fn promised(node: &Node, others: &[&Node], options: &[&str]) -> String {
    let new = ["promise", "new", "--name", "team", "--text", "Together.", "--share"];
    node.gridfs(new.iter().chain(options)).ok();
    let promise = node.cid("team");
    let document = node.scratch(&promise);
    node.gridfs(["get", "team", document.to_str().unwrap()]).ok();
    for other in others {
        other.gridfs(["promise", "accept", document.to_str().unwrap()]).ok();
    }
    promise
}

/// Replaces the results that a node that does not run remembers by lies, signed with its own key.
fn lies(node: &Node, lie: &[u8]) {
    let store = Arc::new(Store::open(&node.home().join("cache"), Options::default()).unwrap());
    let identity = Identity::open(&node.home().join("keys")).unwrap();
    for memo in store.memos(b"").unwrap().collect::<Vec<_>>() {
        let (label, key) = memo.unwrap();
        let Ok(memo) = cbor::from_slice::<Memo>(&store.memo(&key).unwrap().unwrap()) else { continue };
        let mut batch = store.batch();
        let result = batch.put_bytes(Codec::Raw, lie).unwrap();
        let receipt = Receipt::read(&store, &memo.receipt).unwrap().unwrap();
        let receipt = Receipt { result, ..receipt }.signed_by(&identity);
        let receipt = batch.put_bytes(Codec::DagCbor, &cbor::to_vec(&receipt)).unwrap();
        let memo = Memo { size: Some(lie.len() as u64), result, receipt, ..memo };
        batch.put_memo(key, &label, &memo.to_bytes()).unwrap();
        batch.commit(Durability::Durable).unwrap();
    }
}

#[test]
fn what_went_by_a_name_is_not_told() {
    let (a, c) = (serving(), Node::new());
    c.mount();
    a.add_example("shout", "c/shout.toml");
    a.put("secret", "one\n");
    a.gridfs(["share", "shout"]).ok();
    let promise = promised(&a, &[&c], &["--source", "fetch", "--trust", &a.id()]);
    c.meet(&a);
    let named = "/grid/local/cas/secret";
    let spelled = format!("/grid/{}/{}/{}", a.cid("local"), a.cid("cas"), a.cid("secret"));
    for path in [named, &spelled] {
        assert_eq!(a.grid(["-p", &promise, "shout", path]).ok(), "ONE\n");
    }
    // The module, the call by CID alone, and its result.
    announced(&a, 3);
    assert_eq!(a.seen()["announced_keys"].as_u64(), Some(3));
    a.stop();
}

#[test]
fn a_result_is_believed_of_whom_the_promise_trusts() {
    let (a, b, c) = (serving(), serving(), Node::new());
    c.mount();
    a.put("words.txt", "one two three\n");
    let words = a.cid("words.txt");
    let promise = promised(&a, &[&b, &c], &["--source", "fetch", "--trust", &a.id()]);
    let alone = promised(&c, &[&a, &b], &["--source", "fetch", "--trust", &b.id()]);
    let counted = a.grid(["-p", &promise, "wc", "words.txt"]).ok();
    a.grid(["-p", &alone, "wc", "words.txt"]).ok();
    a.meet(&b);
    c.meet(&b);
    // Two calls and the one result that they have.
    announced(&a, 3);
    // The words themselves are not shared: only the result is to be had.
    assert_eq!(c.read(&format!("{promise}/wc/{words}")), counted);
    assert_eq!((c.stat("claimed"), c.stat("runs")), (1, 0));
    let path = c.grid(["--path", "-p", &promise, "wc", &words]).ok();
    let verified = c.gridfs(["verify", path.trim()]).ok();
    assert!(verified.contains(&a.id()), "{verified}");
    assert_eq!(c.errno(&format!("{alone}/wc/{words}")), 113, "a is not believed under the other promise");
    assert!(c.log().contains("the promise believes self, or 1 of 1 listed keys"), "{}", c.log());
    let ledger = c.gridfs(["promise", "ledger"]).ok();
    assert!(ledger.contains(&format!("peers {}", a.id())), "{ledger}");
    a.stop();
    b.stop();
}

#[test]
fn a_liar_is_found_out_and_what_it_gave_is_forgotten() {
    let (a, c) = (Node::new(), Node::new());
    a.gridfs(["init"]).ok();
    c.mount();
    [&a, &c].iter().for_each(|node| node.add_wat("slow", SLOW, None));
    let slow = a.cid("slow");
    let audited = ["--source", "race", "--trust", &a.id(), "--audit", "100"];
    let promise = promised(&a, &[&c], &audited);
    assert_eq!(a.grid(["-p", &promise, &slow]).ok(), "");
    lies(&a, b"a lie\n");
    a.serve();
    c.meet(&a);
    let path = format!("{promise}/{slow}/,");
    assert_eq!(c.read(&path), "a lie\n", "a is believed before the run here ends");
    assert_eq!(c.stat("claimed"), 1);
    wait_for("the audit", || c.gridfs(["peer", "show", &a.id()]).ok().contains("not believed: another run"));
    wait_for("the lie to go", || c.read(&path).is_empty());
    a.stop();
}

#[test]
fn who_signs_two_results_is_not_believed_any_more() {
    let (a, b, c) = (Node::new(), Node::new(), Node::new());
    a.gridfs(["init"]).ok();
    c.mount();
    a.put("words.txt", "one two three\n");
    a.put("more.txt", "four\n");
    let (words, more) = (a.cid("words.txt"), a.cid("more.txt"));
    let promise = promised(&a, &[&b, &c], &["--source", "fetch", "--trust", &a.id(), "--trust", &c.id()]);
    for name in ["words.txt", "more.txt"] {
        a.grid(["-p", &promise, "wc", name]).ok();
    }
    // Both results of a's are about: b has the right ones from a, then a lies.
    a.serve();
    b.serve();
    b.meet(&a);
    for cid in [&words, &more] {
        b.grid(["-p", &promise, "wc", cid]).ok();
    }
    a.stop();
    lies(&a, b"a lie\n");
    a.serve();
    c.meet(&a);
    c.read(&format!("{promise}/wc/{more}"));
    c.meet(&b);
    wait_for("both to be connected", || c.seen()["connected"].as_u64() == Some(2));
    // Whichever claim comes first is believed, unless both come at once.
    let _ = std::fs::read(c.at(&format!("{promise}/wc/{words}")));
    wait_for("the two claims to meet", || {
        c.gridfs(["peer", "show", &a.id()]).ok().contains("not believed: it signed two results")
    });
    // It is believed in nothing now, and its lie is gone.
    for cid in [&words, &more] {
        wait_for("what it gave to be forgotten", || std::fs::read(c.at(&format!("{promise}/wc/{cid}"))).is_err());
    }
    a.stop();
    b.stop();
}
