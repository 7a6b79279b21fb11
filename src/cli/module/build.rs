//! `gridfs module build`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::new::here;
use crate::cli::Globals;
use crate::cli::output::print;
use crate::error::Result;
use crate::project::{Built, Project, Tools};

#[derive(Args)]
#[command(after_help = "\
Examples:
  gridfs module build
  gridfs module build ~/src/shout

The language is told by the files: Cargo.toml (Rust), src/main.c (C), asconfig.json (AssemblyScript), src/main.wat
(WebAssembly text). manifest.toml is put into the module. The same sources and the same compiler give the same bytes in any
directory.")]
pub(crate) struct Build {
    /// The project; by default the one here
    directory: Option<PathBuf>,
}

#[derive(Serialize)]
struct Row<'a> {
    path: &'a Path,
    size_bytes: usize,
    cid: String,
}

impl Build {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        let built = build(&Project::open(here(&self.directory))?)?;
        let row = Row { path: &built.path, size_bytes: built.wasm.len(), cid: built.cid.to_string() };
        print(globals.json, &row, |out| writeln!(out, "{}  {} bytes  {}", row.cid, row.size_bytes, row.path.display()))
    }
}

/// Builds a project with the compilers in the search path.
pub(super) fn build(project: &Project) -> Result<Built> {
    project.build(&Tools::new(&std::env::var_os("PATH").unwrap_or_default()))
}
