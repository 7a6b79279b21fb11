//! Many programs read while modules fail and the daemon is killed again and again.
//!
//! 64 processes read 10,000 paths at random: stored files, pending calls, computed results, directories, and calls that
//! trap, hang, take too much memory or write too much. Every 20 seconds the daemon gets SIGKILL, and is mounted again.
//! Every byte and every errno is compared with what it has to be; an error that only a dead daemon explains counts as
//! wrong while the daemon lives. No call may take more than 30 seconds over its module's limit, and the daemon's memory
//! and descriptors must not grow from life to life. The figures are printed.
//!
//! Ten minutes: `cargo test --test chaos -- --ignored --nocapture`; `GRIDFS_CHAOS_SECONDS=60` makes it one.

mod common;
#[allow(dead_code, reason = "the store's own tests use all of it")]
#[path = "../store/src/dice.rs"]
mod dice;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use common::{ARGS, ENDLESS, Node, manifest, noise, wait_for};
use dice::Dice;
use gridfs_modules::manifest::{ArgKind, Limits, Returns};

const READERS: usize = 64;
const PATHS: u64 = 10_000;
const FILES: u64 = 4_000;
const DIRECTORIES: u64 = 100;
/// How long the daemon lives each time.
const LIFE: Duration = Duration::from_secs(20);
/// What a module that hangs may take.
const WALL_MS: u64 = 500;
/// What a call may take in all.
const DEADLINE: Duration = Duration::from_millis(30_000 + WALL_MS);
/// Set for a reader: its number, when it ends (milliseconds since 1970), the scratch directory and the mount.
const READER: &str = "GRIDFS_CHAOS_READER";

const EIO: i32 = 5;
const ENOENT: i32 = 2;
const ENOMEM: i32 = 12;
const EINVAL: i32 = 22;
const EFBIG: i32 = 27;
const ECONNABORTED: i32 = 103;
const ENOTCONN: i32 = 107;
const ETIMEDOUT: i32 = 110;
const EHOSTUNREACH: i32 = 113;

#[test]
#[ignore = "takes ten minutes"]
fn readers_survive_a_daemon_that_dies() {
    if let Ok(given) = std::env::var(READER) {
        return Reader::new(&given).run();
    }
    let seconds = std::env::var("GRIDFS_CHAOS_SECONDS").map_or(600, |text| text.parse().expect("a number of seconds"));
    let node = Node::mounted();
    furnish(&node);
    let shared = Shared::create(&node.scratch("."));
    let idle = Sample::of(&node);
    let end_ms = now_ms() + seconds * 1000;
    let mut readers = Readers((0..READERS).map(|number| spawn(&node, number, end_ms)).collect());
    let mut lives: Vec<Life> = Vec::new();
    while now_ms() < end_ms {
        let outage = if lives.is_empty() { Duration::ZERO } else { kill_and_mount(&node, &shared) };
        shared.set_state(2 * (lives.len() as u64 + 1));
        let last = live(&node, &shared, &mut readers, end_ms);
        lives.push(Life { outage, last });
        eprintln!("life {}: {:?}, after {outage:.1?} without", lives.len(), lives[lives.len() - 1].last);
    }
    let results = readers.results(&shared, &node.scratch("."));
    report(&lives, &results);
    check_growth(&lives);
    wait_for("the last computation to end", || node.stat("running") == 0);
    let after = Sample::of(&node);
    eprintln!("idle at first {idle:?}, at the end {after:?}");
    assert!(after.descriptors <= idle.descriptors + 64, "descriptors were left open");
}

// What is read.

/// One of the paths, below the mount, and what reading it gives while the daemon lives.
struct Place {
    path: String,
    expected: Result<Vec<u8>, i32>,
}

