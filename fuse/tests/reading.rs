//! What reads: directories, files, links, attributes.

mod fake;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fake::{AtOpen, Fake, Item, Mounted, TIME, can_mount, errno, eventually, pattern};
use gridfs_fuse::{Errno, Kind, MountOptions};
use rustix::fs::{Access, AtFlags};

fn many() -> Fake {
    let files = (0..5_000).map(|number| (format!("dir/entry-{number:05}"), Item::file(format!("{number}"))));
    let mut items: Vec<(String, Item)> = files.collect();
    items[7].1 = Item::symlink("entry-00008");
    items[9].1 = Item::directory();
    items.push(("dir".to_owned(), Item::directory()));
    Fake::new(items)
}

#[test]
fn five_thousand_entries_by_readdir_and_by_readdirplus() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(many());
    let dir = mounted.path("dir");
    let expected: BTreeSet<OsString> = (0..5_000).map(|number| format!("entry-{number:05}").into()).collect();

    // Nobody asks for attributes, so after the first reply the kernel goes on with plain readdir.
    let entries: Vec<_> = fs::read_dir(&dir).unwrap().map(Result::unwrap).collect();
    assert_eq!(entries.len(), 5_000);
    assert!(mounted.fake.attrs.load(Ordering::SeqCst) < 1_000);
    assert_eq!(entries.iter().map(|entry| entry.file_name()).collect::<BTreeSet<_>>(), expected);
    for entry in &entries {
        let kind = entry.file_type().unwrap();
        let name = entry.file_name();
        assert_eq!(kind.is_symlink(), name == "entry-00007", "{name:?}");
        assert_eq!(kind.is_dir(), name == "entry-00009", "{name:?}");
    }

    // Asking for the attributes of each turns readdirplus on: the numbers agree, and no name is looked up.
    let lookups = mounted.fake.lookups.load(Ordering::SeqCst);
    let attrs = mounted.fake.attrs.load(Ordering::SeqCst);
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.ino(), entry.metadata().unwrap().ino(), "{entry:?}");
        seen.insert(entry.file_name());
    }
    assert_eq!(seen, expected);
    assert!(mounted.fake.attrs.load(Ordering::SeqCst) - attrs >= 4_000);
    assert!(mounted.fake.lookups.load(Ordering::SeqCst) - lookups < 1_000);
    let numbers: BTreeSet<u64> = entries.iter().map(|entry| entry.ino()).collect();
    assert_eq!(numbers.len(), 5_000);
}

#[test]
fn an_open_directory_is_a_snapshot() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(many());
    let mut entries = fs::read_dir(mounted.path("dir")).unwrap();
    entries.next().unwrap().unwrap();
    for number in 0..5_000 {
        mounted.fake.remove(&format!("dir/entry-{number:05}"));
    }
    mounted.fake.insert("dir/late", Item::file(""));
    assert_eq!(entries.map(Result::unwrap).filter(|entry| entry.file_name() != "late").count(), 4_999);
    let after: Vec<_> = fs::read_dir(mounted.path("dir")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(after, ["late"]);
}

#[test]
fn find_sees_every_level() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(Fake::new([
        ("a", Item::directory()),
        ("a/b", Item::directory()),
        ("a/b/c", Item::directory()),
        ("a/b/c/file", Item::file("x")),
        ("link", Item::symlink("a")),
    ]));
    let output = Command::new("find").arg(".").current_dir(mounted.dir()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let found: BTreeSet<&str> = text.lines().collect();
    assert_eq!(found, BTreeSet::from([".", "./a", "./a/b", "./a/b/c", "./a/b/c/file", "./link"]));
}

