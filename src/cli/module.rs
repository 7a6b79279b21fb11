//! `gridfs module`: adding and showing modules, and making new ones.

mod build;
mod inspect;
mod new;
mod test;

use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use gridfs_modules::manifest::embed;

use super::Globals;
use super::object::unexpected;
use super::output::print;
use crate::error::{Code, Error, Result};
use crate::project::read_manifest;
use crate::service::{Answer, ModuleRow, Request};

#[derive(Subcommand)]
#[command(after_help = "\
Examples:
  gridfs module new shout --lang rust   a project with a program, a manifest and tests
  cd shout && gridfs module test        compile it and run its tests
  gridfs module add shout.wasm          store it in the node
  gridfs module inspect rot13.wasm      what it imports, and whether a node would take it
  gridfs module add rot13.wasm --manifest rot13.toml
  gridfs module show wc")]
pub(crate) enum Module {
    /// Write a project for a new module: a program that compiles, a manifest and tests
    New(new::New),
    /// Compile a project to NAME.wasm
    Build(build::Build),
    /// Compile a project and run its golden cases
    Test(test::Test),
    /// Show what a module imports, exports and says of itself, and whether a node would take it
    Inspect(inspect::Inspect),
    /// Store a WebAssembly program (WASI preview1) and name it
    Add {
        /// The .wasm file
        file: PathBuf,
        /// The name; without it the manifest's
        #[arg(long, short)]
        name: Option<String>,
        /// A manifest in TOML to put into the module: its arguments, what it returns, its limits
        #[arg(long, short)]
        manifest: Option<PathBuf>,
    },
    /// List the modules that have names
    List,
    /// Show what a module promises, its arguments, its CID, and the promises it would run under
    Show {
        /// Name or CID
        module: String,
    },
}

impl Module {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        match self {
            Module::New(verb) => verb.run(),
            Module::Build(verb) => verb.run(globals),
            Module::Test(verb) => verb.run(globals),
            Module::Inspect(verb) => verb.run(globals),
            Module::Add { file, name, manifest } => add(globals, file, name, manifest),
            Module::List => {
                let Answer::Modules(modules) = globals.request(Request::Modules)? else { return Err(unexpected()) };
                print(globals.json, &modules, |out| {
                    modules.iter().try_for_each(|m| writeln!(out, "{}  -> {}  ({})", m.usage, m.returns, m.module))
                })
            }
            Module::Show { module } => show(globals, module),
        }
    }
}

fn add(globals: &Globals, file: PathBuf, name: Option<String>, manifest: Option<PathBuf>) -> Result<()> {
    let wasm = std::fs::read(&file).map_err(|e| cannot_read(&file, e))?;
    let wasm = match &manifest {
        Some(path) => embed(&wasm, &read_manifest(path)?)
            .map_err(|e| Error::caused(Code::NotModule, file.display().to_string(), e))?,
        None => wasm,
    };
    let answer = globals.request_with(Request::AddModule { name }, Box::new(Cursor::new(wasm)));
    let Answer::Stored(row) = answer.map_err(|e| e.during(file.display()))? else { return Err(unexpected()) };
    print(globals.json, &row, |out| writeln!(out, "{}  {}", row.cid.as_deref().unwrap_or_default(), row.name))
}

fn cannot_read(path: &Path, error: io::Error) -> Error {
    Error::caused(Code::Usage, format!("can't read {}", path.display()), error)
}

/// Shows a module of the node.
pub(crate) fn show(globals: &Globals, module: String) -> Result<()> {
    let Answer::Modules(modules) = globals.request(Request::Show { module })? else { return Err(unexpected()) };
    let module = modules.first().ok_or_else(unexpected)?;
    print(globals.json, module, |out| write_module(out, module))
}

fn write_module(out: &mut dyn io::Write, module: &ModuleRow) -> io::Result<()> {
    writeln!(out, "{}\n", module.promise)?;
    writeln!(out, "usage    {}", module.usage)?;
    writeln!(out, "returns  {}", module.returns)?;
    writeln!(out, "module   {}", module.module)?;
    writeln!(out, "cid      {}", module.cid)?;
    writeln!(out, "\nruns under")?;
    for (name, cid, text) in &module.runs_under {
        writeln!(out, "  {name}  {cid}\n      {text}")?;
    }
    Ok(())
}
