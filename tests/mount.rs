//! The mount as programs see it: names, calls, trees, results.

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use common::{ARGS, ENDLESS, Node, manifest, noise};
use gridfs::receipt::Receipt;
use gridfs_modules::manifest::{ArgKind, Limits, Returns};
use gridfs_store::cbor;

const TEXT: &str = "call me ishmael\nsome years ago never mind how long\n";

#[test]
fn a_path_is_a_call_and_the_second_read_runs_nothing() {
    let node = Node::mounted();
    node.put("moby.txt", TEXT);
    assert_eq!(node.stat("runs"), 0);
    // What GNU wc prints of a file on its standard input.
    let wc = node.sh("LC_ALL=C wc < moby.txt").ok();
    assert_eq!(node.sh("cat mnt/local/wc/moby.txt").ok(), wc);
    assert_eq!(node.stat("runs"), 1);
    assert_eq!(node.sh("cat mnt/local/wc/moby.txt").ok(), wc);
    assert_eq!(node.grid(["wc", "moby.txt"]).ok(), wc);
    assert_eq!(node.stat("runs"), 1);

    node.umount();
    node.mount();
    assert_eq!(node.read("local/wc/moby.txt"), wc);
    assert_eq!((node.stat("runs"), node.stat("hits") > 0 || node.stat("calls") == 0), (0, true));
}

#[test]
fn every_name_leads_to_a_path_of_cids_that_outlives_it() {
    let node = Node::mounted();
    node.put("moby.txt", TEXT);
    let names = ["local/wc/moby.txt", "local/md/moby.txt", "local/grep/years/moby.txt", "pub/sha256/moby.txt"];
    let addresses: Vec<_> = names.iter().map(|name| std::fs::canonicalize(node.at(name)).unwrap()).collect();
    let contents: Vec<_> = names.iter().map(|name| node.read(name)).collect();
    for address in &addresses {
        let components = address.strip_prefix(node.mnt().canonicalize().unwrap()).unwrap();
        for component in components.iter().map(|c| c.to_str().unwrap()).filter(|c| *c != "years") {
            assert!(component.parse::<gridfs_store::Cid>().is_ok(), "{component} in {}", address.display());
        }
    }
    for name in ["local", "pub", "wc", "md", "grep", "sha256", "moby.txt"] {
        node.gridfs(["name", "set", &format!("{name}-renamed"), name]).ok();
        node.gridfs(["name", "rm", name]).ok();
        assert!(!node.at(name).exists());
    }
    for ((address, content), name) in addresses.iter().zip(&contents).zip(names) {
        assert_eq!(&std::fs::read_to_string(address).unwrap(), content, "{name}");
    }
    assert_eq!(node.read("local-renamed/wc-renamed/moby.txt-renamed"), contents[0]);
}

