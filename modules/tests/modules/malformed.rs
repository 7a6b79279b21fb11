//! Bytes that are no module, or one made to break what reads it: each is refused with its reason, and the engine runs on.

use gridfs_modules::manifest::{self, Manifest, ManifestError};
use gridfs_modules::{LoadError, MAX_FUNCTION_BYTES};

use crate::rig::{Rig, guest, load, try_load};

/// Sections by number. Source: the WebAssembly core specification, 5.5.2.
const CUSTOM: u8 = 0;
const TYPE: u8 = 1;
const IMPORT: u8 = 2;
const FUNCTION: u8 = 3;
const TABLE: u8 = 4;
const MEMORY: u8 = 5;
const GLOBAL: u8 = 6;
const EXPORT: u8 = 7;
const START: u8 = 8;
const ELEMENT: u8 = 9;
const CODE: u8 = 10;
const DATA: u8 = 11;

/// An unsigned number in LEB128.
fn leb(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn section(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number], &leb(content.len() as u64)[..], content].concat()
}

fn wasm(sections: &[Vec<u8>]) -> Vec<u8> {
    [b"\0asm\x01\0\0\0".to_vec(), sections.concat()].concat()
}

/// A good module with one function, of these bytes.
fn with_body(body: &[u8]) -> Vec<u8> {
    wasm(&[
        section(TYPE, b"\x01\x60\0\0"),
        section(FUNCTION, b"\x01\0"),
        section(MEMORY, b"\x01\0\x01"),
        section(EXPORT, b"\x02\x06memory\x02\0\x06_start\0\0"),
        section(CODE, &[&[1], &leb(body.len() as u64)[..], body].concat()),
    ])
}

fn nested_blocks(depth: usize) -> Vec<u8> {
    with_body(&[&b"\0"[..], &b"\x02\x40".repeat(depth), &b"\x0b".repeat(depth + 1)].concat())
}

fn why(wasm: &[u8]) -> String {
    match try_load(wasm) {
        Ok(_) => panic!("it was loaded"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_is_made_to_break_the_reader_is_refused() {
    let most = leb(u64::from(u32::MAX));
    let many = |number: u8| wasm(&[section(number, &most)]);
    let body = |locals: u64| with_body(&[&[1], &leb(locals)[..], b"\x7f\x0b"].concat());
    let good = with_body(b"\0\x0b");
    let twice = [&good[..], &section(TYPE, b"\0")].concat();
    let manifest = |content: &[u8]| [&good[..], &section(CUSTOM, &[b"\x0dgrid.manifest", content].concat())].concat();
    let embedded = manifest::embed(&good, &Manifest::untyped()).unwrap();
    load(&good);
    let rows: &[(&str, Vec<u8>, &str)] = &[
        ("2^32 types", many(TYPE), "types count exceeds limit"),
        ("2^32 imports", many(IMPORT), "imports count exceeds limit"),
        ("2^32 functions", many(FUNCTION), "code section is absent"),
        ("2^32 tables", many(TABLE), "tables count exceeds limit"),
        ("2^32 memories", many(MEMORY), "multiple memories"),
        ("2^32 globals", many(GLOBAL), "globals count exceeds limit"),
        ("2^32 exports", many(EXPORT), "exports count exceeds limit"),
        ("2^32 elements", many(ELEMENT), "element segments count exceeds limit"),
        ("2^32 data", many(DATA), "data segments count exceeds limit"),
        ("2^32 bodies", many(CODE), "function section is absent"),
        ("2^32 locals", body(u64::from(u32::MAX)), "too many locals"),
        ("50,001 locals", body(50_001), "too many locals"),
        ("a jump table of 2^32", with_body(&[&b"\0\x41\0\x0e"[..], &most, b"\0\x0b"].concat()), "br_table size"),
        ("a number without end", wasm(&[vec![TYPE, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80]]), "integer"),
        ("a section beyond the end", wasm(&[vec![TYPE, 100, 0]]), "unexpected end"),
        ("a section of 4 GiB", wasm(&[[&[CUSTOM], &most[..]].concat()]), "unexpected end"),
        ("a section of no number", wasm(&[section(99, b"")]), "unknown kind 99"),
        ("sections out of order", twice, "section out of order"),
        (
            "a function without code",
            wasm(&[section(TYPE, b"\x01\x60\0\0"), section(FUNCTION, b"\x01\0")]),
            "code section",
        ),
        ("code without a function", wasm(&[section(CODE, b"\x01\x02\0\x0b")]), "code"),
        ("a name that is no text", wasm(&[section(EXPORT, b"\x01\x01\xff\0\0")]), "UTF-8"),
        ("a start that is not there", wasm(&[section(START, b"\x07")]), "unknown function"),
        ("a block without end", with_body(b"\0\x02\x40\x0b"), "end"),
        ("an instruction that is none", with_body(b"\0\xff\x0b"), "illegal opcode"),
        ("a function too large", with_body(&[&b"\0"[..], &vec![1; MAX_FUNCTION_BYTES], b"\x0b"].concat()), "function"),
        ("a manifest of no bytes", manifest(b""), "manifest"),
        ("a manifest that nests", manifest(&[0x81; 60_000]), "manifest"),
        ("a manifest of 2^64 entries", manifest(b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff"), "manifest"),
        ("a manifest with a text of 2^64", manifest(b"\xa1\x7b\xff\xff\xff\xff\xff\xff\xff\xff"), "manifest"),
        ("a manifest too large", manifest(&[0; manifest::MAX_BYTES + 1]), "manifest"),
        ("two manifests", [&embedded[..], &manifest(b"\xa0")[good.len()..]].concat(), "more than one custom section"),
    ];
    let mut wrong = Vec::new();
    for (name, wasm, reason) in rows {
        let said = why(wasm);
        if !said.contains(reason) {
            wrong.push(format!("{name}: {said}"));
        }
        still_alive();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Each beginning of a module is refused; so is what has one byte more.
#[test]
fn what_is_cut_off_is_refused() {
    let whole = with_body(b"\0\x41\x00\x1a\x0b");
    load(&whole);
    for len in 0..whole.len() {
        let error = try_load(&whole[..len]).err().unwrap_or_else(|| panic!("{len} bytes were loaded"));
        assert!(
            matches!(
                &error,
                LoadError::Manifest(ManifestError::NotWasm | ManifestError::Wasm(_)) | LoadError::Invalid(_)
            ) || matches!(&error, LoadError::Export(_)),
            "{len}: {error}"
        );
    }
    why(&[&whole[..], &[0]].concat());
    still_alive();
}

/// What is deep or has many parts, and yet a module, is loaded and runs.
#[test]
fn large_modules_within_the_limits_run() {
    let rig = Rig::new();
    let functions = wat::parse_str(format!(
        r#"(module (memory (export "memory") 1) {} (func (export "_start")))"#,
        "(func (result i32) (i32.const 7))".repeat(20_000)
    ));
    for wasm in
        [nested_blocks(20_000), functions.unwrap(), with_body(&[&b"\x01"[..], &leb(50_000), b"\x7f\x0b"].concat())]
    {
        rig.run(&load(&wasm), Vec::new()).unwrap();
    }
}

fn still_alive() {
    let rig = Rig::new();
    assert_eq!(rig.text(&guest("wc"), vec![rig.blob(b"still here\n")]), " 1  2 11\n");
}
