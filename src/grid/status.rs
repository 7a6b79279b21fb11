//! The status files below `/.grid`: text about this node, made when it is asked for.
//!
//! `metrics` is in Prometheus's text exposition format, version 0.0.4. What is counted, is counted since the daemon started.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use gridfs_p2p::{Peer, PeerId};

use super::Grid;
use crate::promise::Promise;
use crate::syscalls::Record;

/// Most bytes of `syscalls`.
const MAX_SYSCALLS_BYTES: usize = 1 << 20;

/// A status file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Report {
    /// The promises that this node accepts.
    Accepted,
    /// The latest failures.
    Log,
    /// Counts and sizes.
    Metrics,
    /// The peers that this node knows.
    Peers,
    /// What the syscall tree has learnt.
    Syscalls,
}

impl Report {
    /// All of them, in the order of their names.
    pub(super) const ALL: [Report; 5] =
        [Report::Accepted, Report::Log, Report::Metrics, Report::Peers, Report::Syscalls];

    /// The file's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Report::Accepted => "accepted",
            Report::Log => "log",
            Report::Metrics => "metrics",
            Report::Peers => "peers",
            Report::Syscalls => "syscalls",
        }
    }

    /// The file of that name.
    pub(super) fn named(name: &str) -> Option<Report> {
        Report::ALL.into_iter().find(|report| report.name() == name)
    }
}

/// What programs do on the mount, as far as Linux asks: what its page cache answers is not seen here.
pub(super) struct Traffic {
    pub(super) opens: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    since: Instant,
}

impl Traffic {
    pub(super) fn new() -> Traffic {
        Traffic { opens: 0.into(), reads: 0.into(), read_bytes: 0.into(), since: Instant::now() }
    }
}

impl Grid {
    /// The text of a status file as it is now.
    pub(super) fn report(&self, report: Report) -> String {
        match report {
            Report::Accepted => self.accepted(),
            Report::Log => self.kernel.log(),
            Report::Metrics => self.metrics(),
            Report::Peers => self.peers(),
            Report::Syscalls => self.syscalls(),
        }
    }

    /// A line for each accepted promise: its CID, its names (or "-"), its text, with tabs between them.
    fn accepted(&self) -> String {
        let line = |(cid, promise): &(gridfs_store::Cid, Arc<Promise>)| {
            let names: Vec<_> = self.kernel.names.naming(cid).iter().map(|name| crate::path::encode(name)).collect();
            let names = if names.is_empty() { "-".to_owned() } else { names.join(" ") };
            format!("{cid}\t{names}\t{}\n", promise.text.replace(['\n', '\t'], " "))
        };
        self.kernel.accepted.all().iter().map(line).collect()
    }

    /// A line for each known peer: its id, `named`, `banned` or "-", requests kept and broken, when a connection was last open or
    /// "-", its addresses, with tabs between them.
    fn peers(&self) -> String {
        let Some(network) = self.kernel.peers.network() else { return String::new() };
        let line = |(id, peer): &(PeerId, Peer)| {
            let state = match (peer.banned, peer.named) {
                (true, _) => "banned",
                (false, true) => "named",
                (false, false) => "-",
            };
            let seen = if peer.seen_ms > 0 { crate::time::text(peer.seen_ms) } else { "-".to_owned() };
            let addresses: Vec<String> = peer.addresses.iter().map(ToString::to_string).collect();
            format!("{id}\t{state}\t{}\t{}\t{seen}\t{}\n", peer.kept, peer.broken, addresses.join(" "))
        };
        network.peers().iter().map(line).collect()
    }

    /// A line for each node of the syscall tree and each module it tells of, with tabs between: path, id, `accepts`, `rejects`
    /// or "-", when it said so, promises kept, broken, latency in microseconds, the last reason. No more than
    /// [`MAX_SYSCALLS_BYTES`]; then the last line says how many are left out.
    fn syscalls(&self) -> String {
        let mut text = String::new();
        let (mut left_out, dash) = (0, || "-".to_owned());
        for (prefix, tracks) in self.kernel.syscalls.all() {
            let path = crate::syscalls::path(&prefix);
            for track in tracks {
                let answer = track.answer.map_or("-", |(accepts, _)| if accepts { "accepts" } else { "rejects" });
                let when = track.answer.map_or_else(dash, |(_, time_ms)| crate::time::text(time_ms));
                let Record { kept, broken, latency_us, last_broken, .. } = track.record.unwrap_or_default();
                let reason = last_broken.map_or_else(dash, |broken| broken.reason.replace(['\n', '\t'], " "));
                let line =
                    format!("{path}\t{}\t{answer}\t{when}\t{kept}\t{broken}\t{latency_us}\t{reason}\n", track.id);
                match text.len() + line.len() <= MAX_SYSCALLS_BYTES {
                    true => text.push_str(&line),
                    false => left_out += 1,
                }
            }
        }
        if left_out > 0 {
            writeln!(text, "{left_out} lines left out").expect("a String takes everything");
        }
        text
    }