#[test]
fn a_cid_by_another_digest_is_a_link_to_the_canonical_one() {
    let node = Node::mounted();
    node.sh("printf hello > hello").ok();
    let sha2 = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq";
    let (last, inner) = (format!("local/wc/{sha2}"), format!("local/sha256/%2Flocal%2Fwc%2F{sha2}"));
    // Unknown as yet: a file that says why it can't be read.
    assert_eq!(node.errno(&last), rustix::io::Errno::HOSTUNREACH.raw_os_error());
    assert!(node.xattr(&last, "error").unwrap().contains("knows no object with the sha2-256 digest"));
    node.sh("gridfs put --hash sha2-256 --name hello hello").ok();
    let canonical = std::fs::canonicalize(node.at("local/wc/hello")).unwrap();
    let (counted, sum) = (node.read("local/wc/hello"), node.read("local/sha256/%2Flocal%2Fwc%2Fhello"));
    for _ in 0..2 {
        assert_eq!(node.sh(&format!("readlink -f mnt/{last}")).ok().trim(), canonical.to_str().unwrap());
        assert_eq!((node.read(&last), node.read(&inner)), (counted.clone(), sum.clone()));
        // An argument that is a directory level, and the same CIDs in other bases.
        let base16 = "f015512202cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let blake3 = canonical.file_name().unwrap().to_str().unwrap();
        for spelling in [base16, &sha2.to_uppercase(), &blake3.to_uppercase()] {
            assert_eq!(std::fs::read_link(node.at("local/wc").join(spelling)).unwrap().to_str(), Some(blake3));
        }
        node.umount();
        node.mount();
    }
    // A promise and a module.
    let put = |name: &str| {
        let line = node.sh(&format!("gridfs get {name} | gridfs put --hash sha3-256 -")).ok();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    let path = format!("{}/{}/{sha2}", put("local"), put("wc"));
    assert_eq!(node.sh(&format!("readlink -f mnt/{path}")).ok().trim(), canonical.to_str().unwrap());
}

#[test]
fn what_lies_in_the_mount_is_put_by_its_digest_too() {
    let node = Node::mounted();
    sample_tree(&node.scratch("source"));
    node.sh("gridfs put --name source source").ok();
    let put = node.sh("gridfs put --hash sha2-256 source/run.sh").ok();
    assert_eq!(
        put.replace("source/", "mnt/local/cas/source/"),
        node.sh("gridfs put --hash sha2-256 mnt/local/cas/source/run.sh").ok()
    );
    let before = node.stat("memos");
    node.sh("gridfs put --hash sha2-256 mnt/local/cas/source").ok();
    let after = node.stat("memos");
    // Five files, one of them known before.
    assert_eq!(after, before + 4);
    node.sh("gridfs put --hash sha2-256 source").ok();
    assert_eq!(node.stat("memos"), after);
}

#[test]
fn names_follow_their_newest_binding() {
    let node = Node::mounted();
    node.put("x", "one\n");
    assert_eq!(node.read("local/cas/x"), "one\n");
    let first = std::fs::read_link(node.at("local/cas/x")).unwrap();
    node.put("x", "two\n");
    assert_eq!(node.read("local/cas/x"), "two\n");
    assert_ne!(std::fs::read_link(node.at("local/cas/x")).unwrap(), first);
    assert_eq!(node.sh("cat mnt/local/wc/x mnt/local/sha256/x").ok().lines().count(), 2);
}

#[test]
fn a_result_is_dated_by_its_receipt() {
    let node = Node::mounted();
    node.put("x", "one two\n");
    let path = "local/wc/x";
    let date = || std::fs::metadata(node.at(path)).unwrap().modified().unwrap();
    assert_eq!(date(), UNIX_EPOCH + Duration::from_secs(1), "it is pending");
    node.read(path);
    let receipt = node.xattr(path, "receipt").unwrap();
    let receipt = std::fs::read(node.at("local/cas").join(receipt)).unwrap();
    let receipt: Receipt = cbor::from_slice(&receipt).unwrap();
    let computed = UNIX_EPOCH + Duration::from_millis(receipt.time_ms);
    assert_eq!(date(), computed);
    node.umount();
    node.mount();
    assert_eq!(date(), computed, "as it is remembered");
}

#[test]
fn a_stored_directory_is_the_directory() {
    let node = Node::mounted();
    let source = node.scratch("source");
    sample_tree(&source);
    node.gridfs(["put", "--name", "source", source.to_str().unwrap()]).ok();
    assert_eq!(node.sh("diff -r --no-dereference source mnt/local/cas/source/").ok(), "");
    assert_eq!(listing(&source), listing(&node.at("local/cas/source").canonicalize().unwrap()));
    assert_eq!(
        node.sh("tar c -C source . | tar t | sort").ok(),
        node.sh("tar c -C mnt/local/cas/source . | tar t | sort").ok()
    );
    assert_eq!(
        node.sh("find source -type f -printf '%P %s\\n' | sort").ok(),
        node.sh("find mnt/local/cas/source/ -type f -printf '%P %s\\n' | sort").ok()
    );
    // And out again.
    node.sh("gridfs get source copy && diff -r --no-dereference source copy").ok();
    assert_eq!(listing(&source), listing(&node.scratch("copy")));
}

#[test]
fn an_archive_is_browsed_by_its_path() {
    let node = Node::mounted();
    sample_tree(&node.scratch("source"));
    node.sh("tar cf plain.tar source && gzip -k plain.tar && xz -k plain.tar && zstd -q plain.tar || zstd -V").ok();
    for archive in ["plain.tar", "plain.tar.gz", "plain.tar.xz", "plain.tar.zst"] {
        if !node.scratch(archive).exists() {
            eprintln!("SKIPPED {archive}: it takes the package zstd to make one");
            continue;
        }
        node.sh(&format!("gridfs put --name {archive} {archive}")).ok();
        // Straight into it, without a listing before.
        assert_eq!(node.read(&format!("local/untar/{archive}/source/dir/file")), "content\n");
        let unpacked = format!("mnt/local/untar/{archive}/source");
        assert_eq!(node.sh(&format!("diff -r --no-dereference source {unpacked}")).ok(), "");
        assert_eq!(listing(&node.scratch("source")), listing(&node.scratch(&unpacked)));
    }
    // Equal content meets the same result, whatever it came in.
    let cid = |archive: &str| node.xattr(&format!("local/untar/{archive}"), "cid");
    assert_eq!(cid("plain.tar"), cid("plain.tar.gz"));
    assert!(cid("plain.tar").is_some());
}

#[test]
fn unchanged_programs_are_modules() {
    let node = Node::mounted();
    for (name, manifest) in [("rot13", "c/rot13.toml"), ("freq", "rust-freq/manifest.toml"), ("shout", "c/shout.toml")]
    {
        node.add_example(name, manifest);
    }
    node.put("moby.txt", TEXT);
    assert_eq!(node.read("local/rot13/moby.txt"), "pnyy zr vfuznry\nfbzr lrnef ntb arire zvaq ubj ybat\n");
    assert_eq!(node.read("local/freq/moby.txt").lines().next(), Some("1 ago"));
    // A call inside a call, by opening a path.
    let counted = node.read("local/wc/moby.txt");
    let runs = node.stat("runs");
    assert_eq!(node.grid(["shout", "/grid/local/wc/moby.txt"]).ok(), counted.to_uppercase());
    assert_eq!(node.stat("runs"), runs + 1);
    assert_eq!(
        node.read("local/shout/%2Fgrid%2Flocal%2Fmd%2Fmoby.txt"),
        "<P>CALL ME ISHMAEL\nSOME YEARS AGO NEVER MIND HOW LONG</P>\n"
    );
}

#[test]
fn a_result_that_went_by_a_name_follows_the_name() {
    let node = Node::mounted();
    node.add_example("shout", "c/shout.toml");
    node.put("x", "one\n");
    let path = "local/shout/%2Fgrid%2Flocal%2Fcas%2Fx";
    assert_eq!(node.read(path), "ONE\n");
    node.put("x", "two!\n");
    assert_eq!(node.read(path), "TWO!\n");
    let runs = node.stat("runs");
    assert_eq!(node.read(path), "TWO!\n");
    assert_eq!(node.stat("runs"), runs);
}

#[test]
fn a_directory_that_went_by_a_name_follows_the_name() {
    let node = Node::mounted();
    // Copies /grid/local/cas/x to /out/f.
    let follow = r#"(module
        (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 1024) "local/cas/x") (data (i32.const 1100) "f")
        (func (export "_start")
            (drop (call $open (i32.const 5) (i32.const 0) (i32.const 1024) (i32.const 11) (i32.const 0)
                (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)))
            (i32.store (i32.const 0) (i32.const 2048)) (i32.store (i32.const 4) (i32.const 1000))
            (drop (call $read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 4)))
            (drop (call $open (i32.const 4) (i32.const 0) (i32.const 1100) (i32.const 1) (i32.const 1)
                (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16)))
            (drop (call $write (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
    node.add_wat("follow", follow, Some(&manifest("follow", &[], Returns::Tree, Limits::default())));
    for content in ["one\n", "two!\n"] {
        node.put("x", content);
        for _ in 0..2 {
            assert_eq!(node.read("local/follow/,/f"), content);
            assert_eq!(node.sh("cat mnt/local/follow/,/*").ok(), content);
            assert_eq!(node.errno("local/follow/,/g"), 2);
        }
    }
    assert_eq!(node.stat("runs"), 2);
}

#[test]
fn a_nested_path_is_an_argument() {
    let node = Node::mounted();
    sample_tree(&node.scratch("source"));
    node.sh("tar czf a.tgz source && gridfs put --name a.tgz a.tgz").ok();
    let nested = "local/sha256/%2Flocal%2Funtar%2Fa.tgz%2Fsource%2Fdir%2Ffile";
    // Before its inside is known the path stands for itself; afterwards it is a link to the content's own path.
    assert!(std::fs::symlink_metadata(node.at(nested)).unwrap().is_file());
    let sum = node.sh("sha256sum < source/dir/file").ok().replace("  -", "");
    assert_eq!(node.read(nested), sum);
    assert!(std::fs::symlink_metadata(node.at(nested)).unwrap().is_symlink());
    assert_eq!(node.read(nested), sum);
    assert_eq!(node.grid(["sha256", "/local/untar/a.tgz/source/dir/file"]).ok(), sum);
}

#[test]
fn a_nested_path_to_what_is_stored_is_a_link_at_once() {
    let node = Node::mounted();
    node.put("moby.txt", TEXT);
    sample_tree(&node.scratch("source"));
    node.sh("gridfs put --name source source").ok();
    for (nested, plain) in [("moby.txt", "moby.txt"), ("source%2Fdir%2Ffile", "source/dir/file")] {
        let cid = node.xattr(&format!("local/cas/{plain}"), "cid").unwrap();
        for module in ["wc", "cas"] {
            let link = std::fs::read_link(node.at(&format!("local/{module}/%2Flocal%2Fcas%2F{nested}"))).unwrap();
            assert_eq!(link.to_str(), Some(cid.as_str()));
        }
    }
    assert_eq!(node.read("local/cas/%2Flocal%2Fcas%2Fmoby.txt"), TEXT);
}

#[test]
fn spellings_lead_to_one_path() {
    let node = Node::mounted();
    node.put("a b", TEXT);
    let canonical = std::fs::canonicalize(node.at("local/wc/a%20b")).unwrap();
    for spelling in ["a b", "%61%20b", "%61 b"] {
        assert_eq!(std::fs::canonicalize(node.at("local/wc").join(spelling)).unwrap(), canonical, "{spelling}");
    }
    assert_eq!(node.grid(["--path", "wc", "a b"]).ok().trim(), canonical.to_str().unwrap());
    // Optional arguments follow after commas.
    assert_eq!(node.read("local/wc/a%20b,-l"), "2\n");
    assert_eq!(
        std::fs::canonicalize(node.at("local/wc/a b,%2Dl")).unwrap().file_name().unwrap().to_str().unwrap(),
        format!("{},-l", canonical.file_name().unwrap().to_str().unwrap())
    );
}

#[test]
fn long_arguments_go_by_a_stored_list() {
    let node = Node::mounted();
    let pattern = "x".repeat(300);
    node.put("long.txt", format!("{pattern}\nother\n"));
    let path = node.grid(["--path", "grep", &pattern, "long.txt"]).ok();
    assert!(path.trim().rsplit('/').next().unwrap().starts_with("@bafyr4i"), "{path}");
    assert_eq!(std::fs::read_to_string(path.trim()).unwrap(), format!("{pattern}\n"));
}

#[test]
fn directories_list_what_is_known() {
    let node = Node::mounted();
    node.put("moby.txt", TEXT);
    let names = |path: &str| node.sh(&format!("ls -A mnt/{path}")).ok().lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names(""), [".grid", "accept", "local", "pub"]);
    assert_eq!(names(".grid"), ["accepted", "log", "metrics", "peers", "syscalls"]);
    let modules = "cas concat decompress diff find grep hash head md sha256 sort untar unzip wc";
    assert_eq!(names("local/").join(" "), modules);
    let before = names("local/wc/");
    assert!(before.contains(&"moby.txt".to_owned()));
    node.read("local/wc/moby.txt");
    let cid = std::fs::read_link(node.at("local/wc/moby.txt")).unwrap().to_str().unwrap().to_owned();
    let mut after = before.clone();
    after.push(cid);
    after.sort();
    let mut listed = names("local/wc/");
    listed.sort();
    assert_eq!(listed, after);
    assert_eq!(node.stat("runs"), 1);
}

#[test]
fn looking_runs_nothing() {
    let node = Node::mounted();
    for n in 0..20 {
        node.put(&format!("file{n}"), format!("{n}\n"));
    }
    node.sh("ls -lR mnt mnt/local/ mnt/local/wc/ >/dev/null; find mnt -ls >/dev/null; stat mnt/local/wc/* >/dev/null")
        .ok();
    node.sh("grep -r x mnt mnt/local/wc/ 2>/dev/null; du -a mnt/local/ >/dev/null; cat mnt/local/wc/*-not-there 2>/dev/null; true").ok();
    assert_eq!(node.stat("runs"), 0);
    // A scan opens without meaning to wait.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
    let opened = rustix::fs::open(node.at("local/wc/file1"), flags, rustix::fs::Mode::empty());
    assert_eq!(opened.unwrap_err(), rustix::io::Errno::AGAIN);
    assert_eq!(node.stat("runs"), 0);
}

#[test]
fn attributes_tell_how_a_result_stands() {
    let node = Node::mounted();
    node.put("moby.txt", TEXT);
    let path = "local/wc/moby.txt";
    let size = |path: &str| std::fs::metadata(node.at(path)).unwrap().len();
    assert_eq!(node.xattr(path, "state").as_deref(), Some("pending"));
    assert_eq!((node.xattr(path, "cid"), node.xattr(path, "error"), size(path)), (None, None, 0));
    let content = node.read(path);
    assert_eq!(node.xattr(path, "state").as_deref(), Some("computed"));
    assert_eq!(size(path), content.len() as u64);
    let cid = node.xattr(path, "cid").unwrap();
    assert_eq!(node.gridfs(["get", &cid]).ok(), content);
    let receipt = node.xattr(path, "receipt").unwrap();
    assert!(node.sh(&format!("gridfs get {receipt} | wc -c")).ok().trim().parse::<u64>().unwrap() > 100);
    assert_eq!(node.xattr(path, "key").unwrap().len(), 64);
    // Files in trees have their CID as well; an attribute that is not there is ENODATA.
    sample_tree(&node.scratch("source"));
    node.sh("gridfs put --name source source").ok();
    let cid = node.xattr("local/cas/source/dir/file", "cid").unwrap();
    assert_eq!(node.gridfs(["get", &cid]).ok(), "content\n");
    let missing = rustix::fs::getxattr(node.at(path), "user.other", &mut [0u8; 8][..]).unwrap_err();
    assert_eq!(missing, rustix::io::Errno::NODATA);
}

#[test]
fn nothing_can_be_written() {
    let node = Node::mounted();
    node.put("moby.txt", TEXT);
    let file = std::fs::canonicalize(node.at("local/cas/moby.txt")).unwrap();
    let readonly = Some(30); // EROFS
    assert_eq!(std::fs::write(&file, "x").unwrap_err().raw_os_error(), readonly);
    assert_eq!(std::fs::remove_file(&file).unwrap_err().raw_os_error(), readonly);
    assert_eq!(std::fs::write(node.at("local/new"), "x").unwrap_err().raw_os_error(), readonly);
    assert_eq!(std::fs::create_dir(node.at("new")).unwrap_err().raw_os_error(), readonly);
    assert_eq!(std::fs::rename(node.at("local"), node.at("other")).unwrap_err().raw_os_error(), readonly);
    assert_eq!(symlink("x", node.at("link")).unwrap_err().raw_os_error(), readonly);
}

#[test]
fn large_results_read_back_whole() {
    let node = Node::mounted();
    let data = noise(1, 40 << 20);
    node.put("big", &data);
    assert!(std::fs::read(node.at("local/cas/big")).unwrap() == data);
    let sum = node.sh("sha256sum < big").ok().replace("  -", "");
    assert_eq!(node.read("local/sha256/big"), sum);
    node.sh("tail -c 1000001 big > tail && tail -c 1000001 mnt/local/cas/big | cmp - tail").ok();
}

#[test]
fn a_result_is_made_once_for_a_thousand_readers() {
    let node = Node::mounted();
    node.put("big", noise(2, 30 << 20));
    let path = node.at("local/sha256/big");
    let sums: Vec<String> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..1000)
            .map(|_| {
                std::thread::Builder::new()
                    .stack_size(64 << 10)
                    .spawn_scoped(scope, || std::fs::read_to_string(&path))
                    .unwrap()
            })
            .collect();
        readers.into_iter().map(|reader| reader.join().unwrap().unwrap()).collect()
    });
    assert_eq!(sums.len(), 1000);
    assert!(sums.iter().all(|sum| *sum == sums[0] && sum.len() == 65));
    assert_eq!(node.stat("runs"), 1);
}

