//! `gridfs fsck`: damage is told by the paths people know, and heals when what was lost is put again.

mod common;

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use common::{Node, noise};

/// Flips a bit.
fn damage(file: &Path, offset: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

fn pack(node: &Node, class: &str) -> PathBuf {
    let entries = std::fs::read_dir(node.home().join("cache/packs")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|e| e == class)).min().unwrap()
}

/// Where some bytes lie in a file.
fn position(file: &Path, bytes: &[u8]) -> u64 {
    let content = std::fs::read(file).unwrap();
    content.windows(bytes.len()).position(|window| window == bytes).expect("it is stored plain") as u64
}

fn put(node: &Node) {
    let directory = node.scratch("linux/fs/ext4");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("inode.c"), noise(1, 900_000)).unwrap();
    node.sh("gridfs put --name linux linux").ok();
}

#[test]
fn damage_is_told_by_path_and_heals() {
    for node in [Node::new(), Node::mounted()] {
        put(&node);
        let clean = node.gridfs(["fsck"]).ok();
        assert!(clean.starts_with("checked 2 packs of ") && clean.lines().count() == 1, "{clean}");
        let file = pack(&node, "data");
        damage(&file, position(&file, &noise(1, 900_000)[..64]));

        assert_eq!(node.gridfs(["fsck"]).status, 0, "no data is read");
        let found = node.gridfs(["fsck", "--read-data"]);
        assert_eq!(found.stderr, "error: the store is damaged; gridfs fsck --repair saves what is intact\n");
        let line = found.stdout.lines().next().unwrap();
        assert!(line.starts_with(&format!("error: {} at ", file.display())), "{line}");
        assert!(line.ends_with(", of linux/fs/ext4/inode.c"), "{line}");
        assert_eq!(found.status, 14);
        let found = node.gridfs(["--json", "fsck", "--read-data"]);
        let json: serde_json::Value = serde_json::from_str(&found.stdout).unwrap();
        assert_eq!(json["findings"][0]["belongs_to"], serde_json::json!(["linux/fs/ext4/inode.c"]));
        assert_eq!((&json["findings"][0]["level"], &json["repaired"]), (&"error".into(), &serde_json::Value::Null));

        let repaired = node.gridfs(["fsck", "--repair"]);
        assert_eq!(repaired.status, 14, "{repaired:?}");
        assert!(repaired.stdout.contains(&format!("what is intact was saved from {}.damaged", file.display())));
        assert!(repaired.stdout.lines().last().unwrap().ends_with(", of linux/fs/ext4/inode.c"), "{repaired:?}");
        assert!(repaired.stderr.contains("put it again"), "{repaired:?}");
        let (status, stderr) = node.sh("gridfs get linux out1").failed();
        assert_eq!((status, stderr.contains("put the object again")), (14, true), "{stderr}");

        put(&node);
        node.gridfs(["fsck", "--read-data"]).ok();
        node.sh("gridfs get linux out2 && cmp out2/fs/ext4/inode.c linux/fs/ext4/inode.c").ok();
        assert_eq!(node.sh("printf 'a b\n' | grid wc -").ok(), "1 2 4\n", "the built-ins are still there");
    }
}

/// All that a node begins with is lost: the check still runs, and the repair brings the built-ins back.
#[test]
fn a_node_that_has_lost_its_data_is_checked_and_gets_its_builtins_back() {
    let node = Node::new();
    put(&node);
    std::fs::remove_file(pack(&node, "data")).unwrap();
    let found = node.gridfs(["fsck"]);
    assert_eq!(found.status, 14, "{found:?}");
    // Whether the index still knew of it depends on when it was last written.
    assert!(found.stdout.contains("linux/fs/ext4/inode.c"), "{found:?}");
    let repaired = node.gridfs(["fsck", "--repair"]);
    assert!(repaired.stdout.lines().last().unwrap().ends_with(", of linux/fs/ext4/inode.c"), "{repaired:?}");
    assert_eq!(node.sh("printf 'a b\n' | grid wc -").ok(), "1 2 4\n");
    put(&node);
    node.gridfs(["fsck", "--read-data"]).ok();
}

#[test]
fn a_node_that_does_not_open_is_checked() {
    let node = Node::new();
    put(&node);
    // The newest root and its table are the last that was stored.
    let file = pack(&node, "meta");
    let content = std::fs::read(&file).unwrap();
    let record = content.windows(5).rposition(|window| window == b"gRec\x01").unwrap();
    damage(&file, record as u64 + 70);
    assert!(node.gridfs(["stats"]).failed().1.contains("the symbol table's root"));
    let found = node.gridfs(["fsck"]);
    assert_eq!(found.status, 14, "{found:?}");
    assert!(found.stdout.contains("(root in config.toml)"), "{found:?}");
}

#[test]
fn help_has_examples() {
    assert!(Node::new().gridfs(["fsck", "--help"]).ok().contains("Examples:\n  gridfs fsck"));
}
