//! Golden bytes, round trips, and every refusal.

use super::*;

/// An empty core module.
const EMPTY_WASM: &[u8] = b"\0asm\x01\0\0\0";

fn argument(name: &str, kind: ArgKind, required: bool, variadic: bool) -> Argument {
    Argument { name: name.into(), kind, required, variadic }
}

/// A manifest that uses every key.
fn full() -> Manifest {
    Manifest {
        v: 1,
        args: vec![
            argument("file", ArgKind::Blob, true, false),
            argument("depth", ArgKind::Int, false, false),
            argument("options", ArgKind::Text, false, true),
        ],
        name: "find".into(),
        accept: Accepts::Dynamic,
        limits: Some(Limits { fuel: Some(1_000_000), output_bytes: Some(24), ..Limits::default() }),
        ttl_ms: Some(300),
        promise: "Finds.".into(),
        returns: Returns::Tree,
        version: "1.2".into(),
    }
}

const FULL_CBOR: &[u8] = b"\xa9\
    \x61v\x01\
    \x64args\x83\
      \xa2\x64name\x64file\x64type\x64blob\
      \xa3\x64name\x65depth\x64type\x63int\x68required\xf4\
      \xa4\x64name\x67options\x64type\x64text\x68required\xf4\x68variadic\xf5\
    \x64name\x64find\
    \x66accept\x67dynamic\
    \x66limits\xa2\x64fuel\x1a\x00\x0f\x42\x40\x6coutput_bytes\x18\x18\
    \x66ttl_ms\x19\x01\x2c\
    \x67promise\x66Finds.\
    \x67returns\x64tree\
    \x67version\x631.2";

/// The smallest manifest, and ways to spoil its bytes.
const SMALL_CBOR: &[u8] = b"\xa6\x61v\x01\x64args\x80\x64name\x61a\x67promise\x61p\x67returns\x64blob\x67version\x610";

fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let at = bytes.windows(old.len()).position(|window| window == old).expect("the test names bytes that are there");
    [&bytes[..at], new, &bytes[at + old.len()..]].concat()
}

fn refusal(manifest: &Manifest) -> String {
    let error = manifest.validate().expect_err("refused");
    assert_eq!(Manifest::decode(&manifest.encode()).expect_err("refused too").to_string(), error.to_string());
    assert_eq!(embed(EMPTY_WASM, manifest).expect_err("refused too").to_string(), error.to_string());
    error.to_string()
}

fn with_args(args: Vec<Argument>) -> Manifest {
    Manifest { args, limits: None, ..full() }
}

#[test]
fn golden_bytes() {
    assert_eq!(full().encode(), FULL_CBOR);
    assert_eq!(Manifest::decode(FULL_CBOR).unwrap(), full());
    let small = Manifest::decode(SMALL_CBOR).unwrap();
    assert_eq!((small.args.len(), small.limits, small.returns), (0, None, Returns::Blob));
    assert_eq!(small.encode(), SMALL_CBOR);
}

#[test]
fn every_kind_and_limit_round_trips() {
    let mut manifest = Manifest::untyped();
    assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
    for kind in [ArgKind::Blob, ArgKind::Tree, ArgKind::Text, ArgKind::Int] {
        manifest.args[0].kind = kind;
        manifest.limits =
            Some(Limits { fuel: Some(u64::MAX), wall_ms: Some(0), memory_bytes: Some(1 << 32), output_bytes: Some(1) });
        assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
    }
}

