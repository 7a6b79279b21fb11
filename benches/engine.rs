//! How fast modules are called, loaded and compiled: `cargo bench --bench engine`.
//!
//! Medians on one thread, in microseconds. The small guest, 600 bytes of WebAssembly, writes its argument to standard output;
//! beside it /bin/echo does the same as a process, and wasmtime with its own WASI, if Python has the package `wasmtime`, in one
//! process too. The larger guest is the library's `wc`, std Rust, over a file of 19 bytes.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Instant;

use gridfs::module::Caller;
use gridfs::node::Node;
use gridfs::parms::{Parms, Value};
use gridfs::promise::Promise;
use gridfs::resolve::GuestGrid;
use gridfs_modules::{Argument, Engine, Invocation, Limits, Program, compile_if_called, run};
use gridfs_store::{Cid, Codec, Durability, Hash};

const SMALL_BYTES: usize = 600;
/// Calls of each kind of which the median is taken.
const CALLS: usize = 2000;
/// Modules never seen.
const MODULES: usize = 100;
/// Nested calls in one call.
const NESTED: usize = 50;

const ECHO: &str = r#"(module
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $end i32)
    (drop (call $args (i32.const 64) (i32.const 1024)))
    (i32.store (i32.const 0) (i32.load (i32.const 68)))
    (local.set $end (i32.load (i32.const 68)))
    (loop $next
      (local.set $end (i32.add (local.get $end) (i32.const 1)))
      (br_if $next (i32.load8_u (local.get $end))))
    (i32.store8 (local.get $end) (i32.const 10))
    (i32.store (i32.const 4) (i32.add (i32.sub (local.get $end) (i32.load (i32.const 0))) (i32.const 1)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

/// Opens `/grid/<promise>/<module>/<first 8 bytes of argv[1]><number>` for each number below COUNT.
const NESTING: &str = r#"(module
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 2048) "PREFIX")
  (func (export "_start") (local $number i32)
    (drop (call $args (i32.const 64) (i32.const 1024)))
    (i64.store (i32.const AFTER) (i64.load (i32.load (i32.const 68))))
    (block $done (loop $next
      (br_if $done (i32.eq (local.get $number) (i32.const COUNT)))
      (i32.store8 (i32.const TENS) (i32.add (i32.const 48) (i32.div_u (local.get $number) (i32.const 10))))
      (i32.store8 (i32.const ONES) (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10))))
      (if (call $open (i32.const 5) (i32.const 0) (i32.const 2048) (i32.const LENGTH) (i32.const 0)
                      (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 0)) (then unreachable))
      (drop (call $close (i32.load (i32.const 0))))
      (local.set $number (i32.add (local.get $number) (i32.const 1)))
      (br $next)))))"#;

fn nesting(promise: &Cid, module: &Cid, count: usize) -> Vec<u8> {
    let prefix = format!("{promise}/{module}/");
    let after = 2048 + prefix.len();
    let (length, tens, ones) = (prefix.len() + 10, after + 8, after + 9);
    let text = NESTING.replace("PREFIX", &prefix).replace("AFTER", &after.to_string());
    let text = text.replace("LENGTH", &length.to_string()).replace("COUNT", &count.to_string());
    wat::parse_str(text.replace("TENS", &tens.to_string()).replace("ONES", &ones.to_string())).unwrap()
}

/// The program with a custom section that makes it one never seen, and `bytes` long if it was shorter.
fn unseen(wasm: &[u8], number: usize, bytes: usize) -> Vec<u8> {
    let name = format!("{number:08}");
    // The section's id, its length in two bytes of LEB128, the name's length.
    let head_bytes = 4;
    let content = bytes.saturating_sub(wasm.len() + head_bytes).max(name.len());
    let length = content + 1;
    let mut wasm = wasm.to_vec();
    wasm.extend([0, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8, name.len() as u8]);
    wasm.extend(name.as_bytes());
    wasm.resize(wasm.len() + content - name.len(), 0);
    wasm
}

fn main() -> ExitCode {
    if let Some(compiled) = compile_if_called() {
        return compiled;
    }
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path(), &mut |_| {}).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("modules/guests");
    let echo = unseen(&wat::parse_str(ECHO).unwrap(), 0, SMALL_BYTES);
    assert_eq!(echo.len(), SMALL_BYTES);
    let wc = std::fs::read(guests.join("wc.wasm")).unwrap();
    let file = runtime_put(&node, b"two lines\nof words\n");
    let bench = Bench { node, runtime, file };
    println!("{:<34} {:>12} {:>12}", "median in us", "600 bytes", format!("wc, {} KiB", wc.len() / 1024));
    row("warm call", bench.warm(&echo, false), bench.warm(&wc, true));
    row("call from compiled code on disk", bench.compiled(&echo, false), bench.compiled(&wc, true));
    row("first call of a module", bench.first(&echo, false), bench.first(&wc, true));
    let module = bench.put(&echo);
    row("call by the kernel, remembered", bench.called(&module, |_| "same".into()), f64::NAN);
    row("call by the kernel, new each time", bench.called(&module, |number| format!("{number:08}")), f64::NAN);
    row("nested call, remembered", bench.nested(&module, |number| format!("samesame{number}")), f64::NAN);
    row("nested call, new each time", bench.nested(&module, |number| format!("{number:08}")), f64::NAN);
    row("process of /bin/echo", process(), f64::NAN);
    beside(directory.path(), &echo, &guests.join("wc.wasm"));
    ExitCode::SUCCESS
}