#[test]
fn files_read_whole_and_at_random_offsets() {
    if !can_mount() {
        return;
    }
    let content = pattern(3_000_017);
    let slow = Item { slow_reads: true, ..Item::file(content.clone()) };
    let mounted =
        Mounted::new(Fake::new([("now", Item::file(content.clone())), ("slow", slow), ("empty", Item::file(""))]));
    assert_eq!(fs::read(mounted.path("empty")).unwrap(), b"");
    for name in ["now", "slow"] {
        assert!(fs::read(mounted.path(name)).unwrap() == content, "{name}");
        let file = File::open(mounted.path(name)).unwrap();
        let mut at = 12_345_u64;
        for _ in 0..200 {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let offset = (at >> 20) as usize % (content.len() + 1_000);
            let size = 1 + (at >> 8) as usize % 70_000;
            let mut buffer = vec![0; size];
            let read = file.read_at(&mut buffer, offset as u64).unwrap();
            let from = offset.min(content.len());
            let expected = &content[from..content.len().min(from + size)];
            assert!(buffer[..read] == *expected, "{name} at {offset}, {size} bytes");
        }
    }
    eventually("the files are released", || mounted.fake.open_files.load(Ordering::SeqCst) == 0);
}

#[test]
fn seeking_for_data_and_holes_goes_by_the_size() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(Fake::new([("file", Item::file(pattern(10_000)))]));
    let mut file = File::open(mounted.path("file")).unwrap();
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(100)).unwrap(), 100);
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(100)).unwrap(), 10_000);
    assert_eq!(file.seek(SeekFrom::End(-1)).unwrap(), 9_999);
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, pattern(10_000)[9_999..]);
}

#[test]
fn attributes_are_shown_as_documented() {
    if !can_mount() {
        return;
    }
    let executable = Item { kind: Kind::File { executable: true }, ..Item::file("#!") };
    let options = MountOptions { uid: 1234, gid: 5678, ..MountOptions::default() };
    let mounted = Mounted::with(
        Fake::new([
            ("file", Item::file(pattern(4_097))),
            ("program", executable),
            ("dir", Item::directory()),
            ("link", Item::symlink("nowhere/at/all")),
        ]),
        options,
    );
    let shown = |name: &str| {
        let metadata = fs::symlink_metadata(mounted.path(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.blksize()), (1234, 5678, 4096));
        let seconds = TIME.as_secs() as i64;
        assert_eq!([metadata.atime(), metadata.mtime(), metadata.ctime()], [seconds; 3]);
        assert_eq!(metadata.mtime_nsec(), i64::from(TIME.subsec_nanos()));
        (metadata.mode(), metadata.nlink(), metadata.size(), metadata.blocks())
    };
    assert_eq!(shown("file"), (0o100_444, 1, 4_097, 9));
    assert_eq!(shown("program"), (0o100_555, 1, 2, 1));
    assert_eq!(shown("dir"), (0o040_555, 2, 0, 0));
    assert_eq!(shown("link"), (0o120_777, 1, 14, 1));
    let root = fs::metadata(mounted.dir()).unwrap();
    assert_eq!((root.ino(), root.mode()), (1, 0o040_555));
}

#[test]
fn links_lead_where_they_say() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(Fake::new([
        ("dir", Item::directory()),
        ("dir/file", Item::file("there")),
        ("name", Item { ttl: Duration::ZERO, ..Item::symlink("dir/file") }),
        ("dangling", Item::symlink("nowhere")),
        ("long", Item::symlink(&"x".repeat(4_096))),
    ]));
    assert_eq!(fs::read_link(mounted.path("name")).unwrap().to_str(), Some("dir/file"));
    assert_eq!(fs::read_to_string(mounted.path("name")).unwrap(), "there");
    // Looked up each time, and read once.
    assert_eq!(mounted.fake.readlinks.load(Ordering::SeqCst), 1);
    assert_eq!(errno(fs::read(mounted.path("dangling"))), Errno::ENOENT.code());
    assert_eq!(errno(fs::read_link(mounted.path("long"))), Errno::ENAMETOOLONG.code());

    // A mutable name: it points elsewhere, and the next look sees it.
    mounted.fake.insert("dir/other", Item::file("elsewhere"));
    mounted.fake.insert("name", Item { ttl: Duration::ZERO, ..Item::symlink("dir/other") });
    assert_eq!(fs::read_to_string(mounted.path("name")).unwrap(), "elsewhere");
    assert_eq!(fs::read_link(mounted.path("name")).unwrap().to_str(), Some("dir/other"));
    mounted.fake.insert("name", Item { ttl: Duration::ZERO, ..Item::symlink("dir/file") });
    assert_eq!(fs::read_link(mounted.path("name")).unwrap().to_str(), Some("dir/file"));
    mounted.fake.insert("name", Item { ttl: Duration::ZERO, ..Item::symlink("dir/other") });

    let outside = tempfile::TempDir::new().unwrap();
    symlink(mounted.path("name"), outside.path().join("in")).unwrap();
    assert_eq!(fs::read_to_string(outside.path().join("in")).unwrap(), "elsewhere");
}

