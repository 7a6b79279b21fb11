//! The rules that gridfs was built by: ARCHITECTURE.md lists each with its test, and the tests that stand nowhere else are here.

mod common;

use std::path::{Path, PathBuf};

use common::Node;

/// All Rust files of the project.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The rows of the table of a section, and of each the cells. The tests that the last one names are there.
fn tested_rows(document: &str, section: &str) -> Vec<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join(document)).unwrap();
    let section = text.split(&format!("## {section}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    let mut files = Vec::new();
    sources(root, &mut files);
    let code: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| ")).skip(1).map(cells).collect();
    for row in &rows {
        for test in row.last().unwrap().split(',').map(|test| test.trim().trim_matches('`')) {
            let name = test.rsplit("::").next().unwrap();
            assert!(code.contains(&format!("fn {name}()")), "{row:?} names the test {test:?}, which is not there");
        }
    }
    rows
}

#[test]
fn every_rule_has_its_test() {
    let rows = tested_rows("ARCHITECTURE.md", "Rules");
    assert!(rows.iter().all(|row| row.len() == 3));
    let numbers: Vec<u32> = rows.iter().map(|row| row[0].parse().unwrap()).collect();
    assert_eq!(numbers, (1..=25).collect::<Vec<_>>());
}

#[test]
fn every_fault_of_peers_has_its_test() {
    assert_eq!(tested_rows("p2p/PROTOCOL.md", "Faults").len(), 17);
}

/// The inodes of the sockets that a process has open.
fn sockets(pid: i32) -> Vec<String> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let inode = |link: PathBuf| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
    links.filter_map(inode).collect()
}

#[test]
fn nothing_listens_on_the_network_unasked() {
    let node = Node::mounted();
    node.put("text", "a b\n");
    node.read("pub/wc/text");
    let sockets = sockets(node.daemon_pid());
    assert!(!sockets.is_empty(), "it answers commands on a socket of the file system");
    for table in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"] {
        // Absent where the kernel has no such protocol.
        let Ok(table) = std::fs::read_to_string(format!("/proc/{}/net/{table}", node.daemon_pid())) else { continue };
        let inodes: Vec<&str> = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(9)).collect();
        assert!(sockets.iter().all(|socket| !inodes.contains(&socket.as_str())), "{table}");
    }
}

fn contains(path: &Path, needles: &[Vec<u8>], hits: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            contains(&path, needles, hits);
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            if needles.iter().any(|needle| bytes.windows(needle.len()).any(|window| window == needle)) {
                hits.push(path);
            }
        }
    }
}

#[test]
fn the_private_key_stays_in_its_file() {
    let node = Node::mounted();
    node.put("text", "a b\n");
    node.read("local/wc/text");
    let mut said = String::new();
    for arguments in [
        &["promise", "new", "--name", "mine", "--text", "Mine."][..],
        &["promise", "show", "mine"],
        &["why", "/local/wc/text"],
        &["verify", "/local/wc/text"],
        &["stats"],
        &["--json", "promise", "list"],
    ] {
        said += &node.gridfs(arguments).ok();
    }
    for report in ["log", "metrics", "accepted"] {
        said += &node.read(&format!(".grid/{report}"));
    }
    let seed = std::fs::read(node.home().join("keys/node")).unwrap();
    let hex: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!said.contains(&hex) && !said.to_uppercase().contains(&hex.to_uppercase()));
    node.umount();
    let mut hits = Vec::new();
    contains(node.home(), &[seed, hex.into_bytes()], &mut hits);
    assert_eq!(hits, [node.home().join("keys/node")]);
}
