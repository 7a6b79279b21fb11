//! How large and how fast the modules of the library are: `cargo bench -p gridfs-modules --bench library`.
//!
//! With `-- --write` it also writes its section of BENCHMARKS.md. Each module is called with the small arguments that the tests call it
//! with, on one thread.

#[path = "../tests/modules/calls.rs"]
mod calls;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/modules/rig.rs"]
mod rig;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridfs_modules::{Argument, Engine, Program};
use gridfs_store::{Cid, Codec};

use rig::{Rig, block_on, guest_path};

/// Compilations of a module.
const COMPILATIONS: usize = 3;
/// Loads of a module's compiled code.
const LOADS: usize = 15;
/// Calls of a loaded module.
const CALLS: usize = 300;

const TITLE: &str = "# Benchmarks of the library";

const MEANING: &str = "\
Printed by `cargo bench -p gridfs-modules --bench library`; with `-- --write` it writes this section. Medians on one thread, of a small \
call each: its arguments are in modules/tests/modules/calls.rs.

- **KiB**: of the module as it is committed
- **compile**: from its bytes to a program that can be called; with the first call, the time of a call of a module never seen
- **load**: the same from compiled code on disk
- **first**: the call that follows, on memory that no earlier call has left
- **warm**: a call of a loaded module, from its arguments to its result in the store, not yet committed
- **fuel**: what each call burns
";

fn main() {
    let rig = Rig::new();
    let calls = calls::calls(&rig);
    let mut rows = Vec::new();
    for (name, arguments) in &calls {
        let wasm = std::fs::read(guest_path(name)).unwrap();
        let row = measure(&rig, &wasm, arguments);
        eprintln!("{name}: {row}");
        rows.push(format!("| {name} | {:.0} | {row} |\n", wasm.len() as f64 / 1024.0));
    }
    let head =
        "| module | KiB | compile ms | load ms | first ms | warm ms | fuel |\n|---|---:|---:|---:|---:|---:|---:|\n";
    let section = format!("{TITLE}\n\n{MEANING}\n{head}{}", rows.concat());
    print!("{section}");
    if std::env::args().any(|argument| argument == "--write") {
        write(&section);
    }
}

/// The figures of a module, as columns of the table.
fn measure(rig: &Rig, wasm: &[u8], arguments: &[Argument]) -> String {
    let mut code = tempfile::tempdir().unwrap();
    let compile = median((0..COMPILATIONS).map(|_| {
        code = tempfile::tempdir().unwrap();
        load(&Engine::new(code.path()).unwrap(), wasm).1
    }));
    let (loads, firsts): (Vec<_>, Vec<_>) = (0..LOADS)
        .map(|_| {
            let engine = Engine::new(code.path()).unwrap();
            let (program, load) = load(&engine, wasm);
            (load, call(rig, &program, arguments).0)
        })
        .unzip();
    let engine = Engine::new(code.path()).unwrap();
    let (program, _) = load(&engine, wasm);
    let fuel = call(rig, &program, arguments).1;
    let warm = median((0..CALLS).map(|_| call(rig, &program, arguments).0));
    let [compile, load, first, warm] =
        [compile, median(loads), median(firsts), warm].map(|time| time.as_secs_f64() * 1e3);
    format!("{compile:.0} | {load:.2} | {first:.2} | {warm:.3} | {fuel}")
}

fn load(engine: &Engine, wasm: &[u8]) -> (Arc<Program>, Duration) {
    let cid = Cid::of(Codec::Raw, wasm);
    let started = Instant::now();
    let program = engine.load(&cid, || Ok(wasm.to_vec())).unwrap();
    (program, started.elapsed())
}

/// How long a call takes, and its fuel.
fn call(rig: &Rig, program: &Arc<Program>, arguments: &[Argument]) -> (Duration, u64) {
    let running = rig.start(program, arguments.to_vec());
    block_on(async {
        let started = Instant::now();
        let outcome = running.await.unwrap();
        (started.elapsed(), outcome.fuel)
    })
}

fn median(times: impl IntoIterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.into_iter().collect();
    times.sort();
    times[times.len() / 2]
}

/// Puts the section in place of its elder, or at the end. Every section begins with `# Benchmarks`.
fn write(section: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../BENCHMARKS.md");
    let old = std::fs::read_to_string(&path).unwrap();
    let start = old.find(&format!("{TITLE}\n")).unwrap_or(old.len());
    let end = old[start..].find("\n# Benchmarks").map_or(old.len(), |length| start + length + 1);
    let (before, after) = (old[..start].trim_end(), old[end..].trim_start());
    let parts: Vec<&str> = [before, section.trim_end(), after].into_iter().filter(|part| !part.is_empty()).collect();
    std::fs::write(&path, parts.join("\n\n").trim_end().to_owned() + "\n").unwrap();
}