#[test]
fn another_encoding_is_refused() {
    let long_head = replaced(SMALL_CBOR, b"\x61v\x01", b"\x61v\x18\x01");
    let indefinite_array = replaced(SMALL_CBOR, b"\x64args\x80", b"\x64args\x9f\xff");
    let written_default = replaced(
        FULL_CBOR,
        b"\xa2\x64name\x64file\x64type\x64blob",
        b"\xa3\x64name\x64file\x64type\x64blob\x68required\xf5",
    );
    let null_limits = replaced(&replaced(SMALL_CBOR, b"\xa6", b"\xa7"), b"\x67promise", b"\x66limits\xf6\x67promise");
    let other_order = replaced(SMALL_CBOR, b"\x61v\x01\x64args\x80", b"\x64args\x80\x61v\x01");
    let tagged = [b"\xd9\xd9\xf7", SMALL_CBOR].concat();
    let trailing = [SMALL_CBOR, b"\x00"].concat();
    for bytes in [long_head, indefinite_array, written_default, null_limits, other_order, tagged, trailing] {
        let error = Manifest::decode(&bytes).unwrap_err();
        assert!(matches!(error, ManifestError::NotDeterministic), "{error}: {bytes:x?}");
    }
}

#[test]
fn another_shape_is_refused() {
    let unknown_key = replaced(&replaced(SMALL_CBOR, b"\xa6", b"\xa7"), b"\x67version", b"\x65extra\x00\x67version");
    let unknown_argument_key = replaced(FULL_CBOR, b"\xa2\x64name\x64file", b"\xa3\x61x\x00\x64name\x64file");
    let unknown_limit = replaced(FULL_CBOR, b"\x64fuel", b"\x64fire");
    let twice = replaced(&replaced(SMALL_CBOR, b"\xa6", b"\xa7"), b"\x61v\x01", b"\x61v\x01\x61v\x01");
    let missing = replaced(&replaced(SMALL_CBOR, b"\xa6", b"\xa5"), b"\x64args\x80", b"");
    let unknown_kind = replaced(FULL_CBOR, b"\x63int", b"\x63nat");
    let negative = replaced(SMALL_CBOR, b"\x61v\x01", b"\x61v\x20");
    let cut = SMALL_CBOR[..SMALL_CBOR.len() - 1].to_vec();
    let deep = [b"\xa6\x61v\x01\x64args".as_slice(), &[0x81; 1000], b"\x80"].concat();
    let empty = Vec::new();
    for bytes in
        [unknown_key, unknown_argument_key, unknown_limit, twice, missing, unknown_kind, negative, cut, deep, empty]
    {
        let error = Manifest::decode(&bytes).unwrap_err();
        assert!(matches!(error, ManifestError::Shape(_)), "{error}: {bytes:x?}");
    }
}

#[test]
fn bad_names_are_refused() {
    for name in ["", ".", "..", "Find", "a b", "a/b", "é", &"a".repeat(65)] {
        let expected =
            format!("{name:?} is not a name: 1 to 64 characters of [a-z0-9._-], other than \".\" and \"..\"");
        assert_eq!(refusal(&Manifest { name: name.into(), ..full() }), expected);
        assert_eq!(refusal(&with_args(vec![argument(name, ArgKind::Text, true, false)])), expected);
    }
    Manifest { name: "a".repeat(64), ..full() }.validate().unwrap();
}

#[test]
fn bad_texts_are_refused() {
    let promise_rule = "the manifest's promise must have 1 to 4096 bytes and no control characters but line feeds";
    for promise in ["", "a\tb", "\u{1b}[2J", "\u{9b}2J", &"a".repeat(4097)] {
        assert_eq!(refusal(&Manifest { promise: promise.into(), ..full() }), promise_rule);
    }
    let version_rule = "the manifest's version must have 1 to 64 bytes and no control characters but line feeds";
    for version in ["", "1\0", &"1".repeat(65)] {
        assert_eq!(refusal(&Manifest { version: version.into(), ..full() }), version_rule);
    }
    Manifest { promise: "a\n".repeat(2048), version: "1".repeat(64), ..full() }.validate().unwrap();
}

