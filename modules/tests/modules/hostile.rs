//! A corpus of hostile modules: each ends in its proper error, within its limits, and the engine runs on.
//!
//! Bad pointers to each host function are in `functions.rs` and `pg.rs`, bytes that are no module in `malformed.rs`,
//! whole nodes under attack in `tests/bad_input.rs`.

use gridfs_modules::{Argument, Limits, MAX_STDERR_BYTES, RunError};
use gridfs_store::Target;

use crate::rig::{Done, Rig, guest, load_tree_wat, load_wat, words};
use crate::script::errno::*;
use crate::script::{CREATE, DIRECTORY, FUNCTIONS, GRID_FD, IN_FD, OUT_FD, READ, ROOT_FD, WRITE, import};

/// How an attack ends.
#[derive(Clone, Debug, PartialEq)]
enum End {
    /// By itself, with exit status 0: it was only refused what it asked for.
    Good,
    Exit(u32),
    Fuel,
    Memory,
    Output,
    Nested,
    /// With a trap, in the engine's words behind "wasm trap: ".
    Trap(String),
}

/// An attack: what it tries, the module, how it ends.
type Row = (&'static str, String, End);

const LIMITS: Limits = Limits { fuel: 2_000_000, wall_ms: 60_000, memory_bytes: 4 << 20, output_bytes: 1 << 20 };

/// Where a module of [`module`] has a buffer list of the 64 KiB from 65,536 on, room for results, and text of its own.
const BUFFERS: i64 = 16;
const ROOM: i64 = 64;
const TEXT: i64 = 4096;

/// A module with 2 pages of memory and what else it declares, that does `body`.
fn module(declares: &str, body: &str) -> String {
    let text = [declares, body].concat();
    let is_called = |name: &str| [" ", ")"].iter().any(|end| text.contains(&format!("(call ${name}{end}")));
    let used = FUNCTIONS.iter().filter(|(name, _)| is_called(name));
    let imports: String = used.map(|(name, _)| import(name)).collect();
    format!(
        r#"(module {imports} (memory (export "memory") 2) {declares}
        (data (i32.const 16) "\00\00\01\00\00\00\01\00")
        (func $main (export "_start") (local $n i32) (local $errno i32) {body}))"#
    )
}

/// A module that has `text` at [`TEXT`].
fn with_text(text: &str, body: &str) -> String {
    let escaped: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    module(&format!("(data (i32.const {TEXT}) \"{escaped}\")"), body)
}

/// One call of a host function; its errno is the value.
fn call(name: &str, args: &[i64]) -> String {
    let (_, shape) = FUNCTIONS.iter().find(|(n, _)| *n == name).unwrap();
    assert_eq!(shape.len(), args.len(), "{name} takes {shape}");
    let constant = |(kind, arg): (char, &i64)| match kind {
        'I' => format!(" (i64.const {arg})"),
        _ => format!(" (i32.const {})", *arg as u32 as i32),
    };
    let args: String = shape.chars().zip(args).map(constant).collect();
    format!("(call ${name}{args})")
}

fn open(fd: i64, path: i64, len: i64, oflags: i64, rights: i64) -> String {
    call("path_open", &[fd, 0, path, len, oflags, rights, 0, 0, ROOM])
}

fn write(fd: i64) -> String {
    call("fd_write", &[fd, BUFFERS, 1, ROOM])
}

/// Fails with the errno as exit status unless `call` answers `errno`.
fn answers(errno: u32, call: &str) -> String {
    format!("(local.set $errno {call}) (if (i32.ne (local.get $errno) (i32.const {errno})) {EXIT})")
}

const EXIT: &str = "(then (call $proc_exit (local.get $errno)))";

/// Does `calls` again and again, whatever they answer; `$n` counts.
fn forever(calls: &[String]) -> String {
    let drops: String = calls.iter().map(|call| format!("(drop {call})")).collect();
    format!("(loop $again (local.set $n (i32.add (local.get $n) (i32.const 1))) {drops} (br $again))")
}

/// Does `call` until it is refused, which has to be with `errno`.
fn until(errno: u32, call: &str) -> String {
    format!(
        "(loop $again
           (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (local.set $errno {call})
           (br_if $again (i32.eqz (local.get $errno))))
         (if (i32.ne (local.get $errno) (i32.const {errno})) {EXIT})"
    )
}

