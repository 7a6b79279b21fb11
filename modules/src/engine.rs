//! The WebAssembly engine: loading programs, compiled code on disk, the pool of instances.
//!
//! Compiled code is local state: it is written by this engine alone, into a directory named by the engine's exact
//! configuration and version, with a checksum; it is never taken from a peer. Deleting it costs a compilation.

use std::collections::HashMap;
use std::fs::File;
use std::hash::Hash as _;
use std::io::Read as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gridfs_store::Cid;
use wasmparser::{Parser, Payload};
use wasmtime::{
    Config, Enabled, ExternType, InstanceAllocationStrategy, InstancePre, Linker, Module, OptLevel,
    PoolingAllocationConfig, WasmFeatures,
};

use crate::compile;
use crate::guest::Guest;
use crate::manifest::{self, Manifest, ManifestError};
use crate::pulse::Pulse;
use crate::wasi;

/// Largest module accepted, in bytes.
pub const MAX_WASM_BYTES: u64 = 64 << 20;
/// Largest function accepted, in bytes. What a function takes to compile grows faster than its size, memory above all; in
/// ordinary programs the largest have up to 220 KiB.
pub const MAX_FUNCTION_BYTES: usize = 512 << 10;
/// Largest linear memory the pool can hold; limits above it are cut to it.
pub(crate) const POOL_MEMORY_BYTES: usize = 1 << 30;
/// Instances that can exist at a time. Callers admit fewer.
const POOL_INSTANCES: u32 = 512;
/// Memory of an ended instance that the next one in its place finds cleared: to fault in 1 MiB anew takes longer than most
/// short modules run.
const KEPT_MEMORY_BYTES: usize = 2 << 20;
/// Places that wait for a program they ran before; beyond, the one used least lately takes the next.
const WARM_INSTANCES: u32 = 16;
/// Programs kept loaded.
const MAX_LOADED: usize = 256;
const CHECKSUM_BYTES: usize = 32;

/// Why the engine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// wasmtime refused the configuration or could not reserve its pool.
    #[error("can't start the WebAssembly engine: {0}")]
    Start(String),
    /// The directory of compiled code can't be made.
    #[error("can't create {path}: {source}")]
    CodeDirectory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Why bytes are not a module.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not WebAssembly, or invalid.
    #[error("not a valid WebAssembly module: {0}")]
    Invalid(String),
    /// More than [`MAX_WASM_BYTES`].
    #[error("a module of {0} bytes is larger than the {MAX_WASM_BYTES} accepted")]
    TooLarge(u64),
    /// It has a function of more than [`MAX_FUNCTION_BYTES`].
    #[error("it has a function of {0} bytes, and {MAX_FUNCTION_BYTES} are accepted: split it, or optimise for size")]
    FunctionTooLarge(usize),
    /// Compiling it takes more than so many seconds of CPU time.
    #[error("compiling it takes more than {0} s of CPU time: split large functions, or optimise for size")]
    CompileTime(u64),
    /// Compiling it takes more than so many MiB of memory.
    #[error("compiling it takes more than {0} MiB of memory: split large functions, or optimise for size")]
    CompileMemory(u64),
    /// It imports something that ABI grid-1 does not offer.
    #[error("it imports {module}.{name}, which the ABI grid-1 does not offer")]
    Import {
        /// Import namespace.
        module: String,
        /// Import name.
        name: String,
    },
    /// It is no WASI command: the export is missing, or of another type.
    #[error("it does not export {0:?}: build it as a WASI command, not as a library")]
    Export(&'static str),
    /// Its manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// A loaded program, ready to be instantiated.
pub struct Program {
    manifest: Manifest,
    pre: InstancePre<Guest>,
    pulse: Arc<Pulse>,
}

impl Program {
    /// The manifest, or that of a module without one.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(crate) fn engine(&self) -> &wasmtime::Engine {
        self.pre.module().engine()
    }

    pub(crate) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    pub(crate) async fn instantiate(&self, store: &mut wasmtime::Store<Guest>) -> wasmtime::Result<wasmtime::Instance> {
        self.pre.instantiate_async(store).await
    }
}

/// A program, once it is loaded. Held while it is loading, so that no two threads compile one module.
type Slot = Arc<Mutex<Option<Arc<Program>>>>;

/// What may differ between engines without making a difference to any result or to the fuel burnt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Compiled code is optimised.
    pub optimised: bool,
    /// Where instances take their memory from; without one, each has fresh memory.
    pub pool: Option<Pool>,
}

/// Places for instances, in which what earlier ones left is cleared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pool {
    /// Instances that can exist at a time.
    pub instances: u32,
    /// Memory of an ended instance that is cleared for the next one in its place; what lies beyond, the system takes back.
    pub kept_bytes: usize,
}

impl Settings {
    /// Those of a node.
    pub const NODE: Settings =
        Settings { optimised: true, pool: Some(Pool { instances: POOL_INSTANCES, kept_bytes: KEPT_MEMORY_BYTES }) };
}

