//! Building a tree below `/out`.

use std::fmt::Write as _;

use gridfs_modules::{Argument, RunError};

use crate::rig::{Rig, load_tree_wat};
use crate::script::errno::*;
use crate::script::{
    CREATE, DIRECTORY, EXCLUSIVE, OUT, OUT_FD, READ, Report, Script, TRUNCATE, WRITE, import, u32_of, u64_of,
};

/// Runs a script and gives its report and the lines of the tree it made.
fn made(write: impl FnOnce(&mut Script)) -> (Report, Vec<String>) {
    let rig = Rig::new();
    let mut script = Script::new();
    write(&mut script);
    let report = script.run_tree(&rig, Vec::new());
    let listing = rig.listing(&report.done.result);
    (report, listing)
}

#[test]
fn nothing_is_an_empty_tree() {
    assert_eq!(made(|_| {}).1, [""; 0]);
}

#[test]
fn files_directories_and_links() {
    let (report, tree) = made(|s| {
        s.at("path_create_directory", OUT_FD, "d").at("path_create_directory", OUT_FD, "d/e/");
        s.open(OUT_FD, "d/e/f", CREATE | EXCLUSIVE, WRITE).write(7, b"one ").write(7, b"two").call("fd_close", &[7]);
        s.open(OUT_FD, "run", CREATE, WRITE).call("set_executable", &[7]).write(7, b"#!").call("fd_close", &[7]);
        s.symlink("/any/where", "d/abs").symlink("e/f", "d/rel");
        s.link("run", "d/run").link("d/rel", "rel").link("d", "x").link("gone", "x");
        s.at("path_create_directory", OUT_FD, "d").at("path_create_directory", OUT_FD, "gone/d");
        s.open(OUT_FD, "run", CREATE | EXCLUSIVE, WRITE).at("path_create_directory", OUT_FD, "run/x");
    });
    assert_eq!(report.errnos[..14], [OK; 14]);
    assert_eq!(report.errnos[14..], [PERM, NOENT, EXIST, NOENT, EXIST, NOTDIR]);
    assert_eq!(
        tree,
        [
            "d/",
            "d/abs -> /any/where",
            "d/e/",
            "d/e/f = one two",
            "d/rel -> e/f",
            "d/run* = #!",
            "rel -> e/f",
            "run* = #!"
        ]
    );
}

#[test]
fn what_is_open_at_exit_is_closed() {
    let (report, tree) = made(|s| {
        s.open(OUT_FD, "a", CREATE, WRITE).open(OUT_FD, "b", CREATE, READ);
        s.write(8, b"b").write(7, b"a").call("set_executable", &[8]);
    });
    assert_eq!((report.errnos, tree), (vec![OK; 5], vec!["a = a".into(), "b* = b".into()]));
}

#[test]
fn a_file_is_written_from_start_to_end() {
    let (report, tree) = made(|s| {
        s.open(OUT_FD, "f", CREATE, WRITE).write(7, b"abc").call("fd_tell", &[7, OUT]).show(OUT, 8);
        s.call("fd_seek", &[7, 0, 2, OUT]).call("fd_seek", &[7, 0, 0, OUT]).call("fd_seek", &[7, -1, 1, OUT]);
        let [iovs, count] = s.iovec(b"def");
        s.call("fd_pwrite", &[7, iovs, count, 0, OUT]).call("fd_pwrite", &[7, iovs, count, 3, OUT]).show(OUT, 4);
        s.call("fd_pwrite", &[1, iovs, count, 0, OUT]);
        s.call("fd_filestat_set_size", &[7, 6]).call("fd_filestat_set_size", &[7, 0]);
        s.call("fd_filestat_get", &[7, OUT]).show(OUT + 32, 8).read(7, 1);
        s.call("fd_close", &[7]).write(7, b"late").call("fd_close", &[7]);
    });
    assert_eq!(report.errnos, [OK, OK, OK, OK, SPIPE, SPIPE, SPIPE, OK, SPIPE, OK, NOTSUP, OK, BADF, OK, BADF, BADF]);
    assert_eq!((u64_of(&report.shown[0]), u32_of(&report.shown[1]), u64_of(&report.shown[2])), (3, 3, 6));
    assert_eq!(tree, ["f = abcdef"]);
}