fn row(what: &str, small: f64, large: f64) {
    let cell = |us: f64| if us.is_nan() { String::new() } else { format!("{us:.1}") };
    println!("{what:<34} {:>12} {:>12}", cell(small), cell(large));
}

fn runtime_put(node: &Node, bytes: &[u8]) -> Cid {
    let mut batch = node.kernel.store.batch();
    let cid = batch.put_bytes(Codec::Raw, bytes).unwrap();
    batch.commit(Durability::Lazy).unwrap();
    cid
}

fn median_us(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2] * 1e6
}

struct Bench {
    node: Node,
    runtime: tokio::runtime::Runtime,
    file: Cid,
}

impl Bench {
    fn put(&self, wasm: &[u8]) -> Cid {
        runtime_put(&self.node, wasm)
    }

    fn limits(&self) -> Limits {
        Limits::from(Promise::local().limits)
    }

    /// Seconds that one run takes, its result written but not committed.
    fn run(&self, program: &Arc<Program>, reads: bool) -> f64 {
        let store = self.node.kernel.store.clone();
        let argument = match reads {
            true => Argument::Blob(store.object(&self.file).unwrap().unwrap()),
            false => Argument::Text("hello".into()),
        };
        let invocation = Invocation {
            program: program.clone(),
            arguments: vec![argument],
            asks: false,
            seed: Hash([0; 32]),
            limits: self.limits(),
            store,
            grid: Arc::new(GuestGrid::new(self.node.kernel.clone(), Caller::default(), Vec::new())),
        };
        let began = Instant::now();
        let outcome = self.runtime.block_on(run(invocation)).unwrap();
        let seconds = began.elapsed().as_secs_f64();
        drop(outcome);
        seconds
    }

    fn load(&self, engine: &Engine, wasm: &[u8]) -> Arc<Program> {
        engine.load(&Cid::of(Codec::Raw, wasm), || Ok(wasm.to_vec())).unwrap()
    }

    fn warm(&self, wasm: &[u8], reads: bool) -> f64 {
        let program = self.load(&self.node.engine, wasm);
        median_us((0..CALLS).map(|_| self.run(&program, reads)).collect())
    }

    /// A module's way from its bytes, loaded by `engine`, to the end of its first run.
    fn load_and_run(&self, engine: &Engine, wasm: &[u8], reads: bool) -> f64 {
        let began = Instant::now();
        let program = self.load(engine, wasm);
        let loading = began.elapsed().as_secs_f64();
        loading + self.run(&program, reads)
    }

    fn first(&self, wasm: &[u8], reads: bool) -> f64 {
        let never_seen = (1..=MODULES).map(|number| unseen(wasm, number, SMALL_BYTES));
        median_us(never_seen.map(|wasm| self.load_and_run(&self.node.engine, &wasm, reads)).collect())
    }

    fn compiled(&self, wasm: &[u8], reads: bool) -> f64 {
        let modules: Vec<Vec<u8>> = (1001..=1000 + MODULES).map(|number| unseen(wasm, number, SMALL_BYTES)).collect();
        let code = self.node.home.code();
        let compiler = Engine::new(&code).unwrap();
        modules.iter().for_each(|wasm| drop(self.load(&compiler, wasm)));
        drop(compiler);
        let engine = Engine::new(&code).unwrap();
        median_us(modules.iter().map(|wasm| self.load_and_run(&engine, wasm, reads)).collect())
    }

    /// Seconds that a call through the kernel takes, on the one thread of its caller's runtime.
    fn call(&self, module: &Cid, argument: String) -> f64 {
        let parms = Parms { promise: Promise::local().cid(), module: *module, arguments: vec![Value::Text(argument)] };
        let kernel = self.node.kernel.clone();
        let began = Instant::now();
        let reply = self.runtime.block_on(kernel.call(Caller::default(), parms)).unwrap();
        let seconds = began.elapsed().as_secs_f64();
        drop(reply);
        seconds
    }

    fn called(&self, module: &Cid, argument: impl Fn(usize) -> String) -> f64 {
        self.call(module, argument(CALLS));
        median_us((0..CALLS).map(|number| self.call(module, argument(number))).collect())
    }

    /// What each nested call adds to the time of a call.
    fn nested(&self, module: &Cid, argument: impl Fn(usize) -> String) -> f64 {
        let promise = Promise::local().cid();
        let [none, many] = [0, NESTED].map(|count| {
            let outer = self.put(&nesting(&promise, module, count));
            self.call(&outer, argument(MODULES + count));
            median_us((0..MODULES).map(|number| self.call(&outer, argument(number))).collect())
        });
        (many - none) / NESTED as f64
    }
}

fn process() -> f64 {
    let once = |_| {
        let began = Instant::now();
        let output = Command::new("/bin/echo").arg("hello").output().unwrap();
        assert_eq!(output.stdout, b"hello\n");
        began.elapsed().as_secs_f64()
    };
    median_us((0..CALLS / 4).map(once).collect())
}

/// The same by wasmtime's own WASI.
fn beside(directory: &Path, echo: &[u8], wc: &Path) {
    let path: PathBuf = directory.join("echo.wasm");
    std::fs::write(&path, echo).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/engine.py");
    let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let status = Command::new(python).arg(script).args([&path, wc]).stdin(Stdio::null()).status();
    if !status.is_ok_and(|status| status.success()) {
        println!(
            "no figures of wasmtime itself: they need Python 3 and its package wasmtime (PYTHON names another python3)"
        );
    }
}
