//! The way of a module's author: a new project, compiled, tested, added, called. In WebAssembly text, which needs no compiler.

mod common;

use common::Node;

/// A new project `up` in the scratch directory.
fn project() -> Node {
    let node = Node::new();
    let ran = node.sh("gridfs module new up --lang wat");
    assert_eq!((ran.status, ran.stdout.as_str()), (0, ""));
    let next = "  cd up && gridfs module test && gridfs module add up.wasm\n";
    assert_eq!(ran.stderr, format!("A module in WebAssembly text is in up. Next:\n{next}"));
    node
}

#[test]
fn from_nothing_to_a_file_in_the_mount() {
    let node = project();
    let built = node.sh("gridfs module build up").ok();
    let [cid, size, "bytes", path] = built.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{built}") };
    assert_eq!(std::fs::metadata(path).unwrap().len(), size.parse::<u64>().unwrap());
    let tested = node.sh("cd up && gridfs module test").ok();
    let verdicts: Vec<Vec<&str>> = tested.lines().map(|line| line.split_whitespace().take(2).collect()).collect();
    assert_eq!(verdicts, [["case", "fuel"], ["empty", "ok"], ["words", "ok"]], "{tested}");
    assert_eq!(node.sh("gridfs module add up/up.wasm").ok(), format!("{cid}  up\n"));
    node.mount();
    node.put("poem.txt", "Two roads\n");
    assert_eq!(node.read("local/up/poem.txt"), "TWO ROADS\n");
}

#[test]
fn a_module_has_the_same_bytes_wherever_it_is_built() {
    let node = project();
    node.sh("cp -r up elsewhere && gridfs module build up && gridfs module build elsewhere").ok();
    node.sh("cmp up/up.wasm elsewhere/up.wasm").ok();
}

#[test]
fn cases_that_are_not_as_expected_are_shown_and_blessed() {
    let node = project();
    let tests = node.scratch("up/tests");
    std::fs::write(tests.join("words/expected"), "THE QUICK\n").unwrap();
    std::fs::create_dir(tests.join("none")).unwrap();
    std::fs::create_dir(tests.join("missing")).unwrap();
    std::fs::write(tests.join("missing/args"), "nothing.txt\n").unwrap();
    std::fs::write(tests.join("missing/failure"), "there is no name \"nothing.txt\"\n").unwrap();
    let ran = node.sh("gridfs module test up");
    assert_eq!((ran.status, ran.stderr.as_str()), (11, "error: 2 of 4 cases not as expected\n"));
    let why: Vec<&str> = ran.stdout.lines().filter(|line| line.starts_with("    ")).collect();
    let expected = [
        "    there is no expected and no failure; --bless writes what it came to",
        "    line 1: expected \"THE QUICK\\n\"",
        "    got \"THE QUICK BROWN FOX, 1 OF 2.\\n\"",
    ];
    assert_eq!(why, expected, "{}", ran.stdout);

    let blessed = node.sh("gridfs module test --bless up").ok();
    assert_eq!(blessed.matches(" blessed ").count(), 2, "{blessed}");
    let failure = std::fs::read_to_string(tests.join("none/failure")).unwrap();
    assert_eq!(failure, "up needs an argument \"text\"; see grid --show up\n");
    let rows = node.sh("gridfs module test up --json").ok();
    let rows: serde_json::Value = serde_json::from_str(&rows).unwrap();
    let cases: Vec<&str> = rows.as_array().unwrap().iter().map(|row| row["case"].as_str().unwrap()).collect();
    assert_eq!(cases, ["empty", "missing", "none", "words"]);
    assert!(rows.as_array().unwrap().iter().all(|row| row["verdict"] == "ok"), "{rows}");
    assert_eq!(rows[3]["memory_bytes"], 131_072);
    assert!(rows[3]["fuel"].as_u64().unwrap() > 0 && rows[1]["fuel"].is_null(), "{rows}");
}

