//! The command line: whole outputs and exit statuses, with and without a daemon.

mod common;

use common::Node;

/// Runs `check` on a node without a daemon, then on one with.
fn both_ways(check: impl Fn(&Node)) {
    check(&Node::new());
    check(&Node::mounted());
}

const HELLO: &str = "bafkr4ihkr4ld3m4gqkjf4reryxsy2s5tkbxprqkow6fin2iiyvreuzzab4";

#[test]
fn put_and_get() {
    both_ways(|node| {
        let file = node.scratch("hello");
        std::fs::write(&file, "hello").unwrap();
        let file = file.to_str().unwrap();
        assert_eq!(node.gridfs(["put", file]).ok(), format!("{HELLO}  {file}\n"));
        assert_eq!(node.gridfs(["put", "--name", "greeting", file]).ok(), format!("{HELLO}  {file}\n"));
        assert_eq!(node.sh("printf hello | gridfs put -").ok(), format!("{HELLO}  -\n"));
        for what in [HELLO, "greeting", "/local/cas/greeting", &format!("/local/cas/{HELLO}")] {
            assert_eq!(node.gridfs(["get", what]).ok(), "hello", "{what}");
        }
        let copy = node.scratch("copy");
        assert_eq!(node.gridfs(["get", "greeting", copy.to_str().unwrap()]).ok(), "");
        assert_eq!(std::fs::read_to_string(copy).unwrap(), "hello");
        let json: serde_json::Value = serde_json::from_str(&node.gridfs(["--json", "put", file]).ok()).unwrap();
        assert_eq!(json, serde_json::json!([{"name": "", "kind": "file", "cid": HELLO, "size_bytes": 5}]));
    });
}

#[test]
fn a_directory_needs_a_place_to_go() {
    both_ways(|node| {
        node.sh("mkdir d && echo x > d/x && mkfifo d/pipe").ok();
        let put = node.sh("gridfs put --name d d");
        assert_eq!((put.status, put.stderr.contains("d/pipe: fifo")), (0, true), "{put:?}");
        let (status, stderr) = node.gridfs(["get", "d"]).failed();
        assert_eq!((status, stderr.as_str()), (2, "error: d is a directory; say where it goes: gridfs get d DIR\n"));
        assert_eq!(node.sh("gridfs get d e && ls e && cat e/x").ok(), "x\nx\n");
        let (status, stderr) = node.sh("gridfs get d e").failed();
        assert_eq!((status, stderr.contains("File exists")), (1, true), "{stderr}");
    });
}

/// `sha256sum` and `openssl dgst -sha3-256` of "hello", as CIDs.
const HELLO_SHA2: &str = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq";
const HELLO_SHA3: &str = "bafkrmibthc7gst2qyxztrakjq3g7a2dekouirocpijgxskxuxeqchghtsi";
const HELLO_SHA2_BASE16: &str = "f015512202cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

#[test]
fn a_file_is_known_by_the_digest_it_was_put_with() {
    both_ways(|node| {
        let (status, stderr) = node.gridfs(["get", HELLO_SHA2]).failed();
        let why = format!(
            "error: this node knows no object with the sha2-256 digest {HELLO_SHA2}; \
             `gridfs put --hash sha2-256 FILE` makes a file known by it\n"
        );
        assert_eq!((status, stderr), (13, why));
        let file = node.scratch("hello");
        std::fs::write(&file, "hello").unwrap();
        let file = file.to_str().unwrap();
        let put = ["put", "--hash", "sha2-256", file];
        assert_eq!(node.gridfs(put).ok(), format!("{HELLO}  {HELLO_SHA2}  {file}\n"));
        assert_eq!(node.sh("printf hello | gridfs put --hash sha3-256 -").ok(), format!("{HELLO}  {HELLO_SHA3}  -\n"));
        let json: serde_json::Value =
            serde_json::from_str(&node.gridfs(["--json"].into_iter().chain(put)).ok()).unwrap();
        let row = serde_json::json!({"name": "", "kind": "file", "cid": HELLO, "size_bytes": 5, "alias": HELLO_SHA2});
        assert_eq!(json, serde_json::json!([row]));
        let counted = node.grid(["wc", HELLO]).ok();
        for alias in [HELLO_SHA2, HELLO_SHA3, HELLO_SHA2_BASE16] {
            assert_eq!(node.gridfs(["get", alias]).ok(), "hello", "{alias}");
            assert_eq!(node.gridfs(["get", &format!("/local/cas/{alias}")]).ok(), "hello", "{alias}");
            assert_eq!(node.grid(["wc", alias]).ok(), counted, "{alias}");
            node.gridfs(["name", "set", "greeting", alias]).ok();
            assert!(node.gridfs(["name", "list"]).ok().lines().any(|line| line.ends_with(HELLO)), "{alias}");
            let (status, stderr) = node.gridfs(["put", "--name", alias, file]).failed();
            assert_eq!((status, stderr.contains("can't be a name: it is a CID")), (2, true), "{stderr}");
        }
    });
}