/// Does `call` when the letters at [`TEXT`] say which round it is.
fn numbered(call: &str) -> String {
    let digit = |shift: u32| {
        format!(
            "(i32.store8 (i32.const {}) (i32.add (i32.const 97)
               (i32.and (i32.shr_u (local.get $n) (i32.const {shift})) (i32.const 15))))",
            TEXT + i64::from(shift / 4)
        )
    };
    let digits: String = [0, 4, 8, 12, 16].map(digit).concat();
    format!("(block (result i32) {digits} {call})")
}

fn trap(what: &str) -> End {
    End::Trap(what.into())
}

/// What runs for too long.
fn endless() -> Vec<Row> {
    let through_table = "(type $t (func)) (table 1 funcref) (elem (i32.const 0) $a)
        (func $a (return_call_indirect (type $t) (i32.const 0)))";
    let bulk = |instruction: &str| module("(table 10000 funcref)", &format!("(loop $l {instruction} (br $l))"));
    let calls = |name: &str, args: &[i64]| module("", &forever(&[call(name, args)]));
    vec![
        ("a loop", module("", "(loop $l (br $l))"), End::Fuel),
        ("a loop in the start section", module("(func $s (loop $l (br $l))) (start $s)", ""), End::Fuel),
        ("a loop that switches", module("", "(loop $l (br_table $l $l $l (local.get $n)))"), End::Fuel),
        ("tail calls", module("(func $a (return_call $b)) (func $b (return_call $a))", "(call $a)"), End::Fuel),
        ("tail calls through a table", module(through_table, "(call $a)"), End::Fuel),
        ("filling memory", bulk("(memory.fill (i32.const 0) (i32.const 1) (i32.const 131072))"), End::Fuel),
        ("copying memory", bulk("(memory.copy (i32.const 0) (i32.const 1) (i32.const 131071))"), End::Fuel),
        ("filling a table", bulk("(table.fill (i32.const 0) (ref.null func) (i32.const 10000))"), End::Fuel),
        ("copying a table", bulk("(table.copy (i32.const 0) (i32.const 1) (i32.const 9999))"), End::Fuel),
        ("reading the clock", calls("clock_time_get", &[0, 0, ROOM]), End::Fuel),
        ("sleeping", calls("poll_oneoff", &[65_536, ROOM, 1, 256]), End::Fuel),
        ("yielding", calls("sched_yield", &[]), End::Fuel),
        ("asking for random bytes", calls("random_get", &[65_536, 100]), End::Fuel),
        ("listing a directory", calls("fd_readdir", &[ROOT_FD, ROOM, 30, 0, 256]), End::Fuel),
        ("writing to standard error", calls("fd_write", &[2, BUFFERS, 1, ROOM]), End::Fuel),
        ("reading standard input", calls("fd_pread", &[0, BUFFERS, 1, 0, ROOM]), End::Fuel),
        ("opening what is not there", calls("path_open", &[IN_FD, 0, 0, 1, 0, READ, 0, 0, ROOM]), End::Fuel),
    ]
}

/// What goes too deep.
fn deep() -> Vec<Row> {
    let stack = || trap("call stack exhausted");
    let one = "(func $f (param i64) (result i64)
        (i64.add (call $f (i64.add (local.get 0) (i64.const 1))) (local.get 0)))";
    let two = "(func $a (result i32) (i32.add (call $b) (i32.const 1)))
        (func $b (result i32) (i32.add (call $a) (i32.const 1)))";
    let through_table = "(type $t (func (result i32))) (table 1 funcref) (elem (i32.const 0) $a)
        (func $a (result i32) (i32.add (call_indirect (type $t) (i32.const 0)) (i32.const 1)))";
    let wide = format!(
        "(func $f {} (result i32) {} (i32.add (call $f {}) (i32.add {})))",
        "(param i32)".repeat(200),
        "(drop (local.get 0))",
        "(local.get 199)".repeat(200),
        "(local.get 3)".repeat(2),
    );
    let started = format!("{one} (func $s (drop (call $f (i64.const 0)))) (start $s)");
    vec![
        ("recursion", module(one, "(drop (call $f (i64.const 0)))"), stack()),
        ("mutual recursion", module(two, "(drop (call $a))"), stack()),
        ("recursion through a table", module(through_table, "(drop (call $a))"), stack()),
        ("recursion in the start section", module(&started, ""), stack()),
        (
            "recursion with wide frames",
            module(&wide, &format!("(drop (call $f {}))", "(i32.const 1)".repeat(200))),
            stack(),
        ),
    ]
}