impl Place {
    /// Some paths are new in each life of the daemon, so that there are always pending calls.
    fn new(number: u64, life: u64) -> Place {
        let fresh = format!("{life}-{number}");
        let printed = format!("args\0{fresh}\0").into_bytes();
        let file = number % FILES;
        let nested = || format!("%2Flocal%2Fcas%2Ftree%2F{}", inside(file).replace('/', "%2F"));
        let (path, expected) = match number {
            0..4000 => (format!("cas/tree/{}", inside(file)), Ok(content(file))),
            4000..5000 => (format!("cas/{}", nested()), Ok(content(file))),
            5000..7000 => (format!("rot13/{}", nested()), Ok(content(file).into_iter().map(rot13).collect())),
            7000..8000 => (format!("untar/tree.tar/tree/{}", inside(file)), Ok(content(file))),
            8000..9000 => (format!("args/{fresh}"), Ok(printed)),
            9000..9400 => (format!("shout/%2Fgrid%2Flocal%2Fargs%2F{fresh}"), Ok(printed.to_ascii_uppercase())),
            9400..9800 => failing(number),
            _ => (format!("slow/{number}"), Err(ETIMEDOUT)),
        };
        Place { path: format!("local/{path}"), expected }
    }
}

fn failing(number: u64) -> (String, Result<Vec<u8>, i32>) {
    let absent = "bafkr4ibu6ysuvdgy6abikcdi3kcv76malx7pru2ptuy6nu2vaojseqjphy";
    let (path, errno) = match number % 7 {
        0 => (format!("trap/{number}"), EIO),
        1 => (format!("exit/{number}"), EIO),
        2 => (format!("print/{number}"), EFBIG),
        3 => (format!("hoard/{number}"), ENOMEM),
        4 => (format!("wc/%zz{number}"), EINVAL),
        5 => (format!("cas/nothing{number}"), ENOENT),
        _ => (format!("wc/{absent},{number}"), EHOSTUNREACH),
    };
    (path, Err(errno))
}

/// Where a file lies in the tree.
fn inside(file: u64) -> String {
    format!("d{}/f{file}", file % DIRECTORIES)
}

fn content(file: u64) -> Vec<u8> {
    let length = match file % 97 {
        0 => (1 << 20) + file,
        1..10 => 60_000 + file,
        _ => file * 37 % 8_000,
    };
    noise(file, length as usize)
}

fn rot13(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' => (byte - b'a' + 13) % 26 + b'a',
        b'A'..=b'Z' => (byte - b'A' + 13) % 26 + b'A',
        _ => byte,
    }
}

/// Stores the files, as a tree and as an archive, and the modules.
fn furnish(node: &Node) {
    for directory in 0..DIRECTORIES {
        std::fs::create_dir_all(node.scratch(&format!("tree/d{directory}"))).unwrap();
    }
    for file in 0..FILES {
        std::fs::write(node.scratch("tree").join(inside(file)), content(file)).unwrap();
    }
    node.sh("gridfs put --name tree tree && tar cf tree.tar tree && gridfs put --name tree.tar tree.tar").ok();
    node.add_example("rot13", "c/rot13.toml");
    node.add_example("shout", "c/shout.toml");
    let limited = |name: &str, kind, limits| Some(manifest(name, &[("n", kind)], Returns::Blob, limits));
    let add = |name: &str, wat: &str, limits| node.add_wat(name, wat, limited(name, ArgKind::Int, limits).as_ref());
    node.add_wat("args", ARGS, limited("args", ArgKind::Text, Limits::default()).as_ref());
    add("trap", TRAP, Limits::default());
    add("exit", EXIT, Limits::default());
    add("print", PRINT, Limits { output_bytes: Some(1_000_000), ..Limits::default() });
    add("hoard", HOARD, Limits { memory_bytes: Some(32 << 20), ..Limits::default() });
    add("slow", ENDLESS, Limits { wall_ms: Some(WALL_MS), ..Limits::default() });
}

const TRAP: &str = r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#;
const EXIT: &str = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 3))))"#;
/// Prints for ever.
const PRINT: &str = r#"(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1) (func (export "_start")
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 50000))
        (loop $again (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br $again))))"#;
/// Takes memory for ever, and traps when it gets no more.
const HOARD: &str = r#"(module (memory (export "memory") 1) (func (export "_start")
    (loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable))"#;

// What the processes share.

/// Two files: the daemon's state, and for each reader the time at which its call began.
struct Shared {
    state: File,
    begun: File,
}

