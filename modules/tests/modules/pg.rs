//! The host services of namespace `pg`: answers, refusals, hostile pointers, and the class of who imports them.

use gridfs_modules::{Class, RunError, class};

use crate::rig::{Rig, TOKEN, load_wat};

const PAGE: i64 = 65_536;

/// A guest that has `data` at address 8, calls one function once, and prints the number that it answers.
fn guest(function: &str, data: &str, arguments: &[i64]) -> String {
    let constants: String = arguments.iter().map(|number| format!(" (i32.const {number})")).collect();
    format!(
        r#"(module
            (import "pg" "{function}" (func $ask (param{}) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 8) "{data}")
            (func (export "_start")
                (i32.store (i32.const 5000) (call $ask{constants}))
                (i32.store (i32.const 5008) (i32.const 5000))
                (i32.store (i32.const 5012) (i32.const 4))
                (drop (call $write (i32.const 1) (i32.const 5008) (i32.const 1) (i32.const 5016)))))"#,
        " i32".repeat(arguments.len())
    )
}

fn ask(rig: &Rig, function: &str, data: &str, arguments: &[i64]) -> Result<i32, RunError> {
    let done = rig.run(&load_wat(&guest(function, data, arguments)), Vec::new())?;
    Ok(i32::from_le_bytes(rig.content(&done.result).try_into().unwrap()))
}

fn verify(rig: &Rig, path: &str) -> Result<i32, RunError> {
    let token = String::from_utf8(TOKEN.to_vec()).unwrap();
    let (len, path_len) = (token.len() as i64, path.len() as i64);
    ask(rig, "pg_verify_capability", &(token + path), &[8, len, 8 + len, path_len])
}

fn access(rig: &Rig, path: &str) -> Result<i32, RunError> {
    ask(rig, "pg_access_cache", path, &[8, path.len() as i64])
}

#[test]
fn the_grid_answers_through_numbers() {
    let rig = Rig::new();
    rig.grid.answer("/p/m/known", rig.file(b"x"));
    let verified =
        ["/p/m/known", "/p/m/other", "malformed", "unknown", "pending", "late"].map(|p| verify(&rig, p).unwrap());
    assert_eq!(verified, [0, 2, 28, 44, 6, 73]);
    assert_eq!(ask(&rig, "pg_verify_capability", "no token/p/m/known", &[8, 8, 16, 10]).unwrap(), 9);
    let known = ["/p/m/known", "/p/m/other", "malformed", "unknown", "pending"].map(|path| access(&rig, path).unwrap());
    assert_eq!(known, [1, 0, -28, -44, -6]);
    assert!(rig.grid.asked().is_empty(), "nothing is called");
    for broken in [verify(&rig, "broken"), access(&rig, "broken")] {
        assert!(matches!(broken, Err(RunError::Nested(_))), "what the grid can't answer ends the call");
    }
}

#[test]
fn pointers_and_lengths_are_checked() {
    let rig = Rig::new();
    let verify = |arguments: [i64; 4]| ask(&rig, "pg_verify_capability", "a tokenpath", &arguments).unwrap();
    let access = |arguments: [i64; 2]| ask(&rig, "pg_access_cache", "path", &arguments).unwrap();
    assert_eq!(verify([8, 7, 15, 4]), 2);
    for out in [[PAGE - 3, 4], [PAGE, 1], [-1, 1], [-1, -1], [0, PAGE + 1], [1, -1], [i64::from(i32::MAX), 1]] {
        let [start, len] = out;
        assert_eq!(verify([start, len, 15, 4]), 21, "{out:?}");
        let path = access([start, len]);
        assert!([-21, -37].contains(&path), "{out:?} {path}");
        assert!([21, 37].contains(&verify([8, 7, start, len])), "{out:?}");
    }
    assert_eq!(verify([0, 32 * 1024 + 1, 15, 4]), 1, "too long a token");
    assert_eq!(verify([0, 32 * 1024, 15, 4]), 9);
    assert_eq!((access([8, 4096]), verify([8, 7, 8, 4096])), (-37, 37), "too long a path");
    assert_eq!((access([0, 12]), verify([8, 7, 0, 12])), (-28, 28), "a NUL in a path");
    // They may be one, and empty.
    assert_eq!(verify([8, 7, 8, 7]), 2);
    assert_eq!((access([PAGE, 0]), verify([PAGE, 0, PAGE, 0])), (0, 9));
    let not_utf8 = ask(&rig, "pg_access_cache", "\\ff\\fe", &[8, 2]).unwrap();
    assert_eq!(not_utf8, -28);
}

#[test]
fn who_imports_a_service_is_volatile() {
    let of = |wat: &str| class(&wat::parse_str(wat).unwrap()).unwrap();
    assert_eq!(of(&guest("pg_access_cache", "", &[0, 0])), Class::Volatile);
    assert_eq!(of(&guest("pg_verify_capability", "", &[0, 0, 0, 0])), Class::Volatile);
    assert_eq!(of(&guest("pg_access_cache", "", &[0, 0]).replace("\"pg\"", "\"wasi_snapshot_preview1\"")), Class::Pure);
    assert_eq!(of("(module)"), Class::Pure);
    let wasm = wat::parse_str(guest("pg_access_cache", "", &[0, 0])).unwrap();
    // It says so or that the file is cut, never that what it has read so far is pure.
    let imports = wasm.windows(2).position(|bytes| bytes == b"pg").unwrap();
    for end in imports..wasm.len() {
        assert!(!matches!(class(&wasm[..end]), Ok(Class::Pure)), "cut at {end}");
    }
}

#[test]
fn only_what_there_is_can_be_imported() {
    for wrong in [guest("pg_submit_bid", "", &[0]), guest("pg_access_cache", "", &[0])] {
        assert!(crate::rig::try_load(&wat::parse_str(wrong).unwrap()).is_err());
    }
}
