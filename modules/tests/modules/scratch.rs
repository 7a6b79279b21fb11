//! Files in memory: `/` and `/tmp`.

use gridfs_modules::{Argument, RunError};
use gridfs_store::Target;

use crate::rig::{Rig, load_wat};
use crate::script::errno::*;
use crate::script::{
    CREATE, DIRECTORY, EXCLUSIVE, FD, OUT, OUT_FD, READ, ROOT_FD, Report, Script, TRUNCATE, WRITE, import, u32_of,
    u64_of,
};

const BOTH: i64 = READ | WRITE;

fn run(write: impl FnOnce(&mut Script)) -> Report {
    let mut script = Script::new();
    write(&mut script);
    script.run(&Rig::new(), Vec::new())
}

#[test]
fn a_file_is_written_and_read_anywhere() {
    let report = run(|s| {
        s.open(ROOT_FD, "tmp/f", CREATE | EXCLUSIVE, BOTH).write(7, b"hello world").call("fd_seek", &[7, 6, 0, OUT]);
        s.write(7, b"there").call("fd_seek", &[7, -3, 1, OUT]).show(OUT, 8).read(7, 9);
        let [iovs, count] = s.iovec(b"J");
        s.call("fd_pwrite", &[7, iovs, count, 0, OUT]).call("fd_tell", &[7, OUT]).show(OUT, 8);
        s.call("fd_filestat_set_size", &[7, 5]).call("fd_seek", &[7, 5000, 0, OUT]).write(7, b"x");
        s.call("fd_filestat_get", &[7, OUT]).show(OUT + 32, 8).call("fd_seek", &[7, 0, 0, OUT]).read(7, 12);
        s.call("fd_close", &[7]).open(ROOT_FD, "tmp/f", TRUNCATE, WRITE).read(7, 1).call("fd_close", &[7]);
        s.open(ROOT_FD, "tmp/f", 0, READ).write(7, b"x").read(7, 1).call("fd_filestat_set_size", &[7, 9]);
    });
    let not_ok: Vec<u32> = report.errnos.iter().copied().filter(|&errno| errno != OK).collect();
    assert_eq!(not_ok, [BADF, BADF, BADF]);
    assert_eq!((u64_of(&report.shown[0]), u32_of(&report.shown[1]), &report.shown[2][..3]), (8, 3, &b"ere"[..]));
    assert_eq!((u64_of(&report.shown[3]), u64_of(&report.shown[4])), (11, 5001));
    assert_eq!((u32_of(&report.shown[5]), &report.shown[6][..]), (12, &b"Jello\0\0\0\0\0\0\0"[..]));
    assert_eq!(u32_of(report.shown.iter().rev().nth(1).unwrap()), 0, "it was cut when it was opened");
}

#[test]
fn appending_goes_to_the_end() {
    let report = run(|s| {
        let [at, len] = s.data(b"log");
        s.call("path_open", &[ROOT_FD, 0, at, len, CREATE, BOTH, 0, 1, FD]).write(7, b"ab");
        s.call("fd_fdstat_get", &[7, OUT]).show(OUT + 2, 2).call("fd_seek", &[7, 0, 0, OUT]).write(7, b"cd");
        s.call("fd_fdstat_set_flags", &[7, 0]).call("fd_seek", &[7, 0, 0, OUT]).write(7, b"X");
        s.call("fd_seek", &[7, 0, 0, OUT]).read(7, 9);
    });
    assert_eq!(report.errnos, [OK; 10]);
    assert_eq!((&report.shown[0][..], &report.shown[2][..4]), (&[1, 0][..], &b"Xbcd"[..]));
}

