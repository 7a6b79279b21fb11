//! What ends a call: each limit, each failure, and what is left behind.

use gridfs_modules::manifest::{self, Manifest, Returns};
use gridfs_modules::{LoadError, MAX_STDERR_BYTES, RunError};
use gridfs_store::Target;

use crate::rig::{Done, Rig, guest, load, load_wat, try_load};
use crate::script::{OUT, Script, import, u32_of};

fn run(rig: &Rig, text: &str) -> Result<Done, RunError> {
    rig.run(&load_wat(text), Vec::new())
}

/// A module that imports what it needs, has 1 page of memory, and does `body`.
fn program(imports: &[&str], body: &str) -> String {
    let imports: String = imports.iter().map(|name| import(name)).collect();
    format!(
        r#"(module {imports} (memory (export "memory") 1)
        (data (i32.const 0) "\10\00\00\00\05\00\00\00") (data (i32.const 16) "said\n")
        (func (export "_start") {body}))"#
    )
}

const SAY: &str = "(drop (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))";

#[test]
fn an_endless_loop_burns_its_fuel() {
    let mut rig = Rig::new();
    rig.limits.fuel = 1_000_000;
    let ended = run(&rig, &program(&[], "(loop $l (br $l))"));
    assert!(matches!(ended, Err(RunError::Fuel { fuel: 1_000_000 })), "{ended:?}");
    rig.limits.fuel = 0;
    assert!(matches!(run(&rig, &program(&[], "(loop $l (br $l))")), Err(RunError::Fuel { fuel: 0 })));
}

#[test]
fn fuel_is_counted_exactly() {
    let rig = Rig::new();
    let done = run(&rig, &program(&[], "")).unwrap();
    assert_eq!(done.fuel, 1);
    let ten = run(&rig, &program(&[], &"(drop (i32.const 1))".repeat(10))).unwrap();
    assert_eq!(ten.fuel - done.fuel, 10);
}

#[test]
fn filling_memory_burns_fuel_by_the_byte() {
    let rig = Rig::new();
    let fill = "(memory.fill (i32.const 0) (i32.const 0) (i32.load (i32.const 32)))";
    let begin = "(i32.store (i32.const 32) (i32.const 60000))";
    let done = run(&rig, &program(&[], &format!("{begin} {fill}"))).unwrap();
    assert!((60_000..60_020).contains(&done.fuel), "{}", done.fuel);
}

#[test]
fn output_has_a_limit() {
    let mut rig = Rig::new();
    rig.limits.output_bytes = 12;
    let write = "(drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))";
    let done = run(&rig, &program(&["fd_write"], &write.repeat(2))).unwrap();
    assert_eq!(rig.content(&done.result), b"said\nsaid\n");
    let ended = run(&rig, &program(&["fd_write"], &write.repeat(3)));
    assert!(matches!(ended, Err(RunError::Output { limit_bytes: 12 })), "{ended:?}");
}

#[test]
fn memory_that_is_refused_names_the_limit_when_the_module_fails() {
    let mut rig = Rig::new();
    rig.limits.memory_bytes = 4 << 16;
    let grow = |pages: i32| format!("(i32.eq (memory.grow (i32.const {pages})) (i32.const -1))");
    let failing = format!("{SAY} (if {} (then (unreachable)))", grow(4));
    let ended = run(&rig, &program(&["fd_write"], &failing));
    assert!(
        matches!(&ended, Err(RunError::Memory { limit_bytes: 262_144, stderr }) if stderr == b"said\n"),
        "{ended:?}"
    );
    let exiting = format!("(if {} (then (call $proc_exit (i32.const 1))))", grow(4));
    let ended = run(&rig, &program(&["proc_exit"], &exiting));
    assert!(matches!(ended, Err(RunError::Memory { .. })), "{ended:?}");
    run(&rig, &program(&[], &format!("(if {} (then (unreachable)))", grow(3)))).unwrap();
    run(&rig, &program(&[], &format!("(if (i32.eqz {}) (then (unreachable)))", grow(4)))).unwrap();
}

#[test]
fn a_declared_minimum_above_the_limit_is_a_memory_failure() {
    let mut rig = Rig::new();
    rig.limits.memory_bytes = 4 << 16;
    let with_pages = |pages: u32| format!(r#"(module (memory (export "memory") {pages}) (func (export "_start")))"#);
    run(&rig, &with_pages(4)).unwrap();
    let ended = run(&rig, &with_pages(5));
    assert!(matches!(ended, Err(RunError::Memory { limit_bytes: 262_144, .. })), "{ended:?}");
}

#[test]
fn tables_count_as_memory() {
    let mut rig = Rig::new();
    rig.limits.memory_bytes = 1 << 17;
    let with_table =
        |size: u32| format!(r#"(module (memory (export "memory") 1) (table {size} funcref) (func (export "_start")))"#);
    run(&rig, &with_table(8192)).unwrap();
    let ended = run(&rig, &with_table(8193));
    assert!(matches!(ended, Err(RunError::Memory { .. })), "{ended:?}");
}

/// Growth beyond the module's own maximum was counted although it failed, until nothing was left.
#[test]
fn growth_that_fails_is_not_counted() {
    let mut rig = Rig::new();
    rig.limits.memory_bytes = 10 << 16;
    let text = r#"(module (memory (export "memory") 1 3) (table 1 2 funcref)
        (func (export "_start") (local $i i32)
          (loop $again
            (if (i32.ne (memory.grow (i32.const 3)) (i32.const -1)) (then (unreachable)))
            (if (i32.ne (table.grow (ref.null func) (i32.const 60000)) (i32.const -1)) (then (unreachable)))
            (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 20))))
          (if (i32.ne (memory.grow (i32.const 2)) (i32.const 1)) (then (unreachable)))
          (unreachable)))"#;
    let ended = run(&rig, text);
    assert!(matches!(ended, Err(RunError::Trap { .. })), "not the limit's fault: {ended:?}");
}

