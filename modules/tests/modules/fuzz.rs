//! Random sequences of host calls, with plausible, boundary and random arguments.
//!
//! The guest draws them itself, with a generator whose seed is `random_get` and whose state no host call reaches.
//! `cargo test` makes 20,000 calls. A longer run, as before a release:
//! `GRIDFS_FUZZ=10000000 cargo test -p gridfs-modules --test modules fuzz -- --nocapture`. A failure names its sequence,
//! and `GRIDFS_FUZZ=number,1000` runs only that.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use gridfs_modules::{Argument, Program, RunError};
use gridfs_store::Hash;

use crate::rig::{Rig, load_tree_wat, load_wat};
use crate::script::{FUNCTIONS, import};

const CALLS: u64 = 20_000;
const CALLS_OF_A_SEQUENCE: u64 = 1_000;
/// After so many sequences a new store, so that what they wrote does not pile up.
const SEQUENCES_OF_A_RIG: u64 = 50;

/// Paths, each in 16 bytes.
const PATHS: [&str; 16] = [
    "a", "b", "c/d", "tmp/a", "../a", "1", "1/f", "1/d/l", "in/1/f", "out/a", "grid/p/m", "p/m/x", ".", "a/../b/",
    "/x", "",
];

fn guest() -> String {
    let imports: String = FUNCTIONS.iter().map(|(name, _)| import(name)).collect();
    let mut cases = String::new();
    for (number, (name, shape)) in FUNCTIONS.iter().enumerate() {
        let draw = |kind| match kind {
            'I' => " (call $offset)",
            'p' => " (call $pointer)",
            _ => " (call $small)",
        };
        let arguments: String = shape.chars().map(draw).collect();
        // An exit would end most sequences early.
        let call = match *name {
            "proc_exit" => {
                "(if (i64.eqz (i64.and (call $roll) (i64.const 4095))) (then (call $proc_exit (call $small))))".into()
            }
            // Without its directories it would soon reach nothing.
            "fd_close" | "fd_renumber" => {
                format!("(if (i64.eqz (i64.and (call $roll) (i64.const 15))) (then (drop (call ${name}{arguments}))))")
            }
            name => format!("(drop (call ${name}{arguments}))"),
        };
        writeln!(cases, "(if (i32.eq (local.get $which) (i32.const {number})) (then {call} (return)))").unwrap();
    }
    let mut data: String = PATHS.iter().map(|path| format!("{path}{}", "\\00".repeat(16 - path.len()))).collect();
    for at in 0..16u32 {
        let words = [0x3000 + at * 512, at * at * 16, 0x1000 + at * 16, 3];
        data.extend(words.iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("\\{byte:02x}")));
    }
    format!(
        r#"(module {imports} (memory (export "memory") 2) (data $data "{data}")
        (global $state (mut i64) (i64.const 0))
        (func $roll (result i64) (local $z i64)
          (global.set $state (i64.add (global.get $state) (i64.const 0x9e3779b97f4a7c15)))
          (local.set $z (i64.mul (i64.xor (global.get $state) (i64.shr_u (global.get $state) (i64.const 30)))
            (i64.const 0xbf58476d1ce4e5b9)))
          (local.set $z (i64.mul (i64.xor (local.get $z) (i64.shr_u (local.get $z) (i64.const 27)))
            (i64.const 0x94d049bb133111eb)))
          (i64.xor (local.get $z) (i64.shr_u (local.get $z) (i64.const 31))))
        (func $below (param i64) (result i64) (i64.rem_u (call $roll) (local.get 0)))
        ;; A power of two, one less, what is near the end of memory, or anything.
        (func $wild (result i64)
          (if (i64.eqz (call $below (i64.const 3))) (then (return (call $roll))))
          (if (i64.eqz (call $below (i64.const 3)))
            (then (return (i64.sub (i64.const 0x20000) (call $below (i64.const 64))))))
          (i64.sub (i64.shl (i64.const 1) (call $roll)) (call $below (i64.const 2))))
        (func $small (result i32)
          (if (result i32) (i64.eqz (call $below (i64.const 12)))
            (then (i32.wrap_i64 (call $wild)))
            (else (i32.wrap_i64 (call $below (i64.const 16))))))
        (func $offset (result i64)
          (if (result i64) (i64.eqz (call $below (i64.const 4)))
            (then (call $wild))
            (else (call $below (i64.const 20000)))))
        (func $pointer (result i32)
          (if (result i32) (i64.eqz (call $below (i64.const 12)))
            (then (i32.wrap_i64 (call $wild)))
            (else (i32.wrap_i64 (i64.add (i64.const 0x1000) (i64.shl (call $below (i64.const 48)) (i64.const 4)))))))
        (func $step (param $which i32) {cases})
        (func (export "_start") (local $n i32)
          (drop (call $random_get (i32.const 0) (i32.const 8)))
          (global.set $state (i64.load (i32.const 0)))
          (loop $more
            (if (i32.eqz (i32.and (local.get $n) (i32.const 31)))
              (then (memory.init $data (i32.const 0x1000) (i32.const 0) (i32.const 512))))
            (call $step (i32.wrap_i64 (call $below (i64.const {functions}))))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $n) (i32.const {CALLS_OF_A_SEQUENCE}))))))"#,
        functions = FUNCTIONS.len()
    )
}