#[test]
fn the_root_has_what_is_mounted() {
    let rig = Rig::new();
    let tree = rig.tree(&[("f", rig.file(b"input"))]);
    rig.grid.answer("p/m", rig.file(b"nested"));
    let mut s = Script::new();
    s.open(ROOT_FD, "in/1/f", 0, READ).read(7, 5).open(ROOT_FD, "./grid/p/m", 0, READ).read(8, 6);
    s.open(ROOT_FD, "out", DIRECTORY, READ).open(9, "made", CREATE, WRITE).open(ROOT_FD, "in/1/f", 0, WRITE);
    s.symlink_at(ROOT_FD, "../in/1", "tmp/l").open(ROOT_FD, "tmp/l/f", 0, READ).read(11, 5);
    s.at("path_remove_directory", ROOT_FD, "in").rename_at(ROOT_FD, "grid", "x").rename_at(ROOT_FD, "tmp", "in");
    s.at("path_create_directory", ROOT_FD, "out").rename_at(ROOT_FD, "tmp", "out/t").link_at(ROOT_FD, "tmp/l", "out/l");
    s.open(ROOT_FD, "in/..", DIRECTORY, READ).open(ROOT_FD, "..", DIRECTORY, READ).open(ROOT_FD, "/tmp", 0, READ);
    s.call("fd_readdir", &[ROOT_FD, OUT + 8, 256, 0, OUT]).show(OUT, 4).show(OUT + 8, 256);
    let report = s.run_tree(&rig, vec![Argument::Tree(tree)]);
    assert_eq!(report.errnos[..10], [OK, OK, OK, OK, OK, OK, ROFS, OK, OK, OK]);
    assert_eq!(report.errnos[10..], [ROFS, ROFS, ROFS, EXIST, XDEV, XDEV, NOTCAPABLE, NOTCAPABLE, NOTCAPABLE, OK]);
    let read: Vec<&[u8]> = [1, 3, 5].iter().map(|&at| &report.shown[at][..]).collect();
    assert_eq!(read, [&b"input"[..], b"nested", b"input"]);
    assert_eq!(u32_of(&report.shown[6]) as usize, 6 * 24 + 1 + 2 + 4 + 2 + 3 + 3, ". .. grid in out tmp");
    assert_eq!(rig.listing(&report.done.result), ["made = "]);
}

#[test]
fn names_and_links() {
    let report = run(|s| {
        s.open(ROOT_FD, "a", CREATE, WRITE).write(7, b"1").link_at(ROOT_FD, "a", "b").link_at(ROOT_FD, "tmp", "t");
        s.call("fd_filestat_get", &[7, OUT]).show(OUT + 24, 8).at("path_unlink_file", ROOT_FD, "a").write(7, b"2");
        s.open(ROOT_FD, "b", 0, READ).read(8, 2).at("path_unlink_file", ROOT_FD, "b").call("fd_seek", &[8, 0, 0, OUT]);
        s.read(8, 2).open(ROOT_FD, "b", 0, READ).at("path_create_directory", ROOT_FD, "d");
        s.rename_at(ROOT_FD, "d", "d/e").rename_at(ROOT_FD, "d", "tmp").rename_at(ROOT_FD, "d", "tmp/x/y");
        s.symlink_at(ROOT_FD, "/abs", "l").symlink_at(ROOT_FD, "l", "l").open_following(ROOT_FD, "l", 1, 0, READ);
        s.open(ROOT_FD, "tmp", DIRECTORY, READ).at("path_remove_directory", ROOT_FD, "tmp");
        s.open(9, "late", CREATE, WRITE).call("fd_readdir", &[9, OUT + 8, 256, 0, OUT]).show(OUT, 4);
    });
    assert_eq!(report.errnos[..10], [OK, OK, OK, PERM, OK, OK, OK, OK, OK, OK]);
    assert_eq!(report.errnos[10..], [OK, OK, NOENT, OK, INVAL, OK, NOENT, NOTCAPABLE, OK, LOOP, OK, OK, NOENT, OK]);
    assert_eq!((u64_of(&report.shown[0]), &report.shown[2][..], &report.shown[4][..]), (2, &b"12"[..], &b"12"[..]));
    assert_eq!(u32_of(&report.shown[5]), 51, "a removed directory is empty");
}

#[test]
fn times_are_kept() {
    let report = run(|s| {
        s.open(ROOT_FD, "a", CREATE, WRITE).open(ROOT_FD, "b", CREATE, WRITE);
        s.call("fd_filestat_get", &[7, OUT]).show(OUT + 48, 8).call("fd_filestat_get", &[8, OUT]).show(OUT + 48, 8);
        s.call("fd_filestat_set_times", &[7, 5, 6, 1]).call("fd_filestat_get", &[7, OUT]).show(OUT + 40, 16);
        s.write(7, b"later").call("fd_filestat_get", &[7, OUT]).show(OUT + 40, 16);
    });
    let first = u64_of(&report.shown[0]);
    assert!(first > 0 && u64_of(&report.shown[1]) > first, "what is made later is younger");
    assert_eq!((u64_of(&report.shown[2]), u64_of(&report.shown[2][8..])), (5, first));
    assert!(u64_of(&report.shown[3]) == 5 && u64_of(&report.shown[3][8..]) > u64_of(&report.shown[1]));
}