impl Shared {
    fn create(directory: &Path) -> Shared {
        std::fs::write(directory.join("state"), 2u64.to_le_bytes()).unwrap();
        std::fs::write(directory.join("begun"), [0; 8 * READERS]).unwrap();
        Shared::open(directory)
    }

    fn open(directory: &Path) -> Shared {
        let open = |name| File::options().read(true).write(true).open(directory.join(name)).unwrap();
        Shared { state: open("state"), begun: open("begun") }
    }

    /// Even while the daemon lives: twice the number of its life. Odd while it is killed and mounted again.
    fn state(&self) -> u64 {
        number_at(&self.state, 0)
    }

    fn set_state(&self, state: u64) {
        self.state.write_all_at(&state.to_le_bytes(), 0).unwrap();
    }

    /// When the call began that a reader is in, in milliseconds since 1970; 0 between calls.
    fn begun_ms(&self, reader: usize) -> u64 {
        number_at(&self.begun, 8 * reader as u64)
    }

    fn set_begun_ms(&self, reader: usize, time_ms: u64) {
        self.begun.write_all_at(&time_ms.to_le_bytes(), 8 * reader as u64).unwrap();
    }
}

fn number_at(file: &File, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, offset).unwrap();
    u64::from_le_bytes(bytes)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}

// One reader.

struct Reader {
    number: usize,
    end_ms: u64,
    scratch: PathBuf,
    mnt: PathBuf,
    shared: Shared,
    dice: Dice,
    done: Done,
}

/// What a reader did.
#[derive(Debug, Default)]
struct Done {
    reads: u64,
    bytes: u64,
    /// Calls that failed as they had to.
    failures: u64,
    /// Calls that failed because the daemon was killed.
    outages: u64,
    slowest_ms: u64,
}

impl Reader {
    fn new(given: &str) -> Reader {
        let fields: Vec<&str> = given.split('|').collect();
        let [number, end_ms, scratch, mnt] = fields[..] else { panic!("{given:?} is not four fields") };
        let number: usize = number.parse().unwrap();
        Reader {
            number,
            end_ms: end_ms.parse().unwrap(),
            scratch: scratch.into(),
            mnt: mnt.into(),
            shared: Shared::open(Path::new(scratch)),
            dice: Dice::new(number as u64),
            done: Done::default(),
        }
    }

    fn run(mut self) {
        while now_ms() < self.end_ms {
            let before = self.shared.state();
            let begun_ms = now_ms();
            self.shared.set_begun_ms(self.number, begun_ms);
            let outcome = self.call(before / 2);
            self.shared.set_begun_ms(self.number, 0);
            self.done.slowest_ms = self.done.slowest_ms.max(now_ms() - begun_ms);
            let died = before % 2 == 1 || self.shared.state() != before;
            match outcome {
                Ok(()) => {}
                Err(Wrong { errno: Some(ENOENT | ECONNABORTED | ENOTCONN), .. }) if died => self.done.outages += 1,
                Err(wrong) => panic!("{}, state {before} before, {} after", wrong.what, self.shared.state()),
            }
        }
        let Done { reads, bytes, failures, outages, slowest_ms } = self.done;
        let figures = format!("{reads} {bytes} {failures} {outages} {slowest_ms}");
        std::fs::write(self.scratch.join(format!("result.{}", self.number)), figures).unwrap();
    }

    fn call(&mut self, life: u64) -> Result<(), Wrong> {
        if self.dice.one_in(20) {
            return self.list();
        }
        let Place { path, expected } = Place::new(self.dice.below(PATHS), life);
        let read = match self.dice.one_in(8) {
            true => self.read_in_parts(&path),
            false => std::fs::read(self.mnt.join(&path)),
        };
        match (read, expected) {
            (Ok(bytes), Ok(expected)) if bytes == expected => {
                self.done.reads += 1;
                self.done.bytes += bytes.len() as u64;
                Ok(())
            }
            (Err(error), Err(errno)) if error.raw_os_error() == Some(errno) => {
                self.done.failures += 1;
                Ok(())
            }
            (Ok(bytes), expected) => {
                let expected = expected.map(|bytes| bytes.len());
                let what = format!("{path}: read {} wrong bytes instead of {expected:?}", bytes.len());
                Err(Wrong { errno: None, what })
            }
            (Err(error), expected) => Err(Wrong::new(&path, &error, &format!("{:?}", expected.map(|b| b.len())))),
        }
    }