#[test]
fn opening_what_is_there() {
    let (report, tree) = made(|s| {
        s.open(OUT_FD, "f", CREATE, WRITE).write(7, b"old").call("fd_close", &[7]);
        s.open(OUT_FD, "f", 0, READ).open(OUT_FD, "f", 0, WRITE).open(OUT_FD, "f", CREATE, WRITE);
        s.open(OUT_FD, "f", DIRECTORY, READ).open(OUT_FD, "f", TRUNCATE, READ);
        s.open(OUT_FD, "f", TRUNCATE, WRITE).write(7, b"new").call("fd_close", &[7]);
        s.open(OUT_FD, "none", 0, READ).open(OUT_FD, "none", 0, WRITE).open(OUT_FD, "none", DIRECTORY, READ);
        s.open(OUT_FD, "none", CREATE | DIRECTORY, WRITE).open(OUT_FD, ".", 0, WRITE).open(OUT_FD, ".", TRUNCATE, READ);
        s.open(OUT_FD, "", CREATE | EXCLUSIVE, WRITE).open(OUT_FD, "f/", CREATE | EXCLUSIVE, READ);
        s.open(OUT_FD, ".", DIRECTORY, READ).at("path_create_directory", 7, "d").open(7, "d/g", CREATE, WRITE);
    });
    assert_eq!(report.errnos[..8], [OK, OK, OK, NOTSUP, NOTSUP, NOTSUP, NOTDIR, NOTSUP]);
    assert_eq!(report.errnos[8..], [OK, OK, OK, NOENT, NOENT, NOENT, INVAL, ISDIR, ISDIR, EXIST, EXIST, OK, OK, OK]);
    assert_eq!(tree, ["d/", "d/g = ", "f = new"]);
}

#[test]
fn symbolic_links_are_never_followed() {
    let (report, tree) = made(|s| {
        s.at("path_create_directory", OUT_FD, "d").symlink("d", "l").symlink("f", "m");
        s.open(OUT_FD, "l/f", CREATE, WRITE).open_following(OUT_FD, "l", 1, DIRECTORY, READ);
        s.open_following(OUT_FD, "m", 1, CREATE, WRITE).open(OUT_FD, "m", CREATE | TRUNCATE, WRITE);
        s.open(OUT_FD, "m", CREATE | EXCLUSIVE, WRITE).at("path_create_directory", OUT_FD, "l/x");
        s.at("path_unlink_file", OUT_FD, "l/x").rename("l/x", "y").rename("d", "l/x");
        let [at, len] = s.data(b"m");
        s.call("path_readlink", &[OUT_FD, at, len, OUT, 9, OUT + 16]).show(OUT, 1);
        s.call("path_filestat_get", &[OUT_FD, 1, at, len, OUT]).show(OUT + 16, 1);
        let [at, len] = s.data(b"d");
        s.call("path_readlink", &[OUT_FD, at, len, OUT, 9, OUT + 16]);
    });
    assert_eq!(report.errnos, [OK, OK, OK, LOOP, LOOP, LOOP, LOOP, EXIST, LOOP, LOOP, LOOP, LOOP, OK, OK, INVAL]);
    assert_eq!(report.shown, [&b"f"[..], &[7]]);
    assert_eq!(tree, ["d/", "l -> d", "m -> f"]);
}

#[test]
fn paths_stay_below_out() {
    let (report, tree) = made(|s| {
        s.at("path_create_directory", OUT_FD, "d").open(OUT_FD, "d", DIRECTORY, READ);
        s.open(7, "../f", CREATE, WRITE).open(7, "../../f", CREATE, WRITE).open(OUT_FD, "..", DIRECTORY, READ);
        s.open(OUT_FD, "d/../d/g", CREATE, WRITE).open(OUT_FD, "/abs", CREATE, WRITE);
        s.at("path_create_directory", OUT_FD, "/out/x").rename("d/g", "../g").link("../f", "h");
    });
    assert_eq!(report.errnos, [OK, OK, OK, NOTCAPABLE, NOTCAPABLE, OK, NOTCAPABLE, NOTCAPABLE, NOTCAPABLE, NOTCAPABLE]);
    assert_eq!(tree, ["d/", "d/g = ", "f = "]);
}

