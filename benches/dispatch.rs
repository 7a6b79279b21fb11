//! How fast memoised calls are answered: `cargo bench --bench dispatch`.
//!
//! A real store holds a million remembered results, all of one module. With 10^3 to 10^6 of them in the syscall tree, calls
//! go through `Kernel::call` on one core: skewed, as requests are (Zipf, 0.99), and even, the worst for the caches of the
//! machine. A message is made anew for each call, as it would be for whoever asks; messages/s counts that in, the rest only the
//! call. Latencies are of single calls, the clock included.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use gridfs::accepted::Accepted;
use gridfs::builtins;
use gridfs::describe::Runner;
use gridfs::home::Home;
use gridfs::identity::Identity;
use gridfs::kernel::Kernel;
use gridfs::module::Caller;
use gridfs::names::Names;
use gridfs::parms::{Parms, Value};
use gridfs::promise::Promise;
use gridfs::receipt::{Memo, cid_of};
use gridfs::syscalls::Syscalls;
use gridfs_modules::Limits;
use gridfs_store::{Batch, Cid, Codec, Durability, Hash, Options, Store};

const SIZES: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// Calls in a round.
const CALLS: u64 = 640_000;
const ROUNDS: usize = 8;
/// Messages made before they are called one after the other.
const AT_ONCE: usize = 64;
/// Memos put in one batch.
const BATCH: u64 = 50_000;

fn main() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let kernel = kernel(directory.path(), runtime.handle().clone());
    let module = kernel.names.get("wc").as_ref().and_then(cid_of).unwrap();
    let description = kernel.modules.get(&module).unwrap();
    assert_eq!(description.runner, Runner::Wasm);
    let messages = Messages { promise: Promise::local().cid(), module };
    let limits = kernel.limits(&messages.promise, &description).unwrap();
    remember(&kernel.store, &messages, &limits);
    println!("  entries  calls      messages/s     calls/s  ns/call   p50 ns   p99 ns   max us");
    let (mut filled, mut times) = (0, Vec::new());
    for size in SIZES {
        (filled..size).for_each(|number| called(&kernel, messages.made(number)));
        filled = size;
        assert_eq!(kernel.syscalls.leaves() as u64, size);
        let (mut dice, zipf) = (Dice(size), Zipf::new(size));
        // Who ranks high stands anywhere.
        let skewed = measure(&kernel, &messages, size, &mut || Dice(zipf.rank(&mut dice)).roll() % size, "skewed");
        let even = measure(&kernel, &messages, size, &mut || dice.roll() % size, "even");
        times.push([skewed, even]);
    }
    let growth = |index: usize| times[SIZES.len() - 1][index] / times[0][index];
    println!("growth of the time of a call from 10^3 to 10^6 entries: {:.2} skewed, {:.2} even", growth(0), growth(1));
    println!("two threads: {:.0} calls/s", on_two_threads(&kernel, &messages));
    // Each reply came from the cache once, and from its leaf ever after.
    let nodes = kernel.syscalls.all();
    let record = nodes[0].1[0].record.as_ref().unwrap();
    assert_eq!((nodes.len(), record.kept), (1, SIZES[SIZES.len() - 1]));
}

fn kernel(directory: &std::path::Path, runtime: tokio::runtime::Handle) -> Arc<Kernel> {
    let home = Arc::new(Home::open(directory).unwrap());
    let store = Arc::new(Store::open(&home.store(), Options { quota_bytes: None, progress: None }).unwrap());
    let names = Arc::new(Names::open(store.clone(), home.clone()).unwrap());
    builtins::install(&store, &home, &names).unwrap();
    let accepted = Accepted::open(store.clone()).unwrap();
    let modules: Vec<Box<dyn gridfs::module::Module>> = vec![Box::new(gridfs::cache::Cache)];
    let identity = Identity::open(&home.keys()).unwrap();
    Kernel::new(store, names, identity, accepted, Syscalls::in_memory(), modules, runtime)
}

struct Messages {
    promise: Cid,
    module: Cid,
}

impl Messages {
    /// The call of the module with object `number`.
    fn made(&self, number: u64) -> Parms {
        let mut dice = Dice(number);
        let mut hash = [0; 32];
        hash.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&dice.roll().to_le_bytes()));
        let argument = Value::Object(Cid { codec: Codec::Raw, hash: Hash(hash) });
        Parms { promise: self.promise, module: self.module, arguments: vec![argument] }
    }
}