/// What wants too much.
fn greedy() -> Vec<Row> {
    let grow = |pages: u32| format!("(i32.ne (memory.grow (i32.const {pages})) (i32.const -1))");
    let grow_once = |pages: u32| module("", &format!("(if (i32.eqz {}) {EXIT_1})", grow(pages)));
    const EXIT_1: &str = "(then (call $proc_exit (i32.const 1)))";
    let table =
        "(loop $l (br_if $l (i32.ne (table.grow (ref.null func) (i32.const 999)) (i32.const -1)))) (unreachable)";
    let fails = |body: String| module("", &format!("{body} (unreachable)"));
    let declared = |memory: &str| format!(r#"(module (memory (export "memory") {memory} (func (export "_start")))"#);
    let file = format!("(drop {})", open(ROOT_FD, TEXT, 1, CREATE, READ | WRITE));
    let cell = |body: &str| with_text("f", &format!("{file} {body}"));
    let size = |bytes: i64| call("fd_filestat_set_size", &[7, bytes]);
    let read = call("fd_read", &[7, BUFFERS, 1, ROOM]);
    let create =
        format!("(block (result i32) (drop (call $fd_close (i32.const 7))) {})", open(ROOT_FD, TEXT, 5, CREATE, WRITE));
    vec![
        ("memory page by page", fails(format!("(loop $l (br_if $l {}))", grow(1))), End::Memory),
        ("more memory than there can be", grow_once(65_534), End::Memory),
        ("most of what there can be", grow_once(16_382), End::Memory),
        ("memory from the start", declared("65)"), End::Memory),
        ("a table from the start", declared("60) (table 100000 funcref)"), End::Memory),
        ("a table that grows", module("(table 0 funcref)", table), trap("wasm `unreachable` instruction executed")),
        ("standard output", module("", &forever(&[write(1)])), End::Output),
        ("a file in memory", cell(&format!("{} (unreachable)", until(NOSPC, &write(7)))), End::Memory),
        ("files in memory", fails(until(NOSPC, &numbered(&create))), End::Memory),
        (
            "directories in memory",
            fails(until(NOSPC, &numbered(&call("path_create_directory", &[ROOT_FD, TEXT, 5])))),
            End::Memory,
        ),
        (
            "links in memory",
            fails(format!(
                "(memory.fill (i32.const 65536) (i32.const 97) (i32.const 4095)) {}",
                until(NOSPC, &numbered(&call("path_symlink", &[65_536, 4095, ROOT_FD, TEXT, 5])))
            )),
            End::Memory,
        ),
        ("a file of 8 EiB", cell(&format!("{} {}", answers(OK, &size(i64::MAX)), forever(&[read]))), End::Fuel),
        ("a file stretched and cut", cell(&forever(&[size(i64::MAX), size(0)])), End::Fuel),
        ("descriptors", module("", &until(MFILE, &open(IN_FD, 0, 0, DIRECTORY, READ))), End::Good),
        ("buffers", module("", &answers(INVAL, &call("fd_write", &[1, 0, 1025, ROOM]))), End::Good),
        ("subscriptions", module("", &answers(INVAL, &call("poll_oneoff", &[0, 0, 1025, ROOM]))), End::Good),
        ("arguments larger than memory", module("", &answers(FAULT, &call("args_get", &[0, 64]))), End::Good),
    ]
}

/// What leads out, around, or nowhere.
fn crooked() -> Vec<Row> {
    let opens =
        |fd: i64, path: &str, errno: u32| with_text(path, &answers(errno, &open(fd, TEXT, path.len() as i64, 0, READ)));
    let long = |len: i64| module("", &answers(NAMETOOLONG, &open(ROOT_FD, 0, len, 0, READ)));
    let not_text = "(block (result i32) (i32.store8 (i32.const 4096) (i32.const 255))";
    let not_text = answers(INVAL, &format!("{not_text} {})", open(GRID_FD, TEXT, 1, 0, READ)));
    let link = answers(OK, &call("path_symlink", &[TEXT, 1, ROOT_FD, TEXT, 1]));
    let followed = answers(LOOP, &call("path_open", &[ROOT_FD, 1, TEXT, 1, 0, READ, 0, 0, ROOM]));
    let made = answers(OK, &call("path_create_directory", &[ROOT_FD, TEXT, 5]));
    let into_itself = answers(INVAL, &call("path_rename", &[ROOT_FD, TEXT, 5, ROOT_FD, TEXT, 7]));
    let unmount = answers(ROFS, &call("path_remove_directory", &[ROOT_FD, TEXT, 2]));
    let closes = "(loop $l (drop (call $fd_close (local.get $n)))
        (local.set $n (i32.add (local.get $n) (i32.const 1))) (br_if $l (i32.lt_u (local.get $n) (i32.const 99))))";
    let changes = answers(ROFS, &open(IN_FD, TEXT, 3, 0, WRITE));
    vec![
        ("out of /in", opens(IN_FD, "../etc/passwd", NOTCAPABLE), End::Good),
        ("out of /in, absolutely", opens(IN_FD, "/etc/passwd", NOTCAPABLE), End::Good),
        ("out of /in, through a file", opens(IN_FD, "./2/.././../x", NOTDIR), End::Good),
        ("out of an argument", opens(IN_FD, "1/d/../../../x", NOTCAPABLE), End::Good),
        ("out of an argument by a link", opens(IN_FD, "1/out/x", NOTCAPABLE), End::Good),
        ("out of an argument by an absolute link", opens(IN_FD, "1/abs/x", NOTCAPABLE), End::Good),
        ("round a loop of links", opens(IN_FD, "1/loop/x", LOOP), End::Good),
        ("into an input", with_text("1/f", &changes), End::Good),
        ("out of /out", opens(OUT_FD, "a/../../x", NOTCAPABLE), End::Good),
        ("out of /grid", opens(GRID_FD, "a/../../x", NOTCAPABLE), End::Good),
        ("to nobody's call", opens(GRID_FD, "local/none/x", OK), End::Nested),
        ("to a call that is no text", module("", &not_text), End::Good),
        ("out of /", opens(ROOT_FD, "tmp/../../x", NOTCAPABLE), End::Good),
        ("to the machine's files", opens(ROOT_FD, "etc/passwd", NOENT), End::Good),
        ("out of /in, from /", opens(ROOT_FD, "in/../tmp", NOTCAPABLE), End::Good),
        ("round a loop in memory", with_text("l", &format!("{link} {followed}")), End::Good),
        ("a directory into itself", with_text("tmp/d/e", &format!("{made} {into_itself}")), End::Good),
        ("away with /in", with_text("in", &unmount), End::Good),
        ("a path too long", long(4096), End::Good),
        ("a path without end", long(-1), End::Good),
        ("a closed standard output", module("", &format!("{closes} {}", answers(BADF, &write(1)))), End::Good),
        ("an exit of -1", module("", "(call $proc_exit (i32.const -1))"), End::Exit(u32::MAX)),
        (
            "an exit in the start section",
            module("(func $s (call $proc_exit (i32.const 9))) (start $s)", ""),
            End::Exit(9),
        ),
    ]
}

