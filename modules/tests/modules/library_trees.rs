//! The modules of the library that take or give a tree.

use std::process::Command;

use gridfs_modules::{Argument, RunError};
use gridfs_store::{Durability, Target, ingest};

use crate::rig::{Rig, guest, words};

/// What a module says that fails by itself.
fn said(rig: &Rig, name: &str, arguments: Vec<Argument>) -> String {
    match rig.run(&guest(name), arguments) {
        Err(RunError::Exit { status: 1, stderr }) => String::from_utf8(stderr).unwrap(),
        other => panic!("{name}: {other:?}"),
    }
}

/// A directory of this machine as a tree argument.
fn stored(rig: &Rig, directory: &std::path::Path) -> Argument {
    let mut batch = rig.store.batch();
    let on = &mut |_: ingest::Event<'_>| std::ops::ControlFlow::Continue(());
    let target = ingest::put_path(&mut batch, directory, ingest::Read::Changed, on).unwrap();
    batch.commit(Durability::Lazy).unwrap();
    let Target::Directory { cid } = target else { panic!("{target:?} is no directory") };
    Argument::Tree(cid)
}

#[test]
fn find_lists_what_gnu_find_lists() {
    let rig = Rig::new();
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: usize| std::fs::write(directory.path().join(name), vec![b'x'; bytes]).unwrap();
    std::fs::create_dir_all(directory.path().join("src/deep/[x]")).unwrap();
    std::os::unix::fs::symlink("src", directory.path().join("link.rs")).unwrap();
    write("src/main.rs", 100);
    write("src/deep/lib.rs", 3000);
    write("src/deep/[x]/notes.txt", 0);
    write("src/.hidden", 1024);
    write("src/größe", 5000);
    let tree = stored(&rig, directory.path());
    let run = |options: &[&str]| rig.text(&guest("find"), [vec![tree.clone()], words(options)].concat());
    assert_eq!(run(&["-type", "f", "-name", "*.rs"]), "src/deep/lib.rs\nsrc/main.rs\n");
    assert_eq!(run(&["-regex", r"src/\w+\.rs"]), "src/main.rs\n");
    assert_eq!(run(&["-name", "nowhere"]), "");
    for options in [
        &[][..],
        &["-type", "d"],
        &["-type", "l"],
        &["-name", "*.rs"],
        &["-name", "[!m]*.rs"],
        &["-name", r"\[x\]"],
        &["-path", "*deep*"],
        &["-name", ".*", "-type", "f"],
        &["-type", "f", "-size", "+1k"],
    ] {
        // Below "." the paths that GNU find compares begin with "./", which no pattern here forbids. It counts whole KiB, rounded up.
        let mut find = Command::new("find");
        find.current_dir(directory.path()).env("LC_ALL", "C").args([".", "-mindepth", "1"]).args(options);
        let Ok(output) = find.args(["-printf", "%P\n"]).output() else {
            eprintln!("SKIPPED: find can't be run; the module is not compared with it");
            return;
        };
        let mut expected: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(String::from).collect();
        let mut listed: Vec<String> = run(options).lines().map(String::from).collect();
        expected.sort();
        listed.sort();
        assert_eq!(listed, expected, "find {options:?}");
    }
    let error = rig.run(&guest("find"), [vec![tree.clone()], words(&["-type", "x"])].concat()).unwrap_err();
    assert!(error.to_string().ends_with("\"-type\" with \"x\" is not an option of it"), "{error}");
}

/// An entry of a zip archive: name, content, Unix mode.
type Entry<'a> = (&'a str, &'a [u8], u32);