#[test]
fn names_that_are_not_there() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(Fake::new([("file", Item::file(""))]));
    assert_eq!(errno(fs::metadata(mounted.path("none"))), Errno::ENOENT.code());
    assert_eq!(errno(fs::metadata(mounted.path("file/none"))), Errno::ENOTDIR.code());
    assert_eq!(errno(fs::metadata(mounted.path(&"x".repeat(255)))), Errno::ENOENT.code());
    assert_eq!(errno(fs::metadata(mounted.path(&"x".repeat(256)))), Errno::ENAMETOOLONG.code());
    // Not remembered as missing.
    mounted.fake.insert("none", Item::file("now"));
    assert_eq!(fs::read_to_string(mounted.path("none")).unwrap(), "now");
}

#[test]
fn extended_attributes() {
    if !can_mount() {
        return;
    }
    let xattrs = [("user.grid.cid", "bafk"), ("user.grid.state", "computed")];
    let file = Item {
        xattrs: xattrs.iter().map(|(name, value)| (OsString::from(name), value.as_bytes().to_vec())).collect(),
        ..Item::file("")
    };
    let mounted = Mounted::new(Fake::new([("file", file), ("bare", Item::file(""))]));
    let path = mounted.path("file");
    let get = |name: &str, buffer: &mut [u8]| rustix::fs::getxattr(&path, name, buffer);
    let list = |name: &str, buffer: &mut [u8]| rustix::fs::listxattr(mounted.path(name), buffer);
    let size = |name: &str| rustix::fs::getxattr_query(&path, name);
    let list_size = |name: &str| rustix::fs::listxattr_query(mounted.path(name));

    let names = b"user.grid.cid\0user.grid.state\0";
    assert_eq!(list_size("file").unwrap(), names.len());
    let mut buffer = vec![0; names.len()];
    assert_eq!(list("file", &mut buffer).unwrap(), names.len());
    assert_eq!(buffer, names);
    assert_eq!(list("file", &mut vec![0; names.len() - 1]), Err(rustix::io::Errno::RANGE));
    assert_eq!(list_size("bare").unwrap(), 0);

    assert_eq!(size("user.grid.state").unwrap(), 8);
    let mut buffer = [0; 8];
    assert_eq!(get("user.grid.state", &mut buffer).unwrap(), 8);
    assert_eq!(&buffer, b"computed");
    assert_eq!(get("user.grid.state", &mut [0; 7]), Err(rustix::io::Errno::RANGE));
    for missing in ["user.grid.error", "security.capability", "system.posix_acl_access"] {
        assert_eq!(size(missing), Err(rustix::io::Errno::NODATA), "{missing}");
    }
    // The kernel still asks: an ENOSYS would have ended that.
    assert_eq!(size("user.grid.cid").unwrap(), 4);
}

#[test]
fn extended_attributes_beyond_the_kernels_limit() {
    if !can_mount() {
        return;
    }
    let with = |size| {
        let xattrs = BTreeMap::from([(OsString::from("user.big"), vec![7; size])]);
        Item { xattrs, ..Item::file("") }
    };
    let mounted = Mounted::new(Fake::new([("fits", with(65_536)), ("bigger", with(65_537))]));
    let mut buffer = vec![0; 70_000];
    assert_eq!(rustix::fs::getxattr(mounted.path("fits"), "user.big", &mut *buffer), Ok(65_536));
    let bigger = rustix::fs::getxattr(mounted.path("bigger"), "user.big", &mut *buffer);
    assert_eq!(bigger, Err(rustix::io::Errno::TOOBIG));
}