/// Writes blocks to a file in memory until it is refused with `ENOSPC`, and ends as `after` says.
fn flood(after: &str) -> String {
    format!(
        r#"(module {} {} (memory (export "memory") 2)
        (data (i32.const 0) "tmp/f") (data (i32.const 16) "\00\00\00\00\00\00\01\00")
        (func (export "_start") (local $errno i32)
          (drop (call $path_open (i32.const 6) (i32.const 0) (i32.const 0) (i32.const 5) (i32.const 1) (i64.const 64)
            (i64.const 0) (i32.const 0) (i32.const 32)))
          (loop $more
            (local.set $errno (call $fd_write (i32.const 7) (i32.const 16) (i32.const 1) (i32.const 40)))
            (br_if $more (i32.eqz (local.get $errno))))
          (if (i32.ne (local.get $errno) (i32.const {NOSPC})) (then (unreachable)))
          {after}))"#,
        import("path_open"),
        import("fd_write"),
    )
}

#[test]
fn files_count_as_memory() {
    let mut rig = Rig::new();
    rig.limits.memory_bytes = 1 << 20;
    rig.run(&load_wat(&flood("")), Vec::new()).unwrap();
    let full = "(if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then (unreachable)))";
    rig.run(&load_wat(&flood(full)), Vec::new()).unwrap();
    let ended = rig.run(&load_wat(&flood("(unreachable)")), Vec::new());
    assert!(matches!(ended, Err(RunError::Memory { limit_bytes: 1_048_576, .. })), "{ended:?}");
}

/// What is removed is given back, to the last byte: else the second round would find less than the first.
#[test]
fn what_is_removed_is_given_back() {
    let mut rig = Rig::new();
    rig.limits.memory_bytes = (2 << 16) + 4 * 4096 + 2000;
    let report = {
        let mut s = Script::new();
        for _ in 0..50 {
            s.at("path_create_directory", ROOT_FD, "d").open(ROOT_FD, "d/f", CREATE, WRITE);
            let [iovs, count] = [OUT + 64, 1];
            s.code("(i32.store (i32.const 0x8040) (i32.const 0)) (i32.store (i32.const 0x8044) (i32.const 12288))");
            s.call("fd_write", &[7, iovs, count, OUT]).link_at(ROOT_FD, "d/f", "g").symlink_at(ROOT_FD, "t", "d/l");
            s.rename_at(ROOT_FD, "g", "d/l").at("path_unlink_file", ROOT_FD, "d/l").at(
                "path_unlink_file",
                ROOT_FD,
                "d/f",
            );
            s.at("path_remove_directory", ROOT_FD, "d").call("fd_close", &[7]);
        }
        s.run(&rig, Vec::new())
    };
    assert_eq!(report.errnos, [OK; 500]);
}

#[test]
fn sizes_and_names_have_limits() {
    let report = run(|s| {
        s.open(ROOT_FD, "f", CREATE, BOTH).call("fd_filestat_set_size", &[7, i64::MAX]).read(7, 4);
        s.call("fd_filestat_set_size", &[7, -1]).call("fd_seek", &[7, 0, 2, OUT]).write(7, b"x");
        let [iovs, count] = s.iovec(b"x");
        s.call("fd_pwrite", &[7, iovs, count, -1, OUT]).call("fd_pread", &[7, iovs, count, -1, OUT]).show(OUT, 4);
        s.at("path_create_directory", ROOT_FD, &"n".repeat(255)).at("path_create_directory", ROOT_FD, &"n".repeat(256));
        s.open(ROOT_FD, &"n".repeat(256), CREATE, WRITE).symlink_at(ROOT_FD, "x", &"n".repeat(256));
    });
    assert_eq!(report.errnos[..7], [OK, OK, OK, FBIG, OK, FBIG, FBIG]);
    assert_eq!(report.errnos[7..], [OK, OK, NAMETOOLONG, NAMETOOLONG, NAMETOOLONG]);
    assert_eq!((u32_of(&report.shown[0]), u32_of(&report.shown[2])), (4, 0));
}

#[test]
fn nothing_of_it_outlives_the_call() {
    let rig = Rig::new();
    let mut s = Script::new();
    s.open(ROOT_FD, "tmp/f", CREATE | EXCLUSIVE, WRITE).write(7, b"secret").open(OUT_FD, ".", DIRECTORY, READ);
    let program = s.load();
    for _ in 0..3 {
        let done = rig.run(&program, Vec::new()).unwrap();
        assert_eq!(done.stderr[..8], [0; 8], "the name is free again");
        assert!(matches!(done.result, Target::File { size_bytes: 0, .. }));
    }
}
