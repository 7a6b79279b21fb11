//! `gridfs module new`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::Result;
use crate::project::{self, Language};

#[derive(Args)]
#[command(after_help = "\
Examples:
  gridfs module new shout --lang rust
  gridfs module new shout --lang c ~/src/shout

The project's README.md says what has to be installed to compile it, and what the files are.")]
pub(crate) struct New {
    /// The module's name
    name: String,
    /// What it is to be written in
    #[arg(long, short)]
    lang: Language,
    /// Where; by default a directory of the module's name, here. Nothing may be there yet
    directory: Option<PathBuf>,
}

impl New {
    pub(crate) fn run(self) -> Result<()> {
        let directory = self.directory.unwrap_or_else(|| PathBuf::from(&self.name));
        project::write_new(&self.name, self.lang, &directory)?;
        let directory = directory.display();
        eprintln!("A module in {} is in {directory}. Next:", self.lang);
        let install = if self.lang == Language::AssemblyScript { " && npm install" } else { "" };
        eprintln!("  cd {directory}{install} && gridfs module test && gridfs module add {}.wasm", self.name);
        Ok(())
    }
}

/// The directory of a project: the one given, or this one.
pub(super) fn here(directory: &Option<PathBuf>) -> &Path {
    directory.as_deref().unwrap_or(Path::new("."))
}
