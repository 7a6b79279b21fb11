//! A real store, a shared engine, and a grid that answers only what it was told to.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex};

use gridfs_modules::manifest::{self, Manifest, Returns};
use gridfs_modules::{
    Argument, Denial, Engine, Grid, Invocation, Limits, LoadError, LoadFailure, NestedError, Outcome, Program, Reached,
    RunError, run,
};
use gridfs_store::{Cid, Codec, Durability, Hash, Options, Store, Target, Tree, TreeEntry};
use tempfile::TempDir;

/// One engine for all tests, as in a node: each reserves terabytes of address space.
/// Its compiled code is kept from one test run to the next.
pub static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(&code_dir()).unwrap());

pub fn code_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("code")
}

pub const LIMITS: Limits =
    Limits { fuel: 20_000_000_000, wall_ms: 60_000, memory_bytes: 256 << 20, output_bytes: 64 << 20 };

/// The result of a good run, committed.
#[derive(Debug)]
pub struct Done {
    pub result: Target,
    pub stderr: Vec<u8>,
    pub fuel: u64,
}

pub struct Rig {
    _dir: TempDir,
    pub store: Arc<Store>,
    pub grid: Arc<FakeGrid>,
    pub limits: Limits,
    pub seed: Hash,
}

impl Rig {
    pub fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), Options::default()).unwrap());
        Rig { _dir: dir, store, grid: Arc::default(), limits: LIMITS, seed: Hash([7; 32]) }
    }

    pub fn blob(&self, bytes: &[u8]) -> Argument {
        Argument::Blob(self.store.object(&self.put(bytes)).unwrap().unwrap())
    }

    pub fn put(&self, bytes: &[u8]) -> Cid {
        let mut batch = self.store.batch();
        let cid = batch.put_bytes(Codec::Raw, bytes).unwrap();
        batch.commit(Durability::Lazy).unwrap();
        cid
    }

    pub fn file(&self, bytes: &[u8]) -> Target {
        Target::File { cid: self.put(bytes), size_bytes: bytes.len() as u64, executable: false }
    }

    pub fn tree(&self, entries: &[(&str, Target)]) -> Cid {
        let entry =
            |(name, target): &(&str, Target)| TreeEntry { name: name.as_bytes().into(), target: target.clone() };
        let tree = Tree::new(entries.iter().map(entry).collect()).unwrap();
        let mut batch = self.store.batch();
        let cid = batch.put_tree(&tree).unwrap();
        batch.commit(Durability::Lazy).unwrap();
        cid
    }

    /// Runs a program to its end and commits what it made.
    pub fn run(&self, program: &Arc<Program>, arguments: Vec<Argument>) -> Result<Done, RunError> {
        block_on(self.start(program, arguments)).map(|outcome| self.commit(outcome))
    }

    pub fn commit(&self, outcome: Outcome) -> Done {
        let Outcome { result, batch, stderr, fuel, .. } = outcome;
        batch.commit(Durability::Lazy).unwrap();
        Done { result, stderr, fuel }
    }

    pub fn start(
        &self,
        program: &Arc<Program>,
        arguments: Vec<Argument>,
    ) -> impl Future<Output = Result<Outcome, RunError>> + use<> {
        run(Invocation {
            program: program.clone(),
            arguments,
            asks: false,
            seed: self.seed,
            limits: self.limits,
            store: self.store.clone(),
            grid: self.grid.clone(),
        })
    }

    /// What a program without failure returns as a blob.
    pub fn text(&self, program: &Arc<Program>, arguments: Vec<Argument>) -> String {
        let done = self.run(program, arguments).unwrap();
        String::from_utf8(self.content(&done.result)).unwrap()
    }

    pub fn content(&self, target: &Target) -> Vec<u8> {
        let Target::File { cid, size_bytes, .. } = target else { panic!("{target:?} is no file") };
        let bytes = self.store.read(cid, 1 << 30).unwrap();
        assert_eq!(bytes.len() as u64, *size_bytes);
        bytes
    }

    /// Everything below a directory, one line each: `name/`, `name = content`, `name* = content`, `name -> target`.
    pub fn listing(&self, target: &Target) -> Vec<String> {
        let Target::Directory { cid } = target else { panic!("{target:?} is no directory") };
        let mut lines = Vec::new();
        self.list(cid, "", &mut lines);
        lines
    }

    fn list(&self, cid: &Cid, prefix: &str, lines: &mut Vec<String>) {
        for entry in self.store.tree(cid).unwrap().entries() {
            let name = format!("{prefix}{}", String::from_utf8_lossy(&entry.name));
            match &entry.target {
                Target::Directory { cid } => {
                    lines.push(format!("{name}/"));
                    self.list(cid, &format!("{name}/"), lines);
                }
                Target::File { executable, .. } => {
                    let content = self.content(&entry.target);
                    let mark = if *executable { "*" } else { "" };
                    lines.push(format!("{name}{mark} = {}", String::from_utf8_lossy(&content)));
                }
                Target::Symlink { target } => lines.push(format!("{name} -> {}", String::from_utf8_lossy(target))),
            }
        }
    }
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