#[test]
fn modules_that_return_directories_and_call_others_are_tested_too() {
    let node = Node::new();
    let guests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("modules/guests");
    node.sh("gridfs module new unpack --lang wat").ok();
    // What is built is a program that was there before, as WebAssembly text.
    let wat = wasm_as_text(&std::fs::read(guests.join("untar.wasm")).unwrap());
    std::fs::write(node.scratch("unpack/src/main.wat"), wat).unwrap();
    std::fs::copy(guests.join("untar/manifest.toml"), node.scratch("unpack/manifest.toml")).unwrap();
    node.sh("cd unpack/tests && rm -r words empty && mkdir -p tree/sub && echo a > tree/sub/a && tar cf tree/a.tar -C tree sub").ok();
    node.sh("cd unpack/tests/tree && rm -r sub && echo a.tar > args").ok();
    let blessed = node.sh("gridfs module test --bless unpack").ok();
    assert!(blessed.contains("blessed"), "{blessed}");
    assert_eq!(std::fs::read(node.scratch("unpack/tests/tree/expected/sub/a")).unwrap(), b"a\n");
    node.sh("gridfs module test unpack").ok();
    node.sh("cd unpack/tests/tree/expected && echo b > sub/a && echo c > new").ok();
    let ran = node.sh("gridfs module test unpack");
    assert_eq!(ran.status, 11);
    assert!(ran.stdout.ends_with("\n    new: missing\n    sub/a: differs\n"), "{}", ran.stdout);
}

#[test]
fn a_program_may_carry_its_manifest_itself() {
    let node = project();
    let built = node.sh("gridfs module build up").ok();
    let wat = wasm_as_text(&std::fs::read(node.scratch("up/up.wasm")).unwrap());
    std::fs::write(node.scratch("up/src/main.wat"), wat).unwrap();
    std::fs::remove_file(node.scratch("up/manifest.toml")).unwrap();
    assert_eq!(node.sh("rm up/up.wasm && gridfs module build up").ok(), built);
}

/// A module that has the bytes of another, spelled as text.
fn wasm_as_text(wasm: &[u8]) -> String {
    let bytes: String = wasm.iter().map(|byte| format!("\\{byte:02x}")).collect();
    format!("(module binary \"{bytes}\")")
}

#[test]
fn a_missing_compiler_is_named_with_its_package() {
    let node = Node::new();
    let table = [
        ("rust", "rustup target add wasm32-wasip1", "rustc-web cargo-web rust-web-src lld wasi-libc"),
        ("c", "clang lld wasi-libc libclang-rt-dev-wasm32", "pip install ziglang"),
        ("assemblyscript", "apt-get install nodejs npm", "npm install"),
    ];
    for (language, package, alternative) in table {
        node.sh(&format!("gridfs module new up-{language} --lang {language}")).ok();
        let line = format!("env PATH=/nonexistent \"$(command -v gridfs)\" module build up-{language}");
        let (status, stderr) = node.sh(&line).failed();
        assert_eq!(status, 13, "{stderr}");
        assert!(stderr.starts_with("error: there is no compiler for "), "{stderr}");
        assert!(stderr.contains(package) && stderr.contains(alternative), "{stderr}");
        let readme = std::fs::read_to_string(node.scratch(&format!("up-{language}/README.md"))).unwrap();
        assert!(readme.contains(package) && readme.contains(alternative), "{readme}");
    }
}

