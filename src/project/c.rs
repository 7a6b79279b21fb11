//! Compiling C: by clang where it finds a WASI sysroot, else by Zig, which brings its own.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use super::Language;
use super::tools::{Tools, ask, compile_to_file};
use crate::error::{Code, Error, Result};

const CLANG_TARGET: &str = "--target=wasm32-wasi";
/// What clang must find, by the option with which it is asked.
const PARTS: [(&str, &str); 3] = [
    ("-print-file-name=libc.a", "wasi-libc"),
    ("-print-libgcc-file-name", "the compiler's own library for wasm32"),
    ("-print-prog-name=wasm-ld", "wasm-ld"),
];

/// Compiles and links all C files in `src`.
pub(super) fn compile(directory: &Path, tools: &Tools) -> Result<Vec<u8>> {
    let compiler = compiler(tools)?;
    let sources = sources(directory)?;
    compile_to_file(|out| {
        let mut command = Command::new(&compiler[0]);
        command.args(&compiler[1..]).args(["-Oz", "-s", "-Wall", "-Wextra"]);
        command.arg(format!("-ffile-prefix-map={}=/module", directory.display()));
        command.args(sources).arg("-o").arg(out).current_dir(directory);
        command
    })
}

/// The command line of a compiler, as far as it is the same for all sources.
fn compiler(tools: &Tools) -> Result<Vec<OsString>> {
    let mut lacks = Vec::new();
    for clang in tools.all("clang") {
        let missing: Vec<&str> = PARTS
            .iter()
            .filter(|(option, _)| {
                let found = ask(Command::new(&clang).args([CLANG_TARGET, "--rtlib=compiler-rt", option]));
                !found.is_some_and(|path| Path::new(&path).is_absolute() && Path::new(&path).is_file())
            })
            .map(|(_, what)| *what)
            .collect();
        if missing.is_empty() {
            return Ok(vec![clang.into(), CLANG_TARGET.into()]);
        }
        lacks.push(format!("{} lacks {};", clang.display(), missing.join(" and ")));
    }
    if let Some(zig) = tools.first("zig") {
        return Ok([zig.into_os_string(), "cc".into(), "-target".into(), "wasm32-wasi".into()].into());
    }
    if let Some(python) = tools.all("python3").find(|python| has_zig(python)) {
        let arguments = ["-m", "ziglang", "cc", "-target", "wasm32-wasi"].map(OsString::from);
        return Ok([python.into_os_string()].into_iter().chain(arguments).collect());
    }
    lacks.push(format!("{} Zig is installed.", if lacks.is_empty() { "neither clang nor" } else { "no" }));
    Err(Language::C.no_compiler(lacks.join("\n")))
}

fn has_zig(python: &Path) -> bool {
    ask(Command::new(python).args(["-m", "ziglang", "version"])).is_some()
}

/// Relative paths, in an order that is the same everywhere.
fn sources(directory: &Path) -> Result<Vec<OsString>> {
    let failed = |e| Error::caused(Code::General, format!("can't list {}", directory.join("src").display()), e);
    let mut sources = Vec::new();
    for entry in std::fs::read_dir(directory.join("src")).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if Path::new(&name).extension().is_some_and(|extension| extension == "c") {
            sources.push(Path::new("src").join(name).into_os_string());
        }
    }
    sources.sort();
    Ok(sources)
}
