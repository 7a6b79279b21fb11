//! Networks of real nodes: daemons on loopback or in network namespaces, each with a home of its own.
//!
//! What is quick runs with the ordinary tests. The rest prints figures, and says how to run it where it is ignored; all of it:
//! `cargo test --workspace --test network -- --ignored --nocapture --test-threads 1`.

mod churn;
#[path = "../common/mod.rs"]
mod common;
mod faults;
mod find;
mod flood;
mod js;
mod namespace;
mod nat;
mod private;
mod rogue;

use std::time::Duration;

use common::Node;

/// What a daemon holds of the machine.
#[derive(Clone, Copy, Debug)]
struct Held {
    resident_mib: u64,
    descriptors: usize,
}

impl Held {
    fn by(node: &Node) -> Held {
        let process = std::path::PathBuf::from(format!("/proc/{}", node.daemon_pid()));
        let status = std::fs::read_to_string(process.join("status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let resident_kib: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
        let descriptors = std::fs::read_dir(process.join("fd")).unwrap().count();
        Held { resident_mib: resident_kib >> 10, descriptors }
    }
}

/// Prints the middle, the 99th percentile and the longest of some times.
fn print_times(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    println!("{what}: {} times, median {:.1?}, p99 {:.1?}, longest {:.1?}", times.len(), at(50), at(99), at(100));
}
