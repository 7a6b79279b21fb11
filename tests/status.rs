//! The status files below `.grid`.

mod common;

use std::collections::BTreeMap;

use common::{ENDLESS, Node};

/// Samples of a text in the exposition format, each held against the HELP and TYPE lines of its family.
fn samples(text: &str) -> BTreeMap<String, u64> {
    let (mut family, mut helped) = (None, None);
    let mut samples = BTreeMap::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                assert!(!help.is_empty(), "{line}");
                helped = Some(name);
            }
            ["#", "TYPE", name, kind] => {
                assert_eq!(helped, Some(name), "{line}");
                assert!(if name.ends_with("_total") { kind == "counter" } else { kind == "gauge" }, "{line}");
                family = Some(name);
            }
            [sample, value] => {
                assert_eq!(Some(sample.split('{').next().unwrap()), family, "{line}");
                let value: f64 = value.parse().unwrap();
                assert!(samples.insert(sample.to_owned(), value as u64).is_none(), "{line}");
            }
            _ => panic!("{line}"),
        }
    }
    samples
}

#[test]
fn metrics_count_what_happened() {
    let node = Node::mounted();
    let metrics = || samples(&node.read(".grid/metrics"));
    let before = metrics();
    node.put("text", "one two\n");
    let counted = node.read("local/wc/text");
    assert_eq!(node.grid(["wc", "text"]).ok(), counted);
    assert_eq!(node.errno("local/grep/%28/text"), 5);
    node.add_wat("endless", ENDLESS, None);
    let mut cat = node.spawn("cat", &[node.at("local/endless/,").to_str().unwrap()]);
    common::wait_for("the module to run", || metrics()["gridfs_computations"] == 1);
    assert_eq!(metrics()["gridfs_waiting"], 1);
    cat.kill().unwrap();
    common::end_of(&mut cat);
    common::wait_for("the computation to stop", || metrics()["gridfs_computations"] == 0);

    let after = metrics();
    let calls = |outcome: &str| after[&format!("gridfs_calls_total{{outcome=\"{outcome}\"}}")];
    assert_eq!(["computed", "memory", "failed", "interrupted"].map(calls), [1, 1, 1, 1]);
    assert_eq!((after["gridfs_runs_total"], after["gridfs_waiting"]), (3, 0));
    assert!(after["gridfs_opens_total"] >= before["gridfs_opens_total"] + 3);
    let read = after["gridfs_read_bytes_total"] - before["gridfs_read_bytes_total"];
    assert!(read > counted.len() as u64 && after["gridfs_reads_total"] > before["gridfs_reads_total"]);
    assert_eq!(after["gridfs_store_objects"], node.stat("objects"));
    // Three accepted promises are among them.
    assert_eq!(after["gridfs_store_memos"], node.stat("memos") + 3);
    assert_eq!(after["gridfs_store_bytes"], node.stat("stored_bytes"));
    assert!(after["gridfs_store_chunks"] > 0 && after["gridfs_store_plain_bytes"] > 0);
    assert!(after["process_resident_memory_bytes"] > 1 << 20);
    assert!(after["gridfs_uptime_seconds"] < 3600);
}

#[test]
fn accepted_promises_stand_a_line_each() {
    let node = Node::mounted();
    node.gridfs(["name", "set", "mine", "local"]).ok();
    node.gridfs(["name", "rm", "pub"]).ok();
    let text = node.read(".grid/accepted");
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let local = "I run your call on this machine alone. I ask no other node, and I tell no other node.";
    let public = "I answer your call from this machine or from a node that has the answer, and I share the result.";
    let accept = "I will handle this call, on these terms.";
    assert_eq!(
        lines,
        [
            ["bafyr4iej3lqpratnibpua3ujouf3xq4zaewyfsfdqx57oabijaoj3zsxbm", "-", public],
            ["bafyr4ifkdgadwlkkx54y5wkbby7auoyj6aj2ob6wzzcsnwp6jsoilisbmy", "accept", accept],
            ["bafyr4igce42yrwit4lo2he6ibmxwlwrezs3svjx4wgwqbqzsuyhaml5vc4", "local mine", local],
        ]
    );
}

#[test]
fn programs_read_status_files_whole() {
    let node = Node::mounted();
    node.put("text", "one two\n");
    // Enough of a log for more than one read.
    node.sh("for i in $(seq 300); do cat mnt/local/grep/%28/text 2>&1; done | wc -l").ok();
    let log = node.read(".grid/log");
    assert!(log.lines().count() >= 300 && log.len() > 16_384, "{}", log.len());
    let first = log.lines().next().unwrap();
    let last = log.lines().last().unwrap();
    assert_eq!(node.sh("cat mnt/.grid/log").ok(), log);
    assert_eq!(node.sh("head -n1 mnt/.grid/log").ok().trim_end(), first);
    assert_eq!(node.sh("tail -n1 mnt/.grid/log").ok().trim_end(), last);
    assert_eq!(node.sh("tail -c 1000 mnt/.grid/log").ok(), log[log.len() - 1000..]);
    assert_eq!(node.sh("grep -c 'unclosed group' mnt/.grid/log").ok().trim(), log.lines().count().to_string());
    assert_eq!(node.sh("cp mnt/.grid/log copy && cat copy").ok(), log);
    assert_eq!(node.sh("tac mnt/.grid/log | tac").ok(), log);
    assert_eq!(node.sh("stat -c %s mnt/.grid/log; wc -c < mnt/.grid/log").ok(), format!("{0}\n{0}\n", log.len()));
    if node.sh("command -v less").status == 0 {
        assert_eq!(node.sh("less mnt/.grid/log | cat").ok(), log);
    } else {
        eprintln!("SKIPPED less: it is not installed");
    }
    for report in ["accepted", "metrics"] {
        assert_eq!(node.sh(&format!("grep -r -c . mnt/.grid | grep -c /{report}:[1-9]")).ok().trim(), "1");
        assert_ne!(node.sh(&format!("stat -c %s mnt/.grid/{report}")).ok().trim(), "0");
    }
    assert_eq!(node.sh("echo x > mnt/.grid/log").status, 2);
    assert_eq!(node.errno(".grid/nothing"), 2);
}