#[test]
fn other_reads_go_on_while_a_module_runs() {
    let node = Node::mounted();
    node.put("moby.txt", TEXT);
    node.add_wat("endless", ENDLESS, None);
    let mut cat = node.spawn("cat", &[node.at("local/endless/,").to_str().unwrap()]);
    common::wait_for("the module to run", || node.stat("running") == 1);
    assert_eq!(node.read("local/wc/moby.txt").split_whitespace().next(), Some("2"));
    node.sh("df mnt && ls -lR mnt/local/ mnt/.grid && stat -L mnt/local/wc/* mnt/local/endless/,").ok();
    assert_eq!(node.stat("running"), 1);
    cat.kill().unwrap();
    common::end_of(&mut cat);
    common::wait_for("the module to stop", || node.stat("running") == 0);
}

#[test]
fn a_module_with_two_blobs_and_an_integer() {
    let node = Node::mounted();
    let arguments = [("a", ArgKind::Blob), ("n", ArgKind::Int), ("t", ArgKind::Tree)];
    node.add_wat("args", ARGS, Some(&manifest("args", &arguments, Returns::Blob, Limits::default())));
    node.put("moby.txt", TEXT);
    sample_tree(&node.scratch("source"));
    node.sh("gridfs put --name source source").ok();
    assert_eq!(node.read("local/args/moby.txt/-7/source"), "args\0/in/1\0-7\0/in/3\0");
    let directory = std::fs::metadata(node.at("local/args/moby.txt/-7")).unwrap();
    assert!(directory.is_dir());
}

