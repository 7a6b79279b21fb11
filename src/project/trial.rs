//! Golden cases run through the real engine, in a node of their own that is gone afterwards.
//!
//! Each case runs three times: twice as a node would run it, in memory that the run before has left, and once with code that
//! is not optimised and in fresh memory. Bytes, fuel and memory must be the same each time.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridfs_modules::manifest::ArgKind;
use gridfs_modules::{Engine, Invocation, Limits, Outcome, Program, Settings, run};
use gridfs_store::{Cid, Codec, Durability, Store, Target, Tree, extract, ingest};
use serde::Serialize;
use tempfile::TempDir;

use super::cases::{Case, Expected};
use crate::authority::Authority;
use crate::describe::Description;
use crate::error::{Code, Error, Result};
use crate::module::Caller;
use crate::node::Node;
use crate::parms::Parms;
use crate::receipt::cid_of;
use crate::resolve::{GuestGrid, Reach, Resolver};
use crate::wasm::inputs;

/// The promise under which cases are run.
const PROMISE: &str = "local";
/// How much of two files is compared to say where they differ.
const MAX_COMPARED_BYTES: u64 = 1 << 20;
/// How much of a line is shown, in characters.
const MAX_SHOWN: usize = 120;
/// How many paths of differing directories are shown.
const MAX_PATHS: usize = 5;

/// A module on trial.
pub struct Trial {
    module: Arc<Description>,
    /// The program for each run of a case.
    programs: [Arc<Program>; 3],
    node: Node,
    _home: TempDir,
}

/// What a case came to.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct CaseRow {
    /// Its name.
    pub case: String,
    /// What is to be thought of it.
    pub verdict: CaseVerdict,
    /// Why, where it is not as expected.
    pub why: String,
    /// Fuel burnt; absent for a call that failed.
    pub fuel: Option<u64>,
    /// Most memory it had; absent for a call that failed.
    pub memory_bytes: Option<u64>,
    /// How long the second run took, in microseconds.
    pub wall_us: u64,
}

/// What is to be thought of a case.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CaseVerdict {
    /// As expected.
    Ok,
    /// What it came to is what will be expected from now on.
    Blessed,
    /// Not as expected.
    Differs,
    /// Not the same each time.
    Diverges,
}

/// How a run ended.
#[derive(Clone, Debug, Eq, PartialEq)]
enum End {
    Result { target: Target, fuel: u64, memory_bytes: u64 },
    Failure(String),
}

impl Trial {
    /// Puts a module into a new node, and compiles it both ways.
    pub fn new(wasm: &[u8]) -> Result<Trial> {
        let home = tempfile::tempdir().map_err(|e| Error::caused(Code::General, "can't make a temporary home", e))?;
        let node = Node::open(home.path(), &mut |_| {})?;
        let kernel = &node.kernel;
        let mut batch = kernel.store.batch();
        let cid = batch.put_bytes(Codec::Raw, wasm)?;
        let _kept = batch.commit(Durability::Lazy)?;
        let module = kernel.modules.get(&cid)?;
        let target = Target::File { cid, size_bytes: wasm.len() as u64, executable: false };
        kernel.names.change(&[(module.manifest.name.clone(), Some(target))])?;
        let plain = Engine::with(Settings { optimised: false, pool: None });
        let plain = plain.map_err(|e| Error::caused(Code::General, e.to_string(), e))?;
        let load = |engine: &Engine| engine.load(&cid, || Ok(wasm.to_vec())).map_err(Error::from);
        let optimised = load(&node.engine)?;
        let programs = [optimised.clone(), optimised, load(&plain)?];
        Ok(Trial { module, programs, node, _home: home })
    }

