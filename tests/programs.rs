//! Programs that people use, each on a real mount: what it makes of a stored tree, of a tree that a module results in,
//! and of a plain copy on disk is the same. fuse/SEMANTICS.md has the list.
//!
//! What is not installed is skipped, and said. All of it, on Debian:
//!
//! ```text
//! apt-get install fio stress-ng git squashfs-tools rsync sqlite3 vim less nodejs python3
//! GRIDFS_PROGRAMS=all cargo test --test programs
//! ```

mod common;

use std::os::unix::fs::{PermissionsExt, symlink};

use common::{Node, Ran, noise};

/// The tree on disk, as it is stored, and as the result of a module.
const TREES: [&str; 3] = ["plain", "mnt/local/cas/plain", "mnt/local/untar/plain.tar/plain"];
/// Size of the file that fio fills.
const FIO_BYTES: usize = 32 << 20;

/// Whether a program is there. With `GRIDFS_PROGRAMS=all` it has to be.
fn installed(program: &str, package: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|directory| directory.join(program).exists()) {
        return true;
    }
    assert!(std::env::var("GRIDFS_PROGRAMS").is_err(), "{program} is not installed; it is in Debian's {package}");
    eprintln!("SKIPPED: {program} is not installed; it is in Debian's {package}");
    false
}

/// A mounted node with the tree on disk, stored, and as an archive that no module has unpacked yet.
struct Bench {
    node: Node,
}

impl Bench {
    /// With what `furnish`, a shell script, makes besides in the directory `plain`.
    fn new(furnish: &str) -> Bench {
        let bench = Bench { node: Node::new() };
        bench.make_tree();
        bench.sh(&format!("cd plain && {{ {furnish}; }}"));
        bench.node.mount();
        bench.sh("tar cf plain.tar plain && gridfs put --name plain plain && gridfs put --name plain.tar plain.tar");
        bench
    }

    /// Files of many sizes, directories, an executable, links, odd names.
    fn make_tree(&self) {
        let at = self.node.scratch("plain");
        std::fs::create_dir_all(at.join("docs/deep/deeper/empty directory")).unwrap();
        for n in 0..300_u64 {
            let text = format!("chapter {n}\ncall me ishmael\n").repeat((n * n % 400) as usize);
            std::fs::write(at.join(format!("docs/{n}.txt")), text).unwrap();
        }
        std::fs::write(at.join("docs/deep/noise"), noise(1, 3_000_001)).unwrap();
        std::fs::write(at.join("docs/deep/deeper/empty file"), "").unwrap();
        std::fs::write(at.join("odd, name % \u{e9}"), "odd\n").unwrap();
        std::fs::write(at.join("run.sh"), "#!/bin/sh\necho ran \"$@\"\n").unwrap();
        std::fs::set_permissions(at.join("run.sh"), PermissionsExt::from_mode(0o755)).unwrap();
        symlink("docs/7.txt", at.join("link")).unwrap();
        symlink("/nowhere/at all", at.join("dangling")).unwrap();
    }

    /// Runs a line of shell that has to succeed; what it prints.
    #[track_caller]
    fn sh(&self, line: &str) -> String {
        let Ran { status, stdout, stderr } = self.node.sh(line);
        assert_eq!(status, 0, "{line}\n{stdout}{stderr}");
        stdout
    }

    /// A line of shell in each tree prints the same, and something. The empty directory `$OUT` is there for each.
    #[track_caller]
    fn same(&self, line: &str) -> String {
        let run = |tree: &str| {
            self.sh(&format!("OUT=$(mktemp -d \"$PWD/out.XXXX\"); PLAIN=$PWD/plain; cd {tree}/ && {line}"))
        };
        let [plain, stored, computed] = TREES.map(run);
        assert!(plain.len() > 1, "{line} printed nothing");
        assert!(plain == stored, "{line}\non disk: {plain}\nstored: {stored}");
        assert!(plain == computed, "{line}\non disk: {plain}\ncomputed: {computed}");
        plain
    }
}

/// Prints names, contents and links of what was copied to `$OUT`, after comparing it with what is on disk.
const COPIED: &str = "diff -r --no-dereference $PLAIN $OUT/ && echo same";

