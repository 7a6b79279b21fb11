//! Compiling AssemblyScript: by the compiler that npm has installed in the project, else by one in the search path.

use std::path::Path;
use std::process::Command;

use super::Language;
use super::tools::{Tools, compile_to_file};
use crate::error::Result;

/// Compiles the entries that `asconfig.json` names.
pub(super) fn compile(directory: &Path, tools: &Tools) -> Result<Vec<u8>> {
    if tools.first("node").is_none() {
        return Err(Language::AssemblyScript.no_compiler("node is not installed."));
    }
    let own = directory.join("node_modules/.bin/asc");
    let compiler = if own.is_file() { Some(own) } else { tools.first("asc") };
    let compiler = compiler.ok_or_else(|| {
        let lacks = format!("asc is not installed: run `npm install` in {} first.", directory.display());
        Language::AssemblyScript.no_compiler(lacks)
    })?;
    compile_to_file(|out| {
        let mut command = Command::new(&compiler);
        command.args(["--config", "asconfig.json", "--outFile"]).arg(out).current_dir(directory);
        command
    })
}