#[test]
fn with_a_directory_its_files_are_known_by_their_digests() {
    both_ways(|node| {
        node.sh("mkdir -p d/inner && printf hello > d/inner/file").ok();
        let put = node.sh("gridfs put --hash sha3-256 d").ok();
        assert_eq!(put.split_whitespace().collect::<Vec<_>>()[1..], ["d"], "{put}");
        assert_eq!(node.gridfs(["get", HELLO_SHA3]).ok(), "hello");
        assert_eq!(node.gridfs(["get", HELLO_SHA2]).failed().0, 13);
    });
}

#[test]
fn a_module_and_a_promise_are_known_by_their_digests() {
    both_ways(|node| {
        let put = |name: &str| {
            let line = node.sh(&format!("gridfs get {name} > file && gridfs put --hash sha2-256 file")).ok();
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        let (promise, module) = (put("pub"), put("wc"));
        node.sh("printf hello | gridfs put -").ok();
        let called = node.grid(["--promise", &promise, "--path", &module, HELLO]).ok();
        assert_eq!(called, node.grid(["--promise", "pub", "--path", "wc", HELLO]).ok());
        let nested = format!("/{promise}/{module}/{HELLO}");
        assert_eq!(node.gridfs(["get", &nested]).ok(), node.grid(["wc", HELLO]).ok());
        assert_eq!(
            node.grid(["--show", &module]).ok(),
            node.grid(["--show", "wc"]).ok().replace("wc file", &format!("{module} file"))
        );
    });
}

#[test]
fn digests_that_nobody_computes_are_refused_by_reason() {
    let node = Node::new();
    let sha2_512 = format!("f01551340{}", "5a".repeat(64));
    let directory = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354";
    let supported = "multihash 0x13 is not supported; BLAKE3-256 (0x1e), sha2-256 (0x12) and sha3-256 (0x16) are\n";
    for (cid, why) in [(sha2_512.as_str(), supported), (directory, "only raw (0x55), a file's content, is\n")] {
        for (status, stderr) in [node.gridfs(["get", cid]).failed(), node.grid(["wc", cid]).failed()] {
            assert_eq!((status, stderr.ends_with(why)), (2, true), "{stderr}");
        }
    }
    let (status, stderr) = node.gridfs(["put", "--hash", "md5", "file"]).failed();
    assert_eq!((status, stderr.contains("sha2-256 and sha3-256 are")), (2, true), "{stderr}");
}

#[test]
fn names_and_their_history() {
    both_ways(|node| {
        std::fs::write(node.scratch("one"), "1").unwrap();
        std::fs::write(node.scratch("two"), "2").unwrap();
        node.sh("gridfs put --name x one && gridfs put --name y two").ok();
        let list = node.gridfs(["name", "list"]).ok();
        let names: Vec<&str> = list.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
        let built_in =
            "accept cas concat decompress diff find grep hash head local md pub reject sha256 sort untar unzip wc";
        assert_eq!(names.join(" "), format!("{built_in} x y"));
        let before = node.gridfs(["name", "log", "-n", "1"]).ok();
        let root = before.split_whitespace().next().unwrap().to_owned();
        node.gridfs(["name", "set", "x", "y"]).ok();
        node.gridfs(["name", "rm", "y"]).ok();
        assert_eq!(node.gridfs(["get", "x"]).ok(), "2");
        assert_eq!(node.gridfs(["get", "y"]).failed().0, 10);
        let log = node.gridfs(["name", "log", "-n", "2"]).ok();
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 4, "{log}");
        assert!(lines[1].starts_with("    - y bafkr4i"), "{log}");
        assert!(lines[3].starts_with("    ~ x bafkr4i") && lines[3].contains(" -> bafkr4i"), "{log}");
        assert_eq!(node.gridfs(["name", "list", "--at", &root]).ok(), list);
        node.gridfs(["name", "rollback", &root]).ok();
        assert_eq!(node.gridfs(["name", "list"]).ok(), list);
        assert_eq!(node.gridfs(["get", "x"]).ok(), "1");
        let (status, stderr) = node.gridfs(["name", "rollback", HELLO]).failed();
        assert_eq!((status, stderr.contains(HELLO)), (13, true), "{stderr}");
    });
}