#[test]
fn access_knows_read_only_and_execute_bits() {
    if !can_mount() {
        return;
    }
    let program = Item { kind: Kind::File { executable: true }, ..Item::file("") };
    let mounted = Mounted::new(Fake::new([("file", Item::file("")), ("program", program), ("dir", Item::directory())]));
    let may = |name: &str, access| rustix::fs::accessat(rustix::fs::CWD, mounted.path(name), access, AtFlags::empty());
    for name in ["file", "program", "dir"] {
        assert_eq!(may(name, Access::EXISTS | Access::READ_OK), Ok(()), "{name}");
        assert_eq!(may(name, Access::WRITE_OK), Err(rustix::io::Errno::ROFS), "{name}");
    }
    assert_eq!(may("file", Access::EXEC_OK), Err(rustix::io::Errno::ACCESS));
    assert_eq!(may("program", Access::EXEC_OK), Ok(()));
    assert_eq!(may("dir", Access::EXEC_OK), Ok(()));
}

#[test]
fn statfs_shows_the_space() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(Fake::new([("file", Item::file(""))]));
    let shown = rustix::fs::statvfs(mounted.path("file")).unwrap();
    assert_eq!((shown.f_bsize, shown.f_frsize, shown.f_namemax), (4096, 4096, 255));
    assert_eq!((shown.f_blocks, shown.f_bfree, shown.f_bavail), (1_000, 400, 400));
    assert_eq!((shown.f_files, shown.f_ffree), (17, 0));
}

#[test]
fn a_pending_file_has_its_size_from_its_open_on() {
    if !can_mount() {
        return;
    }
    let content = pattern(300_000);
    let pending = |keep_cache| Item {
        pending: true,
        keep_cache,
        at_open: AtOpen::After(Duration::from_millis(50)),
        ..Item::file(content.clone())
    };
    let mounted = Mounted::new(Fake::new([("kept", pending(true)), ("dropped", pending(false))]));
    for name in ["kept", "dropped"] {
        let path = mounted.path(name);
        assert_eq!(fs::metadata(&path).unwrap().len(), 0, "{name}");
        assert!(fs::read(&path).unwrap() == content, "{name}");
        assert_eq!(fs::metadata(&path).unwrap().len(), 300_000, "{name}");
    }
    // Once read, the kernel has all pages: the next open asks for none if they are kept.
    let reads = || mounted.fake.reads.load(Ordering::SeqCst);
    let before = reads();
    assert!(fs::read(mounted.path("kept")).unwrap() == content);
    assert_eq!(reads(), before);
    assert!(fs::read(mounted.path("dropped")).unwrap() == content);
    assert!(reads() > before);
}

#[test]
fn a_pending_file_shows_its_size_in_a_listing_older_than_its_open() {
    if !can_mount() {
        return;
    }
    let content = pattern(10_000);
    let pending = Item { pending: true, keep_cache: true, ..Item::file(content.clone()) };
    let mounted = Mounted::new(Fake::new([("file", pending)]));
    let dir = File::open(mounted.dir()).unwrap();
    let mut listing = rustix::fs::Dir::new(dir).unwrap();
    assert!(fs::read(mounted.path("file")).unwrap() == content);
    assert_eq!(listing.by_ref().map(Result::unwrap).count(), 3);
    assert_eq!(fs::metadata(mounted.path("file")).unwrap().len(), 10_000);
    assert!(fs::read(mounted.path("file")).unwrap() == content);
}

#[test]
fn colliding_hints_are_different_files() {
    if !can_mount() {
        return;
    }
    let mut fake = Fake::new([("a", Item::file("one")), ("b", Item::file("two")), ("c", Item::file("three"))]);
    fake.same_hint = Some(1);
    let mounted = Mounted::new(fake);
    let numbers = ["a", "b", "c"].map(|name| fs::metadata(mounted.path(name)).unwrap().ino());
    assert_eq!(numbers, [2, 3, 4]);
    let texts = ["a", "b", "c"].map(|name| fs::read_to_string(mounted.path(name)).unwrap());
    assert_eq!(texts, ["one", "two", "three"]);
}