#[test]
fn removing() {
    let (report, tree) = made(|s| {
        s.at("path_create_directory", OUT_FD, "d").open(OUT_FD, "d/f", CREATE, WRITE).symlink("x", "l");
        s.at("path_remove_directory", OUT_FD, "d").at("path_unlink_file", OUT_FD, "d");
        s.at("path_remove_directory", OUT_FD, "d/f").at("path_unlink_file", OUT_FD, "d/f");
        s.write(7, b"to nowhere").call("fd_close", &[7]);
        s.at("path_remove_directory", OUT_FD, "d").at("path_unlink_file", OUT_FD, "l");
        s.at("path_unlink_file", OUT_FD, "l").at("path_remove_directory", OUT_FD, "d");
        s.at("path_remove_directory", OUT_FD, ".").at("path_unlink_file", OUT_FD, "");
    });
    assert_eq!(report.errnos, [OK, OK, OK, NOTEMPTY, ISDIR, NOTDIR, OK, OK, OK, OK, OK, NOENT, NOENT, INVAL, ISDIR]);
    assert_eq!(tree, [""; 0]);
}

#[test]
fn renaming() {
    let (report, tree) = made(|s| {
        for (name, content) in [("a", b"a"), ("b", b"b"), ("c", b"c")] {
            s.open(OUT_FD, name, CREATE, WRITE).write(7, content).call("fd_close", &[7]);
        }
        for name in ["d", "d/sub", "e", "full", "full/x"] {
            s.at("path_create_directory", OUT_FD, name);
        }
        s.rename("a", "b").rename("b", "b").rename("c", "d/c").rename("d", "e");
        s.rename("e", "e/sub/x").rename("e/c", "full").rename("full", "e/c").rename("full", "e");
        s.rename("gone", "x").rename("gone", "gone").rename("b", "gone/b").rename(".", "x").rename("e", ".");
        s.rename("e/sub", "full/x");
    });
    assert_eq!(report.errnos[..14], [OK; 14]);
    assert_eq!(
        report.errnos[14..],
        [OK, OK, OK, OK, INVAL, ISDIR, NOTDIR, NOTEMPTY, NOENT, NOENT, NOENT, INVAL, NOTEMPTY, OK]
    );
    assert_eq!(tree, ["b = a", "e/", "e/c = c", "full/", "full/x/"]);
}

/// The file was found again by its path when it was closed. Moved meanwhile, it stayed unfinished, and storing the
/// tree panicked.
#[test]
fn a_file_open_for_writing_may_be_moved() {
    let (report, tree) = made(|s| {
        s.at("path_create_directory", OUT_FD, "d").open(OUT_FD, "d/f", CREATE, WRITE).write(7, b"1");
        s.rename("d", "e").write(7, b"2").rename("e/f", "g").write(7, b"3");
        s.link("g", "h").call("fd_close", &[7]).link("g", "h").symlink("d", "d");
    });
    assert_eq!(report.errnos, [OK, OK, OK, OK, OK, OK, OK, NOTSUP, OK, OK, OK]);
    assert_eq!(tree, ["d -> d", "e/", "g = 123", "h = 123"]);
}

#[test]
fn a_file_begun_anew_loses_its_first_writer() {
    let (report, tree) = made(|s| {
        s.open(OUT_FD, "f", CREATE, WRITE).write(7, b"first").open(OUT_FD, "f", CREATE | TRUNCATE, WRITE);
        s.write(8, b"second").write(7, b" more").call("fd_close", &[8]).call("fd_close", &[7]);
    });
    assert_eq!((report.errnos, tree), (vec![OK; 7], vec!["f = second".into()]));
}