/// The engine; one for the whole node.
pub struct Engine {
    engine: wasmtime::Engine,
    linker: Linker<Guest>,
    fingerprint: String,
    /// Where compiled code is kept, if it is.
    code: Option<PathBuf>,
    pulse: Arc<Pulse>,
    loaded: Mutex<HashMap<Cid, (u64, Slot)>>,
}

impl Engine {
    /// An engine whose compiled code is kept below `code_dir`.
    pub fn new(code_dir: &Path) -> Result<Engine, EngineError> {
        Engine::with(Settings::NODE)?.keeping_code(code_dir)
    }

    /// The same, with its compiled code kept below `code_dir`.
    pub fn keeping_code(self, code_dir: &Path) -> Result<Engine, EngineError> {
        let code = code_dir.join(&self.fingerprint);
        // What lies in it is run as native code, so nobody else may write there.
        let created = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&code);
        created.map_err(|source| EngineError::CodeDirectory { path: code.clone(), source })?;
        Ok(Engine { code: Some(code), ..self })
    }

    /// An engine with these settings, whose compiled code is nowhere kept.
    pub fn with(settings: Settings) -> Result<Engine, EngineError> {
        let start = |e: wasmtime::Error| EngineError::Start(format!("{e:#}"));
        let engine = wasmtime::Engine::new(&configuration(settings)).map_err(start)?;
        let mut linker = Linker::new(&engine);
        wasi::add_to_linker(&mut linker).map_err(start)?;
        let fingerprint = compatibility(&engine);
        let pulse = Pulse::new(engine.clone());
        Ok(Engine { engine, linker, fingerprint, code: None, pulse, loaded: Mutex::default() })
    }

    /// What it is: its major version, and a fingerprint of its exact version, target and configuration.
    pub fn name(&self) -> String {
        format!("wasmtime 48 {}", self.fingerprint)
    }

    /// The program that `cid` names, if it is in memory. Waits for nothing.
    pub fn loaded(&self, cid: &Cid) -> Option<Arc<Program>> {
        self.slot(cid).try_lock().ok()?.clone()
    }

    /// The program of these bytes, which `cid` names. Compiling may take seconds; a program once compiled is
    /// taken from memory or disk.
    pub fn load(
        &self,
        cid: &Cid,
        wasm: impl FnOnce() -> Result<Vec<u8>, gridfs_store::Error>,
    ) -> Result<Arc<Program>, LoadFailure> {
        let slot = self.slot(cid);
        // A load that panicked left the slot empty, so the next may try.
        let mut loaded = slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(program) = &*loaded {
            return Ok(program.clone());
        }
        match wasm().map_err(LoadFailure::from).and_then(|wasm| self.prepare(cid, &wasm)) {
            Ok(program) => Ok(loaded.insert(Arc::new(program)).clone()),
            Err(failure) => {
                self.forget(cid);
                Err(failure)
            }
        }
    }

    /// Gives a slot that stayed empty to others.
    fn forget(&self, cid: &Cid) {
        self.loaded.lock().expect("no panic while it is held").remove(cid);
    }

    fn slot(&self, cid: &Cid) -> Slot {
        let mut loaded = self.loaded.lock().expect("no panic while it is held");
        let now = loaded.values().map(|(used, _)| used + 1).max().unwrap_or(0);
        if !loaded.contains_key(cid) && loaded.len() >= MAX_LOADED {
            let oldest = loaded.iter().min_by_key(|(_, (used, _))| *used).map(|(cid, _)| *cid);
            oldest.and_then(|cid| loaded.remove(&cid));
        }
        let entry = loaded.entry(*cid).or_default();
        entry.0 = now;
        entry.1.clone()
    }

    fn prepare(&self, cid: &Cid, wasm: &[u8]) -> Result<Program, LoadFailure> {
        let manifest = inspect(wasm)?;
        let module = match self.read_code(cid) {
            Some(module) => module,
            None => self.compile(cid, wasm)?,
        };
        check(&module)?;
        let pre = self.linker.instantiate_pre(&module).map_err(invalid)?;
        Ok(Program { manifest, pre, pulse: self.pulse.clone() })
    }

    fn compile(&self, cid: &Cid, wasm: &[u8]) -> Result<Module, LoadFailure> {
        let module = match compile::goes_alone(wasm) {
            // SAFETY: the bytes come from `precompile_module` in a process of this very program.
            true => unsafe { Module::deserialize(&self.engine, compile::compile_alone(wasm)?) },
            false => Module::from_binary(&self.engine, wasm),
        };
        let module = module.map_err(invalid)?;
        // Without a copy on disk the next start compiles again; that is all.
        if let Err(error) = self.write_code(cid, &module) {
            tracing::warn!(%cid, %error, "compiled code was not kept");
        }
        Ok(module)
    }

    /// Compiled code as it lies on disk, mapped: memory that the system takes back when it needs it.
    fn read_code(&self, cid: &Cid) -> Option<Module> {
        let path = self.code_path(cid)?;
        let mut file = File::open(&path).ok()?; // absent or unreadable: compile
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let (code, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
        if blake3::hash(code).as_bytes() != checksum {
            tracing::warn!(path = %path.display(), "compiled code is damaged; compiling again");
            return None;
        }
        // SAFETY: the bytes come from `Module::serialize` of an engine of this very configuration: the directory is
        // the owner's alone and named by the configuration, and the checksum rules out damage. A file there is removed or
        // replaced, but never changed, so what is mapped stays what it is.
        match unsafe { Module::deserialize_open_file(&self.engine, file) } {
            Ok(module) => Some(module),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "compiled code can't be loaded; compiling again");
                None
            }
        }
    }

    fn write_code(&self, cid: &Cid, module: &Module) -> wasmtime::Result<()> {
        let Some(path) = self.code_path(cid) else { return Ok(()) };
        let mut file = module.serialize()?;
        file.extend_from_slice(blake3::hash(&file).as_bytes());
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let unfinished = path.with_extension(format!("{}-{number}.tmp", std::process::id()));
        std::fs::write(&unfinished, file)?;
        std::fs::rename(&unfinished, &path)?;
        Ok(())
    }

    fn code_path(&self, cid: &Cid) -> Option<PathBuf> {
        Some(self.code.as_ref()?.join(cid.to_string()))
    }
}

