//! The committed modules are those that their sources give.

use std::path::{Path, PathBuf};
use std::process::Command;

use gridfs_modules::manifest::{Manifest, extract};

use crate::rig::{Rig, guest, guest_path};

/// The modules of the library.
pub const LIBRARY: [&str; 19] = [
    "concat",
    "decompress",
    "diff",
    "find",
    "grep",
    "hash",
    "head",
    "index",
    "jq",
    "md",
    "pipeline",
    "search",
    "sha256",
    "sort",
    "sql",
    "thumbnail",
    "untar",
    "unzip",
    "wc",
];

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
        (modules().join("guests"), &LIBRARY[..]),
        (modules().join("../examples/guests"), &["freq", "matches", "rot13", "shout"]),
    ] {
        let sums = sums(&dir);
        let expected: Vec<String> = expected.iter().map(|name| format!("{name}.wasm")).collect();
        assert_eq!(sums.iter().map(|(name, _)| name).collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
        for (name, sum) in sums {
            let wasm = std::fs::read(dir.join(&name)).unwrap();
            assert_eq!(rig.text(&sha256, vec![rig.blob(&wasm)]), format!("{sum}\n"), "{name}");
        }
    }
}

#[test]
fn each_module_carries_the_manifest_beside_its_source() {
    let examples = [
        ("freq", "../examples/guests/rust-freq/manifest.toml"),
        ("rot13", "../examples/guests/c/rot13.toml"),
        ("shout", "../examples/guests/c/shout.toml"),
    ];
    let library = LIBRARY.map(|name| (name, format!("guests/{name}/manifest.toml")));
    for (name, source) in library.into_iter().chain(examples.map(|(name, source)| (name, source.into()))) {
        let source = std::fs::read_to_string(modules().join(source)).unwrap();
        let manifest: Manifest = toml::from_str(&source).unwrap();
        let wasm = std::fs::read(guest_path(name)).unwrap();
        assert_eq!(extract(&wasm).unwrap(), Some(manifest.clone()), "{name}");
        assert_eq!(manifest.name, name);
    }
}

/// Builds the modules anew from a copy of their sources, at another place. It takes minutes and, once, the network.
#[test]
#[ignore = "builds std and every guest; run it with --ignored"]
fn building_gives_the_committed_bytes() {
    for dir in ["modules/guests", "examples/guests"] {
        let source = modules().join("..").join(dir);
        if let Err(difference) = same_packages(&source.join("PACKAGES")) {
            eprintln!("SKIPPED: {dir} was not built anew: {difference}");
            continue;
        }
        let copy = tempfile::tempdir().unwrap();
        let guests = copy.path().join(dir);
        copy_sources(dir, copy.path());
        copy_sources("modules/sdk", copy.path());
        build(&guests, &copy.path().join("target"));
        for (name, _) in sums(&source) {
            let (built, committed) = (std::fs::read(guests.join(&name)), std::fs::read(source.join(&name)));
            assert!(built.unwrap() == committed.unwrap(), "{dir}/{name} is not what its sources give");
        }
        assert_eq!(sums(&guests), sums(&source));
    }
}

/// Copies what is in a directory of the repository to the same place below another, without what was built.
fn copy_sources(dir: &str, to: &Path) {
    let (source, archive) = (modules().join("..").join(dir), to.join("sources.tar"));
    std::fs::create_dir_all(to.join(dir)).unwrap();
    let mut pack = Command::new("tar");
    pack.arg("-C").arg(source).args(["--exclude=./target", "--exclude=*.wasm", "-cf"]).arg(&archive).arg(".");
    assert!(pack.status().unwrap().success());
    assert!(Command::new("tar").arg("-C").arg(to.join(dir)).arg("-xf").arg(&archive).status().unwrap().success());
}

/// Whether the packages are installed that built the committed modules. The error says which one is not.
fn same_packages(recorded: &Path) -> Result<(), String> {
    for line in std::fs::read_to_string(recorded).unwrap().lines() {
        let (package, version) = line.split_once(' ').unwrap();
        let installed = Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]).output();
        let installed = installed.map_err(|error| format!("dpkg-query can't be run: {error}"))?;
        let found = String::from_utf8_lossy(&installed.stdout).into_owned();
        if found != version {
            let found = if found.is_empty() { "nothing" } else { &found };
            return Err(format!("that takes {package} {version} (see modules/guests/README.md); installed is {found}"));
        }
    }
    Ok(())
}

fn build(guests: &Path, target: &Path) {
    let mut build = Command::new(guests.join("build"));
    build.env("EMBED", embed()).env("CARGO_TARGET_DIR", target).env_remove("RUSTC_WRAPPER");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG") || name.starts_with("RUST")) {
        build.env_remove(name);
    }
    assert!(build.status().unwrap().success());
}

/// The example `embed`, which cargo builds along with the tests.
fn embed() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join("examples/embed")
}
