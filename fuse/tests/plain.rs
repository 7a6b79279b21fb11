//! Passthrough: files that the kernel reads from a plain file, and what it makes of several opens at a time.
//!
//! The plain files here differ from the content that the tree would give, so that it is seen who served.

mod fake;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fake::{AtOpen, Fake, Item, Mounted, can_mount, eventually, is_root, pattern};

const SIZE: usize = 300_000;

/// What the tree gives.
fn slow() -> Vec<u8> {
    pattern(SIZE)
}

/// What the plain file holds.
fn fast() -> Vec<u8> {
    slow().iter().map(|byte| !byte).collect()
}

fn plain(bytes: &[u8]) -> Option<Arc<File>> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Some(Arc::new(file))
}

fn mounted(item: Item) -> Mounted {
    Mounted::new(Fake::new([("file", item)]))
}

fn item(plain: Option<Arc<File>>) -> Item {
    Item { keep_cache: true, plain, ..Item::file(slow()) }
}

/// By another process, whose files are closed when this returns.
fn cat(path: &Path) -> Vec<u8> {
    let output = Command::new("cat").arg(path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

fn rest(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Waits until every release was heard of.
fn closed(mounted: &Mounted) {
    eventually("all files are closed", || mounted.fake.open_files.load(Ordering::SeqCst) == 0);
}

#[test]
fn a_plain_file_serves_whom_it_meets_first() {
    if !can_mount() || !is_root() {
        return;
    }
    let mounted = mounted(item(None));
    let path = mounted.path("file");
    let first = File::open(&path).unwrap();
    assert!(rest(&first) == slow());
    assert!(mounted.fake.last_opening.lock().unwrap().unwrap().passthrough);

    // Open through the kernel's pages: the plain file has to wait.
    mounted.fake.insert("file", item(plain(&fast())));
    assert!(cat(&path) == slow());
    assert!(rest(&first) == slow());
    drop(first);
    closed(&mounted);

    // From then on it serves, also those who come when there is none any more, or another.
    let reads = mounted.fake.reads.load(Ordering::SeqCst);
    let second = File::open(&path).unwrap();
    assert!(rest(&second) == fast());
    mounted.fake.insert("file", item(None));
    assert!(cat(&path) == fast());
    mounted.fake.insert("file", item(plain(&slow())));
    assert!(cat(&path) == fast());
    assert!(rest(&second) == fast());
    assert_eq!(mounted.fake.reads.load(Ordering::SeqCst), reads);
    mounted.fake.insert("file", item(None));
    drop(second);
    closed(&mounted);

    // The pages from before are as good as ever.
    assert!(cat(&path) == slow());
    closed(&mounted);
}

#[test]
fn many_processes_open_in_both_ways_and_none_fails() {
    if !can_mount() || !is_root() {
        return;
    }
    // Both have the same content, as in life.
    let mounted = mounted(item(None));
    let path = mounted.path("file");
    let want = slow();
    let script = r#"import mmap, sys
want = open(sys.argv[2], "rb").read()
for turn in range(60):
    with open(sys.argv[1], "rb") as file:
        if turn % 3:
            assert file.read() == want
        else:
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                assert mapped[:] == want
"#;
    let expected = tempfile::NamedTempFile::new().unwrap();
    fs::write(&expected, &want).unwrap();
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("SKIPPED: this test needs python3");
        return;
    }
    let start = || Command::new("python3").args(["-c", script]).arg(&path).arg(expected.path()).spawn().unwrap();
    let mut readers: Vec<_> = (0..6).map(|_| start()).collect();
    let mut copies = 0;
    while readers.iter_mut().any(|reader| reader.try_wait().unwrap().is_none()) {
        copies += 1;
        mounted.fake.insert("file", item(if copies % 2 == 0 { None } else { plain(&want) }));
        std::thread::sleep(Duration::from_millis(2));
    }
    for mut reader in readers {
        assert!(reader.wait().unwrap().success());
    }
    closed(&mounted);
}

#[test]
fn a_pending_file_is_served_plain_once_it_is_known() {
    if !can_mount() || !is_root() {
        return;
    }
    let pending = Item {
        pending: true,
        at_open: AtOpen::After(Duration::from_millis(20)),
        ttl: Duration::ZERO,
        ..item(plain(&fast()))
    };
    let mounted = mounted(pending);
    assert_eq!(fs::metadata(mounted.path("file")).unwrap().len(), 0);
    assert!(cat(&mounted.path("file")) == fast());
    assert_eq!(fs::metadata(mounted.path("file")).unwrap().len(), SIZE as u64);
}

#[test]
fn where_the_kernel_takes_no_plain_file_the_tree_serves() {
    if !can_mount() || !is_root() {
        return;
    }
    // A file on the mount itself is stacked too deep.
    let mounted = Mounted::new(Fake::new([("under", item(None)), ("file", item(None))]));
    let under = File::open(mounted.path("under")).unwrap();
    mounted.fake.insert("file", item(Some(Arc::new(under))));
    assert!(cat(&mounted.path("file")) == slow());
    mounted.fake.insert("under", Item { plain: None, ..item(None) });
    assert!(cat(&mounted.path("under")) == slow());
    assert!(!mounted.fake.last_opening.lock().unwrap().unwrap().passthrough, "it is not tried again");
    // Lets go of the mount's own file.
    mounted.fake.insert("file", item(None));
    closed(&mounted);
}