#[test]
fn find_grep_and_checksums() {
    let bench = Bench::new("true");
    bench.same("find . -type f -printf '%P %s\\n' | sort");
    bench.same(
        "for test in '-type f -size +4k' '-size 0' -empty '-perm -u+x -type f' '-type l'; do find . $test | sort; done",
    );
    bench.same("find . -type f -exec head -c1 {} + | sort | md5sum");
    bench.same("LC_ALL=C grep -rc ishmael . | sort");
    bench.same("LC_ALL=C grep -rl 'chapter 29' . | sort");
    bench.same("find . -type f -print0 | sort -z | xargs -0 sha256sum");
    bench.same("ls -1R; readlink link dangling; wc -c docs/*.txt; ./run.sh 1 2");
    bench.same("du -a --apparent-size docs/*.txt");
    bench.same(
        "tail -c 100 docs/deep/noise | md5sum && dd if=docs/deep/noise bs=1001 skip=7 count=90 status=none | md5sum",
    );
}

#[test]
fn tar_and_cp() {
    let bench = Bench::new("true");
    bench.same("tar c . | tar t | sort");
    bench.same(&format!("tar c . | tar x -C $OUT && {COPIED}"));
    bench.same(&format!("cp -a . $OUT && {COPIED}"));
    bench.same(&format!("cp -r --no-dereference --sparse=always . $OUT && {COPIED}"));
}

#[test]
fn rsync() {
    if !installed("rsync", "rsync") {
        return;
    }
    let bench = Bench::new("true");
    // The second time there is nothing to do.
    bench.same(&format!("rsync -a ./ $OUT/ && rsync -ai ./ $OUT/ && {COPIED}"));
    bench.same(&format!("rsync -a --checksum --whole-file ./ $OUT/ && rsync -rlci $PLAIN/ $OUT/ && {COPIED}"));
}

#[test]
fn mksquashfs() {
    if !installed("mksquashfs", "squashfs-tools") {
        return;
    }
    let bench = Bench::new("true");
    let unpack = "unsquashfs -quiet -no-progress -d $OUT/all $OUT/image >/dev/null && mv $OUT/all/* $OUT/";
    bench.same(&format!(
        "mksquashfs . $OUT/image -quiet -no-progress >/dev/null && {unpack} && rm -r $OUT/all $OUT/image && {COPIED}"
    ));
}

#[test]
fn git() {
    if !installed("git", "git") {
        return;
    }
    let bench = Bench::new(
        "export GIT_AUTHOR_DATE='@1700000000 +0000' GIT_COMMITTER_DATE='@1700000000 +0000'
        mkdir repo && cd repo && git init -q -b main && git config user.email a@b && git config user.name a &&
        cp -r ../docs . && git add . && git commit -qm first && git tag -a -m tag v1 && git gc -q &&
        echo more >> docs/1.txt && git commit -qam second && git branch other v1 && echo loose > docs/new.txt",
    );
    let git = "export GIT_OPTIONAL_LOCKS=0; git='git -c safe.directory=* -C repo'";
    bench.same(&format!("{git}; $git fsck --full --strict && $git status --porcelain=v2 --branch"));
    bench.same(&format!(
        "{git}; $git log --stat --format=%H && $git diff other main | md5sum && $git grep -c ishmael v1"
    ));
    bench.same(&format!("{git}; git clone -q --no-local ./repo $OUT/clone && git -C $OUT/clone log --format=%T"));
}

#[test]
fn python_and_node() {
    let bench = Bench::new("true");
    if installed("python3", "python3") {
        bench.same(
            "cat > $OUT/walk.py <<'END'\nimport os, hashlib, mmap\nfor top, directories, files in os.walk('.'):\n    \
            directories.sort()\n    for name in sorted(files):\n        path = os.path.join(top, name)\n        \
            if os.path.islink(path):\n            print(path, os.readlink(path))\n            continue\n        \
            with open(path, 'rb') as file:\n            data = file.read()\n            \
            if data:\n                assert mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)[:] == data\n        \
            print(path, len(data), os.stat(path).st_size, hashlib.md5(data).hexdigest())\nEND\npython3 $OUT/walk.py",
        );
        bench.same(&format!(
            "python3 -c 'import shutil, sys; shutil.copytree(\".\", sys.argv[1], symlinks=True, \
            dirs_exist_ok=True)' $OUT && {COPIED}"
        ));
    }
    if installed("node", "nodejs") {
        let options = "{ recursive: true, verbatimSymlinks: true }";
        bench.same(&format!("node -e 'require(\"fs\").cpSync(\".\", process.argv[1], {options})' $OUT && {COPIED}"));
        bench.same(&format!(
            "node -e 'require(\"fs\").promises.cp(\".\", process.argv[1], {options})' $OUT && {COPIED}"
        ));
    }
}

