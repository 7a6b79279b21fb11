//! What is a module, and what is kept of it once it is compiled.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, SystemTime};

use gridfs_modules::manifest::ManifestError;
use gridfs_modules::{Engine, LoadError, LoadFailure, MAX_WASM_BYTES, Program, inspect};
use gridfs_store::{Cid, Codec};

use crate::rig::{Rig, guest_path, try_load};

fn refusal(text: &str) -> LoadError {
    try_load(&wat::parse_str(text).unwrap()).map(|_| ()).unwrap_err()
}

#[test]
fn imports_that_are_not_offered() {
    let with =
        |import: &str| refusal(&format!(r#"(module {import} (memory (export "memory") 1) (func (export "_start")))"#));
    for (import, name) in [
        (r#"(import "env" "f" (func))"#, "env.f"),
        (r#"(import "wasi_snapshot_preview1" "fd_dup" (func))"#, "wasi_snapshot_preview1.fd_dup"),
        (r#"(import "grid_1" "fd_read" (func))"#, "grid_1.fd_read"),
        (r#"(import "wasi_unstable" "fd_read" (func))"#, "wasi_unstable.fd_read"),
        (r#"(import "env" "g" (global i32))"#, "env.g"),
    ] {
        let error = with(import);
        assert_eq!(error.to_string(), format!("it imports {name}, which the ABI grid-1 does not offer"));
    }
    let imported_memory =
        r#"(module (import "env" "memory" (memory 1)) (export "memory" (memory 0)) (func (export "_start")))"#;
    assert!(matches!(refusal(imported_memory), LoadError::Import { .. }));
    let other_type = with(r#"(import "wasi_snapshot_preview1" "fd_close" (func (param i64)))"#);
    assert!(matches!(&other_type, LoadError::Invalid(why) if why.contains("fd_close")), "{other_type}");
    let other_kind = with(r#"(import "wasi_snapshot_preview1" "fd_close" (global i32))"#);
    assert!(matches!(&other_kind, LoadError::Invalid(why) if why.contains("fd_close")), "{other_kind}");
}

#[test]
fn exports_of_a_command() {
    for (text, name) in [
        (r#"(module (memory (export "memory") 1))"#, "_start"),
        (r#"(module (func (export "_start")))"#, "memory"),
        (r#"(module (memory (export "memory") 1) (func (export "_start") (param i32)))"#, "_start"),
        (r#"(module (memory (export "memory") 1) (func (export "_start") (result i32) (i32.const 0)))"#, "_start"),
        (r#"(module (memory (export "memory") 1) (global (export "_start") i32 (i32.const 0)))"#, "_start"),
        (r#"(module (func (export "memory")) (func (export "_start")))"#, "memory"),
        (r#"(module (memory (export "memory") 1) (func (export "_initialize")))"#, "_start"),
    ] {
        let error = refusal(text);
        assert!(matches!(error, LoadError::Export(export) if export == name), "{text}: {error}");
    }
}

#[test]
fn proposals_that_are_off() {
    for (memory, body) in [
        (r#"(memory (export "memory") i64 1)"#, ""),
        (r#"(memory (export "memory") 1 1 shared)"#, ""),
        (r#"(memory (export "memory") 1) (memory 1)"#, ""),
        (r#"(memory (export "memory") 1)"#, "(drop (i32.atomic.load (i32.const 0)))"),
    ] {
        let error = refusal(&format!(r#"(module {memory} (func (export "_start") {body}))"#));
        assert!(matches!(error, LoadError::Invalid(_)), "{memory} {body}: {error}");
    }
    for other in ["(tag (param i32))", "(type (struct (field i32)))"] {
        let wasm = wat::parse_str(format!(r#"(module {other} (memory (export "memory") 1) (func (export "_start")))"#));
        assert!(matches!(try_load(&wasm.unwrap()).err(), Some(LoadError::Invalid(_))), "{other}");
    }
}

#[test]
fn bytes_that_are_no_module() {
    let wasm = std::fs::read(guest_path("wc")).unwrap();
    assert!(matches!(try_load(b"").err(), Some(LoadError::Manifest(ManifestError::NotWasm))));
    assert!(matches!(try_load(b"#!/bin/sh\n").err(), Some(LoadError::Manifest(ManifestError::NotWasm))));
    assert!(matches!(try_load(b"\0asm\x0d\0\x01\0").err(), Some(LoadError::Manifest(ManifestError::Component))));
    assert!(matches!(try_load(b"\0asm\x01\0\0\0").err(), Some(LoadError::Export("_start"))));
    for len in [4, 7, 9, 100, wasm.len() / 2, wasm.len() - 1] {
        let error = try_load(&wasm[..len]).err().unwrap();
        assert!(matches!(error, LoadError::Manifest(ManifestError::Wasm(_))), "{len}: {error}");
    }
    let large = vec![0; MAX_WASM_BYTES as usize + 1];
    assert!(matches!(try_load(&large).err(), Some(LoadError::TooLarge(67_108_865))));
    assert!(matches!(inspect(&large), Err(LoadError::TooLarge(67_108_865))));
    let bad_code =
        wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start") (i32.add)))"#).unwrap();
    assert!(matches!(try_load(&bad_code).err(), Some(LoadError::Invalid(_))));
}

/// Each byte of a small module in turn becomes another: it loads or is refused, and nothing panics.
#[test]
fn damaged_modules_do_no_harm() {
    let wasm = std::fs::read(guest_path("wc")).unwrap();
    for at in (0..400).chain((400..wasm.len()).step_by(6_007)) {
        let mut damaged = wasm.clone();
        damaged[at] = damaged[at].wrapping_add(0x41);
        let _ = try_load(&damaged); // both answers are right
    }
}

#[test]
fn a_failing_store_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::new(dir.path()).unwrap();
    let cid = Cid::of(Codec::Raw, b"x");
    let ended = engine.load(&cid, || Err(gridfs_store::Error::NotFound { cid }));
    assert!(matches!(ended.err(), Some(LoadFailure::Store(gridfs_store::Error::NotFound { .. }))));
}

#[test]
fn code_that_cannot_be_kept_is_an_error_of_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let error = Engine::new(&dir.path().join("file")).err().unwrap().to_string();
    assert!(error.starts_with(&format!("can't create {}/file/", dir.path().display())), "{error}");
}

fn small(number: u32) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(module (memory (export "memory") 1) (func (export "_start") (drop (i32.const {number}))))"#
    ))
    .unwrap()
}

fn load_in(engine: &Engine, wasm: &[u8]) -> Arc<Program> {
    engine.load(&Cid::of(Codec::Raw, wasm), || Ok(wasm.to_vec())).unwrap()
}

fn code_files(dir: &Path) -> Vec<PathBuf> {
    let version = std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    std::fs::read_dir(version).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn compiled_code_is_kept() {
    let rig = Rig::new();
    let dir = tempfile::tempdir().unwrap();
    let wasm = std::fs::read(guest_path("wc")).unwrap();
    load_in(&Engine::new(dir.path()).unwrap(), &wasm);
    let files = code_files(dir.path());
    let [code] = &files[..] else { panic!("{files:?}") };
    assert_eq!(code.file_name().unwrap().to_str().unwrap(), Cid::of(Codec::Raw, &wasm).to_string());
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let age = |path: &Path| std::fs::File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
    let untouched = |path: &Path| path.metadata().unwrap().modified().unwrap() == long_ago;
    age(code);
    let program = load_in(&Engine::new(dir.path()).unwrap(), &wasm);
    assert!(untouched(code), "a second engine compiled again");
    assert_eq!(rig.text(&program, vec![rig.blob(b"1 2\n")]), "1 2 4\n");

    let whole = std::fs::read(code).unwrap();
    let mut flipped = whole.clone();
    flipped[5_000] ^= 1;
    for damaged in [&flipped[..], &whole[..whole.len() - 1], &whole[..31], b""] {
        std::fs::write(code, damaged).unwrap();
        age(code);
        let program = load_in(&Engine::new(dir.path()).unwrap(), &wasm);
        assert_eq!(rig.text(&program, vec![rig.blob(b"1 2\n")]), "1 2 4\n");
        assert!(!untouched(code), "damaged code was not replaced");
        assert_eq!(code_files(dir.path()), std::slice::from_ref(code));
    }
}

#[test]
fn the_directory_of_compiled_code_is_the_owner_s_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    Engine::new(&dir.path().join("code")).unwrap();
    let version = std::fs::read_dir(dir.path().join("code")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(version.metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

/// Two threads that asked for one module compiled it twice and wrote one file at the same time.
#[test]
fn one_module_asked_for_by_many_is_compiled_once() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::new(dir.path()).unwrap();
    let wasm = std::fs::read(guest_path("wc")).unwrap();
    let (read, barrier) = (AtomicUsize::new(0), Barrier::new(8));
    let programs: Vec<Arc<Program>> = std::thread::scope(|scope| {
        let load = || {
            barrier.wait();
            let wasm = || {
                read.fetch_add(1, Ordering::Relaxed);
                Ok(wasm.clone())
            };
            engine.load(&Cid::of(Codec::Raw, b"name"), wasm).unwrap()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(load)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(read.load(Ordering::Relaxed), 1);
    assert!(programs.iter().all(|program| Arc::ptr_eq(program, &programs[0])));
    assert_eq!(code_files(dir.path()).len(), 1);
}

#[test]
fn the_module_used_least_recently_is_unloaded() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::new(dir.path()).unwrap();
    let loaded = |number: u32| {
        let (wasm, mut read) = (small(number), false);
        let cid = Cid::of(Codec::Raw, &wasm);
        engine
            .load(&cid, || {
                read = true;
                Ok(wasm)
            })
            .unwrap();
        !read
    };
    for number in 0..256 {
        assert!(!loaded(number));
    }
    assert!(loaded(0), "256 fit");
    assert!(
        engine.load(&Cid::of(Codec::Raw, b"bad"), || Ok(b"bad".to_vec())).is_err(),
        "takes the place of 1, and leaves it"
    );
    assert!(loaded(0) && loaded(2));
    assert!(!loaded(1));
    assert!(loaded(0) && !loaded(256));
    assert!(!loaded(3), "3 was used least recently");
    assert!(loaded(0) && loaded(2) && loaded(256));
}