#[test]
fn the_pool_s_memory_is_a_limit_too() {
    let mut rig = Rig::new();
    rig.limits.memory_bytes = 4 << 30;
    let ended =
        run(&rig, &program(&[], "(if (i32.eq (memory.grow (i32.const 16384)) (i32.const -1)) (then (unreachable)))"));
    assert!(matches!(ended, Err(RunError::Memory { limit_bytes: 1_073_741_824, .. })), "{ended:?}");
    run(&rig, &program(&[], "(if (i32.eq (memory.grow (i32.const 16383)) (i32.const -1)) (then (unreachable)))"))
        .unwrap();
}

#[test]
fn deep_recursion_is_a_trap() {
    let rig = Rig::new();
    let text = r#"(module (memory (export "memory") 1)
        (func $f (param i64) (result i64) (i64.add (call $f (i64.add (local.get 0) (i64.const 1))) (local.get 0)))
        (func (export "_start") (drop (call $f (i64.const 0)))))"#;
    for _ in 0..3 {
        let ended = run(&rig, text);
        assert!(
            matches!(&ended, Err(RunError::Trap { what, .. }) if what == "wasm trap: call stack exhausted"),
            "{ended:?}"
        );
    }
    assert_eq!(rig.text(&guest("wc"), vec![rig.blob(b"still here\n")]), " 1  2 11\n");
}

#[test]
fn traps_keep_what_was_said() {
    let rig = Rig::new();
    let ended = run(&rig, &program(&["fd_write"], &format!("{SAY} (unreachable)"))).unwrap_err();
    assert_eq!(
        ended.to_string(),
        "the module trapped: wasm trap: wasm `unreachable` instruction executed; it said: said"
    );
    for (body, what) in [
        ("(drop (i32.div_u (i32.const 1) (i32.load (i32.const 64))))", "wasm trap: integer divide by zero"),
        ("(drop (i32.load (i32.const 65536)))", "wasm trap: out of bounds memory access"),
    ] {
        let ended = run(&rig, &program(&[], body));
        assert!(matches!(&ended, Err(RunError::Trap { what: w, .. }) if w == what), "{ended:?}");
    }
}

#[test]
fn exit_statuses() {
    let rig = Rig::new();
    let exit = |status: i64| {
        run(
            &rig,
            &program(
                &["fd_write", "proc_exit"],
                &format!("{SAY} (call $proc_exit (i32.const {status})) (unreachable)"),
            ),
        )
    };
    assert_eq!(exit(0).unwrap().stderr, b"said\n");
    for status in [1, 3, 255, 4_294_967_295] {
        let ended = exit(status);
        assert!(
            matches!(&ended, Err(RunError::Exit { status: s, stderr }) if i64::from(*s) == status && stderr == b"said\n"),
            "{ended:?}"
        );
    }
    assert_eq!(exit(3).unwrap_err().to_string(), "the module ended with exit status 3; it said: said");
}

#[test]
fn standard_error_is_cut_off_and_does_not_count_as_output() {
    let mut rig = Rig::new();
    rig.limits.output_bytes = 0;
    let done = run(&rig, &program(&["fd_write"], &SAY.repeat(20_000))).unwrap();
    assert_eq!(done.stderr.len(), MAX_STDERR_BYTES);
    assert_eq!(done.stderr, "said\n".repeat(20_000).as_bytes()[..MAX_STDERR_BYTES]);
}