#[test]
fn projects_that_are_none_are_refused() {
    let node = project();
    let failed = |line: &str| node.sh(line).failed();
    let (status, stderr) = failed("gridfs module new up --lang wat");
    assert_eq!((status, stderr.as_str()), (1, "error: can't create up: File exists (os error 17)\n"));
    let (status, stderr) = failed("gridfs module new Up --lang wat");
    assert_eq!(status, 2);
    assert!(stderr.contains("\"Up\" can't be the name: a letter a to z"), "{stderr}");
    let (status, stderr) = failed("mkdir empty && gridfs module build empty");
    assert_eq!(status, 2);
    assert!(stderr.contains("is no module's project: it has none of Cargo.toml (Rust), src/main.c (C)"), "{stderr}");
    let (status, stderr) = failed("rm up/manifest.toml && gridfs module build up");
    assert_eq!(status, 2);
    assert!(
        stderr.contains("there is no manifest.toml in ") && stderr.contains("and the program carries none"),
        "{stderr}"
    );
    let (status, stderr) = failed("echo 'v = 2' > up/manifest.toml && gridfs module build up");
    assert_eq!(status, 2);
    assert!(stderr.contains("manifest.toml is not a manifest"), "{stderr}");
}

#[test]
fn inspecting_tells_what_a_module_is_and_why_it_is_refused() {
    let node = project();
    node.sh("gridfs module build up && gridfs module add up/up.wasm").ok();
    let shown = node.sh("gridfs module inspect up/up.wasm").ok();
    let wasm = std::fs::read(node.scratch("up/up.wasm")).unwrap();
    let cid = gridfs_store::Cid::of(gridfs_store::Codec::Raw, &wasm);
    let expected = format!(
        "\
cid       {cid}
size      {} bytes
refused   no
class     pure: all that it imports is deterministic
exports   memory, _start, and 0 others
imports
  wasi_snapshot_preview1: fd_read, fd_write, proc_exit
manifest
  v = 1
",
        wasm.len()
    );
    assert!(shown.starts_with(&expected), "{shown}");
    assert!(shown.contains("\n  name = \"up\"\n") && shown.contains("type = \"blob\""), "{shown}");
    assert_eq!(node.sh("gridfs module inspect up").ok(), shown);
    assert_eq!(node.sh(&format!("gridfs module inspect {cid}")).ok(), shown);
    let json: serde_json::Value = serde_json::from_str(&node.sh("gridfs module inspect --json up").ok()).unwrap();
    assert_eq!((&json["refused"], &json["class"]), (&serde_json::Value::Null, &"pure".into()));
    assert_eq!(json["manifest"]["name"], "up");

    let hostile: [(&str, Vec<u8>, &str); 6] = [
        ("text", b"hello".to_vec(), "refused   the file is not a WASM module"),
        ("cut", wasm[..wasm.len() / 2].to_vec(), "refused   the file is not a WASM module"),
        ("library", text(r#"(module (memory (export "memory") 1))"#), "refused   it does not export \"_start\""),
        (
            "import",
            text(r#"(module (import "env" "a\1b[31mb" (func)) (memory (export "memory") 1) (func (export "_start")))"#),
            "refused   it imports env.a\\u{1b}[31mb, which the ABI grid-1 does not offer",
        ),
        (
            "signature",
            text(
                r#"(module (import "wasi_snapshot_preview1" "fd_read" (func)) (memory (export "memory") 1)
                (func (export "_start")))"#,
            ),
            "refused   not a valid WebAssembly module: incompatible import type",
        ),
        (
            "manifest",
            [wasm.as_slice(), &[0, 14, 13], b"grid.manifest"].concat(),
            "more than one custom section grid.manifest",
        ),
    ];
    for (name, bytes, why) in hostile {
        std::fs::write(node.scratch(name), bytes).unwrap();
        let ran = node.sh(&format!("gridfs module inspect {name}"));
        assert_eq!((ran.status, ran.stderr.as_str()), (11, "error: a node would refuse it\n"), "{name}");
        assert!(ran.stdout.contains(why) && !ran.stdout.contains('\x1b'), "{name}: {}", ran.stdout);
        assert_eq!(node.sh(&format!("gridfs module add {name} --name {name}")).status, 11, "{name}");
    }
}

fn text(wat: &str) -> Vec<u8> {
    wat::parse_str(wat).unwrap()
}