/// Why a module is not loaded: its own fault, or the store's.
#[derive(Debug, thiserror::Error)]
pub enum LoadFailure {
    /// The bytes are no module.
    #[error(transparent)]
    Module(#[from] LoadError),
    /// The bytes could not be read.
    #[error(transparent)]
    Store(#[from] gridfs_store::Error),
    /// The process that was to compile them could not be had.
    #[error("can't start a process to compile it: {0}")]
    Compiler(std::io::Error),
}

/// The manifest of a WASM file, after a first look that needs no compiler.
pub fn inspect(wasm: &[u8]) -> Result<Manifest, LoadError> {
    if wasm.len() as u64 > MAX_WASM_BYTES {
        return Err(LoadError::TooLarge(wasm.len() as u64));
    }
    let manifest = manifest::extract(wasm)?;
    check_functions(wasm)?;
    Ok(manifest.unwrap_or_else(Manifest::untyped))
}

/// So that compiling takes no longer than a module of its size may.
fn check_functions(wasm: &[u8]) -> Result<(), LoadError> {
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(|e| LoadError::Invalid(e.to_string()))? {
            Payload::CodeSectionEntry(body) if body.as_bytes().len() > MAX_FUNCTION_BYTES => {
                return Err(LoadError::FunctionTooLarge(body.as_bytes().len()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// An engine that compiles as a node's does, and can run nothing much.
pub(crate) fn compiler() -> wasmtime::Result<wasmtime::Engine> {
    wasmtime::Engine::new(&configuration(Settings { pool: None, ..Settings::NODE }))
}

fn check(module: &Module) -> Result<(), LoadError> {
    for import in module.imports() {
        if !wasi::offers(import.module(), import.name()) {
            return Err(LoadError::Import { module: import.module().into(), name: import.name().into() });
        }
    }
    match module.get_export("_start") {
        Some(ExternType::Func(ty)) if ty.params().len() == 0 && ty.results().len() == 0 => {}
        _ => return Err(LoadError::Export("_start")),
    }
    match module.get_export("memory") {
        Some(ExternType::Memory(_)) => Ok(()),
        _ => Err(LoadError::Export("memory")),
    }
}

fn invalid(error: wasmtime::Error) -> LoadError {
    LoadError::Invalid(format!("{error:#}"))
}

fn configuration(settings: Settings) -> Config {
    let strategy = match settings.pool {
        Some(pool) => InstanceAllocationStrategy::Pooling(places(pool)),
        None => InstanceAllocationStrategy::OnDemand,
    };
    let mut config = Config::new();
    config
        .allocation_strategy(strategy)
        .consume_fuel(true)
        .epoch_interruption(true)
        .cranelift_opt_level(if settings.optimised { OptLevel::Speed } else { OptLevel::None })
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .max_wasm_stack(512 << 10)
        .async_stack_size(2 << 20)
        .memory_reservation(4 << 30)
        .wasm_features(WasmFeatures::MEMORY64 | WasmFeatures::MULTI_MEMORY, false);
    config
}

fn places(pool: Pool) -> PoolingAllocationConfig {
    let mut places = PoolingAllocationConfig::new();
    places
        .total_core_instances(pool.instances)
        .total_memories(pool.instances)
        .total_tables(pool.instances)
        .total_stacks(pool.instances)
        .max_memory_size(POOL_MEMORY_BYTES)
        .linear_memory_keep_resident(pool.kept_bytes)
        .pagemap_scan(Enabled::Auto)
        .max_unused_warm_slots(WARM_INSTANCES)
        .table_elements(100_000);
    places
}

/// Names the engine's exact version, target and configuration.
fn compatibility(engine: &wasmtime::Engine) -> String {
    let mut hasher = Fingerprint(blake3::Hasher::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.0.finalize().to_hex()[..16].to_string()
}

/// Feeds `std::hash::Hash` into BLAKE3, the same in every process.
struct Fingerprint(blake3::Hasher);

impl std::hash::Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        let hash = self.0.finalize();
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 of 32 bytes"))
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}
