//! Programs that walk the mount or look at sizes: what computes, and what does not.

mod common;

use common::Node;
use gridfs::service::{Answer, Request};

const TEXT: &str = "call me ishmael\nsome years ago never mind how long\n";
const CALLS: u64 = 1000;

fn mounted_with(options: &str) -> Node {
    let node = Node::new();
    node.gridfs(["mount", "-o", options, node.mnt().to_str().unwrap()]).ok();
    node
}

/// Binds names without starting a program for each.
fn name_files(node: &Node, directory: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for i in 1..=CALLS {
        let request = Request::SetName { name: format!("n{i}"), to: Some(format!("/local/cas/{directory}/f{i}")) };
        let answer = runtime.block_on(gridfs::client::daemon(node.home(), request)).unwrap();
        assert!(matches!(answer, Answer::Root(_)), "{answer:?}");
    }
}

#[test]
fn a_walk_over_a_thousand_pending_calls_runs_nothing() {
    let node = Node::mounted();
    node.add_example("shout", "c/shout.toml");
    node.sh(&format!("mkdir d && for i in $(seq {CALLS}); do echo x$i > d/f$i; done && gridfs put --name d d")).ok();
    // Pending by name: a thousand names, each an argument of wc, sha256, md and more.
    name_files(&node, "d");
    // Pending although remembered: results that went by a name which has changed since.
    let shouts =
        format!("seq {CALLS} | sed 's,.*,mnt/local/shout/%2Fgrid%2Flocal%2Fcas%2Fd%2Ff&,' | xargs cat | wc -l");
    assert_eq!(node.sh(&shouts).ok().trim(), CALLS.to_string());
    let listed = |path: &str| node.sh(&format!("find mnt/{path} -type f | wc -l")).ok().trim().parse::<u64>().unwrap();
    assert_eq!(listed("local/shout/"), CALLS);
    node.sh("for f in d/*; do echo more >> $f; done && gridfs put --name d d").ok();
    assert_eq!(listed("local/shout/"), 0);

    let runs = node.stat("runs");
    assert_eq!(runs, CALLS);
    for place in ["mnt", "mnt/local/", "mnt/local/wc/", "mnt/pub/sha256/", "mnt/local/untar/", "mnt/local/shout/"] {
        for walk in [
            "grep -r x PLACE",
            "find PLACE -type f -exec head -c1 {} +",
            "find PLACE -ls",
            "cp -r PLACE copy && rm -r copy",
            "tar cf - PLACE | wc -c",
            "du -a PLACE",
        ] {
            // A walk may find nothing, which grep tells by its exit status.
            let walked = node.sh(&walk.replace("PLACE", place));
            assert!(walked.status <= 1, "{walk} {place}: {walked:?}");
            assert_eq!(node.stat("runs"), runs, "{walk} {place}");
        }
    }
    // What is not listed can be read all the same, and is listed then.
    assert_eq!(node.read("local/shout/%2Fgrid%2Flocal%2Fcas%2Fd%2Ff7"), "X7\nMORE\n");
    assert_eq!((listed("local/shout/"), node.stat("runs")), (1, runs + 1));
    // Who follows links asks for what they lead to.
    node.sh("mkdir links && ln -s $PWD/mnt/local/wc/n1 links && grep -R . links && cp -rL links copy").ok();
    assert_eq!(node.stat("runs"), runs + 2);
}

#[test]
fn scan_compute_opens_what_gzip_opens() {
    let compressed = "gzip -c mnt/local/wc/moby.txt | gzip -d";
    let node = Node::mounted();
    node.put("moby.txt", TEXT);
    let refused = node.sh(compressed);
    assert!(refused.stderr.contains("Resource temporarily unavailable"), "{refused:?}");
    assert_eq!(node.stat("runs"), 0);
    node.umount();
    node.gridfs(["mount", "-o", "scan=compute", node.mnt().to_str().unwrap()]).ok();
    assert_eq!(node.sh(compressed).ok(), node.sh("LC_ALL=C wc < moby.txt").ok());
    assert_eq!(node.stat("runs"), 1);
    assert_eq!(node.sh("grep -R . mnt/local/sha256/moby.txt").ok().len(), 65);
}

#[test]
fn stat_compute_shows_programs_the_size_before_they_read() {
    let node = mounted_with("stat=compute");
    node.put("moby.txt", TEXT);
    // Looking at names computes nothing: only who asks for the size of a result has it made.
    node.sh("ls -l mnt/local/wc/ && find mnt/local/wc/ -ls").ok();
    assert_eq!(node.stat("runs"), 0);
    let counted = node.sh("LC_ALL=C wc < moby.txt").ok();
    assert_eq!(node.sh("stat -Lc %s mnt/local/wc/moby.txt").ok().trim(), counted.len().to_string());
    assert_eq!(node.stat("runs"), 1);
    let sum = node.sh("sha256sum < moby.txt").ok().replace("  -", "");
    assert_eq!(node.sh("tar chf - -C mnt/local/sha256 moby.txt | tar xOf -").ok(), sum);
    node.sh("test -s mnt/local/md/moby.txt").ok();
    // A call with a pending call inside, and one that fails.
    assert_eq!(node.sh("stat -Lc %s mnt/local/sha256/%2Flocal%2Fmd%2Fmoby.txt").ok(), "65\n");
    let failed = std::fs::metadata(node.at("local/grep/%28/moby.txt")).unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(5)); // EIO
    assert!(node.xattr("local/grep/%28/moby.txt", "error").is_some_and(|why| why.contains("unclosed group")));
}

#[test]
fn a_missing_name_in_a_stored_directory_is_asked_for_once() {
    let node = Node::mounted();
    node.sh("mkdir d && echo x > d/there && gridfs put --name d d").ok();
    let tree = node.at("local/cas/d").canonicalize().unwrap();
    let missing = |path: &std::path::Path| assert_eq!(std::fs::metadata(path).unwrap_err().raw_os_error(), Some(2));
    missing(&tree.join("missing"));
    // Elsewhere names come and go.
    missing(&node.at("local/cas/later"));
    missing(&node.at("later"));
    node.put("later", "come\n");
    assert_eq!(node.read("local/cas/later"), "come\n");
    missing(&tree.join("missing"));
    // Linux knows it by itself: even while the daemon is stopped.
    let daemon = rustix::process::Pid::from_raw(node.daemon_pid()).unwrap();
    rustix::process::kill_process(daemon, rustix::process::Signal::STOP).unwrap();
    let asked = node.sh(&format!("LC_ALL=C timeout 30 stat {}", tree.join("missing").display()));
    rustix::process::kill_process(daemon, rustix::process::Signal::CONT).unwrap();
    assert_eq!((asked.status, asked.stderr.contains("No such file or directory")), (1, true), "{asked:?}");
    assert_eq!(std::fs::read_to_string(tree.join("there")).unwrap(), "x\n");
}
