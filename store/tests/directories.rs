//! Whole directories in and out.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use common::{commit, noise, open};
use gridfs_store::ingest::Read;
use gridfs_store::{Cid, Codec, Error, Target, extract, ingest};

fn sample(root: &Path) {
    fs::create_dir_all(root.join("sub/empty")).unwrap();
    fs::write(root.join("plain"), b"plain").unwrap();
    fs::write(root.join("sub/large"), noise(1, 700_000)).unwrap();
    fs::write(root.join("sub/run"), b"#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("sub/run"), fs::Permissions::from_mode(0o744)).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"latin1-\xe9")), b"").unwrap();
    symlink("/etc/passwd", root.join("sub/link")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
}

#[test]
fn a_directory_goes_in_and_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    let source = dir.path().join("source");
    sample(&source);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        source.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let (mut files, mut bytes, mut skipped) = (0, 0, Vec::new());
    let target = commit(&store, |batch| {
        ingest::put_path(batch, &source, Read::Changed, &mut |event| {
            match event {
                ingest::Event::Bytes(n) => bytes += n,
                ingest::Event::File(_) => files += 1,
                ingest::Event::Skipped { path, why } => skipped.push((path.to_owned(), why)),
            }
            ControlFlow::Continue(())
        })
        .unwrap()
    });
    assert_eq!((files, bytes), (4, 5 + 700_000 + 10));
    assert_eq!(skipped, [(source.join("fifo"), "fifo")]);
    let Target::Directory { cid } = target else { panic!("{target:?}") };
    let tree = store.tree(&cid).unwrap();
    let names: Vec<_> = tree.entries().iter().map(|entry| entry.name.as_slice()).collect();
    assert_eq!(names, [&b"dangling"[..], b"latin1-\xe9", b"plain", b"sub"]);

    let dest = dir.path().join("dest");
    extract::get(&store, &target, &dest, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(fs::read(dest.join("sub/large")).unwrap(), noise(1, 700_000));
    assert_eq!(fs::read_link(dest.join("sub/link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::metadata(dest.join("sub/run")).unwrap().permissions().mode() & 0o111, 0o111);
    assert_eq!(fs::metadata(dest.join("plain")).unwrap().permissions().mode() & 0o111, 0);
    assert!(fs::metadata(dest.join("sub/empty")).unwrap().is_dir());
    let again = commit(&store, |batch| {
        ingest::put_path(batch, &dest, Read::Changed, &mut |_| ControlFlow::Continue(())).unwrap()
    });
    assert_eq!(again, target, "what came out goes in under the same name");

    match extract::get(&store, &target, &dest, &mut |_| ControlFlow::Continue(())) {
        Err(Error::Extract { dest: named, source }) => {
            assert_eq!(named, dest);
            assert!(matches!(*source, Error::Io { op: "create", .. }), "{source:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_top_is_followed_and_a_file_is_a_target_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    fs::write(dir.path().join("file"), b"content").unwrap();
    symlink("file", dir.path().join("link")).unwrap();
    let put = |name: &str| {
        commit(&store, |batch| {
            ingest::put_path(batch, &dir.path().join(name), Read::Changed, &mut |_| ControlFlow::Continue(()))
        })
    };
    let expected = Target::File { cid: Cid::of(Codec::Raw, b"content"), size_bytes: 7, executable: false };
    assert_eq!(put("link").unwrap(), expected);
    assert!(matches!(put("absent"), Err(Error::Io { op: "open", path, .. }) if path == dir.path().join("absent")));
    let device = commit(&store, |batch| {
        ingest::put_path(batch, Path::new("/dev/null"), Read::Changed, &mut |_| ControlFlow::Continue(()))
    });
    assert!(matches!(device, Err(Error::NotStorable { what: "device", .. })));
}

#[test]
fn depth_is_limited() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    let mut deep = dir.path().join("deep");
    fs::create_dir_all(&deep).unwrap();
    let put = || {
        commit(&store, |batch| {
            ingest::put_path(batch, &dir.path().join("deep"), Read::Changed, &mut |_| ControlFlow::Continue(()))
        })
    };
    for _ in 0..ingest::MAX_DEPTH - 1 {
        deep.push("d");
        fs::create_dir(&deep).unwrap();
    }
    extract::get(&store, &put().unwrap(), &dir.path().join("out"), &mut |_| ControlFlow::Continue(())).unwrap();
    deep.push("d");
    fs::create_dir(&deep).unwrap();
    assert!(matches!(put(), Err(Error::TooDeep { max_depth: 256, path }) if path == deep));
}

/// Sizes around what a parcel, a chunk and a run hold, beside more empty files than one of them takes.
fn crowd(root: &Path) -> Vec<(String, Vec<u8>)> {
    const SIZES: [usize; 10] =
        [1, 16 << 10, (16 << 10) + 1, 256 << 10, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20, 5 << 20, 700_001];
    let mut files: Vec<_> = (0..2500).map(|n| (format!("empty{n:04}"), Vec::new())).collect();
    for (n, size) in SIZES.into_iter().enumerate() {
        files.push((format!("empty{:04}.noise", n * 250), noise(n as u64, size)));
        files.push((format!("zeros{n:04}"), vec![0; size]));
    }
    files.sort();
    fs::create_dir_all(root).unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(root.join(name), bytes).unwrap());
    files
}

#[test]
fn a_crowd_of_files_goes_in_and_out_in_order() {
    let dir = common::scratch();
    let (store, source, dest) = (open(&dir.path().join("store")), dir.path().join("source"), dir.path().join("dest"));
    let files = crowd(&source);
    let total: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let (mut seen, mut bytes) = (Vec::new(), 0);
    let target = commit(&store, |batch| {
        ingest::put_path(batch, &source, Read::Changed, &mut |event| {
            match event {
                ingest::Event::Bytes(more) => bytes += more,
                ingest::Event::File(path) => seen.push(path.to_owned()),
                ingest::Event::Skipped { path, .. } => panic!("{}", path.display()),
            }
            ControlFlow::Continue(())
        })
        .unwrap()
    });
    assert_eq!((&seen, bytes), (&files.iter().map(|(name, _)| source.join(name)).collect::<Vec<_>>(), total));
    let Target::Directory { cid } = target else { panic!("{target:?}") };
    for (entry, (name, bytes)) in store.tree(&cid).unwrap().entries().iter().zip(&files) {
        let expected =
            Target::File { cid: Cid::of(Codec::Raw, bytes), size_bytes: bytes.len() as u64, executable: false };
        assert_eq!((entry.name.as_slice(), &entry.target), (name.as_bytes(), &expected));
    }
    (seen, bytes) = (Vec::new(), 0);
    extract::get(&store, &target, &dest, &mut |event| {
        match event {
            extract::Event::Bytes(more) => bytes += more,
            extract::Event::File(path) => seen.push(path.to_owned()),
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!((seen, bytes), (files.iter().map(|(name, _)| dest.join(name)).collect(), total));
    for (name, bytes) in &files {
        assert!(fs::read(dest.join(name)).unwrap() == *bytes, "{name}");
    }
}

#[test]
fn an_observer_ends_the_work() {
    let dir = common::scratch();
    let (store, source) = (open(&dir.path().join("store")), dir.path().join("source"));
    crowd(&source);
    let after = |limit: usize| {
        let mut heard = 0;
        move || {
            heard += 1;
            if heard > limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    };
    for limit in [0, 10, 2600] {
        let mut answer = after(limit);
        let mut batch = store.batch();
        let put = ingest::put_path(&mut batch, &source, Read::Changed, &mut |_| answer());
        assert!(matches!(put, Err(Error::Cancelled)), "{limit}: {put:?}");
    }
    let target = commit(&store, |batch| {
        ingest::put_path(batch, &source, Read::Changed, &mut |_| ControlFlow::Continue(())).unwrap()
    });
    for limit in [0, 10, 2600] {
        let mut answer = after(limit);
        let got = extract::get(&store, &target, &dir.path().join(format!("dest{limit}")), &mut |_| answer());
        let Err(Error::Extract { source, .. }) = got else { panic!("{limit}: {got:?}") };
        assert!(matches!(*source, Error::Cancelled), "{limit}: {source:?}");
    }
}

/// What lies before a failure is told of, and the failure names its place, however far ahead the disk was read.
#[test]
fn a_failure_comes_in_its_place() {
    let dir = common::scratch();
    let (store, source) = (open(&dir.path().join("store")), dir.path().join("source"));
    fs::create_dir_all(source.join("b")).unwrap();
    for name in ["a", "c"] {
        fs::write(source.join(name), noise(7, 3 << 20)).unwrap();
    }
    let mut deep = source.join("b");
    for _ in 0..ingest::MAX_DEPTH - 1 {
        deep.push("d");
        fs::create_dir(&deep).unwrap();
    }
    let mut seen = Vec::new();
    let put = ingest::put_path(&mut store.batch(), &source, Read::Changed, &mut |event| {
        if let ingest::Event::File(path) = event {
            seen.push(path.to_owned());
        }
        ControlFlow::Continue(())
    });
    assert!(matches!(put, Err(Error::TooDeep { path, .. }) if path == deep));
    assert_eq!(seen, [source.join("a")]);
}