/// The 1,025th file was put into the tree before a descriptor was found to be lacking, and never finished: storing the
/// tree panicked.
#[test]
fn descriptors_run_out() {
    let rig = Rig::new();
    let text = format!(
        r#"(module {} (memory (export "memory") 1)
        (func (export "_start") (local $n i32) (local $errno i32)
          (loop $more
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (i32.store8 (i32.const 0) (i32.add (i32.const 0x40) (i32.and (local.get $n) (i32.const 31))))
            (i32.store8 (i32.const 1) (i32.add (i32.const 0x40) (i32.shr_u (local.get $n) (i32.const 5))))
            (local.set $errno (call $path_open (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 2) (i32.const 1)
              (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16)))
            (br_if $more (i32.eqz (local.get $errno))))
          (if (i32.ne (local.get $errno) (i32.const {MFILE})) (then (unreachable)))))"#,
        import("path_open"),
    );
    let done = rig.run(&load_tree_wat(&text), Vec::new()).unwrap();
    assert_eq!(rig.listing(&done.result).len(), 1024 - 7);
}

/// Counts up at address 32 and makes that many of the directories `a/a/a...` at `path`.
fn nest(s: &mut Script, path: i64, depth: usize) {
    s.uses("path_create_directory").code(&format!(
        "(loop $deeper
           (i32.store (i32.const 32) (i32.add (i32.load (i32.const 32)) (i32.const 1)))
           (if (call $path_create_directory (i32.const 4) (i32.const {path})
                 (i32.sub (i32.shl (i32.load (i32.const 32)) (i32.const 1)) (i32.const 1)))
             (then (unreachable)))
           (br_if $deeper (i32.lt_u (i32.load (i32.const 32)) (i32.const {depth}))))"
    ));
}

/// Moving a deep directory below another made a tree of any depth, and storing that overflowed the host's stack.
#[test]
fn nothing_lies_deeper_than_256_directories() {
    let (report, tree) = made(|s| {
        let [path, len] = s.data("a/".repeat(257).as_bytes());
        nest(s, path, 256);
        s.call("path_create_directory", &[OUT_FD, path, len]).at("path_create_directory", OUT_FD, "b");
        s.rename("a", "b/a").rename("a/a", "b/a").rename("a", "b/a/x").rename("b/a/a", "c");
        s.rename("c", "b/a/c").rename("b", "a/b").rename("b/a", "a");
    });
    assert_eq!(report.errnos, [NAMETOOLONG, OK, NAMETOOLONG, OK, OK, OK, OK, NAMETOOLONG, OK]);
    assert_eq!(tree.last().unwrap(), "b/");
    assert_eq!(tree.iter().map(|line| line.matches('/').count()).max(), Some(255));
}

/// A directory that the store could write but not read back.
#[test]
fn a_directory_stays_within_what_the_store_reads() {
    let target = "t".repeat(4095);
    let (report, tree) = made(|s| {
        let ([target, len], [name, _]) = (s.data(target.as_bytes()), s.data(b"aaaa"));
        s.uses("path_symlink").code(&format!(
            "(loop $more
               (i32.store (i32.const 32) (i32.add (i32.load (i32.const 32)) (i32.const 1)))
               (i32.store (i32.const {name}) (i32.add (i32.const 0x61616161) (i32.or
                 (i32.and (i32.load (i32.const 32)) (i32.const 127))
                 (i32.shl (i32.shr_u (i32.load (i32.const 32)) (i32.const 7)) (i32.const 8)))))
               (i32.store (i32.const 36) (call $path_symlink (i32.const {target}) (i32.const {len}) (i32.const 4)
                 (i32.const {name}) (i32.const 4)))
               (br_if $more (i32.eqz (i32.load (i32.const 36)))))"
        ));
        s.show(36, 4).at("path_create_directory", OUT_FD, "d").symlink("t", "e");
        for letter in ["1", "2", "3", "4"] {
            s.at("path_create_directory", OUT_FD, &letter.repeat(255));
        }
    });
    // What remains is less than another of those links, and three more names.
    let (room, link) = ((64 << 20) - 64, 64 + 4 + 4095);
    assert_eq!((u32_of(&report.shown[0]), report.errnos), (NOSPC, vec![OK, OK, OK, OK, OK, NOSPC]));
    assert_eq!(tree.len(), room / link + 5);
}

