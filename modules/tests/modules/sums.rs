//! The committed modules are those that their sources give.

use std::path::{Path, PathBuf};
use std::process::Command;

use gridfs_modules::manifest::{Manifest, extract};

use crate::rig::{Rig, guest, guest_path};

fn modules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The names and sums in a file that sha256sum wrote.
fn sums(dir: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(dir.join("SHA256SUMS")).unwrap();
    let line = |line: &str| line.split_once("  ").map(|(sum, name)| (name.to_string(), sum.to_string())).unwrap();
    text.lines().map(line).collect()
}

#[test]
fn the_sums_hold_by_the_sha256_module_s_own_account() {
    let rig = Rig::new();
    let sha256 = guest("sha256");
    for (dir, expected) in [
        (modules().join("guests"), vec!["grep.wasm", "md.wasm", "sha256.wasm", "untar.wasm", "wc.wasm"]),
        (modules().join("../examples/guests"), vec!["freq.wasm", "matches.wasm", "rot13.wasm", "shout.wasm"]),
    ] {
        let sums = sums(&dir);
        assert_eq!(sums.iter().map(|(name, _)| name).collect::<Vec<_>>(), expected);
        for (name, sum) in sums {
            let wasm = std::fs::read(dir.join(&name)).unwrap();
            assert_eq!(rig.text(&sha256, vec![rig.blob(&wasm)]), format!("{sum}\n"), "{name}");
        }
    }
}

#[test]
fn each_module_carries_the_manifest_beside_its_source() {
    for (name, source) in [
        ("grep", "guests/grep/manifest.toml"),
        ("md", "guests/md/manifest.toml"),
        ("sha256", "guests/sha256/manifest.toml"),
        ("untar", "guests/untar/manifest.toml"),
        ("wc", "guests/wc/manifest.toml"),
        ("freq", "../examples/guests/rust-freq/manifest.toml"),
        ("rot13", "../examples/guests/c/rot13.toml"),
        ("shout", "../examples/guests/c/shout.toml"),
    ] {
        let source = std::fs::read_to_string(modules().join(source)).unwrap();
        let manifest: Manifest = toml::from_str(&source).unwrap();
        let wasm = std::fs::read(guest_path(name)).unwrap();
        assert_eq!(extract(&wasm).unwrap(), Some(manifest.clone()), "{name}");
        assert_eq!(manifest.name, name);
    }
}

/// Builds the modules anew from a copy of their sources. It takes minutes and, once, the network.
#[test]
#[ignore = "builds std and every guest; run it with --ignored"]
fn building_gives_the_committed_bytes() {
    for tool in ["/usr/bin/rustc", "/usr/bin/cargo", "/usr/bin/wasm-ld", "/usr/lib/wasm32-wasi/libc.a"] {
        if !Path::new(tool).exists() {
            eprintln!("SKIPPED: {tool} is missing; this needs the Debian packages that modules/guests/README.md lists");
            return;
        }
    }
    let copy = tempfile::tempdir().unwrap();
    let guests = copy.path().join("modules/guests");
    std::fs::create_dir_all(&guests).unwrap();
    let source = modules().join("guests");
    let archive = copy.path().join("sources.tar");
    let mut pack = Command::new("tar");
    pack.arg("-C").arg(&source).args(["--exclude=./target", "--exclude=*.wasm", "-cf"]).arg(&archive).arg(".");
    assert!(pack.status().unwrap().success());
    assert!(Command::new("tar").arg("-C").arg(&guests).arg("-xf").arg(&archive).status().unwrap().success());
    let mut build = Command::new(guests.join("build"));
    build.env("EMBED", embed()).env("CARGO_TARGET_DIR", copy.path().join("target")).env_remove("RUSTC_WRAPPER");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG") || name.starts_with("RUST")) {
        build.env_remove(name);
    }
    assert!(build.status().unwrap().success());
    for (name, _) in sums(&source) {
        let (built, committed) = (std::fs::read(guests.join(&name)), std::fs::read(source.join(&name)));
        assert!(built.unwrap() == committed.unwrap(), "{name} is not what its sources give");
    }
    assert_eq!(sums(&guests), sums(&source));
}

/// The example `embed`, which cargo builds along with the tests.
fn embed() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join("examples/embed")
}