/// What is no sense.
fn absurd() -> Vec<Row> {
    let outside = || trap("out of bounds memory access");
    let table = || trap("undefined element: out of bounds table access");
    let typed = |result: &str, elem: &str| format!("(type $t (func {result})) (table 1 funcref) {elem}");
    let elem = "(elem (i32.const 0) $main)";
    let n = "(local.get $n)";
    vec![
        ("unreachable", module("", "(unreachable)"), trap("wasm `unreachable` instruction executed")),
        ("a read behind memory", module("", "(drop (i32.load offset=4294967295 (i32.const -1)))"), outside()),
        ("a write across the end", module("", "(i64.store (i32.const 131065) (i64.const 1))"), outside()),
        ("a vector across the end", module("", "(drop (v128.load (i32.const 131057)))"), outside()),
        ("a fill that wraps", module("", "(memory.fill (i32.const -1) (i32.const 0) (i32.const 32))"), outside()),
        ("a copy that wraps", module("", "(memory.copy (i32.const 0) (i32.const -16) (i32.const 32))"), outside()),
        ("data outside memory", module("(data (i32.const 131071) \"xx\")", ""), outside()),
        ("elements outside a table", module("(table 1 funcref) (elem (i32.const 1) $main)", ""), table()),
        ("a call outside a table", module(&typed("", ""), "(call_indirect (type $t) (i32.const 7))"), table()),
        (
            "a call of nothing",
            module(&typed("", ""), "(call_indirect (type $t) (i32.const 0))"),
            trap("uninitialized element"),
        ),
        (
            "a call of another type",
            module(&typed("(result i64)", elem), "(drop (call_indirect (type $t) (i32.const 0)))"),
            trap("indirect call type mismatch"),
        ),
        ("a division by zero", module("", &format!("(drop (i32.rem_u {n} {n}))")), trap("integer divide by zero")),
        (
            "a quotient too large",
            module("", &format!("(drop (i32.div_s (i32.const 0x80000000) (i32.sub {n} (i32.const 1))))")),
            trap("integer overflow"),
        ),
        (
            "an integer from no number",
            module("", &format!("(drop (i32.trunc_f32_s (f32.div (f32.convert_i32_s {n}) (f32.const 0))))")),
            trap("invalid conversion to integer"),
        ),
    ]
}