pub fn words(texts: &[&str]) -> Vec<Argument> {
    texts.iter().map(|text| Argument::Text(text.to_string())).collect()
}

pub fn load(wasm: &[u8]) -> Arc<Program> {
    try_load(wasm).unwrap()
}

pub fn try_load(wasm: &[u8]) -> Result<Arc<Program>, LoadError> {
    match ENGINE.load(&Cid::of(Codec::Raw, wasm), || Ok(wasm.to_vec())) {
        Ok(program) => Ok(program),
        Err(LoadFailure::Module(error)) => Err(error),
        Err(failure) => panic!("{failure}"),
    }
}

pub fn load_wat(text: &str) -> Arc<Program> {
    load(&wat::parse_str(text).unwrap())
}

/// A module in text form that returns a tree.
pub fn load_tree_wat(text: &str) -> Arc<Program> {
    let manifest = Manifest { returns: Returns::Tree, ..Manifest::untyped() };
    load(&manifest::embed(&wat::parse_str(text).unwrap(), &manifest).unwrap())
}

pub fn guest_path(name: &str) -> PathBuf {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR"));
    match name {
        "rot13" | "freq" | "shout" => modules.join(format!("../examples/guests/{name}.wasm")),
        _ => modules.join(format!("guests/{name}.wasm")),
    }
}

pub fn guest(name: &str) -> Arc<Program> {
    load(&std::fs::read(guest_path(name)).unwrap())
}

/// The one token that the fake grid knows.
pub const TOKEN: &[u8] = b"a token";

/// Answers the paths it was given, all others with what it was given for `*` or not at all, and remembers what it was asked.
#[derive(Default)]
pub struct FakeGrid {
    answers: Mutex<HashMap<String, Target>>,
    asked: Mutex<Vec<String>>,
}

#[derive(Debug, thiserror::Error)]
#[error("nothing is promised at {0:?}")]
pub struct NotPromised(pub String);

impl FakeGrid {
    pub fn answer(&self, path: &str, target: Target) {
        self.answers.lock().unwrap().insert(path.into(), target);
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Grid for FakeGrid {
    fn call<'a>(&'a self, path: &'a str) -> Pin<Box<dyn Future<Output = Result<Reached, NestedError>> + Send + 'a>> {
        Box::pin(async move {
            self.asked.lock().unwrap().push(path.into());
            tokio::task::yield_now().await;
            let answers = self.answers.lock().unwrap();
            let answer = answers.get(path).or_else(|| answers.get("*")).cloned();
            answer.ok_or_else(|| NotPromised(path.into()).into())
        })
    }

    fn verify_capability(&self, token: &[u8], path: &str) -> Result<(), Denial> {
        match (token == TOKEN, self.is_known(path)?) {
            (false, _) => Err(Denial::Forged),
            (true, true) => Ok(()),
            (true, false) => Err(Denial::NoAuthority),
        }
    }

    fn is_known(&self, path: &str) -> Result<bool, Denial> {
        match path {
            "malformed" => Err(Denial::Malformed),
            "unknown" => Err(Denial::Unknown),
            "pending" => Err(Denial::Pending),
            "late" => Err(Denial::OutOfTime),
            "broken" => Err(Denial::Failed(Box::new(NotPromised(path.into())))),
            path => Ok(self.answers.lock().unwrap().contains_key(path)),
        }
    }
}