#[test]
fn what_the_kernel_forgets_is_dropped() {
    if !can_mount() {
        return;
    }
    let fleeting = |number| (format!("file-{number}"), Item { ttl: Duration::ZERO, ..Item::file("x") });
    let mounted = Mounted::new(Fake::new((0..100).map(fleeting)));
    let before = mounted.fake.nodes_alive();
    for round in 0..3 {
        for number in 0..100 {
            fs::read(mounted.path(&format!("file-{number}"))).unwrap();
        }
        assert_eq!(fs::read_dir(mounted.dir()).unwrap().count(), 100, "round {round}");
    }
    // The table holds two copies of each; an open directory one more.
    eventually("the directories are released", || mounted.fake.nodes_alive() == before + 200);
    // Names that are gone make the kernel let go of their inodes, with as many lookups as it was told.
    for number in 0..100 {
        mounted.fake.remove(&format!("file-{number}"));
        assert_eq!(errno(fs::metadata(mounted.path(&format!("file-{number}")))), Errno::ENOENT.code());
    }
    eventually("all nodes are dropped", || mounted.fake.nodes_alive() == before);
}

#[test]
fn the_tree_hears_who_opens_and_how() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(Fake::new([("file", Item::file(""))]));
    let heard = || mounted.fake.last_opening.lock().unwrap().unwrap();
    File::open(mounted.path("file")).unwrap();
    assert_eq!(heard().pid, rustix::thread::gettid().as_raw_pid().cast_unsigned());
    assert_eq!(heard().uid, rustix::process::geteuid().as_raw());
    assert!(!heard().nonblocking);
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    File::options().read(true).custom_flags(nonblocking).open(mounted.path("file")).unwrap();
    assert!(heard().nonblocking);
}

#[test]
fn a_missing_name_is_asked_for_again_unless_it_stays_missing() {
    if !can_mount() {
        return;
    }
    let fixed = Item { missing_ttl: Duration::from_secs(3600), ..Item::directory() };
    let mounted =
        Mounted::new(Fake::new([("fixed", fixed), ("fixed/there", Item::file("x")), ("open", Item::directory())]));
    let lookups_of = |path: &str| {
        fs::metadata(mounted.path(path).parent().unwrap()).unwrap();
        let before = mounted.fake.lookups.load(Ordering::SeqCst);
        for _ in 0..10 {
            assert_eq!(errno(fs::metadata(mounted.path(path))), Errno::ENOENT.code());
            assert_eq!(errno(File::open(mounted.path(path))), Errno::ENOENT.code());
        }
        mounted.fake.lookups.load(Ordering::SeqCst) - before
    };
    assert_eq!((lookups_of("fixed/missing"), lookups_of("open/missing")), (1, 20));
    assert_eq!(fs::read_to_string(mounted.path("fixed/there")).unwrap(), "x");
    // Where names come and go, one that has come is there.
    mounted.fake.insert("open/missing", Item::file("come"));
    assert_eq!(fs::read_to_string(mounted.path("open/missing")).unwrap(), "come");
}

#[test]
fn asking_for_attributes_may_take_time() {
    if !can_mount() {
        return;
    }
    let pending = Item { pending: true, stat_computes: true, ..Item::file("computed") };
    let mounted = Mounted::new(Fake::new([("pending", pending)]));
    // Looked up and listed it still shows 0; asked for by name it is worked out.
    assert_eq!(fs::read_dir(mounted.dir()).unwrap().count(), 1);
    assert_eq!(fs::metadata(mounted.path("pending")).unwrap().len(), 8);
    assert_eq!(fs::read_to_string(mounted.path("pending")).unwrap(), "computed");
}

#[test]
fn an_uncached_file_is_read_to_its_end_and_every_open_has_its_own() {
    if !can_mount() {
        return;
    }
    let item = |text: &str| Item { uncached: true, ttl: Duration::ZERO, ..Item::file(text) };
    let mounted = Mounted::new(Fake::new([("report", item("short"))]));
    let path = mounted.path("report");
    let mut first = File::open(&path).unwrap();
    mounted.fake.insert("report", item(&"long".repeat(5_000)));
    let mut second = File::open(&path).unwrap();
    mounted.fake.insert("report", item("x"));
    assert_eq!(fs::metadata(&path).unwrap().len(), 1);
    let mut text = String::new();
    second.read_to_string(&mut text).unwrap();
    assert_eq!(text, "long".repeat(5_000));
    text.clear();
    first.read_to_string(&mut text).unwrap();
    assert_eq!(text, "short");
}