#[test]
fn attacks_end_in_their_proper_error() {
    let mut rig = Rig::new();
    rig.limits = LIMITS;
    let link = |target: &str| Target::Symlink { target: target.as_bytes().to_vec() };
    let tree = rig.tree(&[
        ("f", rig.file(b"f")),
        ("d", Target::Directory { cid: rig.tree(&[]) }),
        ("out", link("../..")),
        ("abs", link("/")),
        ("loop", link("loop")),
    ]);
    let arguments = [vec![Argument::Tree(tree), rig.blob(b"b")], words(&[&"x".repeat(1 << 20)])].concat();
    let rows = [endless(), deep(), greedy(), crooked(), absurd()].concat();
    assert!(rows.len() >= 60, "{}", rows.len());
    let mut wrong = Vec::new();
    for (name, text, expected) in rows {
        let ended = end(rig.run(&load_wat(&text), arguments.clone()), &rig.limits);
        if ended != expected {
            wrong.push(format!("{name}: {ended:?}, not {expected:?}: {text}"));
        }
        still_alive(&rig);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is written below `/out`, by a module that returns a tree.
#[test]
fn floods_below_out_end_too() {
    let mut rig = Rig::new();
    rig.limits = LIMITS;
    let file = format!("(drop {})", open(OUT_FD, TEXT, 1, CREATE, WRITE));
    let files = [numbered(&open(OUT_FD, TEXT, 5, CREATE, WRITE)), call("fd_close", &[7])];
    let directories = numbered(&call("path_create_directory", &[OUT_FD, TEXT, 5]));
    let links = numbered(&call("path_symlink", &[TEXT, 4, OUT_FD, TEXT, 5]));
    for (name, text) in [
        ("a file", with_text("f", &format!("{file} {}", forever(&[write(7)])))),
        ("files", module("", &forever(&files))),
        ("directories", module("", &forever(&[directories]))),
        ("links", module("", &forever(&[links]))),
    ] {
        let ended = end(rig.run(&load_tree_wat(&text), Vec::new()), &rig.limits);
        assert_eq!(ended, End::Output, "{name}: {text}");
        still_alive(&rig);
    }
}

/// How a call ended. That an error names the limit which ended it is checked here too.
fn end(ended: Result<Done, RunError>, limits: &Limits) -> End {
    match ended {
        Ok(done) => {
            assert!(done.fuel <= limits.fuel && done.stderr.len() <= MAX_STDERR_BYTES);
            End::Good
        }
        Err(RunError::Exit { status, .. }) => End::Exit(status),
        Err(RunError::Trap { what, .. }) => End::Trap(what.strip_prefix("wasm trap: ").unwrap().into()),
        Err(RunError::Fuel { fuel }) if fuel == limits.fuel => End::Fuel,
        Err(RunError::Memory { limit_bytes, .. }) if limit_bytes == limits.memory_bytes => End::Memory,
        Err(RunError::Output { limit_bytes }) if limit_bytes == limits.output_bytes => End::Output,
        Err(RunError::Nested(_)) => End::Nested,
        Err(error) => panic!("{error:?}"),
    }
}

/// The same engine runs a good module as if nothing had been.
fn still_alive(rig: &Rig) {
    assert_eq!(rig.text(&guest("wc"), vec![rig.blob(b"still here\n")]), " 1  2 11\n");
}