#[test]
fn calls_by_hand() {
    both_ways(|node| {
        node.sh("printf 'one two\nthree\n' > text; mkdir d; cp text d").ok();
        assert_eq!(node.sh("grid wc text").ok(), " 2  3 14\n");
        assert_eq!(node.sh("grid wc - < text").ok(), " 2  3 14\n");
        assert_eq!(node.sh("grid wc text -l").ok(), "2\n");
        assert_eq!(node.sh("grid grep t.o text -n").ok(), "1:one two\n");
        assert_eq!(node.sh("grid --promise pub md text").ok(), "<p>one two\nthree</p>\n");
        let listing = node.sh("tar cf d.tar d && grid untar d.tar").ok();
        assert!(listing.starts_with("d  directory ") && listing.lines().count() == 1, "{listing}");
        assert_eq!(node.sh("grid cas d").ok().split_whitespace().take(3).collect::<Vec<_>>(), ["text", "file", "14"]);
        assert_eq!(node.sh("grid cas no-such-thing").failed().0, 10);
        // A path of the call, good for get as well as for cat.
        let path = node.sh("grid --path wc text").ok();
        assert_eq!(node.gridfs(["get", path.trim()]).ok(), " 2  3 14\n");
    });
}

#[test]
fn a_module_shows_what_it_promises() {
    both_ways(|node| {
        let shown = node.grid(["--show", "sha256"]).ok();
        assert_eq!(shown, node.gridfs(["module", "show", "sha256"]).ok());
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(
            lines[0],
            "Prints the SHA-256 hash (FIPS 180-4) of a file: 64 lower-case hexadecimal digits and a line feed."
        );
        assert_eq!(&lines[2..5], ["usage    sha256 file:blob", "returns  blob", "module   sha256 1.0.0"]);
        assert!(lines[5].starts_with("cid      bafkr4i"));
        assert_eq!(lines[7], "runs under");
        assert_eq!(lines[8], "  local  bafyr4igce42yrwit4lo2he6ibmxwlwrezs3svjx4wgwqbqzsuyhaml5vc4");
        assert!(lines[10].starts_with("  pub  bafyr4i"));
        let list = node.gridfs(["module", "list"]).ok();
        assert!(list.contains("\nuntar archive:blob  -> tree  (untar 1.0.0)\n"), "{list}");
    });
}

#[test]
fn stats_count() {
    let node = Node::mounted();
    node.put("text", "one\n");
    let before = node.stat("objects");
    node.grid(["wc", "text"]).ok();
    node.grid(["wc", "text"]).ok();
    let stats = ["calls", "hits", "runs", "failures", "running", "memos"].map(|what| node.stat(what));
    assert_eq!(stats, [2, 1, 1, 0, 0, 1]);
    // The result and its receipt.
    assert_eq!(node.stat("objects"), before + 2);
    let shown = node.gridfs(["stats"]).ok();
    assert!(shown.lines().any(|line| line.split_whitespace().eq(["modules", "run", "1"])), "{shown}");
}

#[test]
fn commands_without_a_daemon_take_turns() {
    let node = Node::new();
    node.sh("for i in 1 2 3 4 5 6; do (echo $i > f$i; gridfs put --name n$i f$i) & done; wait").ok();
    let names = node.gridfs(["name", "list"]).ok();
    assert_eq!(names.lines().filter(|line| line.starts_with('n')).count(), 6, "{names}");
}

#[test]
fn one_home_has_one_daemon() {
    let node = Node::mounted();
    let other = node.scratch("other");
    std::fs::create_dir(&other).unwrap();
    for arguments in [&["mount"][..], &["mount", "--foreground"]] {
        let arguments = arguments.iter().copied().chain([other.to_str().unwrap()]);
        let (status, stderr) = node.gridfs(arguments).failed();
        assert_eq!((status, stderr.contains("is already mounted at")), (1, true), "{stderr}");
    }
}

#[test]
fn help_has_examples() {
    let node = Node::new();
    for command in [
        &["--help"][..],
        &["mount", "--help"],
        &["put", "--help"],
        &["get", "--help"],
        &["name", "--help"],
        &["module", "--help"],
    ] {
        assert!(node.gridfs(command).ok().contains("Examples:\n  gridfs "), "{command:?}");
    }
    assert!(node.grid(["--help"]).ok().contains("Examples:\n  grid wc war.txt"));
}

#[test]
fn the_demonstration_cleans_up() {
    let node = Node::new();
    let temporary = node.scratch("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let shown = node.sh("TMPDIR=$PWD/tmp gridfs demo").ok();
    assert!(shown.contains("<h1>Two roads</h1>") && shown.contains("$ readlink -f grid/local/wc/roads.md"), "{shown}");
    assert_eq!(std::fs::read_dir(temporary).unwrap().count(), 0);
    assert!(!std::fs::read_to_string("/proc/mounts").unwrap().contains("gridfs-demo"));
}