    /// Runs a case. With `bless`, what it comes to is written down as what is expected.
    pub async fn run(&self, case: &Case, bless: bool) -> Result<CaseRow> {
        let mut wall = Duration::ZERO;
        let mut ends = Vec::with_capacity(self.programs.len());
        for (number, program) in self.programs.iter().enumerate() {
            let started = Instant::now();
            let end = self.end(case, program).await;
            if number == 1 {
                wall = started.elapsed();
            }
            ends.push(end.unwrap_or_else(|error| End::Failure(error.to_string())));
        }
        let (verdict, why) = self.judge(case, &ends, bless)?;
        let (fuel, memory_bytes) = match ends[1] {
            End::Result { fuel, memory_bytes, .. } => (Some(fuel), Some(memory_bytes)),
            End::Failure(_) => (None, None),
        };
        let wall_us = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX);
        Ok(CaseRow { case: case.name.clone(), verdict, why, fuel, memory_bytes, wall_us })
    }

    async fn end(&self, case: &Case, program: &Arc<Program>) -> Result<End> {
        let kernel = &self.node.kernel;
        let parms = self.parms(case).await?;
        let limits = kernel.limits(&parms.promise, &self.module)?;
        let caller = Caller { depth: 1, ..Caller::default() };
        let invocation = Invocation {
            program: program.clone(),
            arguments: inputs(&kernel.store, &self.module, &parms.arguments)?,
            asks: false,
            seed: parms.memo_key(&limits),
            limits,
            store: kernel.store.clone(),
            grid: Arc::new(GuestGrid::new(kernel.clone(), caller, parms.arguments)),
        };
        let ended = tokio::time::timeout(Duration::from_millis(limits.wall_ms), run(invocation)).await;
        let Outcome { result, batch, fuel, memory_bytes, .. } = ended.map_err(|_| out_of_time(&limits))??;
        batch.commit(Durability::Lazy)?;
        Ok(End::Result { target: result, fuel, memory_bytes })
    }

    /// The call, with the files of the case stored.
    async fn parms(&self, case: &Case) -> Result<Parms> {
        let kernel = &self.node.kernel;
        let mut texts = Vec::with_capacity(case.arguments.len());
        for (index, text) in case.arguments.iter().enumerate() {
            let kind = self.module.argument(index).map(|argument| argument.kind);
            let file = case.directory.join(text);
            let is_file = !text.starts_with('/') && !text.is_empty() && file.exists();
            texts.push(match kind {
                Some(ArgKind::Blob | ArgKind::Tree) if is_file => self.put(&file)?.to_string(),
                _ => text.clone(),
            });
        }
        let resolver = Resolver::new(kernel.clone(), Authority::Owner, Reach::Calls);
        let promise = resolver.promise(PROMISE)?;
        let parms = resolver.parms(promise, &self.module, &texts).await?;
        Ok(parms.expect("a resolver that may call resolves everything"))
    }

    fn put(&self, path: &Path) -> Result<Cid> {
        let mut batch = self.node.kernel.store.batch();
        let target = ingest::put_path(&mut batch, path, ingest::Read::All, &mut |_| ControlFlow::Continue(()))?;
        batch.commit(Durability::Lazy)?;
        Ok(cid_of(&target).expect("files and directories have a CID"))
    }

    fn judge(&self, case: &Case, ends: &[End], bless: bool) -> Result<(CaseVerdict, String)> {
        let store = &self.node.kernel.store;
        if let Some((first, other)) = ends.iter().zip(&ends[1..]).find(|(first, other)| first != other) {
            return Ok((CaseVerdict::Diverges, divergence(store, first, other)?));
        }
        let end = &ends[0];
        let why = match (&case.expected, end) {
            (Expected::Unknown, _) => "there is no expected and no failure; --bless writes what it came to".into(),
            (Expected::Failure(expected), End::Failure(message)) if message.contains(expected) => String::new(),
            (Expected::Failure(expected), End::Failure(message)) => {
                format!("expected to fail with {expected:?}\ngot {message:?}")
            }
            (Expected::Failure(expected), _) => format!("expected to fail with {expected:?}, and did not"),
            (Expected::Result(_), End::Failure(message)) => format!("failed: {message}"),
            (Expected::Result(path), End::Result { target, .. }) => {
                let expected = self.put(path)?;
                let got = cid_of(target).expect("a result is a file or a directory");
                if expected == got { String::new() } else { difference(store, &expected, &got)? }
            }
        };
        match bless {
            _ if why.is_empty() => Ok((CaseVerdict::Ok, why)),
            false => Ok((CaseVerdict::Differs, why)),
            true => self.bless(case, end).map(|()| (CaseVerdict::Blessed, String::new())),
        }
    }

    fn bless(&self, case: &Case, end: &End) -> Result<()> {
        let (result, failure) = (case.directory.join("expected"), case.directory.join("failure"));
        let failed = |e| Error::caused(Code::General, format!("can't change {}", case.directory.display()), e);
        for old in [&result, &failure] {
            match old.symlink_metadata() {
                Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(old).map_err(failed)?,
                Ok(_) => std::fs::remove_file(old).map_err(failed)?,
                Err(_) => {} // it is not there
            }
        }
        match end {
            End::Failure(message) => std::fs::write(&failure, format!("{message}\n")).map_err(failed),
            End::Result { target, .. } => {
                let store = &self.node.kernel.store;
                Ok(extract::get(store, target, &result, &mut |_| ControlFlow::Continue(()))?)
            }
        }
    }
}