/// The first sequence, and how many calls.
fn wanted() -> (u64, u64) {
    let Ok(text) = std::env::var("GRIDFS_FUZZ") else { return (0, CALLS) };
    let numbers: Vec<u64> = text.split(',').map(|number| number.parse().expect("GRIDFS_FUZZ has a number")).collect();
    match numbers[..] {
        [calls] => (0, calls),
        [first, calls] => (first, calls),
        _ => panic!("GRIDFS_FUZZ is CALLS or FIRST,CALLS, not {text:?}"),
    }
}

/// Nothing panics, no sequence ends but in a way that it may, and each is the same when it is run again.
#[test]
fn fuzz_host_functions() {
    let text = guest();
    let programs = [load_wat(&text), load_tree_wat(&text)];
    let (first, wanted) = wanted();
    let (mut calls, mut sequences, started) = (0, 0, Instant::now());
    while calls < wanted {
        let mut rig = Rig::new();
        let tree = rig.tree(&[("f", rig.file(b"file"))]);
        rig.grid.answer("*", rig.file(b"nested"));
        rig.limits.memory_bytes = 1 << 20;
        for _ in 0..SEQUENCES_OF_A_RIG {
            let number = first + sequences;
            rig.seed = Hash::of(&number.to_le_bytes());
            let program = &programs[(number % 2) as usize];
            let arguments = vec![Argument::Tree(tree), rig.blob(b"blob"), Argument::Text("text".into())];
            let ended = sequence(&rig, program, &arguments, number);
            if number.is_multiple_of(16) {
                assert_eq!(ended, sequence(&rig, program, &arguments, number), "sequence {number}");
            }
            // One that ended early counts for nothing.
            calls += if ended.starts_with("done") { CALLS_OF_A_SEQUENCE } else { 0 };
            sequences += 1;
            if calls >= wanted {
                break;
            }
        }
    }
    eprintln!("host functions: {calls} calls in {sequences} sequences, {:.1?}", started.elapsed());
}

/// Runs one sequence; how it ended.
fn sequence(rig: &Rig, program: &Arc<Program>, arguments: &[Argument], number: u64) -> String {
    let run = std::panic::AssertUnwindSafe(|| rig.run(program, arguments.to_vec()));
    match std::panic::catch_unwind(run) {
        Ok(Ok(done)) => format!("done: {:?} {:?} {}", done.result, done.stderr, done.fuel),
        Ok(Err(error @ (RunError::Exit { .. } | RunError::Output { .. } | RunError::Memory { .. }))) => {
            error.to_string()
        }
        ended => panic!("sequence {number}: {:?}", ended.map(|ended| ended.map(|_| ()))),
    }
}
