//! How the store does with many chunks: `cargo bench -p gridfs-store --bench scale [-- CHUNKS]` (10 million by default).
//!
//! Puts distinct chunks of 64 bytes until there are 10^5, 10^6, 10^7; at each mark it measures what a put costs, what a
//! lookup costs, and what a process takes that idles after many lookups; at the end, how long the index takes to be rebuilt.
//! Uses up to 3 GB below the temporary directory (TMPDIR), which it removes.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridfs_store::{Cid, Codec, Durability, Options, Progress, Store};

const MARKS: [u64; 3] = [100_000, 1_000_000, 10_000_000];
const LOOKUPS: u64 = 20_000;
/// Of the process whose memory is looked at: enough to fill the index's cache.
const WARMING_LOOKUPS: u64 = 300_000;
const PUTS: u64 = 200;
/// Chunks put in one batch while filling up.
const BATCH: u64 = 100_000;
const IDLE: &str = "GRIDFS_BENCH_IDLE";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if let Some(dir) = std::env::var_os(IDLE) {
        return idle(Path::new(&dir), arguments[0].parse().expect("the number of chunks"));
    }
    let most = arguments.first().map_or(MARKS[2], |text| text.parse().expect("the number of chunks"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    println!(
        "{:>10} {:>12} {:>14} {:>14} {:>12} {:>10} {:>9}",
        "chunks", "fill /s", "put 64 KiB us", "lookup us p50", "p99", "miss p50", "idle MB"
    );
    let mut stored = 0;
    for mark in MARKS.into_iter().filter(|mark| *mark <= most) {
        let store = open(dir.path());
        let (start, first) = (Instant::now(), stored);
        while stored < mark {
            fill(&store, stored..mark.min(stored + BATCH));
            stored = mark.min(stored + BATCH);
        }
        let rate = (mark - first) as f64 / start.elapsed().as_secs_f64();
        let put = put_cost(&store, mark);
        let (hit, hit_p99) = lookups(&store, LOOKUPS, mark, 0);
        let (miss, _) = lookups(&store, LOOKUPS, mark, 1 << 40);
        drop(store);
        let idle = idle_megabytes(dir.path(), mark);
        println!("{mark:>10} {rate:>12.0} {put:>14.1} {hit:>14.2} {hit_p99:>12.2} {miss:>10.2} {idle:>9}");
    }
    rebuild(dir.path());
}

fn open(dir: &Path) -> Arc<Store> {
    Arc::new(Store::open(dir, Options::default()).expect("the store opens"))
}

fn content(number: u64) -> [u8; 64] {
    let mut bytes = [0; 64];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn fill(store: &Arc<Store>, numbers: std::ops::Range<u64>) {
    let mut batch = store.batch();
    for number in numbers {
        batch.put_bytes(Codec::Raw, &content(number)).expect("a put");
    }
    batch.commit(Durability::Lazy).expect("a commit");
}

/// Median of single puts of 64 KiB that can't be compressed, each with a lazy commit, in microseconds.
fn put_cost(store: &Arc<Store>, seed: u64) -> f64 {
    let mut bytes = vec![0; 64 * 1024];
    let put = |number: u64| {
        blake3::Hasher::new().update(&seed.to_le_bytes()).update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
        let start = Instant::now();
        let mut batch = store.batch();
        batch.put_bytes(Codec::Raw, &bytes).expect("a put");
        batch.commit(Durability::Lazy).expect("a commit");
        start.elapsed()
    };
    quantile(&mut (0..PUTS).map(put).collect::<Vec<_>>(), 50)
}

fn lookups(store: &Arc<Store>, count: u64, stored: u64, beyond: u64) -> (f64, f64) {
    let look = |number: u64| {
        let chosen = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % stored + beyond;
        let cid = Cid::of(Codec::Raw, &content(chosen));
        let start = Instant::now();
        let found = store.contains(&cid).expect("a lookup");
        assert_eq!(found, beyond == 0);
        start.elapsed()
    };
    let mut times: Vec<_> = (0..count).map(look).collect();
    (quantile(&mut times, 50), quantile(&mut times, 99))
}

fn quantile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times[times.len() * percent / 100].as_secs_f64() * 1e6
}

/// Resident memory of a process that has opened the store, has looked up many of its chunks, and now idles.
fn idle_megabytes(dir: &Path, stored: u64) -> u64 {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).arg(stored.to_string()).env(IDLE, dir).output().expect("this program runs");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number of kilobytes")
}

fn idle(dir: &Path, stored: u64) {
    let store = open(dir);
    lookups(&store, WARMING_LOOKUPS, stored, 0);
    std::thread::sleep(Duration::from_millis(500));
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line VmRSS");
    let kilobytes: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
    println!("{}", kilobytes / 1024);
    drop(store);
}

fn rebuild(dir: &Path) {
    std::fs::remove_dir_all(dir.join("index")).expect("an index to delete");
    let (start, mut told) = (Instant::now(), 0);
    let mut progress = |_: Progress| told += 1;
    drop(Store::open(dir, Options { progress: Some(&mut progress), ..Options::default() }).expect("the store opens"));
    println!("index rebuilt in {:.1} s, telling its progress {told} times", start.elapsed().as_secs_f64());
}
