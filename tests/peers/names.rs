//! Names that nodes publish, and others follow.

use gridfs::head::Head;
use gridfs_store::{Target, Tree, TreeEntry};

use super::calls::Stub;
use super::*;

fn publish(node: &Node, names: &[&str]) {
    node.gridfs(["name", "publish"].iter().chain(names)).ok();
}

fn update(node: &Node) {
    node.gridfs(["name", "update", "ann"]).ok();
}

/// The names in a directory of the mount.
fn listed(node: &Node, path: &str) -> Vec<String> {
    let entries = std::fs::read_dir(node.at(path)).unwrap_or_else(|e| panic!("{path}: {e}\n{}", node.log()));
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn names_of_a_peer_are_used_like_ones_own() {
    let (a, b) = (serving(), Node::mounted());
    a.put("words.txt", "one two three\n");
    a.put("secret.txt", "nobody's business\n");
    let directory = a.scratch("tree");
    std::fs::create_dir_all(directory.join("below")).unwrap();
    std::fs::write(directory.join("below/file"), "in a tree\n").unwrap();
    a.gridfs(["put", "--name", "tree", directory.to_str().unwrap()]).ok();
    let (status, error) = a.gridfs(["name", "publish", "no such name"]).failed();
    assert!(status == 10 && error.contains("there is no name"), "{error}");
    publish(&a, &["words.txt", "tree"]);
    let names = a.gridfs(["name", "list"]).ok();
    assert_eq!(names.lines().filter(|line| line.ends_with("  published")).count(), 2, "{names}");

    b.meet(&a);
    let followed = b.gridfs(["name", "follow", &a.id(), "--as", "ann"]).ok();
    assert!(followed.starts_with(&format!("ann  {}  2 names as of ", a.id())), "{followed}");
    assert_eq!(b.gridfs(["name", "follow"]).ok(), followed);
    let (status, error) = b.gridfs(["name", "follow", &a.id(), "--as", "wc"]).failed();
    assert!(status == 2 && error.contains("is followed as \"ann\""), "{error}");
    // Looking fetches nothing, and walks don't get to where they would.
    assert_eq!(listed(&b, "pub/cas/ann"), ["tree", "words.txt"]);
    assert!(std::fs::symlink_metadata(b.at("pub/cas/ann/tree")).unwrap().is_symlink());
    assert_eq!((b.errno("local/cas/ann/words.txt"), b.stat("fetched")), (113, 0));
    assert_eq!(b.read("pub/cas/ann/words.txt"), "one two three\n");
    assert_eq!(b.read("pub/cas/ann/tree/below/file"), "in a tree\n");
    assert_eq!(b.stat("fetched"), 2);

    // As arguments, in every spelling.
    for (name, content) in [("one.txt", "1\n"), ("two.txt", "1 2\n"), ("three.txt", "1 2 3\n")] {
        a.put(name, content);
    }
    publish(&a, &["one.txt", "two.txt", "three.txt"]);
    update(&b);
    let counted = |name: &str| a.grid(["wc", name]).ok();
    assert_eq!(b.grid(["wc", "/pub/cas/ann/one.txt"]).ok(), counted("one.txt"));
    assert_eq!(b.read("local/wc/%2Fpub%2Fcas%2Fann%2Ftwo.txt"), counted("two.txt"));
    let (some, all) = (b.scratch("some"), b.scratch("all"));
    assert_eq!(b.gridfs(["get", "ann", some.to_str().unwrap()]).failed().0, 13, "a name alone fetches nothing");
    b.gridfs(["get", "/pub/cas/ann", all.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read_to_string(all.join("three.txt")).unwrap(), "1 2 3\n");
    a.put("four.txt", "1 2 3 4\n");
    publish(&a, &["four.txt"]);
    update(&b);
    let found = b.grid(["find", "ann"]).ok();
    assert!(found.lines().any(|line| line.ends_with("tree/below/file")), "{found}");
    assert_eq!(b.errno("local/cas/ann/four.txt"), 113, "names are there without what they stand for");
    assert_eq!(b.grid(["-p", "pub", "find", "ann"]).ok(), found);
    assert_eq!(b.read("local/cas/ann/four.txt"), "1 2 3 4\n");

    // What the owner changes is seen, and what was there before is history.
    let before = b.gridfs(["name", "log"]).ok().lines().next().unwrap().split(' ').next().unwrap().to_owned();
    a.put("words.txt", "four\n");
    a.gridfs(["name", "unpublish", "one.txt"]).ok();
    a.gridfs(["name", "rm", "two.txt"]).ok();
    update(&b);
    assert_eq!(listed(&b, "pub/cas/ann"), ["four.txt", "three.txt", "tree", "words.txt"]);
    assert_eq!(b.read("pub/cas/ann/words.txt"), "four\n");
    assert!(b.gridfs(["name", "log"]).ok().contains("~ ann "));
    b.gridfs(["name", "rollback", &before]).ok();
    assert_eq!(b.read("local/cas/ann/words.txt"), "one two three\n");
    update(&b);

    // What is not here is no damage, and what is here stays without the peer.
    a.put("late.txt", "never read\n");
    publish(&a, &["late.txt"]);
    update(&b);
    let (status, error) = b.gridfs(["get", "/local/cas/ann/late.txt"]).failed();
    assert!(status == 13 && error.contains("below /pub it is fetched"), "{error}");
    a.stop();
    b.gridfs(["pin", "add", "ann"]).ok();
    b.gridfs(["gc"]).ok();
    assert_eq!(b.gridfs(["fsck", "--read-data"]).status, 0);
    b.umount();
    b.mount();
    assert_eq!(b.read("local/cas/ann/words.txt"), "four\n");
    assert_eq!(b.read("pub/cas/ann/tree/below/file"), "in a tree\n");
    assert_eq!(b.errno("pub/cas/ann/late.txt"), 113);
    let (status, error) = b.gridfs(["name", "update"]).failed();
    assert!(status == 13 && error.contains("can't update \"ann\""), "{error}");
    let (status, error) = b.gridfs(["name", "publish", "ann"]).failed();
    assert!(status == 2 && error.contains("who wants them follows that node"), "{error}");
    b.gridfs(["name", "unfollow", "ann"]).ok();
    assert_eq!(b.gridfs(["name", "follow"]).ok(), "");
    assert!(!b.gridfs(["name", "list"]).ok().contains("ann "));
}

#[test]
fn who_follows_a_node_passes_its_names_on() {
    let (a, b, c) = (serving(), serving(), Node::mounted());
    a.put("words.txt", "one two three\n");
    publish(&a, &["words.txt"]);
    b.meet(&a);
    b.gridfs(["name", "follow", &a.address(), "--as", "ann"]).ok();
    a.stop();
    let (status, error) = b.gridfs(["share", "ann"]).failed();
    assert!(status == 2 && error.contains("names that another node publishes"), "{error}");
    c.meet(&b);
    let followed = c.gridfs(["name", "follow", &a.id()]).ok();
    let name = followed.split(' ').next().unwrap();
    assert_eq!(name, format!("peer-{}", &a.id()[a.id().len() - 8..]));
    assert_eq!(listed(&c, &format!("pub/cas/{name}")), ["words.txt"]);
    assert_eq!(c.errno(&format!("pub/cas/{name}/words.txt")), 113, "it was never read at b");

    // What b knows is older by now.
    a.put("more.txt", "four\n");
    publish(&a, &["more.txt"]);
    a.serve();
    c.gridfs(["peer", "add", &a.address()]).ok();
    c.gridfs(["name", "update"]).ok();
    assert_eq!(listed(&c, &format!("pub/cas/{name}")), ["more.txt", "words.txt"]);
    assert_eq!(c.read(&format!("pub/cas/{name}/more.txt")), "four\n");
    a.stop();
    let (status, error) = c.gridfs(["name", "update"]).failed();
    assert!(status == 17 && error.contains("ask again when the node itself can be reached"), "{error}");
    assert_eq!(listed(&c, &format!("pub/cas/{name}")), ["more.txt", "words.txt"]);
    b.stop();
}

#[test]
#[ignore = "waits until the daemon asks by itself: cargo test --workspace --test peers -- --ignored names::the_daemon_asks"]
fn the_daemon_asks_for_new_names_by_itself() {
    let (a, b) = (serving(), serving());
    a.put("words.txt", "one two three\n");
    publish(&a, &["words.txt"]);
    b.meet(&a);
    b.gridfs(["name", "follow", &a.id(), "--as", "ann"]).ok();
    let before = b.cid("ann");
    b.stop();
    a.put("words.txt", "four\n");
    b.serve();
    wait_for("an update", || b.cid("ann") != before);
    a.stop();
    b.stop();
}

fn table(names: &[&str]) -> Vec<u8> {
    let target = Target::File { cid: Cid::of(Codec::Raw, b"x"), size_bytes: 1, executable: false };
    let entry = |name: &&str| TreeEntry { name: name.as_bytes().to_vec(), target: target.clone() };
    Tree::new(names.iter().map(entry).collect()).unwrap().encode()
}

#[test]
fn a_node_that_lies_about_its_names_is_found_out() {
    let (a, b) = (Node::new(), serving());
    let who = a.id();
    let (stub, identity) = (Stub::of(&a), Identity::open(&a.home().join("keys")).unwrap());
    stub.meet(&b);
    let other = Identity::open(tempfile::tempdir().unwrap().path()).unwrap();
    let says = |identity: &Identity, table: Vec<u8>, time_ms: u64| {
        let head = Head::sign(identity, Cid::of(Codec::DagCbor, &table), None, time_ms);
        *stub.canned.head.lock().unwrap() = Some(gridfs_p2p::Head { signed: head.to_bytes(), table });
    };
    let follow = || b.gridfs(["name", "follow", &stub.address(), "--as", "ann"]);
    let fails = |status: i32, words: &str| {
        let (ended, error) = follow().failed();
        assert!(ended == status && error.contains(words), "{ended} {error}");
    };
    fails(13, "no names of that node are known here");
    says(&other, table(&["one"]), 1_000);
    fails(13, "the head of another node");
    let link = TreeEntry { name: b"link".to_vec(), target: Target::Symlink { target: b"/etc".to_vec() } };
    says(&identity, Tree::new(vec![link]).unwrap().encode(), 1_000);
    fails(13, "a table with a link in it");
    says(&identity, table(&[".grid"]), 1_000);
    fails(13, "a table with a name that can be none");
    assert_eq!(b.gridfs(["name", "follow"]).ok(), "", "nothing of that was taken over");

    says(&identity, table(&["one"]), 1_000);
    follow().ok();
    let one = b.cid("ann");
    assert_eq!(one, Cid::of(Codec::DagCbor, &table(&["one"])).to_string());
    says(&identity, table(&["older"]), 999);
    fails(17, "as they were at 1970-01-01T00:00:00Z, but are known as of 1970-01-01T00:00:01Z");
    says(&identity, table(&["two"]), 1_000);
    fails(17, "signed two tables of names with one number");
    says(&identity, table(&["three"]), 2_000);
    fails(17, "is not believed any more");
    assert_eq!(b.cid("ann"), one);
    let shown = b.gridfs(["peer", "show", &who]).ok();
    assert!(shown.contains("not believed: it signed two tables of names with one number"), "{shown}");
    b.stop();
}
