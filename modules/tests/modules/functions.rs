//! Each host function: what it answers, and with which errno it refuses.
//!
//! A long file, because the tables at its heart go through all functions and share what makes their arguments.

use gridfs_modules::{Argument, RunError};
use gridfs_store::{Hash, Target};

use crate::rig::{Rig, load_wat, words};
use crate::script::errno::*;
use crate::script::{
    CREATE, DIRECTORY, EXCLUSIVE, FD, FUNCTIONS, GRID_FD, IN_FD, OUT, OUT_FD, READ, Report, Script, TRUNCATE, WRITE,
    import, u32_of, u64_of,
};

/// A script run without arguments.
fn bare(write: impl FnOnce(&mut Script)) -> Report {
    with(&Rig::new(), Vec::new(), write)
}

fn with(rig: &Rig, arguments: Vec<Argument>, write: impl FnOnce(&mut Script)) -> Report {
    let mut script = Script::new();
    write(&mut script);
    script.run(rig, arguments)
}

#[test]
fn every_function_of_preview1_is_there() {
    let imports: String = FUNCTIONS.iter().map(|(name, _)| import(name)).collect();
    let program = load_wat(&format!(r#"(module {imports} (memory (export "memory") 1) (func (export "_start")))"#));
    assert_eq!(Rig::new().text(&program, Vec::new()), "");
}

#[test]
fn arguments_name_the_module_then_texts_and_inputs() {
    let rig = Rig::new();
    let arguments = vec![Argument::Text("é".into()), rig.blob(b"x"), Argument::Tree(rig.tree(&[]))];
    let report = with(&rig, arguments, |s| {
        s.call("args_sizes_get", &[OUT, OUT + 4]).show(OUT, 8);
        s.call("args_get", &[OUT, OUT + 64]).show(OUT, 16).show(OUT + 64, 22);
    });
    assert_eq!(report.errnos, [OK, OK]);
    assert_eq!(report.shown[0], [4u32.to_le_bytes(), 22u32.to_le_bytes()].concat());
    let at = |offset: i64| ((OUT + 64 + offset) as u32).to_le_bytes();
    assert_eq!(report.shown[1], [at(0), at(7), at(10), at(16)].concat());
    assert_eq!(report.shown[2], "module\0é\0/in/2\0/in/3\0".as_bytes());
}

#[test]
fn the_environment_is_empty() {
    let report = bare(|s| {
        s.call("environ_sizes_get", &[OUT, OUT + 4]).show(OUT, 8).call("environ_get", &[OUT, OUT]);
    });
    assert_eq!((report.errnos, &report.shown[0][..]), (vec![OK, OK], &[0; 8][..]));
}

#[test]
fn the_clock_starts_at_0_and_each_reading_is_a_microsecond_later() {
    let report = bare(|s| {
        for clock in [0, 1, 2, 3] {
            s.call("clock_time_get", &[clock, 0, OUT]).show(OUT, 8);
        }
        s.call("clock_res_get", &[0, OUT]).show(OUT, 8);
        s.call("clock_time_get", &[4, 0, OUT]).call("clock_res_get", &[4, OUT]);
    });
    assert_eq!(report.errnos, [OK, OK, OK, OK, OK, INVAL, INVAL]);
    let times: Vec<u64> = report.shown.iter().map(|bytes| u64_of(bytes)).collect();
    assert_eq!(times, [0, 1_000, 2_000, 3_000, 1_000]);
}

/// One clock subscription: 48 bytes.
fn clock_subscription(userdata: u64, timeout_ns: u64, absolute: bool) -> Vec<u8> {
    let mut bytes = vec![0; 48];
    bytes[..8].copy_from_slice(&userdata.to_le_bytes());
    bytes[24..32].copy_from_slice(&timeout_ns.to_le_bytes());
    bytes[40] = absolute.into();
    bytes
}

fn read_subscription(userdata: u64, fd: u32) -> Vec<u8> {
    let mut bytes = vec![0; 48];
    bytes[..8].copy_from_slice(&userdata.to_le_bytes());
    bytes[8] = 1;
    bytes[16..20].copy_from_slice(&fd.to_le_bytes());
    bytes
}

#[test]
fn polling_a_clock_moves_the_clock() {
    let report = bare(|s| {
        let two = [clock_subscription(1, 9_000_000, false), clock_subscription(2, 5_000_000, false)].concat();
        let [at, _] = s.data(&two);
        s.call("poll_oneoff", &[at, OUT, 2, OUT + 256]).show(OUT + 256, 4).show(OUT, 32);
        s.call("clock_time_get", &[0, 0, OUT]).show(OUT, 8);
        let [past, _] = s.data(&clock_subscription(3, 1, true));
        s.call("poll_oneoff", &[past, OUT, 1, OUT + 256]);
        s.call("clock_time_get", &[0, 0, OUT]).show(OUT, 8);
    });
    assert_eq!(report.errnos, [OK; 4]);
    assert_eq!(u32_of(&report.shown[0]), 1);
    assert_eq!((u64_of(&report.shown[1]), &report.shown[1][8..]), (2, &[0; 24][..]));
    assert_eq!((u64_of(&report.shown[2]), u64_of(&report.shown[3])), (5_000_000, 5_001_000));
}

#[test]
fn descriptors_are_always_ready() {
    let report = bare(|s| {
        let [at, _] = s.data(&[clock_subscription(1, 5, false), read_subscription(2, 0)].concat());
        s.call("poll_oneoff", &[at, OUT, 2, OUT + 256]).show(OUT + 256, 4).show(OUT, 11);
        s.call("clock_time_get", &[0, 0, OUT]).show(OUT, 8);
        let [bad, _] = s.data(&read_subscription(2, 99));
        s.call("poll_oneoff", &[bad, OUT, 1, OUT + 256]);
        s.call("poll_oneoff", &[bad, OUT, 0, OUT + 256]).call("poll_oneoff", &[bad, OUT, 1025, OUT + 256]);
    });
    assert_eq!(report.errnos, [OK, OK, BADF, INVAL, INVAL]);
    assert_eq!(u32_of(&report.shown[0]), 1);
    assert_eq!(report.shown[1], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(u64_of(&report.shown[2]), 0);
}

#[test]
fn polling_tells_what_is_left_to_read() {
    let rig = Rig::new();
    let report = with(&rig, vec![rig.blob(b"abcdef")], |s| {
        let [at, _] = s.data(&[read_subscription(1, 0), read_subscription(2, 1)].concat());
        s.read(0, 2)
            .call("poll_oneoff", &[at, OUT, 2, OUT + 256])
            .show(OUT + 256, 4)
            .show(OUT + 16, 8)
            .show(OUT + 48, 8);
    });
    assert_eq!(report.errnos, [OK, OK]);
    assert_eq!((u32_of(&report.shown[2]), u64_of(&report.shown[3]), u64_of(&report.shown[4])), (2, 4, 0));
}

/// A sleep until the end of time, then a reading: the clock once overflowed there.
#[test]
fn the_clock_stands_still_at_its_end() {
    let report = bare(|s| {
        let [at, _] = s.data(&clock_subscription(1, u64::MAX, true));
        s.call("poll_oneoff", &[at, OUT, 1, OUT + 256]);
        s.call("clock_time_get", &[0, 0, OUT]).call("clock_time_get", &[0, 0, OUT]).show(OUT, 8);
        let [more, _] = s.data(&clock_subscription(1, 10, false));
        s.call("poll_oneoff", &[more, OUT, 1, OUT + 256]);
    });
    assert_eq!((report.errnos, u64_of(&report.shown[0])), (vec![OK; 4], u64::MAX));
}

#[test]
fn randomness_is_the_seed_s() {
    let mut rig = Rig::new();
    let random = |rig: &Rig| {
        with(rig, Vec::new(), |s| {
            s.call("random_get", &[OUT, 16]).call("random_get", &[OUT + 16, 16]).show(OUT, 32);
        })
        .shown[0]
            .clone()
    };
    let first = random(&rig);
    assert_eq!(first, random(&rig));
    assert_ne!(first[..16], first[16..]);
    let mut expected = [0; 32];
    let mut hasher = blake3::Hasher::new_derive_key("gridfs grid-1 random_get");
    hasher.update(&[7; 32]).finalize_xof().fill(&mut expected);
    assert_eq!(first, expected);
    rig.seed = Hash([8; 32]);
    assert_ne!(first, random(&rig));
}

#[test]
fn what_has_no_meaning_is_refused_or_does_nothing() {
    let report = bare(|s| {
        s.call("sock_accept", &[3, 0, OUT]).call("sock_recv", &[3, OUT, 1, 0, OUT, OUT]);
        s.call("sock_send", &[3, OUT, 1, 0, OUT]).call("sock_shutdown", &[3, 0]);
        s.call("proc_raise", &[9]).call("fd_allocate", &[0, 0, 1]).call("fd_allocate", &[3, 0, 1]);
        s.call("sock_shutdown", &[99, 0]).call("sched_yield", &[]).call("fd_sync", &[1]).call("fd_datasync", &[1]);
        s.call("fd_advise", &[0, 0, 0, 0]).call("fd_fdstat_set_flags", &[0, 4]);
        s.call("fd_fdstat_set_rights", &[0, 0, 0]).call("fd_filestat_set_times", &[0, 0, 0, 0]);
        s.call("fd_filestat_set_times", &[0, 0, 0, 3]);
    });
    assert_eq!(report.errnos[..6], [NOTSOCK, NOTSOCK, NOTSOCK, NOTSOCK, NOSYS, NOTSUP]);
    assert_eq!(report.errnos[6..], [BADF, BADF, OK, OK, OK, OK, OK, NOTSUP, OK, INVAL]);
}

#[test]
fn standard_input_is_the_first_blob() {
    let rig = Rig::new();
    let arguments = vec![Argument::Text("t".into()), rig.blob(b"abcdef"), rig.blob(b"other")];
    let report = with(&rig, arguments, |s| {
        s.read(0, 4).read(0, 4).read(0, 4);
        s.call("fd_seek", &[0, -5, 2, OUT]).show(OUT, 8).read(0, 2).call("fd_tell", &[0, OUT]).show(OUT, 8);
        let [iovs, count] = s.iovec_at(OUT + 16, 3);
        s.call("fd_pread", &[0, iovs, count, 2, OUT + 8]).show(OUT + 8, 4).show(OUT + 16, 3);
        s.call("fd_tell", &[0, OUT]).show(OUT, 8);
        s.call("fd_seek", &[0, 100, 0, OUT]).read(0, 1).call("fd_seek", &[0, -1, 0, OUT]);
        s.call("fd_seek", &[0, 0, 3, OUT]).call("fd_seek", &[0, i64::MAX, 1, OUT]).read(0, 1);
        s.call("fd_pread", &[0, iovs, count, -1, OUT + 8]).show(OUT + 8, 4);
    });
    let counts_and_bytes = |at: usize| (u32_of(&report.shown[at]), report.shown[at + 1].clone());
    assert_eq!(counts_and_bytes(0), (4, b"abcd".to_vec()));
    assert_eq!(counts_and_bytes(2), (2, b"efcd".to_vec()));
    assert_eq!(counts_and_bytes(4).0, 0);
    assert_eq!(u64_of(&report.shown[6]), 1);
    assert_eq!(counts_and_bytes(7), (2, b"bc".to_vec()));
    assert_eq!(u64_of(&report.shown[9]), 3);
    assert_eq!(counts_and_bytes(10), (3, b"cde".to_vec()));
    assert_eq!(u64_of(&report.shown[12]), 3);
    assert_eq!(u32_of(&report.shown[13]), 0, "behind the end");
    assert_eq!(u32_of(&report.shown[15]), 0, "far behind the end");
    assert_eq!(u32_of(&report.shown[17]), 0, "pread at the last offset there is");
    let seeks_refused = report.errnos.iter().filter(|&&errno| errno == INVAL).count();
    assert_eq!((seeks_refused, report.errnos.iter().filter(|&&errno| errno == OK).count()), (2, 13));
}

#[test]
fn without_a_blob_standard_input_is_empty() {
    let report = bare(|s| {
        s.read(0, 4);
        let [iovs, count] = s.iovec_at(OUT + 16, 3);
        s.call("fd_pread", &[0, iovs, count, 0, OUT + 8]).show(OUT + 8, 4);
        s.call("fd_filestat_get", &[0, OUT]).show(OUT, 64);
    });
    assert_eq!(report.errnos, [OK; 3]);
    assert_eq!((u32_of(&report.shown[0]), u32_of(&report.shown[2])), (0, 0));
    assert_eq!(report.shown[3], filestat(4, 0));
}

fn without_inode(filestat: &[u8]) -> Vec<u8> {
    [&filestat[..8], &[0; 8], &filestat[16..]].concat()
}

/// Without its inode number.
fn filestat(file_type: u8, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[16] = file_type;
    bytes[24] = 1;
    bytes[32..40].copy_from_slice(&size.to_le_bytes());
    bytes
}

#[test]
fn a_read_fills_several_buffers() {
    let rig = Rig::new();
    let report = with(&rig, vec![rig.blob(b"abcdef")], |s| {
        let pairs: Vec<u8> =
            [OUT + 16, 2, OUT + 32, 0, OUT + 20, 3].iter().flat_map(|&v| (v as u32).to_le_bytes()).collect();
        let [iovs, _] = s.data(&pairs);
        s.call("fd_read", &[0, iovs, 3, OUT]).show(OUT, 4).show(OUT + 16, 8);
    });
    assert_eq!((u32_of(&report.shown[0]), &report.shown[1][..]), (5, &b"ab\0\0cde\0"[..]));
}

#[test]
fn descriptors_say_what_they_are() {
    let report = bare(|s| {
        for fd in [0, 1, 2, 3] {
            s.call("fd_fdstat_get", &[fd, OUT]).show(OUT, 24);
        }
        s.call("fd_filestat_get", &[1, OUT]).show(OUT, 64).call("fd_filestat_get", &[3, OUT]).show(OUT, 64);
        s.call("fd_seek", &[1, 0, 1, OUT]).call("fd_seek", &[3, 0, 1, OUT]).call("fd_tell", &[2, OUT]);
        s.call("fd_filestat_set_size", &[0, 0]).call("set_executable", &[1]);
    });
    assert_eq!(report.errnos, [OK, OK, OK, OK, OK, OK, SPIPE, BADF, SPIPE, BADF, INVAL]);
    let all = (1u64 << 29) - 1;
    let fdstat = |at: usize| (report.shown[at][0], u64_of(&report.shown[at][8..]), u64_of(&report.shown[at][16..]));
    assert_eq!(fdstat(0), (4, all & !(1 << 6), all));
    let stream = (4, all & !(1 << 1 | 1 << 2 | 1 << 5), all);
    let directory = (3, all & !(1 << 1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 19 | 1 << 22), all);
    assert_eq!((fdstat(1), fdstat(2), fdstat(3)), (stream, stream, directory));
    assert_eq!((&report.shown[4], without_inode(&report.shown[5])), (&filestat(4, 0), filestat(3, 0)));
}

#[test]
fn preopened_directories_have_names() {
    let report = bare(|s| {
        for fd in [3, 4, 5, 6] {
            s.call("fd_prestat_get", &[fd, OUT]).show(OUT, 8);
            s.call("fd_prestat_dir_name", &[fd, OUT + 16 * fd, 8]).show(OUT + 16 * fd, 5);
        }
        s.call("fd_prestat_get", &[7, OUT]).call("fd_prestat_get", &[0, OUT]);
        s.call("fd_prestat_dir_name", &[3, OUT, 2]).call("fd_prestat_dir_name", &[1, OUT, 8]);
    });
    assert_eq!(report.errnos, [OK, OK, OK, OK, OK, OK, OK, OK, BADF, BADF, NAMETOOLONG, BADF]);
    let names: Vec<&[u8]> = [1, 3, 5, 7].iter().map(|&at| &report.shown[at][..]).collect();
    assert_eq!(names, [&b"/in\0\0"[..], b"/out\0", b"/grid", b"/\0\0\0\0"]);
    assert_eq!((u64_of(&report.shown[0]), u64_of(&report.shown[2])), (3 << 32, 4 << 32));
}

/// A preopened directory kept its number's name when another descriptor took its place.
#[test]
fn a_directory_opened_later_is_not_preopened() {
    let report = bare(|s| {
        s.call("fd_close", &[IN_FD]).open(GRID_FD, ".", DIRECTORY, READ).show(FD, 4);
        s.call("fd_prestat_get", &[IN_FD, OUT]).call("fd_renumber", &[OUT_FD, GRID_FD]);
        s.call("fd_prestat_dir_name", &[GRID_FD, OUT, 8]).show(OUT, 4);
        s.call("fd_prestat_get", &[OUT_FD, OUT]);
    });
    assert_eq!(report.errnos, [OK, OK, BADF, OK, OK, BADF]);
    assert_eq!((u32_of(&report.shown[0]), &report.shown[1][..]), (3, &b"/out"[..]));
}

#[test]
fn closing_and_renumbering() {
    let rig = Rig::new();
    let report = with(&rig, vec![rig.blob(b"abc"), rig.blob(b"xyz")], |s| {
        s.open(IN_FD, "2", 0, READ).show(FD, 4);
        s.call("fd_renumber", &[7, 0]).read(0, 3);
        s.call("fd_renumber", &[7, 0]).call("fd_renumber", &[0, 7]).call("fd_renumber", &[0, 0]);
        s.call("fd_close", &[0]).call("fd_close", &[0]).call("fd_close", &[-1]).read(0, 1);
    });
    assert_eq!(report.errnos, [OK, OK, OK, BADF, BADF, OK, OK, BADF, BADF, BADF]);
    assert_eq!((u32_of(&report.shown[0]), &report.shown[2][..]), (7, &b"xyz"[..]));
}

/// `fd_write` without buffers once said yes to any descriptor.
#[test]
fn bad_descriptors_are_refused_by_every_function() {
    for (name, shape) in FUNCTIONS {
        let takes_fd = name.starts_with("fd_") || name == "set_executable";
        if !takes_fd && !name.starts_with("path_") {
            continue;
        }
        for fd in [7, 99, -1] {
            let mut script = Script::new();
            let args: Vec<i64> = match name {
                "path_symlink" => vec![OUT, 1, fd, OUT, 1],
                _ => (0..shape.len())
                    .map(|at| if at == 0 { fd } else { i64::from(shape.as_bytes()[at] == b'p') * OUT })
                    .collect(),
            };
            script.code("(i32.store8 (i32.const 0x8000) (i32.const 120))");
            script.call(name, &args);
            assert_eq!(script.run_tree(&Rig::new(), Vec::new()).errnos, [BADF], "{name}({args:?})");
        }
    }
}

/// Every pointer of every function, once just over the end of memory and once at the last address.
#[test]
fn pointers_out_of_bounds_are_faults() {
    let rig = Rig::new();
    let mut checked = 0;
    for (name, shape) in FUNCTIONS {
        for (position, _) in shape.match_indices('p') {
            for bad in [0x1ffff, 0x20000, 0xffff_ffff] {
                let mut script = Script::new();
                let args = plausible(&mut script, name);
                let mut args: Vec<i64> = args.unwrap_or_else(|| panic!("{name} needs plausible arguments"));
                args[position] = bad;
                if name.starts_with("path_") && shape[position + 1..].starts_with('i') {
                    args[position + 1] = 2;
                }
                script.call(name, &args);
                let ended = match name {
                    "fd_write" | "path_readlink" | "path_open" => {
                        let tree = rig.tree(&[("l", Target::Symlink { target: b"target".to_vec() })]);
                        script.run(&rig, vec![rig.blob(b"abc"), Argument::Tree(tree)])
                    }
                    _ => script.run_tree(&rig, vec![rig.blob(b"abc")]),
                };
                assert_eq!(ended.errnos, [FAULT], "{name}({args:x?}), argument {position} bad");
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 3 * FUNCTIONS.iter().map(|(_, shape)| shape.matches('p').count()).sum::<usize>());
}

/// Arguments with which a function would succeed, or come to use every pointer.
fn plausible(s: &mut Script, name: &str) -> Option<Vec<i64>> {
    let [iovs, one] = s.iovec_at(OUT + 64, 4);
    let [poll, _] = s.data(&clock_subscription(1, 5, false));
    let [path, _] = s.data(b"2/l");
    Some(match name {
        "args_get" | "args_sizes_get" | "environ_sizes_get" => vec![OUT, OUT + 64],
        "clock_res_get" => vec![0, OUT],
        "clock_time_get" => vec![0, 0, OUT],
        "fd_fdstat_get" | "fd_filestat_get" | "fd_tell" => vec![0, OUT],
        "fd_prestat_get" => vec![3, OUT],
        "fd_prestat_dir_name" => vec![3, OUT, 8],
        "fd_read" => vec![0, iovs, one, OUT],
        "fd_pread" => vec![0, iovs, one, 0, OUT],
        "fd_write" => vec![1, iovs, one, OUT],
        "fd_pwrite" => {
            s.code(
                "(drop (call $path_open (i32.const 4) (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 1) \
                 (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 0x8000)))",
            );
            s.uses("path_open");
            vec![7, iovs, one, 0, OUT]
        }
        "fd_readdir" => vec![3, OUT, 64, 0, OUT + 256],
        "fd_seek" => vec![0, 0, 1, OUT],
        "path_create_directory" | "path_remove_directory" | "path_unlink_file" => vec![OUT_FD, path, 1],
        "path_filestat_get" => vec![IN_FD, 0, path, 0, OUT],
        "path_filestat_set_times" => vec![OUT_FD, 0, path, 0, 0, 0, 0],
        "path_link" => vec![OUT_FD, 0, path, 1, OUT_FD, path, 1],
        "path_open" => vec![IN_FD, 0, path, 0, 0, READ, 0, 0, OUT],
        "path_readlink" => vec![IN_FD, path, 3, OUT, 64, OUT + 256],
        "path_rename" => vec![OUT_FD, path, 1, OUT_FD, path, 1],
        "path_symlink" => vec![path, 1, OUT_FD, path, 1],
        "poll_oneoff" => vec![poll, OUT, 1, OUT + 256],
        "random_get" => vec![OUT, 8],
        _ => return None,
    })
}

#[test]
fn a_buffer_out_of_bounds_is_a_fault_before_anything_is_done() {
    let rig = Rig::new();
    let report = with(&rig, vec![rig.blob(b"abcdef")], |s| {
        let [good, _] = s.data(b"good");
        let pairs: Vec<u8> = [good, 4, 0x1ffff, 2].iter().flat_map(|&v| (v as u32).to_le_bytes()).collect();
        let [iovs, _] = s.data(&pairs);
        s.call("fd_write", &[1, iovs, 2, OUT]).call("fd_read", &[0, iovs, 2, OUT]);
        let overflowing: Vec<u8> = [0xffff_ffff_u32, 0xffff_ffff].iter().flat_map(|v| v.to_le_bytes()).collect();
        let [iovs, _] = s.data(&overflowing);
        s.call("fd_write", &[1, iovs, 1, OUT]).call("fd_read", &[0, iovs, 1, OUT]);
        s.call("fd_write", &[1, iovs, 1025, OUT]).call("fd_read", &[0, iovs, -1, OUT]);
        s.call("fd_write", &[1, 0x1fff8, 1024, OUT]).read(0, 6);
    });
    assert_eq!(report.errnos, [FAULT, FAULT, FAULT, FAULT, INVAL, INVAL, FAULT, OK]);
    assert_eq!(report.shown[1], b"abcdef");
    assert_eq!(rig.content(&report.done.result), b"");
}

/// 1,024 buffers that all lie over each other claim more bytes than there are; each call moves 16 MiB at most.
#[test]
fn a_call_moves_no_more_than_16_mib() {
    let rig = Rig::new();
    let text = format!(
        r#"(module {} {} {} (memory (export "memory") 64)
        (func (export "_start") (local $at i32)
          (loop $fill
            (i32.store (i32.add (i32.const 1024) (local.get $at)) (i32.const 65536))
            (i32.store (i32.add (i32.const 1028) (local.get $at)) (i32.const 3000000))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $fill (i32.lt_u (local.get $at) (i32.const 8192))))
          (if (call $fd_write (i32.const 1) (i32.const 1024) (i32.const 1024) (i32.const 0)) (then (unreachable)))
          (if (i32.ne (i32.load (i32.const 0)) (i32.const 0x1000000)) (then (unreachable)))
          (if (call $fd_read (i32.const 0) (i32.const 1024) (i32.const 1024) (i32.const 0)) (then (unreachable)))
          (if (i32.ne (i32.load (i32.const 0)) (i32.const 0x1000000)) (then (unreachable)))
          (if (i32.ne (call $random_get (i32.const 0) (i32.const 0x1000001)) (i32.const 21)) (then (unreachable)))))"#,
        import("fd_write"),
        import("fd_read"),
        import("random_get")
    );
    let done = rig.run(&load_wat(&text), vec![rig.blob(&vec![0; 17 << 20])]).unwrap();
    assert_eq!(rig.content(&done.result), vec![0; 16 << 20]);
}

/// Names and types from the bytes of a directory listing, and the last cookie.
fn entries(listing: &[u8]) -> Vec<(u64, String, u8)> {
    let mut rest = listing;
    let mut found = Vec::new();
    while rest.len() >= 24 {
        let len = u32_of(&rest[16..]) as usize;
        let Some(name) = rest[24..].get(..len) else { break };
        found.push((u64_of(rest), String::from_utf8(name.to_vec()).unwrap(), rest[20]));
        rest = &rest[24 + len..];
    }
    found
}

fn named(names: &[(u64, &str, u8)]) -> Vec<(u64, String, u8)> {
    names.iter().map(|(next, name, file_type)| (*next, name.to_string(), *file_type)).collect()
}

#[test]
fn directories_list_their_entries() {
    let rig = Rig::new();
    let sub = rig.tree(&[]);
    let link = Target::Symlink { target: b"f".to_vec() };
    let tree = rig.tree(&[("f", rig.file(b"1")), ("d", Target::Directory { cid: sub }), ("l", link)]);
    let report = with(&rig, vec![rig.blob(b"x"), Argument::Text("t".into()), Argument::Tree(tree)], |s| {
        s.call("fd_readdir", &[IN_FD, OUT + 8, 256, 0, OUT]).show(OUT, 4).show(OUT + 8, 256);
        s.open(IN_FD, "3", DIRECTORY, READ);
        s.call("fd_readdir", &[7, OUT + 8, 256, 0, OUT]).show(OUT, 4).show(OUT + 8, 256);
        s.call("fd_readdir", &[7, OUT + 8, 60, 3, OUT]).show(OUT, 4).show(OUT + 8, 60);
        s.call("fd_readdir", &[7, OUT + 8, 10, 4, OUT]).show(OUT, 4);
        s.call("fd_readdir", &[7, OUT + 8, 0, 0, OUT]).show(OUT, 4);
        s.call("fd_readdir", &[7, OUT + 8, 60, 5, OUT]).show(OUT, 4);
        s.call("fd_readdir", &[7, OUT + 8, 60, -1, OUT]).show(OUT, 4);
        s.call("fd_readdir", &[GRID_FD, OUT + 8, 256, 0, OUT]).show(OUT, 4);
        s.call("fd_readdir", &[0, OUT + 8, 256, 0, OUT]);
    });
    let len = |at: usize| u32_of(&report.shown[at]) as usize;
    let listed = |at: usize| entries(&report.shown[at + 1][..len(at)]);
    let dots = [(1, ".", 3), (2, "..", 3)];
    assert_eq!(listed(0), named(&[dots[0], dots[1], (3, "1", 4), (4, "3", 3)]));
    assert_eq!(listed(2), named(&[dots[0], dots[1], (3, "d", 3), (4, "f", 4), (5, "l", 7)]));
    assert_eq!((len(4), listed(4)), (50, named(&[(4, "f", 4), (5, "l", 7)])));
    assert_eq!([6, 7, 8, 9, 10].map(len), [10, 0, 0, 0, 51]);
    assert_eq!(report.errnos.last(), Some(&NOTDIR));
}

/// Listing a directory below `/out` bit by bit while its entries are removed: none is skipped, as `rm -r` needs.
#[test]
fn a_listing_goes_on_behind_what_was_removed() {
    let rig = Rig::new();
    let mut s = Script::new();
    for name in ["a", "b", "c", "d"] {
        s.at("path_create_directory", OUT_FD, name);
    }
    s.call("fd_readdir", &[OUT_FD, OUT + 8, 24 * 4 + 6, 0, OUT]).show(OUT, 4).show(OUT + 8, 102);
    s.at("path_remove_directory", OUT_FD, "a").at("path_remove_directory", OUT_FD, "b");
    s.call("fd_readdir", &[OUT_FD, OUT + 8, 256, 4, OUT]).show(OUT, 4).show(OUT + 8, 256);
    s.call("fd_readdir", &[OUT_FD, OUT + 8, 256, 2, OUT]).show(OUT, 4).show(OUT + 8, 256);
    let report = s.run_tree(&rig, Vec::new());
    let listed = |at: usize| entries(&report.shown[at + 1][..u32_of(&report.shown[at]) as usize]);
    assert_eq!(listed(0), named(&[(1, ".", 3), (2, "..", 3), (3, "a", 3), (4, "b", 3)]));
    assert_eq!(listed(2), named(&[(5, "c", 3), (6, "d", 3)]));
    assert_eq!(listed(4), named(&[(3, "c", 3), (4, "d", 3)]), "from the start, only what is left");
}

#[test]
fn paths_do_not_lead_out() {
    let rig = Rig::new();
    let link = |target: &str| Target::Symlink { target: target.as_bytes().to_vec() };
    let sub = rig.tree(&[("deep", rig.file(b"deep")), ("up", link("../f")), ("out", link("../../f"))]);
    let tree = rig.tree(&[
        ("f", rig.file(b"f")),
        ("d", Target::Directory { cid: sub }),
        ("abs", link("/f")),
        ("self", link("self")),
        ("a", link("b")),
        ("b", link("a")),
        ("to_d", link("d")),
        ("gone", link("nowhere")),
    ]);
    let table = [
        ("..", NOTCAPABLE),
        ("../x", NOTCAPABLE),
        ("/in/1/f", NOTCAPABLE),
        ("1/../x", NOTCAPABLE),
        ("1/d/../../f", NOTCAPABLE),
        ("1/abs", NOTCAPABLE),
        ("1/d/out", NOTCAPABLE),
        ("1/self", LOOP),
        ("1/a", LOOP),
        ("1/gone", NOENT),
        ("1/x", NOENT),
        ("1/f/x", NOTDIR),
        ("1/f/../f", NOTDIR),
        ("1/d/deep/../deep", NOTDIR),
        ("2", OK),
        ("2/x", NOTDIR),
        ("2/..", NOTDIR),
        ("3", NOENT),
        ("4", NOENT),
        ("0", NOENT),
        ("01", NOENT),
        ("+1", NOENT),
        ("99999999999999999999999", NOENT),
        ("1/f", OK),
        ("./1//./f", OK),
        (".//./1/d/../f", OK),
        ("1/d/up", OK),
        ("1/to_d/deep", OK),
        ("1/to_d/../f", OK),
        (".", OK),
        ("", OK),
    ];
    let arguments = vec![Argument::Tree(tree), rig.blob(b"x"), Argument::Text("t".into())];
    let mut following = Script::new();
    for (path, _) in table {
        following.open_following(IN_FD, path, 1, 0, READ);
    }
    let report = following.run(&rig, arguments.clone());
    let found: Vec<_> = table.iter().zip(report.errnos).map(|((path, _), errno)| (*path, errno)).collect();
    assert_eq!(found, table);

    let report = with(&rig, arguments, |s| {
        s.open(IN_FD, "1/abs", 0, READ).open(IN_FD, "1/f", DIRECTORY, READ).open(IN_FD, "1/d", DIRECTORY, READ);
        s.open(7, "../f", 0, READ).open(7, "up", 0, READ).open_following(7, "up", 1, 0, READ);
    });
    assert_eq!(report.errnos, [LOOP, NOTDIR, OK, NOTCAPABLE, LOOP, NOTCAPABLE]);
}

#[test]
fn stat_and_readlink() {
    let rig = Rig::new();
    let tree = rig.tree(&[("l", Target::Symlink { target: b"target".to_vec() }), ("f", rig.file(b"four"))]);
    rig.grid.answer("p/m", rig.file(b"nested"));
    let report = with(&rig, vec![Argument::Tree(tree), rig.blob(b"abc")], |s| {
        for (fd, path) in [(IN_FD, "1"), (IN_FD, "2"), (IN_FD, "1/f"), (IN_FD, "1/l"), (GRID_FD, "p/m"), (GRID_FD, ".")]
        {
            let [at, len] = s.data(path.as_bytes());
            s.call("path_filestat_get", &[fd, 0, at, len, OUT]).show(OUT, 64);
        }
        let [link, len] = s.data(b"1/l");
        s.call("path_readlink", &[IN_FD, link, len, OUT, 64, OUT + 64]).show(OUT + 64, 4).show(OUT, 6);
        s.call("path_readlink", &[IN_FD, link, len, OUT, 3, OUT + 64]).show(OUT + 64, 4);
        s.call("path_readlink", &[IN_FD, link, 1, OUT, 64, OUT + 64])
            .call("path_readlink", &[GRID_FD, link, len, OUT, 64, OUT]);
        s.call("path_filestat_get", &[IN_FD, 1, link, len, OUT]);
    });
    assert_eq!(report.errnos, [OK, OK, OK, OK, OK, OK, OK, OK, INVAL, INVAL, NOENT]);
    let stats = [filestat(3, 0), filestat(4, 3), filestat(4, 4), filestat(7, 6), filestat(4, 6), filestat(3, 0)];
    let found: Vec<_> = report.shown[..6].iter().map(|shown| without_inode(shown)).collect();
    assert_eq!(found, stats);
    assert_eq!((u32_of(&report.shown[6]), &report.shown[7][..], u32_of(&report.shown[8])), (6, &b"target"[..], 3));
    assert_eq!(rig.grid.asked(), ["p/m"]);
}

/// All inode numbers were 0, so walks that guard against cycles went no deeper than one directory.
#[test]
fn inode_numbers_tell_files_apart() {
    let rig = Rig::new();
    let sub = rig.tree(&[("same", rig.file(b"a"))]);
    let tree = rig.tree(&[("a", rig.file(b"a")), ("b", rig.file(b"b")), ("d", Target::Directory { cid: sub })]);
    let mut s = Script::new();
    s.at("path_create_directory", OUT_FD, "d").at("path_create_directory", OUT_FD, "d/e");
    s.open(OUT_FD, "f", CREATE, WRITE).call("fd_filestat_get", &[7, OUT]).show(OUT + 8, 8);
    let stored = ["1", "1/a", "1/d/same", "1/b", "1/d"].map(|path| (IN_FD, path));
    for (fd, path) in stored.into_iter().chain([(OUT_FD, "d"), (OUT_FD, "d/e"), (OUT_FD, "f"), (GRID_FD, ".")]) {
        let [at, len] = s.data(path.as_bytes());
        s.call("path_filestat_get", &[fd, 0, at, len, OUT]).show(OUT + 8, 8);
    }
    s.call("fd_filestat_get", &[IN_FD, OUT]).show(OUT + 8, 8).call("fd_filestat_get", &[OUT_FD, OUT]).show(OUT + 8, 8);
    s.call("fd_readdir", &[OUT_FD, OUT + 8, 256, 0, OUT]).show(OUT + 8, 24).show(OUT + 8 + 51, 24);
    let report = s.run_tree(&rig, vec![Argument::Tree(tree)]);
    assert!(report.errnos.iter().all(|&errno| errno == OK), "{:?}", report.errnos);
    let numbers: Vec<u64> = report.shown[..12].iter().map(|shown| u64_of(shown)).collect();
    assert_eq!((numbers[0], numbers[2]), (numbers[8], numbers[3]), "one file has one number");
    let distinct: std::collections::BTreeSet<u64> = numbers.iter().copied().collect();
    assert_eq!((distinct.len(), distinct.contains(&0)), (10, false), "{numbers:?}");
    let listed = [&report.shown[12], &report.shown[13]].map(|entry| u64_of(&entry[8..]));
    assert_eq!(listed, [numbers[11], numbers[6]], "a listing has the same");
}

#[test]
fn what_is_read_cannot_be_changed() {
    let rig = Rig::new();
    let tree = rig.tree(&[("f", rig.file(b"f"))]);
    let mut s = Script::new();
    for (fd, path) in [(IN_FD, "1/f"), (IN_FD, "new"), (GRID_FD, "p/m"), (7, "f")] {
        if fd == 7 {
            s.open(IN_FD, "1", DIRECTORY, READ);
        }
        s.open(fd, path, CREATE, READ).open(fd, path, TRUNCATE, READ).open(fd, path, 0, WRITE);
        s.open(fd, path, CREATE | EXCLUSIVE, WRITE).at("path_create_directory", fd, path);
        s.at("path_unlink_file", fd, path).at("path_remove_directory", fd, path);
        let [at, len] = s.data(path.as_bytes());
        s.call("path_symlink", &[at, len, fd, at, len]).call("path_link", &[fd, 0, at, len, OUT_FD, at, len]);
        s.call("path_link", &[OUT_FD, 0, at, len, fd, at, len]).call("path_rename", &[fd, at, len, OUT_FD, at, len]);
        s.call("path_filestat_set_times", &[fd, 0, at, len, 0, 0, 0]);
    }
    let report = s.run_tree(&rig, vec![Argument::Tree(tree)]);
    let refused = report.errnos.iter().filter(|&&errno| errno == ROFS).count();
    assert_eq!((refused, report.errnos.len()), (48, 49), "{:?}", report.errnos);
    let report = with(&rig, vec![rig.blob(b"abc")], |s| {
        s.write(0, b"x")
            .write(IN_FD, b"x")
            .call("fd_pwrite", &[0, OUT, 0, 0, OUT])
            .call("fd_filestat_set_size", &[0, 0]);
    });
    assert_eq!(report.errnos, [BADF; 4]);
    assert!(rig.grid.asked().is_empty(), "nothing was called");
}

#[test]
fn paths_and_names_have_limits() {
    let rig = Rig::new();
    let mut s = Script::new();
    s.at("path_create_directory", OUT_FD, &"n".repeat(255)).at("path_create_directory", OUT_FD, &"n".repeat(256));
    s.at("path_create_directory", OUT_FD, &"./".repeat(2047)).at("path_create_directory", OUT_FD, &"./".repeat(2048));
    s.at("path_create_directory", OUT_FD, "a\0b").symlink("t\0", "l").symlink("", "l");
    s.symlink(&"t".repeat(4095), "long").symlink(&"t".repeat(4096), "l");
    s.open(IN_FD, &"n".repeat(256), 0, READ).open(IN_FD, "n\0", 0, READ);
    let report = s.run_tree(&rig, Vec::new());
    assert_eq!(
        report.errnos,
        [OK, NAMETOOLONG, EXIST, NAMETOOLONG, INVAL, INVAL, NOENT, OK, NAMETOOLONG, NOENT, INVAL]
    );
    let names = rig.listing(&report.done.result);
    assert_eq!(names, [format!("long -> {}", "t".repeat(4095)), format!("{}/", "n".repeat(255))]);
}

#[test]
fn nested_calls_reach_files_and_trees() {
    let rig = Rig::new();
    let tree = rig.tree(&[("f", rig.file(b"in the tree"))]);
    rig.grid.answer("p/m/x", Target::Directory { cid: tree });
    let report = with(&rig, Vec::new(), |s| {
        s.open(GRID_FD, "p/m/x", DIRECTORY, READ).open(7, "f", 0, READ).read(8, 11);
        s.open(GRID_FD, "../x", 0, READ).open(GRID_FD, "p/../../x", 0, READ).open(GRID_FD, "./.", 0, READ);
        let [bad, len] = s.data(b"p/\xff");
        s.call("path_open", &[GRID_FD, 0, bad, len, 0, READ, 0, 0, FD]);
    });
    assert_eq!(report.errnos, [OK, OK, OK, NOTCAPABLE, NOTCAPABLE, OK, INVAL]);
    assert_eq!(report.shown[1], b"in the tree");
    assert_eq!(rig.grid.asked(), ["p/m/x"]);
}

#[test]
fn a_nested_call_that_fails_behind_a_stat_ends_the_call_too() {
    let rig = Rig::new();
    let mut s = Script::new();
    let [at, len] = s.data(b"p/none");
    s.call("path_filestat_get", &[GRID_FD, 0, at, len, OUT]);
    let ended = rig.run(&s.load(), words(&[]));
    assert!(matches!(ended, Err(RunError::Nested(_))), "{ended:?}");
}