#[test]
fn many_calls_with_calls_inside_do_not_wait_for_each_other() {
    let node = Node::mounted();
    node.add_example("shout", "c/shout.toml");
    node.sh("mkdir d && for i in $(seq 60); do echo $i > d/f$i; done && gridfs put --name d d").ok();
    let shouts = "seq 60 | xargs -P 60 -I{} grid shout /grid/local/wc/%2Flocal%2Fcas%2Fd%2Ff{}";
    assert_eq!(node.sh(shouts).ok().lines().count(), 60);
    assert_eq!(node.stat("runs"), 120);
}

#[test]
fn a_file_of_the_mount_is_a_call_on_the_command_line_too() {
    let node = Node::mounted();
    node.put("moby.txt", TEXT);
    sample_tree(&node.scratch("source"));
    node.sh("gridfs put --name source source").ok();
    let counted = node.sh("grid wc mnt/local/md/moby.txt").ok();
    assert_eq!(counted, node.read("local/wc/%2Flocal%2Fmd%2Fmoby.txt"));
    node.sh("gridfs put --name page mnt/local/md/moby.txt && gridfs put --name dir mnt/local/cas/source/dir").ok();
    assert_eq!(node.read("local/cas/page"), node.read("local/md/moby.txt"));
    assert_eq!(node.read("local/cas/dir/file"), "content\n");
    assert_eq!(node.stat("runs"), 2);
}

/// Files, an executable, links, an empty directory, odd names.
fn sample_tree(at: &Path) {
    std::fs::create_dir_all(at.join("dir/deeper/empty")).unwrap();
    std::fs::write(at.join("dir/file"), "content\n").unwrap();
    std::fs::write(at.join("dir/deeper/empty file"), "").unwrap();
    std::fs::write(at.join("large"), noise(7, 700_000)).unwrap();
    std::fs::write(at.join("run.sh"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(at.join("run.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    symlink("dir/file", at.join("link")).unwrap();
    symlink("/nowhere/at all", at.join("dangling")).unwrap();
    std::fs::write(at.join("sp ace,comma%percent"), "odd\n").unwrap();
}

/// Every path below `root` with its kind, size, executable bit and link target.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let what = if meta.is_dir() {
                pending.push(path.clone());
                "directory".to_owned()
            } else if meta.is_symlink() {
                format!("-> {}", std::fs::read_link(&path).unwrap().display())
            } else {
                format!("{} bytes, executable: {}", meta.len(), meta.mode() & 0o111 != 0)
            };
            found.insert(path.strip_prefix(root).unwrap().display().to_string(), what);
        }
    }
    found
}