    /// Reads through a file that stays open for a while, in pieces of any size.
    fn read_in_parts(&mut self, path: &str) -> io::Result<Vec<u8>> {
        let file = File::open(self.mnt.join(path))?;
        let mut bytes = Vec::new();
        loop {
            std::thread::sleep(Duration::from_millis(self.dice.below(20)));
            let mut piece = vec![0; 1 + self.dice.below(300_000) as usize];
            let read = file.read_at(&mut piece, bytes.len() as u64)?;
            if read == 0 {
                return Ok(bytes);
            }
            bytes.extend_from_slice(&piece[..read]);
        }
    }

    fn list(&mut self) -> Result<(), Wrong> {
        let directory = self.dice.below(DIRECTORIES);
        let path = format!("local/cas/tree/d{directory}");
        let names = std::fs::read_dir(self.mnt.join(&path)).and_then(|entries| {
            entries.map(|entry| Ok(entry?.file_name().into_string().expect("it is UTF-8"))).collect::<io::Result<_>>()
        });
        let names: BTreeSet<String> = names.map_err(|error| Wrong::new(&path, &error, "a listing"))?;
        let expected = (0..FILES).filter(|file| file % DIRECTORIES == directory).map(|file| format!("f{file}"));
        match names == expected.collect() {
            true => Ok(()),
            false => Err(Wrong { errno: None, what: format!("{path}: a wrong listing: {names:?}") }),
        }
    }
}

/// Something that is not as it has to be, unless the daemon was killed meanwhile.
struct Wrong {
    errno: Option<i32>,
    what: String,
}

impl Wrong {
    fn new(path: &str, error: &io::Error, expected: &str) -> Wrong {
        Wrong { errno: error.raw_os_error(), what: format!("{path}: {error}, instead of {expected}") }
    }
}

// The daemon's lives.

/// What one life came to.
struct Life {
    /// From the kill to the mount that answers again.
    outage: Duration,
    last: Sample,
}

/// What a daemon takes.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Memory of its own, in KiB; files that are mapped into it don't count.
    anonymous_kib: u64,
    /// What the store's index takes on disk; the daemon keeps a part of it in memory.
    index_kib: u64,
    descriptors: u64,
    threads: u64,
}

impl Sample {
    fn of(node: &Node) -> Sample {
        let pid = node.daemon_pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let number = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
        let index_kib = std::fs::metadata(node.home().join("cache/index/db")).unwrap().blocks() / 2;
        Sample { anonymous_kib: number("RssAnon:"), index_kib, descriptors, threads: number("Threads:") }
    }
}

fn kill_and_mount(node: &Node, shared: &Shared) -> Duration {
    shared.set_state(shared.state() + 1);
    let killed = Instant::now();
    node.kill_daemon();
    node.mount();
    killed.elapsed()
}

/// One life; what the daemon took at its end.
fn live(node: &Node, shared: &Shared, readers: &mut Readers, end_ms: u64) -> Sample {
    let born = Instant::now();
    while born.elapsed() < LIFE && now_ms() < end_ms {
        readers.check(shared);
        std::thread::sleep(Duration::from_millis(100));
    }
    Sample::of(node)
}

/// The reading processes; killed if the test fails.
struct Readers(Vec<Child>);

