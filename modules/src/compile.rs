//! Compiling in a process of its own. A module may ask far more of the compiler than its size promises; there it has limits of CPU
//! time and memory, and whatever it brings about, a full stack included, is the end of that process alone.

use std::ffi::OsStr;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit};

use crate::engine::{LoadError, LoadFailure, MAX_WASM_BYTES};

/// Larger modules are compiled in a process of their own. Up to here, compiling is over before a process would have started, or
/// takes a second at worst.
pub(crate) const ALONE_ABOVE_BYTES: usize = 16 << 10;
/// What this program is called when it is to compile.
const NAME: &str = "gridfs-compile";
/// Processes that compile at a time; each uses all cores.
const AT_A_TIME: usize = 2;
/// How a process ends that was given no module.
const INVALID: u8 = 3;
/// How it ends that could not compile for another reason.
const FAILED: u8 = 4;

/// Whether this program can be called as [`NAME`].
static CALLABLE: AtomicBool = AtomicBool::new(false);
/// Processes that compile, and who waits for one to end.
static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// For the start of `main`, while there is one thread: lets the engine call this program again for each large module that is to be
/// compiled. Where it was called for that, it compiles and returns how that ended.
pub fn compile_if_called() -> Option<ExitCode> {
    if std::env::args_os().next().as_deref() != Some(OsStr::new(NAME)) {
        CALLABLE.store(true, Ordering::Relaxed);
        return None;
    }
    let (why, status) = match compile_input() {
        Ok(Ok(())) => return Some(ExitCode::SUCCESS),
        Ok(Err(invalid)) => (format!("{invalid:#}"), INVALID),
        Err(error) => (error.to_string(), FAILED),
    };
    // Without a reader the status says enough.
    let _ = io::stderr().write_all(why.as_bytes());
    Some(ExitCode::from(status))
}

/// Compiles the module on standard input to standard output. The inner error is the module's own.
fn compile_input() -> io::Result<Result<(), wasmtime::Error>> {
    // Nobody wants the result of a parent that is gone, now or later.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let parent = std::env::args().nth(1).and_then(|parent| Pid::from_raw(parent.parse().ok()?));
    if parent.is_none() || getppid() != parent {
        return Err(io::Error::other("whoever wanted the module is gone"));
    }
    let mut wasm = Vec::new();
    io::stdin().take(MAX_WASM_BYTES).read_to_end(&mut wasm)?;
    let limit = |resource, most| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most + 1) });
    limit(Resource::Core, 0)?;
    limit(Resource::Cpu, cpu_seconds(wasm.len()))?;
    limit(Resource::As, memory_bytes(wasm.len()))?;
    let compiler = crate::engine::compiler().map_err(io::Error::other)?;
    match compiler.precompile_module(&wasm) {
        Ok(code) => io::stdout().write_all(&code).map(Ok),
        Err(error) => Ok(Err(error)),
    }
}

/// CPU time to compile a module of a size. Ordinary ones take a twentieth.
fn cpu_seconds(wasm_bytes: usize) -> u64 {
    20 + ((20 * wasm_bytes as u64) >> 20)
}

/// Address space to compile a module of a size. Ordinary ones take a quarter.
fn memory_bytes(wasm_bytes: usize) -> u64 {
    (2 << 30) + 128 * wasm_bytes as u64
}

/// Whether a module is to be compiled in a process of its own.
pub(crate) fn goes_alone(wasm: &[u8]) -> bool {
    wasm.len() > ALONE_ABOVE_BYTES && CALLABLE.load(Ordering::Relaxed)
}

/// The compiled code of a module. Waits for its turn, and then up to [`cpu_seconds`] of CPU time.
pub(crate) fn compile_alone(wasm: &[u8]) -> Result<Vec<u8>, LoadFailure> {
    let _turn = Turn::take();
    let output = call(wasm).map_err(LoadFailure::Compiler)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match (output.status.code(), output.status.signal()) {
        (Some(0), _) => Ok(output.stdout),
        (Some(status), _) if status == i32::from(INVALID) => Err(LoadError::Invalid(said).into()),
        (None, Some(signal)) if signal == Signal::XCPU.as_raw() => {
            Err(LoadError::CompileTime(cpu_seconds(wasm.len())).into())
        }
        (None, Some(_)) => Err(LoadError::CompileMemory(memory_bytes(wasm.len()) >> 20).into()),
        _ => Err(LoadFailure::Compiler(io::Error::other(format!("{}: {said}", output.status)))),
    }
}

fn call(wasm: &[u8]) -> io::Result<Output> {
    let mut input = std::fs::File::from(memfd_create("gridfs-module", MemfdFlags::CLOEXEC)?);
    input.write_all(wasm)?;
    input.rewind()?;
    let mut compiler = Command::new("/proc/self/exe");
    compiler
        .arg0(NAME)
        .arg(std::process::id().to_string())
        .env_clear()
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?
        .wait_with_output()
}

/// The right to have one process compile.
struct Turn;

impl Turn {
    fn take() -> Turn {
        let (running, ended) = &RUNNING;
        let running = running.lock().expect("no panic while it is held");
        *ended.wait_while(running, |running| *running >= AT_A_TIME).expect("no panic while it is held") += 1;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (running, ended) = &RUNNING;
        *running.lock().expect("no panic while it is held") -= 1;
        ended.notify_one();
    }
}
