//! The committed modules and examples, run as they are.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use gridfs_modules::{Argument, RunError};
use gridfs_store::Durability;

use crate::rig::{NotPromised, Rig, guest, words};

const TEXT: &[u8] = b"one fish\ntwo fish\nRed fish\nblue\n";

#[test]
fn wc_counts() {
    let rig = Rig::new();
    let wc = guest("wc");
    let run = |options: &[&str]| rig.text(&wc, [vec![rig.blob(TEXT)], words(options)].concat());
    assert_eq!(run(&[]), " 4  7 32\n");
    assert_eq!(run(&["-l"]), "4\n");
    assert_eq!(run(&["-w", "-c"]), " 7 32\n");
    assert_eq!(rig.text(&wc, vec![rig.blob(b"")]), "0 0 0\n");
    let large = vec![b'x'; 5_000_000];
    assert_eq!(rig.text(&wc, vec![rig.blob(&large)]), "      0       1 5000000\n");
}

#[test]
fn a_guest_that_fails_says_why() {
    let rig = Rig::new();
    let error = rig.run(&guest("wc"), vec![rig.blob(TEXT), Argument::Text("-x".into())]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the module ended with exit status 2; it said: wc: usage: wc FILE [-l] [-w] [-c]: \"-x\" is not an option of it"
    );
    let error = rig.run(&guest("wc"), words(&["/in/9"])).unwrap_err();
    assert!(matches!(&error, RunError::Exit { status: 1, stderr } if stderr.starts_with(b"wc: can't read /in/9: ")));
}