    fn metrics(&self) -> String {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (calls, store) = (&self.kernel.counters, self.kernel.store.counters());
        let mut text = Exposition(String::new());
        text.family(
            "gridfs_calls_total",
            "counter",
            "Calls that ended, by how; known results that are opened are no calls.",
        );
        for (outcome, counter) in [
            ("computed", &calls.computed),
            ("failed", &calls.failures),
            ("interrupted", &calls.interrupted),
            ("memory", &calls.hits),
        ] {
            text.sample(&format!("gridfs_calls_total{{outcome=\"{outcome}\"}}"), count(counter));
        }
        text.counter("gridfs_runs_total", "Runs of modules that were started.", count(&calls.runs));
        text.family("gridfs_run_seconds_total", "counter", "Time that these runs took.");
        text.sample("gridfs_run_seconds_total", count(&calls.run_ns) as f64 / 1e9);
        text.counter("gridfs_served_total", "Calls run for peers.", count(&calls.served));
        text.counter("gridfs_fetched_total", "Objects fetched from peers.", count(&calls.fetched));
        if let Some(network) = self.kernel.peers.network() {
            let peers = network.stats();
            text.gauge("gridfs_peers_connected", "Peers connected.", peers.connected);
            text.counter("gridfs_peer_requests_total", "Requests of peers that were taken on.", peers.requests);
            text.counter("gridfs_peer_sent_bytes_total", "Bytes of objects sent to peers.", peers.sent_bytes);
            text.counter("gridfs_peer_received_bytes_total", "Bytes of objects received.", peers.received_bytes);
            text.gauge("gridfs_announced_keys", "Keys that this node announces.", peers.announced_keys);
            text.gauge("gridfs_provider_records", "Announcements of others kept.", peers.provider_records);
        }
        text.gauge("gridfs_computations", "Computations under way or queued.", self.kernel.running() as u64);
        text.gauge("gridfs_waiting", "Calls that wait for a computation.", self.kernel.waiting() as u64);
        text.counter("gridfs_opens_total", "Files of the mount opened.", count(&self.traffic.opens));
        let reads = "Reads of files of the mount that the page cache did not answer.";
        text.counter("gridfs_reads_total", reads, count(&self.traffic.reads));
        text.counter("gridfs_read_bytes_total", "Bytes these reads gave.", count(&self.traffic.read_bytes));
        text.gauge("gridfs_store_objects", "Objects stored.", store.objects);
        text.gauge("gridfs_store_chunks", "Distinct chunks stored.", store.chunks);
        text.gauge("gridfs_store_memos", "Results remembered, aliases, pins and accepted promises.", store.memos);
        text.gauge("gridfs_store_plain_bytes", "Bytes of all distinct chunks before compression.", store.plain_bytes);
        text.gauge("gridfs_store_bytes", "Bytes of all packs.", self.kernel.store.stored_bytes());
        text.gauge("gridfs_copies_bytes", "Bytes of plain copies of large files.", self.copies.total_bytes());
        text.gauge(
            "gridfs_uptime_seconds",
            "Seconds since the grid was mounted.",
            self.traffic.since.elapsed().as_secs(),
        );
        // Absent rather than wrong where /proc is not readable.
        if let Some(bytes) = resident_bytes() {
            text.gauge("process_resident_memory_bytes", "Resident memory size in bytes.", bytes);
        }
        text.0
    }
}

/// Text in the exposition format: each family with its HELP and TYPE before its samples.
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a String takes everything");
    }

    fn sample(&mut self, name: &str, value: impl std::fmt::Display) {
        writeln!(self.0, "{name} {value}").expect("a String takes everything");
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        self.sample(name, value);
    }
}

/// This process's resident memory (`VmRSS` of proc_pid_status(5)).
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}