/// What a module that returns a blob made below `/out` was dropped in silence.
#[test]
fn a_module_that_returns_a_blob_makes_no_tree() {
    let rig = Rig::new();
    let mut s = Script::new();
    s.at("path_create_directory", OUT_FD, "d").open(OUT_FD, "f", CREATE, WRITE).symlink("t", "l").link("l", "m");
    s.rename("f", "g").at("path_unlink_file", OUT_FD, "f").at("path_remove_directory", OUT_FD, "d");
    s.open(OUT_FD, ".", DIRECTORY, READ).call("fd_readdir", &[7, OUT, 64, 0, OUT + 128]).show(OUT + 128, 4);
    let report = s.run(&rig, Vec::new());
    assert_eq!(report.errnos, [ROFS, ROFS, ROFS, ROFS, ROFS, ROFS, ROFS, OK, OK]);
    assert_eq!((u32_of(&report.shown[0]), rig.content(&report.done.result)), (51, Vec::new()));
}

#[test]
fn standard_output_of_a_module_that_returns_a_tree_is_kept_with_standard_error() {
    let rig = Rig::new();
    let mut s = Script::new();
    s.code("(call $show (i32.const 64) (i32.const 2))");
    let [iovs, count] = s.iovec(b"ok");
    s.code(&format!("(drop (call $fd_write (i32.const 1) (i32.const {iovs}) (i32.const {count}) (i32.const 48)))"));
    let done = rig.run(&s.load_tree(), Vec::new()).unwrap();
    assert_eq!((done.stderr, rig.listing(&done.result)), (b"okok".to_vec(), Vec::new()));
}

#[test]
fn names_and_links_count_as_output() {
    let mut rig = Rig::new();
    let mut s = Script::new();
    s.at("path_create_directory", OUT_FD, "d").at("path_create_directory", OUT_FD, "d").symlink("target", "l");
    s.open(OUT_FD, "f", CREATE, WRITE).write(7, b"12345");
    rig.limits.output_bytes = (64 + 1) + (64 + 1 + 6) + (64 + 1) + 5;
    assert_eq!(s.run_tree(&rig, Vec::new()).errnos, [OK, EXIST, OK, OK, OK]);
    rig.limits.output_bytes -= 1;
    let ended = rig.run(&s.load_tree(), vec![Argument::Text("x".into())]);
    assert!(matches!(ended, Err(RunError::Output { limit_bytes: 205 })), "{ended:?}");
}

/// Listing 20,000 names in small pieces took as many steps as its square.
#[test]
fn a_large_directory_is_listed_in_small_pieces() {
    let rig = Rig::new();
    let mut names = String::new();
    let file = rig.file(b"");
    for number in 0..20_000 {
        write!(names, "{number:05} ").unwrap();
    }
    let entries: Vec<(&str, gridfs_store::Target)> = names.split_whitespace().map(|n| (n, file.clone())).collect();
    let tree = rig.tree(&entries);
    let text = format!(
        r#"(module {} {} (memory (export "memory") 1) (data (i32.const 0) "1")
        (func (export "_start") (local $cookie i64)
          (drop (call $path_open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 2) (i64.const 2)
            (i64.const 0) (i32.const 0) (i32.const 8)))
          (loop $more
            (if (call $fd_readdir (i32.const 7) (i32.const 64) (i32.const 30) (local.get $cookie) (i32.const 16))
              (then (unreachable)))
            (local.set $cookie (i64.add (local.get $cookie) (i64.const 1)))
            (br_if $more (i32.load (i32.const 16))))
          (if (i64.ne (local.get $cookie) (i64.const 20003)) (then (unreachable)))))"#,
        import("path_open"),
        import("fd_readdir"),
    );
    let begun = std::time::Instant::now();
    rig.run(&crate::rig::load_wat(&text), vec![Argument::Tree(tree)]).unwrap();
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}