#[test]
fn sha256_hashes() {
    let rig = Rig::new();
    let hash = |bytes: &[u8]| rig.text(&guest("sha256"), vec![rig.blob(bytes)]);
    assert_eq!(hash(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n");
    assert_eq!(hash(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n");
}

#[test]
fn grep_finds() {
    let rig = Rig::new();
    let grep = guest("grep");
    let run = |pattern: &str, options: &[&str]| {
        rig.text(&grep, [words(&[pattern]), vec![rig.blob(TEXT)], words(options)].concat())
    };
    assert_eq!(run("fish$", &[]), "one fish\ntwo fish\nRed fish\n");
    assert_eq!(run("red", &[]), "");
    assert_eq!(run("red", &["-i"]), "Red fish\n");
    assert_eq!(run("fish", &["-v"]), "blue\n");
    assert_eq!(run("e", &["-n"]), "1:one fish\n3:Red fish\n4:blue\n");
    assert_eq!(run("fish", &["-c"]), "3\n");
    assert_eq!(run("fish$", &["-F"]), "");
    assert_eq!(run("nowhere", &["-c"]), "0\n");
}

#[test]
fn grep_refuses_a_bad_pattern_with_exit_status_2() {
    let rig = Rig::new();
    let arguments = vec![Argument::Text("(".into()), rig.blob(TEXT)];
    let Err(RunError::Exit { status, stderr }) = rig.run(&guest("grep"), arguments) else { panic!("no exit") };
    assert_eq!(status, 2);
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(stderr.starts_with("grep: the pattern \"(\" is not a regular expression: "), "{stderr}");
    assert!(stderr.contains("unclosed group"), "{stderr}");
}

#[test]
fn md_renders() {
    let rig = Rig::new();
    let html = rig.text(&guest("md"), vec![rig.blob(b"# A *b*\n\n|x|\n|-|\n|~~1~~|\n")]);
    assert_eq!(
        html,
        "<h1>A <em>b</em></h1>\n<table><thead><tr><th>x</th></tr></thead><tbody>\n\
         <tr><td><del>1</del></td></tr>\n</tbody></table>\n"
    );
    let error = rig.run(&guest("md"), vec![rig.blob(b"\xff")]).unwrap_err();
    assert!(matches!(&error, RunError::Exit { status: 1, stderr } if stderr.starts_with(b"md: /in/1 is not Markdown")));
}

#[test]
fn programs_that_know_nothing_of_the_grid_run_unchanged() {
    let rig = Rig::new();
    assert_eq!(rig.text(&guest("rot13"), vec![rig.blob(b"Hello, Grid!\n")]), "Uryyb, Tevq!\n");
    assert_eq!(rig.text(&guest("freq"), vec![rig.blob(b"b a. B c, a B")]), "3 b\n2 a\n1 c\n");
}

#[test]
fn shout_opens_a_nested_call() {
    let rig = Rig::new();
    rig.grid.answer("local/wc/abc", rig.file(b"four words, or so\n"));
    assert_eq!(rig.text(&guest("shout"), words(&["/grid/local/wc/abc"])), "FOUR WORDS, OR SO\n");
    assert_eq!(rig.grid.asked(), ["local/wc/abc"]);
}

/// shout reports a file it can't open and exits with 1. It doesn't come to that: what a guest makes of a failed
/// nested call must not be remembered.
#[test]
fn a_failed_nested_call_ends_the_whole_call() {
    let rig = Rig::new();
    let error = rig.run(&guest("shout"), words(&["/grid/local/none"])).unwrap_err();
    assert_eq!(error.to_string(), "a nested call failed: nothing is promised at \"local/none\"");
    let RunError::Nested(source) = error else { panic!("{error:?}") };
    assert_eq!(source.downcast_ref::<NotPromised>().unwrap().0, "local/none");
}

#[test]
fn untar_gives_the_tree_that_tar_packed() {
    let rig = Rig::new();
    let source = tempfile::tempdir().unwrap();
    make_tree(source.path());
    let mut batch = rig.store.batch();
    let on = &mut |_: gridfs_store::ingest::Event<'_>| std::ops::ControlFlow::Continue(());
    let expected =
        gridfs_store::ingest::put_path(&mut batch, source.path(), gridfs_store::ingest::Read::Changed, on).unwrap();
    batch.commit(Durability::Lazy).unwrap();
    assert_eq!(rig.listing(&expected).len(), 15);
    for (options, magic) in [
        ("--format=gnu", &b""[..]),
        ("--format=pax", b""),
        ("-z", b"\x1f\x8b"),
        ("-J", b"\xfd7zXZ"),
        ("--zstd", b"\x28\xb5\x2f\xfd"),
    ] {
        let archive = tar(source.path(), options);
        assert!(archive.starts_with(magic), "tar {options} wrote another format");
        let done = rig.run(&guest("untar"), vec![rig.blob(&archive)]).unwrap();
        assert_eq!(rig.listing(&done.result), rig.listing(&expected), "tar {options}");
        assert_eq!(done.result, expected, "tar {options}");
        assert_eq!(String::from_utf8_lossy(&done.stderr), "");
    }
}

fn make_tree(root: &Path) {
    let write = |name: &str, content: &str| std::fs::write(root.join(name), content).unwrap();
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, root.join(name)).unwrap();
    std::fs::create_dir_all(root.join("a/b/c/empty")).unwrap();
    write("plain", "plain\n");
    write("zero", "");
    write("run", "#!/bin/sh\n");
    std::fs::set_permissions(root.join("run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    write("a/b/deep", "deep");
    write(&format!("a/{}", "n".repeat(200)), "long name");
    write(&format!("a/b/c/{}", "ü".repeat(127)), "254 bytes");
    std::fs::hard_link(root.join("plain"), root.join("a/second")).unwrap();
    std::fs::hard_link(root.join("run"), root.join("a/run too")).unwrap();
    link("/etc/passwd", "absolute");
    link("../../plain", "a/b/up");
    link("../../../../outside", "a/out");
}

fn tar(root: &Path, options: &str) -> Vec<u8> {
    let output = Command::new("tar").args(["--sort=name", options, "-cf", "-", "-C"]).arg(root).arg(".").output();
    let output = output.expect("these tests need tar, gzip, xz and zstd");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn untar_refuses_a_damaged_archive_as_a_whole() {
    let rig = Rig::new();
    let source = tempfile::tempdir().unwrap();
    make_tree(source.path());
    let said = |archive: &[u8]| match rig.run(&guest("untar"), vec![rig.blob(archive)]) {
        Err(RunError::Exit { status: 1, stderr }) => String::from_utf8(stderr).unwrap(),
        other => panic!("{:?}", other.map(|done| rig.listing(&done.result))),
    };
    let plain = tar(source.path(), "--format=gnu");
    let entries_end = (plain.iter().rposition(|&byte| byte != 0).unwrap() + 1).next_multiple_of(512);
    assert_eq!(said(&plain[..entries_end]), "untar: the archive is cut short: no end mark follows entry 16\n");
    assert_eq!(said(&plain[..700]), "untar: can't read what follows entry 1: failed to read entire block\n");
    assert!(said(b"no archive at all").starts_with("untar: can't read a tar archive"));
    let mut gzip = tar(source.path(), "-z");
    let crc = gzip.len() - 8;
    gzip[crc] ^= 1;
    assert!(said(&gzip).starts_with("untar: can't read what follows the last entry: "), "{}", said(&gzip));
}