/// A zip archive of stored entries (APPNOTE 4.3).
fn zip(entries: &[Entry<'_>]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, content, mode) in entries {
        let offset = archive.len() as u32;
        let mut common = Vec::new();
        // Version 2.0, UTF-8 names, stored, midnight of 1 January 1980.
        [20_u16, 1 << 11, 0, 0, 0x21].iter().for_each(|number| common.extend(number.to_le_bytes()));
        let size = content.len() as u32;
        [crc32(content), size, size].iter().for_each(|number| common.extend(number.to_le_bytes()));
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        archive.extend(b"PK\x03\x04");
        archive.extend(&common);
        archive.extend(name.as_bytes());
        archive.extend(*content);
        directory.extend(b"PK\x01\x02\x14\x03");
        directory.extend(&common);
        directory.extend([0; 6]);
        directory.extend((mode << 16).to_le_bytes());
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (count, start) = ((entries.len() as u16).to_le_bytes(), archive.len() as u32);
    archive.extend(&directory);
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend([count, count].concat());
    [directory.len() as u32, start].iter().for_each(|number| archive.extend(number.to_le_bytes()));
    archive.extend([0, 0]);
    archive
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

const FILE: u32 = 0o100644;
const PROGRAM: u32 = 0o100755;
const DIRECTORY: u32 = 0o040755;
const LINK: u32 = 0o120777;

#[test]
fn unzip_gives_the_tree() {
    let rig = Rig::new();
    let archive = zip(&[
        ("a/", b"", DIRECTORY),
        ("a/b/run", b"#!/bin/sh\n", PROGRAM),
        ("größe", b"5", FILE),
        ("a/out", b"../../outside", LINK),
    ]);
    let done = rig.run(&guest("unzip"), vec![rig.blob(&archive)]).unwrap();
    assert_eq!(
        rig.listing(&done.result),
        ["a/", "a/b/", "a/b/run* = #!/bin/sh\n", "a/out -> ../../outside", "größe = 5"]
    );
}

#[test]
fn unzip_gives_what_zip_packed() {
    let rig = Rig::new();
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    std::fs::create_dir_all(source.join("a/empty")).unwrap();
    std::fs::write(source.join("a/text"), "many words, many words, many words\n".repeat(5000)).unwrap();
    std::fs::write(source.join("größe"), "5").unwrap();
    std::os::unix::fs::symlink("a/text", source.join("link")).unwrap();
    let archive = directory.path().join("archive.zip");
    let mut zip = Command::new("zip");
    let Ok(status) = zip.current_dir(&source).args(["-q", "-y", "-r"]).arg(&archive).arg(".").status() else {
        eprintln!("SKIPPED: zip can't be run; the module is not compared with it");
        return;
    };
    assert!(status.success());
    let done = rig.run(&guest("unzip"), vec![rig.blob(&std::fs::read(&archive).unwrap())]).unwrap();
    let Argument::Tree(expected) = stored(&rig, &source) else { unreachable!("a directory is stored as a tree") };
    assert_eq!(done.result, Target::Directory { cid: expected });
}

#[test]
fn unzip_refuses_what_leads_elsewhere_and_what_is_damaged() {
    let rig = Rig::new();
    let fails = |archive: &[u8]| said(&rig, "unzip", vec![rig.blob(archive)]);
    for (name, reason) in [
        ("../outside", "it has the component \"..\""),
        ("a/../../outside", "it has the component \"..\""),
        ("/etc/passwd", "it is absolute"),
        ("a\0b", "it has a NUL byte"),
    ] {
        let said = fails(&zip(&[(name, b"x", FILE)]));
        assert_eq!(said, format!("unzip: the name {name:?} of entry 1 is refused: {reason}\n"));
    }
    let through = zip(&[("link", b"/etc", LINK), ("link/passwd", b"x", FILE)]);
    assert_eq!(fails(&through), "unzip: \"link/passwd\" leads through \"link\", which is a symbolic link\n");
    let twice = zip(&[("a", b"x", FILE), ("a", b"y", FILE)]);
    assert_eq!(fails(&twice), "unzip: two entries have the same name\n");
    let good = zip(&[("a", b"content", FILE)]);
    let mut damaged = good.clone();
    damaged[32] ^= 1;
    assert!(fails(&damaged).starts_with("unzip: can't read \"a\": "), "{}", fails(&damaged));
    assert!(fails(&good[..good.len() - 30]).starts_with("unzip: can't read a zip archive: "));
    assert!(fails(b"no archive").starts_with("unzip: can't read a zip archive: "));
}

#[test]
fn search_finds_in_the_index_of_a_tree() {
    let rig = Rig::new();
    let notes = rig.tree(&[
        ("fish.txt", rig.file(b"One fish, two fish. Red fish, blue fish!\n")),
        ("hats.txt", rig.file("A cat in a hat; a fish in a dish. Größe: 5.\n".as_bytes())),
        ("photo.jpg", rig.file(b"\xff\xd8\0fish")),
    ]);
    let readme = rig.file(b"Nothing about animals.\n");
    let tree = rig.tree(&[("README", readme), ("notes", Target::Directory { cid: notes })]);
    let index = rig.run(&guest("index"), vec![Argument::Tree(tree)]).unwrap();
    let database = rig.content(&index.result);
    let run = |query: &str, limit: &[&str]| {
        rig.text(&guest("search"), [words(&[query]), vec![rig.blob(&database)], words(limit)].concat())
    };
    assert_eq!(run("fish", &[]), "notes/fish.txt\nnotes/hats.txt\n");
    assert_eq!(run("fish", &["1"]), "notes/fish.txt\n");
    assert_eq!(run("grosse OR GRÖSSE OR größe", &[]), "notes/hats.txt\n");
    assert_eq!(run("fish cat", &[]), "notes/hats.txt\n");
    assert_eq!(run("\"red fish\"", &[]), "notes/fish.txt\n");
    assert_eq!(run("anim*", &[]), "README\n");
    assert_eq!(run("path: jpg", &[]), "notes/photo.jpg\n");
    assert_eq!(run("elephant", &[]), "");
    let listed = rig.text(&guest("sql"), [words(&["SELECT path FROM files"]), vec![rig.blob(&database)]].concat());
    assert_eq!(listed, "path\nREADME\nnotes/fish.txt\nnotes/hats.txt\nnotes/photo.jpg\n");
    let bad = said(&rig, "search", [words(&["AND"]), vec![rig.blob(&database)]].concat());
    assert_eq!(bad, "search: the query \"AND\" failed: fts5: syntax error near \"AND\"\n");
    let other = said(&rig, "search", [words(&["fish"]), vec![rig.blob(b"no database at all")]].concat());
    assert!(other.starts_with("search: /in/2 is not an index that the module index made: "), "{other}");
}

#[test]
fn pipeline_makes_its_call_of_calls() {
    let rig = Rig::new();
    let call = "local/head/%2Flocal%2Fsort%2F%252Flocal%252Ffind%252F%25252Flocal%25252Funtar%25252F%2525252Fin%2525252F1\
                %252C-type%252Cf%252C-name%252C%25252A%25252Ers%2C-r,-n,5";
    rig.grid.answer(call, rig.file(b"src/b.rs\nsrc/a.rs\n"));
    let result = rig.text(&guest("pipeline"), [vec![rig.blob(b"an archive")], words(&["*.rs"])].concat());
    assert_eq!(result, "src/b.rs\nsrc/a.rs\n");
    assert_eq!(rig.grid.asked(), [call]);
}