impl Readers {
    /// None has failed, none is stuck.
    fn check(&mut self, shared: &Shared) {
        for (number, child) in self.0.iter_mut().enumerate() {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "reader {number} failed; what it said is above");
            }
            let begun_ms = shared.begun_ms(number);
            let took = Duration::from_millis(now_ms().saturating_sub(begun_ms));
            if begun_ms > 0 && took > DEADLINE {
                let where_to = std::fs::read_to_string(format!("/proc/{}/wchan", child.id())).unwrap_or_default();
                panic!("reader {number} has been stuck for {took:?}, in {where_to}");
            }
        }
    }

    /// Waits until all have ended; what they did.
    fn results(&mut self, shared: &Shared, scratch: &Path) -> Vec<Done> {
        while self.0.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
            self.check(shared);
            std::thread::sleep(Duration::from_millis(100));
        }
        self.check(shared);
        (0..self.0.len()).map(|number| result(&scratch.join(format!("result.{number}")))).collect()
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn spawn(node: &Node, number: usize, end_ms: u64) -> Child {
    let given = format!("{number}|{end_ms}|{}|{}", node.scratch(".").display(), node.mnt().display());
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "readers_survive_a_daemon_that_dies", "--ignored", "--nocapture"])
        .env(READER, given)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn result(path: &Path) -> Done {
    let text = std::fs::read_to_string(path).unwrap();
    let figures: Vec<u64> = text.split(' ').map(|figure| figure.parse().unwrap()).collect();
    let [reads, bytes, failures, outages, slowest_ms] = figures[..] else { panic!("{text:?} is not five figures") };
    Done { reads, bytes, failures, outages, slowest_ms }
}

fn report(lives: &[Life], results: &[Done]) {
    let sum = |figure: fn(&Done) -> u64| results.iter().map(figure).sum::<u64>();
    let longest = |figure: fn(&Done) -> u64| results.iter().map(figure).max().unwrap_or(0);
    let mut text = format!("{} readers, {} lives of the daemon\n", results.len(), lives.len());
    let mut line = |what: &str, figure: String| writeln!(text, "  {what:<42}{figure}").unwrap();
    line("reads, every byte right", sum(|done| done.reads).to_string());
    line("MB read", (sum(|done| done.bytes) / 1_000_000).to_string());
    line("calls that failed as they had to", sum(|done| done.failures).to_string());
    line("calls that failed with the daemon", sum(|done| done.outages).to_string());
    line("longest call, ms", longest(|done| done.slowest_ms).to_string());
    let outage = lives.iter().map(|life| life.outage).max().unwrap_or_default();
    line("longest time from kill to mount, ms", outage.as_millis().to_string());
    for (what, figure) in FIGURES {
        let figures: Vec<String> = lives.iter().map(|life| figure(&life.last).to_string()).collect();
        line(&format!("{what} at the end of each life"), figures.join(" "));
    }
    eprint!("{text}");
}

const INDEX: &str = "index on disk, KiB";
const MEMORY: &str = "own memory, KiB";

type Figure = (&'static str, fn(&Sample) -> u64);

const FIGURES: [Figure; 4] = [
    (INDEX, |sample| sample.index_kib),
    (MEMORY, |sample| sample.anonymous_kib),
    ("descriptors", |sample| sample.descriptors),
    ("threads", |sample| sample.threads),
];

/// Compares the middle of the first and of the last third of the lives that were lived to the end. Each life stores new
/// results, so the index grows, and with it the part of it that is kept in memory; nothing else may.
fn check_growth(lives: &[Life]) {
    let whole = &lives[..lives.len().saturating_sub(1)];
    if whole.len() < 6 {
        eprintln!("SKIPPED: whether memory grows takes at least 7 lives to tell");
        return;
    }
    let mut index_grew = 0;
    for (what, figure) in FIGURES {
        let third = whole.len() / 3;
        let (first, last) = (middle(&whole[..third], figure), middle(&whole[whole.len() - third..], figure));
        eprintln!("{what}: {first} in the first lives, {last} in the last");
        match what {
            INDEX => index_grew = last.saturating_sub(first),
            MEMORY => assert!(last <= first + first / 4 + index_grew, "{what} grew from {first} to {last}"),
            _ => assert!(last <= first + first / 4 + 16, "{what} grew from {first} to {last}"),
        }
    }
}

fn middle(lives: &[Life], figure: fn(&Sample) -> u64) -> u64 {
    let mut figures: Vec<u64> = lives.iter().map(|life| figure(&life.last)).collect();
    figures.sort_unstable();
    figures[figures.len() / 2]
}