#[test]
fn sqlite() {
    if !installed("sqlite3", "sqlite3") {
        return;
    }
    let rows = "with recursive n(x) as (select 1 union all select x + 1 from n where x < 50000)";
    let bench = Bench::new(&format!(
        "sqlite3 data.db \"create table t (a integer primary key, b text); {rows} insert into t select x, hex(x * x) from n; \
        create index i on t (b)\""
    ));
    let query = "pragma integrity_check; select count(*), sum(a) from t; select a from t where b = hex(144)";
    for uri in ["file:data.db?immutable=1", "file:data.db?immutable=1&mode=ro"] {
        let said = bench.same(&format!("sqlite3 '{uri}' '{query}; pragma mmap_size=10000000; {query}'"));
        assert!(said.starts_with("ok\n50000|1250025000\n12\n"), "{said}");
    }
}

#[test]
fn less_and_vim() {
    let bench = Bench::new("true");
    let md = "mnt/local/md/%2Flocal%2Fcas%2Fplain%2Fdocs%2F";
    if installed("less", "less") {
        bench.same("less docs/299.txt docs/298.txt");
        // On a terminal, to the end and out.
        if installed("script", "bsdutils") {
            let screen = "script -qec 'less docs/299.txt' /dev/null | grep -aq 'ishmael' && echo shown";
            bench.same(&format!("printf Gq | TERM=xterm {screen}"));
        }
        // The first to touch a pending result.
        let lines = bench.sh(&format!("less {md}1.txt | wc -l"));
        assert_eq!((lines.trim() != "0", lines), (true, bench.sh(&format!("cat {md}1.txt | wc -l"))));
    }
    if installed("vim", "vim") {
        let vim = "vim -R -u NONE -i NONE -es -c '%print' -c 'qa!'";
        bench.same(&format!("{vim} docs/299.txt; {vim} 'odd, name % \u{e9}'"));
        let lines = bench.sh(&format!("{vim} {md}2.txt | wc -l"));
        assert_eq!((lines.trim() != "0", lines), (true, bench.sh(&format!("cat {md}2.txt | wc -l"))));
        let refused =
            bench.node.sh(&format!("cd {} && vim -u NONE -i NONE -es -c 'normal ox' -c 'wq!' link", TREES[1]));
        assert_ne!(refused.status, 0);
    }
}

#[test]
fn fio() {
    if !installed("fio", "fio") {
        return;
    }
    let job =
        format!("--name=pattern --filename=fio.data --size={FIO_BYTES} --bs=16k --verify=crc32c --group_reporting");
    let bench =
        Bench::new(&format!("fio {job} --rw=write --ioengine=psync --do_verify=0 --verify_state_save=0 >/dev/null"));
    let read = format!("fio {job} --readonly --verify_state_save=0 --output=$OUT/said --output-format=json");
    let count = "python3 -c 'import json,sys; job = json.load(open(sys.argv[1]))[\"jobs\"][0]; \
        print(job[\"error\"], job[\"read\"][\"io_bytes\"])' $OUT/said";
    if !installed("python3", "python3") {
        return;
    }
    for how in [
        "--rw=read --ioengine=psync",
        "--rw=randread --ioengine=psync",
        "--rw=randread --ioengine=libaio --iodepth=16",
        "--rw=read --ioengine=splice",
        "--rw=randread --ioengine=mmap",
        "--rw=read --ioengine=psync --invalidate=1 --fadvise_hint=sequential --pre_read=1",
        "--rw=randread --ioengine=psync --numjobs=8",
    ] {
        let said = bench.same(&format!("{read} {how} && {count}"));
        let jobs = if how.contains("numjobs") { 8 } else { 1 };
        assert_eq!(said, format!("0 {}\n", jobs * FIO_BYTES), "{how}");
    }
}

#[test]
fn stress_ng() {
    if !installed("stress-ng", "stress-ng") {
        return;
    }
    let bench = Bench::new("true");
    for tree in &TREES[1..] {
        // getdent reads the directory it is started in, sysinfo asks every mount for its space.
        let said = bench.sh(&format!(
            "TMP=$PWD; cd {tree}/ && stress-ng --temp-path $TMP --verify --timeout 2 --fstat 2 --fstat-dir $PWD/docs \
            --getdent 2 --sysinfo 1 2>&1"
        ));
        assert!(said.contains("successful run completed"), "{said}");
        // Stressors that write files of their own don't begin.
        let writers = "--readahead 1 --mmap 1 --mmap-file --dentry 1 --seek 1 --xattr 1";
        let ran = bench.node.sh(&format!("cd {tree}/ && stress-ng --temp-path . --timeout 2 {writers} 2>&1"));
        assert!(ran.status != 0 && ran.stdout.contains("must be readable and writeable"), "{ran:?}");
    }
    // It answers as before, and nothing was left.
    bench.same("find . -type f -print0 | sort -z | xargs -0 md5sum");
}
