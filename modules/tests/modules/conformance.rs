//! The public conformance suite of preview1, WebAssembly/wasi-testsuite, run case by case.
//!
//! Nothing of it lies here. It runs where a checkout of its branch `prod/testsuite-base` is named:
//! `GRIDFS_CONFORMANCE=DIR cargo test -p gridfs-modules --test modules conformance -- --nocapture`.
//! The directory that a case is to find as `/` is empty for most. What is not empty can't be given to a module, whose `/`
//! begins empty, but as the tree `/in/1`: these few cases are in C, and are built again with clang, together with
//! `conformance.c`, which copies the tree.

use std::path::{Path, PathBuf};
use std::process::Command;

use gridfs_modules::{Argument, RunError};
use gridfs_store::{Durability, Target, ingest};

use crate::rig::{Rig, try_load, words};

/// Cases that ask for what a module has not.
const SKIPPED: [(&str, &str); 3] = [
    ("environ_get-multiple-variables", "the environment is empty"),
    ("environ_sizes_get-multiple-variables", "the environment is empty"),
    ("sock_shutdown-invalid_fd", "it takes descriptor 3 to be closed, which is /in"),
];

#[derive(serde::Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Case {
    args: Vec<String>,
    root: Option<String>,
    env: serde_json::Value,
    exit_code: u32,
    stdout: String,
}

#[test]
fn conformance_suite() {
    let Ok(suite) = std::env::var("GRIDFS_CONFORMANCE") else {
        eprintln!("SKIPPED: conformance. GRIDFS_CONFORMANCE names no checkout of WebAssembly/wasi-testsuite.");
        return;
    };
    let (mut passed, mut failed) = (0, Vec::new());
    for language in ["assemblyscript", "c", "rust"] {
        let mut cases = built(&Path::new(&suite).join("tests").join(language).join("testsuite/wasm32-wasip1"));
        cases.sort();
        assert!(
            !cases.is_empty(),
            "{suite} has no built cases in {language}: check out its branch prod/testsuite-base"
        );
        for wasm in cases {
            let name = wasm.file_stem().unwrap().to_str().unwrap();
            let skipped = SKIPPED.iter().find(|(case, _)| name == *case);
            let ended = skipped.map_or_else(|| run(&wasm), |(_, why)| Err(format!("skipped: {why}")));
            println!("{language:14} {name:40} {}", ended.as_ref().map_or_else(String::as_str, |()| "passed"));
            passed += usize::from(ended.is_ok());
            if ended.is_err() && skipped.is_none() {
                failed.push(name.to_string());
            }
        }
    }
    println!("{passed} passed, {} skipped, {} failed", SKIPPED.len(), failed.len());
    assert!(failed.is_empty(), "{failed:?}");
}

fn built(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "wasm")).collect()
}

fn run(wasm: &Path) -> Result<(), String> {
    let case: Case = match std::fs::read(wasm.with_extension("json")) {
        Ok(text) => serde_json::from_slice(&text).map_err(|e| e.to_string())?,
        Err(_) => Case::default(), // most have none
    };
    assert!(case.env.as_object().is_none_or(|env| env.is_empty()), "a case with an environment is in the table");
    let rig = Rig::new();
    let mut arguments = words(&case.args.iter().map(String::as_str).collect::<Vec<_>>());
    let root = case.root.map(|root| wasm.with_file_name(root)).filter(|root| has_files(root));
    let bytes = match &root {
        Some(root) => {
            arguments.push(tree(&rig, root));
            built_with_root(wasm)?
        }
        None => std::fs::read(wasm).unwrap(),
    };
    let program = try_load(&bytes).map_err(|e| e.to_string())?;
    let (status, stdout) = match rig.run(&program, arguments) {
        Ok(done) => (0, rig.content(&done.result)),
        Err(RunError::Exit { status, .. }) if status == case.exit_code => (status, Vec::new()),
        Err(error) => return Err(format!("{error}: {}", said(&error))),
    };
    if status != case.exit_code {
        return Err(format!("exit status {status}, not {}", case.exit_code));
    }
    let stdout = String::from_utf8_lossy(&stdout);
    if !case.stdout.is_empty() && stdout != case.stdout {
        return Err(format!("wrote {stdout:?}, not {:?}", case.stdout));
    }
    Ok(())
}

fn said(error: &RunError) -> String {
    match error {
        RunError::Exit { stderr, .. } | RunError::Trap { stderr, .. } | RunError::Memory { stderr, .. } => {
            String::from_utf8_lossy(stderr).into_owned()
        }
        _ => String::new(),
    }
}

fn has_files(root: &Path) -> bool {
    std::fs::read_dir(root).unwrap().any(|entry| entry.unwrap().file_name() != ".keep")
}

fn tree(rig: &Rig, root: &Path) -> Argument {
    let mut batch = rig.store.batch();
    let on = &mut |_: ingest::Event<'_>| std::ops::ControlFlow::Continue(());
    let target = ingest::put_path(&mut batch, root, ingest::Read::Changed, on).unwrap();
    batch.commit(Durability::Lazy).unwrap();
    let Target::Directory { cid } = target else { panic!("{} is no directory", root.display()) };
    Argument::Tree(cid)
}

/// The case in C, built together with the copying of its root.
fn built_with_root(wasm: &Path) -> Result<Vec<u8>, String> {
    let name = wasm.file_name().unwrap().to_str().unwrap().replace(".wasm", ".c");
    let source = wasm.parent().unwrap().join("../../src").join(name);
    let copying = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/modules/conformance.c");
    let out = tempfile::tempdir().unwrap();
    let program = out.path().join("case.wasm");
    let clang = Command::new("clang")
        .args(["--target=wasm32-wasi", "-O1", "-o"])
        .args([&program, &source, &copying])
        .output()
        .map_err(|e| format!("can't run clang, which has to build this case again: {e}"))?;
    if !clang.status.success() {
        return Err(format!("clang: {}", String::from_utf8_lossy(&clang.stderr)));
    }
    Ok(std::fs::read(program).unwrap())
}