fn out_of_time(limits: &Limits) -> Error {
    Error::new(Code::TimeLimit, format!("the module was still running after its {} ms", limits.wall_ms))
}

/// How two runs of one call differ.
fn divergence(store: &Arc<Store>, first: &End, other: &End) -> Result<String> {
    let (End::Result { target: a, fuel, memory_bytes }, End::Result { target: b, .. }) = (first, other) else {
        return Ok(format!("one run: {first:?}\nanother: {other:?}"));
    };
    if a == b {
        let End::Result { fuel: fuel_b, memory_bytes: memory_b, .. } = other else { unreachable!("matched above") };
        return Ok(format!("one run burnt {fuel} and had {memory_bytes} bytes, another {fuel_b} and {memory_b}"));
    }
    let cid = |target| cid_of(target).expect("a result is a file or a directory");
    difference(store, &cid(a), &cid(b))
}

/// The first differences between two objects.
fn difference(store: &Arc<Store>, expected: &Cid, got: &Cid) -> Result<String> {
    match (expected.codec, got.codec) {
        (Codec::Raw, Codec::Raw) => {
            let read = |cid: &Cid| -> Result<Vec<u8>> {
                let object = store.object(cid)?.ok_or(gridfs_store::Error::NotFound { cid: *cid })?;
                let mut bytes = vec![0; object.size_bytes().min(MAX_COMPARED_BYTES) as usize];
                object.read_at(0, &mut bytes)?;
                Ok(bytes)
            };
            Ok(differing_line(&read(expected)?, &read(got)?))
        }
        (Codec::DagCbor, Codec::DagCbor) => {
            let mut paths = Vec::new();
            differing_paths(store, &*store.tree(expected)?, &*store.tree(got)?, "", &mut paths)?;
            Ok(paths.join("\n"))
        }
        _ => Ok("one is a file, the other a directory".into()),
    }
}

fn differing_line(expected: &[u8], got: &[u8]) -> String {
    let (mut a, mut b) = (expected.split_inclusive(|&byte| byte == b'\n'), got.split_inclusive(|&byte| byte == b'\n'));
    for number in 1.. {
        match (a.next(), b.next()) {
            (None, None) => break,
            (a, b) if a == b => {}
            (a, b) => return format!("line {number}: expected {}\ngot {}", shown(a), shown(b)),
        }
    }
    format!("the first {} bytes are the same", expected.len().min(got.len()))
}

fn shown(line: Option<&[u8]>) -> String {
    let Some(line) = line else { return "the end".into() };
    let text = String::from_utf8_lossy(line);
    let start: String = text.chars().take(MAX_SHOWN).collect();
    format!("{start:?}{}", if start.len() < text.len() { "..." } else { "" })
}

fn differing_paths(
    store: &Arc<Store>,
    expected: &Tree,
    got: &Tree,
    above: &str,
    found: &mut Vec<String>,
) -> Result<()> {
    let names = expected.entries().iter().chain(got.entries()).map(|entry| &entry.name);
    for name in names.collect::<std::collections::BTreeSet<_>>() {
        let path = format!("{above}{}", String::from_utf8_lossy(name).escape_debug());
        let (a, b) = (expected.get(name).map(|entry| &entry.target), got.get(name).map(|entry| &entry.target));
        match (a, b) {
            _ if found.len() >= MAX_PATHS => return Ok(()),
            (a, b) if a == b => {}
            (Some(_), None) => found.push(format!("{path}: missing")),
            (None, Some(_)) => found.push(format!("{path}: not expected")),
            (Some(Target::Directory { cid: a }), Some(Target::Directory { cid: b })) => {
                differing_paths(store, &*store.tree(a)?, &*store.tree(b)?, &format!("{path}/"), found)?;
            }
            _ => found.push(format!("{path}: differs")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_differing_line_is_shown() {
        let table: [(&[u8], &[u8], &str); 4] = [
            (b"a\nb\n", b"a\nc\n", "line 2: expected \"b\\n\"\ngot \"c\\n\""),
            (b"a\nb", b"a\nb\n", "line 2: expected \"b\"\ngot \"b\\n\""),
            (b"a\n", b"a\n\x1b", "line 2: expected the end\ngot \"\\u{1b}\""),
            (b"a\n", b"a\n", "the first 2 bytes are the same"),
        ];
        for (expected, got, words) in table {
            assert_eq!(differing_line(expected, got), words);
        }
        let long = [b'x'; 1000];
        assert_eq!(
            differing_line(&long, b""),
            format!("line 1: expected \"{}\"...\ngot the end", "x".repeat(MAX_SHOWN))
        );
    }
}
