//! `grid`, the call by hand, and `gridfs module`.

use std::io::{self, Cursor};
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use gridfs_modules::manifest::{Manifest, embed};

use super::Globals;
use super::cap::read_token;
use super::object::unexpected;
use super::output::{print, write_rows};
use crate::error::{Code, Error, Result};
use crate::home::Home;
use crate::service::{Answer, ModuleRow, Request, Spelled, Word};

/// Call a module and print the result.
#[derive(Parser)]
#[command(
    name = "grid",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  grid wc war.txt                   a local file is stored first
  grid grep 'whale|whales' moby.txt -i
  cat moby.txt | grid sha256 -      - is standard input
  grid --show wc                    what wc promises
  cat \"$(grid --path wc war.txt)\"   the call as a path, when the grid is mounted

An argument that names a file's content is a local file, -, a CID, a name, or a path of the grid."
)]
pub(crate) struct Grid {
    /// The promise to call under
    #[arg(long, short, default_value = "local")]
    promise: String,
    /// Call by the right of this token, or of the token in this file, and by no other; also GRID_CAP
    #[arg(long, value_name = "TOKEN")]
    cap: Option<String>,
    /// Show what the module promises instead of calling it
    #[arg(long, conflicts_with = "path")]
    show: bool,
    /// Print the canonical path of the call instead of making it
    #[arg(long)]
    path: bool,
    /// Print data as JSON
    #[arg(long)]
    json: bool,
    /// Name or CID of the module
    module: String,
    /// Its arguments, as `grid --show MODULE` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Grid {
    pub(crate) fn run(self) -> Result<()> {
        let globals = Globals { home: Home::from_environment()?, json: self.json };
        if self.show {
            return show(&globals, self.module);
        }
        let arguments = self.arguments.into_iter().map(word).collect::<Result<_>>()?;
        let capability = self.cap.or_else(token_of_environment).map(read_token).transpose()?;
        let spelled = Spelled { capability, promise: self.promise, module: self.module, arguments };
        if self.path {
            let Answer::Path(path) = globals.request(Request::Path(spelled))? else { return Err(unexpected()) };
            return print(globals.json, &path, |out| writeln!(out, "{path}"));
        }
        match globals.request(Request::Call(spelled))? {
            Answer::Done => Ok(()),
            Answer::Rows(rows) => print(globals.json, &rows, |out| write_rows(out, &rows)),
            _ => Err(unexpected()),
        }
    }
}

fn token_of_environment() -> Option<String> {
    std::env::var("GRID_CAP").ok().filter(|token| !token.is_empty())
}

/// An argument, and the local file of that name if there is one.
fn word(text: String) -> Result<Word> {
    let path = std::path::absolute(&text).ok().filter(|path| text != "-" && path.exists());
    Ok(Word { local: path, text })
}

#[derive(Subcommand)]
#[command(after_help = "\
Examples:
  gridfs module add hello.wasm --name hello
  gridfs module add rot13.wasm --manifest rot13.toml
  gridfs module show wc")]
pub(crate) enum Module {
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
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| cannot_read(path, e))?;
            let manifest: Manifest = toml_edit::de::from_str(&text)
                .map_err(|e| Error::new(Code::Usage, format!("{} is not a manifest: {e}", path.display())))?;
            embed(&wasm, &manifest).map_err(|e| Error::caused(Code::NotModule, file.display().to_string(), e))?
        }
        None => wasm,
    };
    let answer = globals.request_with(Request::AddModule { name }, Box::new(Cursor::new(wasm)));
    let Answer::Stored(row) = answer.map_err(|e| e.during(file.display()))? else { return Err(unexpected()) };
    print(globals.json, &row, |out| writeln!(out, "{}  {}", row.cid.as_deref().unwrap_or_default(), row.name))
}

fn cannot_read(path: &std::path::Path, error: io::Error) -> Error {
    Error::caused(Code::Usage, format!("can't read {}", path.display()), error)
}

fn show(globals: &Globals, module: String) -> Result<()> {
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
