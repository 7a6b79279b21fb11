//! Compiling Rust: by a toolchain that has the target, else by one that has the sources of std to build it from.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Language;
use super::tools::{Tools, ask, run};
use crate::error::{Code, Error, Result};

const TARGET: &str = "wasm32-wasip1";
/// Where Debian's wasi-libc is.
const WASI_LIBC: &str = "/usr/lib/wasm32-wasi";

struct Toolchain {
    rustc: PathBuf,
    cargo: PathBuf,
    std: Std,
}

/// Where the standard library comes from.
enum Std {
    Installed,
    Sources { sources: PathBuf, linker: PathBuf },
}

/// Builds the one program of the project.
pub(super) fn compile(directory: &Path, tools: &Tools) -> Result<Vec<u8>> {
    let toolchain = toolchain(directory, tools)?;
    let mut command = Command::new(&toolchain.cargo);
    command
        .args(["build", "--release", "--target", TARGET, "--message-format=json-render-diagnostics"])
        .current_dir(directory)
        .env("RUSTC", &toolchain.rustc)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(directory, &toolchain.std).join("\x1f"));
    if let Std::Sources { linker, .. } = &toolchain.std {
        // -Zbuild-std is unstable: RUSTC_BOOTSTRAP lets a stable compiler take it.
        command.arg("-Zbuild-std=std,panic_abort").env("RUSTC_BOOTSTRAP", "1");
        command.env("CARGO_TARGET_WASM32_WASIP1_LINKER", linker);
    }
    let program = program(&run(&mut command)?)?;
    std::fs::read(&program).map_err(|e| Error::caused(Code::General, format!("can't read {}", program.display()), e))
}

fn toolchain(directory: &Path, tools: &Tools) -> Result<Toolchain> {
    let linker = tools.first("wasm-ld").filter(|_| Path::new(WASI_LIBC).join("libc.a").is_file());
    let mut lacks = Vec::new();
    for rustc in tools.all("rustc") {
        let cargo = rustc.with_file_name("cargo");
        let sysroot = ask(Command::new(&rustc).args(["--print", "sysroot"]).current_dir(directory));
        let (true, Some(sysroot)) = (cargo.is_file(), sysroot) else {
            lacks.push(format!("{} does not work, or has no cargo beside it;", rustc.display()));
            continue;
        };
        let library = Path::new(&sysroot).join("lib/rustlib");
        if library.join(TARGET).is_dir() {
            return Ok(Toolchain { rustc, cargo, std: Std::Installed });
        }
        let sources = library.join("src/rust");
        let has_sources = sources.join("library/std/Cargo.toml").is_file();
        match &linker {
            Some(linker) if has_sources => {
                let std = Std::Sources { sources, linker: linker.clone() };
                return Ok(Toolchain { rustc, cargo, std });
            }
            _ if has_sources => lacks.push(format!("{} lacks wasm-ld or wasi-libc;", rustc.display())),
            _ => lacks.push(format!("{} has neither the target {TARGET} nor the sources of std;", rustc.display())),
        }
    }
    if lacks.is_empty() {
        lacks.push("rustc is not installed.".into());
    }
    Err(Language::Rust.no_compiler(lacks.join("\n")))
}

/// Flags that keep the directories of this machine out of the program, and link it where the toolchain can't by itself.
fn flags(directory: &Path, std: &Std) -> Vec<String> {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home);
    let crates = cargo_home.map(|home| (home.join("registry/src"), "/crates"));
    let mut remapped: Vec<(PathBuf, &str)> = [(directory.to_owned(), "/module")].into_iter().chain(crates).collect();
    let mut flags = Vec::new();
    if let Std::Sources { sources, .. } = std {
        remapped.extend(sources.canonicalize().ok().map(|real| (real, "/rust")));
        remapped.push((sources.clone(), "/rust"));
        flags.extend(["-Clinker-flavor=wasm-ld", "-Clink-self-contained=no"].map(String::from));
        flags.extend([format!("-L{WASI_LIBC}"), format!("-Clink-arg={WASI_LIBC}/crt1-command.o")]);
    }
    flags.extend(remapped.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())));
    flags
}

/// The one program among what cargo says it made.
fn program(messages: &[u8]) -> Result<PathBuf> {
    let messages = String::from_utf8_lossy(messages);
    let made = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let programs: Vec<PathBuf> = made.filter_map(|message| Some(message.get("executable")?.as_str()?.into())).collect();
    match programs.as_slice() {
        [program] => Ok(program.clone()),
        _ => {
            let why = format!("the project builds {} programs; a module is one, with a main function", programs.len());
            Err(Error::new(Code::Usage, why))
        }
    }
}