/// A start function runs before the host has been handed the instance's memory.
#[test]
fn a_start_function_may_call_the_host() {
    let rig = Rig::new();
    let text = |start: &str| {
        format!(
            r#"(module {} {} {} (memory (export "memory") 1)
            (data (i32.const 0) "\10\00\00\00\05\00\00\00") (data (i32.const 16) "early")
            (func $early {start}) (start $early) (func (export "_start")))"#,
            import("fd_write"),
            import("path_open"),
            import("proc_exit")
        )
    };
    let write = "(if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))";
    let open = "(if (i32.ne (call $path_open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 5) (i32.const 0)
        (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32)) (i32.const 44)) (then (unreachable)))";
    let done = run(&rig, &text(&format!("{write} {open}"))).unwrap();
    assert_eq!(rig.content(&done.result), b"early");
    let done = run(&rig, &text(&format!("{write} (call $proc_exit (i32.const 0))"))).unwrap();
    assert_eq!(rig.content(&done.result), b"early", "exit status 0 is success there too");
    let ended = run(&rig, &text("(call $proc_exit (i32.const 4))"));
    assert!(matches!(ended, Err(RunError::Exit { status: 4, .. })), "{ended:?}");
    let ended = run(&rig, &text("(unreachable)"));
    assert!(matches!(ended, Err(RunError::Trap { .. })), "{ended:?}");
}

#[test]
fn a_damaged_or_missing_input_is_the_store_s_error() {
    let rig = Rig::new();
    let cid = gridfs_store::Cid::of(gridfs_store::Codec::Raw, b"never stored");
    let tree = rig.tree(&[("f", Target::File { cid, size_bytes: 12, executable: false })]);
    let mut s = Script::new();
    s.open(crate::script::IN_FD, "1/f", 0, crate::script::READ);
    let ended = rig.run(&s.load(), vec![gridfs_modules::Argument::Tree(tree)]);
    assert!(matches!(ended, Err(RunError::Store(gridfs_store::Error::NotFound { .. }))), "{ended:?}");
}

#[test]
fn the_same_invocation_gives_the_same_bytes_and_burns_the_same_fuel() {
    let rig = Rig::new();
    let mut s = Script::new();
    s.call("random_get", &[OUT, 64]).show(OUT, 64).call("clock_time_get", &[0, 0, OUT]).show(OUT, 8);
    for program in [s.load(), guest("freq"), guest("md")] {
        let once = || {
            let done = rig.run(&program, vec![rig.blob(b"# a b\n\nb *c* a\n")]).unwrap();
            (done.result, done.stderr, done.fuel)
        };
        let first = once();
        for _ in 1..20 {
            assert_eq!(once(), first);
        }
    }
}

#[test]
fn nans_have_canonical_bits() {
    let rig = Rig::new();
    let text = r#"(module (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 0) "\40\00\00\00\20\00\00\00")
        (func (export "_start")
          (f64.store (i32.const 80) (f64.const -nan:0x123))
          (f32.store (i32.const 88) (f32.const nan:0x5))
          (f64.store (i32.const 64) (f64.add (f64.load (i32.const 80)) (f64.const 1)))
          (f64.store (i32.const 72) (f64.sqrt (f64.load (i32.const 64))))
          (f32.store (i32.const 80) (f32.mul (f32.load (i32.const 88)) (f32.const 2)))
          (f32.store (i32.const 84) (f32.div (f32.load (i32.const 100)) (f32.load (i32.const 100))))
          (f64.store (i32.const 88) (f64.neg (f64.div (f64.load (i32.const 104)) (f64.load (i32.const 104)))))
          (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
    let done = run(&rig, text).unwrap();
    let bytes = rig.content(&done.result);
    let canonical = 0x7ff8_0000_0000_0000_u64.to_le_bytes();
    assert_eq!((&bytes[..8], &bytes[8..16]), (&canonical[..], &canonical[..]));
    assert_eq!((u32_of(&bytes[16..]), u32_of(&bytes[20..])), (0x7fc0_0000, 0x7fc0_0000));
    assert_eq!(bytes[24..], 0xfff8_0000_0000_0000_u64.to_le_bytes(), "negation sets the sign of the canonical one");
}

#[test]
fn the_manifest_lowers_limits() {
    let limits = manifest::Limits { fuel: Some(5), memory_bytes: Some(u64::MAX), ..Default::default() };
    let lowered = crate::rig::LIMITS.lowered_by(Some(&limits));
    assert_eq!((lowered.fuel, lowered.memory_bytes), (5, 256 << 20));
    assert_eq!((lowered.wall_ms, lowered.output_bytes), (60_000, 64 << 20));
    assert_eq!(crate::rig::LIMITS.lowered_by(None), crate::rig::LIMITS);
}

#[test]
fn a_module_is_called_by_the_name_in_its_manifest() {
    let rig = Rig::new();
    let mut s = Script::new();
    s.call("args_get", &[OUT, OUT + 64]).show(OUT + 64, 6);
    let manifest = Manifest { name: "hello".into(), returns: Returns::Blob, ..Manifest::untyped() };
    let program = load(&manifest::embed(&wat::parse_str(s.text()).unwrap(), &manifest).unwrap());
    assert_eq!(program.manifest(), &manifest);
    assert_eq!(rig.run(&program, Vec::new()).unwrap().stderr[4..], *b"hello\0");
}

#[test]
fn a_memory_larger_than_the_pool_s_is_no_module() {
    let wasm = wat::parse_str(r#"(module (memory (export "memory") 16385) (func (export "_start")))"#).unwrap();
    assert!(matches!(try_load(&wasm), Err(LoadError::Invalid(_))));
}