/// Puts the memos of all calls; they share one result.
fn remember(store: &Arc<Store>, messages: &Messages, limits: &Limits) {
    let started = Instant::now();
    let mut batch: Batch = store.batch();
    let result = batch.put_bytes(Codec::Raw, b"result").unwrap();
    let receipt = batch.put_bytes(Codec::DagCbor, b"\xa0").unwrap();
    let memo = Memo { v: 1, size: Some(6), named: false, result, receipt, time_ms: None, until_ms: None }.to_bytes();
    for number in 0..SIZES[SIZES.len() - 1] {
        batch.put_memo(messages.made(number).memo_key(limits), b"", &memo).unwrap();
        if number % BATCH == BATCH - 1 {
            std::mem::replace(&mut batch, store.batch()).commit(Durability::Lazy).unwrap();
        }
    }
    batch.commit(Durability::Durable).unwrap();
    eprintln!("{} memos put in {:.1?}", SIZES[SIZES.len() - 1], started.elapsed());
}

/// One call, which is answered at once.
fn called(kernel: &Arc<Kernel>, parms: Parms) {
    match pin!(kernel.call(Caller::default(), parms)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(reply) => drop(std::hint::black_box(reply.unwrap())),
        Poll::Pending => panic!("what is remembered takes no waiting"),
    }
}

/// Seconds for each call of messages picked by `pick`, in the best of some rounds: on a machine that does other things too, only
/// that is the program's own.
fn measure(kernel: &Arc<Kernel>, messages: &Messages, size: u64, pick: &mut dyn FnMut() -> u64, how: &str) -> f64 {
    let (mut whole, mut calls) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        let (mut making, mut calling) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..CALLS / AT_ONCE as u64 {
            let picked: [u64; AT_ONCE] = std::array::from_fn(|_| pick());
            let began = Instant::now();
            let made = picked.map(|number| messages.made(number));
            let begun = Instant::now();
            made.into_iter().for_each(|parms| called(kernel, parms));
            making += begun - began;
            calling += begun.elapsed();
        }
        whole = whole.min((making + calling).as_secs_f64() / CALLS as f64);
        calls = calls.min(calling.as_secs_f64() / CALLS as f64);
    }
    let timed = |_| {
        let parms = messages.made(pick());
        let began = Instant::now();
        called(kernel, parms);
        began.elapsed().as_nanos() as u64
    };
    let mut nanoseconds: Vec<u64> = (0..CALLS).map(timed).collect();
    nanoseconds.sort_unstable();
    let at = |percent: usize| nanoseconds[nanoseconds.len() * percent / 100];
    let max_us = nanoseconds[nanoseconds.len() - 1] / 1000;
    let (messages_a_second, calls_a_second, call_ns) = (1.0 / whole, 1.0 / calls, calls * 1e9);
    println!(
        "{size:>9}  {how:<7}  {messages_a_second:>10.0}  {calls_a_second:>10.0}  {call_ns:>7.0}  {:>7}  {:>7}  {max_us:>7}",
        at(50),
        at(99),
    );
    calls
}

/// Ranks by Zipf's law, as YCSB draws them: the k-th is asked for in proportion to k^-0.99 (Gray et al.: Quickly generating
/// billion-record synthetic databases, 1994).
struct Zipf {
    size: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    const THETA: f64 = 0.99;

    fn new(size: u64) -> Zipf {
        let zeta = |n: u64| (1..=n).map(|k| (k as f64).powf(-Zipf::THETA)).sum::<f64>();
        let (size_f, all) = (size as f64, zeta(size));
        let eta = (1.0 - (2.0 / size_f).powf(1.0 - Zipf::THETA)) / (1.0 - zeta(2) / all);
        Zipf { size: size_f, zeta: all, eta }
    }

    fn rank(&self, dice: &mut Dice) -> u64 {
        let u = (dice.roll() >> 11) as f64 / (1u64 << 53) as f64;
        match u * self.zeta {
            near if near < 1.0 => 0,
            near if near < 1.0 + 0.5f64.powf(Zipf::THETA) => 1,
            _ => (self.size * (self.eta * u - self.eta + 1.0).powf(1.0 / (1.0 - Zipf::THETA))) as u64,
        }
    }
}

/// Calls in a second with two threads at it.
fn on_two_threads(kernel: &Arc<Kernel>, messages: &Messages) -> f64 {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for seed in 0..2 {
            scope.spawn(move || {
                let mut dice = Dice(seed);
                (0..CALLS / 2).for_each(|_| called(kernel, messages.made(dice.roll() % SIZES[SIZES.len() - 1])));
            });
        }
    });
    CALLS as f64 / started.elapsed().as_secs_f64()
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