#[test]
fn bad_arguments_are_refused() {
    let text = |name: &str, required, variadic| argument(name, ArgKind::Text, required, variadic);
    let many = |count: usize| with_args((0..count).map(|i| text(&format!("a{i}"), true, false)).collect());
    many(32).validate().unwrap();
    assert_eq!(refusal(&many(33)), "the manifest declares 33 arguments; at most 32 are allowed");
    assert_eq!(
        refusal(&with_args(vec![text("a", true, false), text("a", true, false)])),
        "two arguments are named \"a\"; each needs a name of its own"
    );
    assert_eq!(
        refusal(&with_args(vec![text("a", false, false), text("b", true, false)])),
        "argument \"b\" is required but follows an optional one; put it before"
    );
    assert_eq!(
        refusal(&with_args(vec![text("a", true, true)])),
        "argument \"a\" is variadic, so it may be absent: give it required = false"
    );
    assert_eq!(
        refusal(&with_args(vec![text("a", false, true), text("b", false, false)])),
        "argument \"a\" is variadic but not the last; only the last may be"
    );
}

#[test]
fn other_versions_and_empty_limits_are_refused() {
    assert_eq!(refusal(&Manifest { v: 2, ..full() }), "the manifest says v = 2; this program reads v = 1");
    assert_eq!(
        refusal(&Manifest { limits: Some(Limits::default()), ..full() }),
        "the manifest has limits but sets none of them; leave the key out"
    );
}

#[test]
fn a_long_manifest_is_refused_before_it_is_read() {
    let error = Manifest::decode(&vec![0xff; MAX_BYTES + 1]).unwrap_err();
    assert_eq!(error.to_string(), "the manifest has 65537 bytes; at most 65536 are allowed");
}

#[test]
fn embedding_appends_and_extracting_finds() {
    assert_eq!(extract(EMPTY_WASM).unwrap(), None);
    let wasm = embed(EMPTY_WASM, &full()).unwrap();
    let size = (1 + SECTION.len() + FULL_CBOR.len()) as u8;
    let head = [0, size | 0x80, 1, 13];
    assert_eq!(wasm, [EMPTY_WASM, &head, b"grid.manifest", FULL_CBOR].concat());
    assert_eq!(extract(&wasm).unwrap(), Some(full()));
}

#[test]
fn embedding_replaces_and_keeps_the_other_sections() {
    let before = b"\x00\x02\x01a";
    let after = b"\x01\x04\x01\x60\x00\x00";
    let first = embed(&[EMPTY_WASM, before].concat(), &Manifest::untyped()).unwrap();
    let between = [first.as_slice(), after].concat();
    let replaced = embed(&between, &full()).unwrap();
    assert_eq!(replaced, embed(&[EMPTY_WASM, before, after].concat(), &full()).unwrap());
    assert_eq!(embed(&replaced, &full()).unwrap(), replaced);
}

#[test]
fn two_manifests_are_refused_and_repaired_by_embedding() {
    let one = embed(EMPTY_WASM, &full()).unwrap();
    let two = [one.as_slice(), &one[EMPTY_WASM.len()..]].concat();
    assert!(matches!(extract(&two), Err(ManifestError::TwoManifests)));
    assert_eq!(embed(&two, &full()).unwrap(), one);
}

#[test]
fn what_is_not_a_core_module_is_refused() {
    let component = b"\0asm\x0d\0\x01\0".as_slice();
    let cut_section = [EMPTY_WASM, b"\x00\x05\x01a"].concat();
    let bad_section = [EMPTY_WASM, b"\x01\x00"].concat();
    let unknown_section = [EMPTY_WASM, b"\x3f\x00"].concat();
    for wasm in [b"".as_slice(), b"#!/bin/sh"] {
        for error in [extract(wasm).unwrap_err(), embed(wasm, &full()).unwrap_err()] {
            assert_eq!(error.to_string(), "the file is not a WASM module: it does not start with \"\\0asm\"");
        }
    }
    for wasm in [&EMPTY_WASM[..6], &cut_section, &bad_section] {
        assert!(matches!(extract(wasm), Err(ManifestError::Wasm(_))), "{wasm:x?}");
        assert!(matches!(embed(wasm, &full()), Err(ManifestError::Wasm(_))), "{wasm:x?}");
    }
    assert!(matches!(extract(&unknown_section), Err(ManifestError::UnknownSection(63))));
    for result in [extract(component).err(), embed(component, &full()).err()] {
        assert!(matches!(result, Some(ManifestError::Component)), "{result:?}");
    }
}
