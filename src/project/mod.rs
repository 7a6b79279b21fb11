//! A module's project: a directory with sources, a manifest, and golden cases; from nothing to a tested module.
//!
//! The sources tell the language, so nothing says it a second time.

mod assemblyscript;
mod c;
pub mod cases;
mod rust;
mod template;
mod tools;
pub mod trial;

use std::fmt;
use std::path::{Path, PathBuf};

use gridfs_modules::manifest::{embed, extract};
use gridfs_modules::{Engine, Manifest, Settings};
use gridfs_store::{Cid, Codec};

use crate::error::{Code, Error, Result};

pub use template::write as write_new;
pub use tools::Tools;

/// The file that holds the manifest.
const MANIFEST: &str = "manifest.toml";

/// What a module is written in.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Language {
    /// Rust, with its standard library.
    Rust,
    /// C, with wasi-libc.
    C,
    /// AssemblyScript, with its WASI shim.
    #[value(name = "assemblyscript")]
    AssemblyScript,
    /// WebAssembly text.
    Wat,
}

impl Language {
    const ALL: [Language; 4] = [Language::Rust, Language::C, Language::AssemblyScript, Language::Wat];

    /// The file by which its projects are known.
    fn mark(self) -> &'static str {
        match self {
            Language::Rust => "Cargo.toml",
            Language::C => "src/main.c",
            Language::AssemblyScript => "asconfig.json",
            Language::Wat => "src/main.wat",
        }
    }

    /// What has to be installed to compile it.
    fn needs(self) -> &'static str {
        match self {
            Language::Rust => {
                "Rust with the target wasm32-wasip1: `rustup target add wasm32-wasip1`. Or Debian's packages:\n\
                 `apt-get install --no-install-recommends rustc-web cargo-web rust-web-src lld wasi-libc`.\n\
                 With these the first build fetches what std is made of and compiles it, which takes minutes."
            }
            Language::C => {
                "clang, lld and wasi-libc, in Debian:\n\
                 `apt-get install --no-install-recommends clang lld wasi-libc libclang-rt-dev-wasm32`.\n\
                 Or Zig, which has all of it: `pip install ziglang`."
            }
            Language::AssemblyScript => {
                "Node.js 18 or later and npm, in Debian: `apt-get install nodejs npm`. Then, in the project, the compiler\n\
                 itself: `npm install`."
            }
            Language::Wat => "Nothing: gridfs has the compiler.",
        }
    }

    /// Why a project in it can't be compiled: `lacks` says what was looked for in vain.
    fn no_compiler(self, lacks: impl fmt::Display) -> Error {
        let why = format!("there is no compiler for {self}: {lacks}\nIt needs {}", self.needs());
        Error::new(Code::Unavailable, why)
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Language::Rust => "Rust",
            Language::C => "C",
            Language::AssemblyScript => "AssemblyScript",
            Language::Wat => "WebAssembly text",
        })
    }
}

/// A project on disk.
pub struct Project {
    /// Where it is.
    pub directory: PathBuf,
    language: Language,
    /// What is written in `manifest.toml`; without that file the program itself carries one.
    manifest: Option<Manifest>,
}

/// A compiled module.
pub struct Built {
    /// The file it was written to.
    pub path: PathBuf,
    /// Its bytes.
    pub wasm: Vec<u8>,
    /// Its CID.
    pub cid: Cid,
}

impl Project {
    /// Looks at a directory.
    pub fn open(directory: &Path) -> Result<Project> {
        let directory = directory
            .canonicalize()
            .map_err(|e| Error::caused(Code::Usage, format!("can't open {}", directory.display()), e))?;
        let language = Language::ALL.into_iter().find(|language| directory.join(language.mark()).is_file());
        let language = language.ok_or_else(|| {
            let marks = Language::ALL.map(|language| format!("{} ({language})", language.mark())).join(", ");
            let why = format!(
                "{} is no module's project: it has none of {marks}. `gridfs module new` writes one",
                directory.display()
            );
            Error::new(Code::Usage, why)
        })?;
        let path = directory.join(MANIFEST);
        let manifest = if path.is_file() { Some(read_manifest(&path)?) } else { None };
        Ok(Project { directory, language, manifest })
    }

    /// Compiles it, puts its manifest into it, and writes the module that a node would take to `NAME.wasm`. The same sources
    /// and the same compiler give the same bytes, wherever the directory lies.
    pub fn build(&self, tools: &Tools) -> Result<Built> {
        let wasm = match self.language {
            Language::Rust => rust::compile(&self.directory, tools),
            Language::C => c::compile(&self.directory, tools),
            Language::AssemblyScript => assemblyscript::compile(&self.directory, tools),
            Language::Wat => assemble(&self.directory.join(self.language.mark())),
        }?;
        let (wasm, manifest) = self.with_manifest(wasm)?;
        let path = self.directory.join(format!("{}.wasm", manifest.name));
        let cid = Cid::of(Codec::Raw, &wasm);
        if let Some(error) = refusal(&cid, &wasm) {
            return Err(error.during(path.display()));
        }
        std::fs::write(&path, &wasm)
            .map_err(|e| Error::caused(Code::General, format!("can't write {}", path.display()), e))?;
        Ok(Built { path, wasm, cid })
    }

    fn with_manifest(&self, wasm: Vec<u8>) -> Result<(Vec<u8>, Manifest)> {
        let wrong = |e| Error::caused(Code::NotModule, "the compiled program is no module", e);
        if let Some(manifest) = &self.manifest {
            return Ok((embed(&wasm, manifest).map_err(wrong)?, manifest.clone()));
        }
        let carried = extract(&wasm).map_err(wrong)?.ok_or_else(|| {
            let why = format!("there is no {MANIFEST} in {}, and the program carries none", self.directory.display());
            Error::new(Code::Usage, why)
        })?;
        Ok((wasm, carried))
    }
}

/// Why a node would not take these bytes as a module, if it wouldn't. They are compiled, not run.
pub fn refusal(cid: &Cid, wasm: &[u8]) -> Option<Error> {
    let engine = match Engine::with(Settings { optimised: false, ..Settings::NODE }) {
        Ok(engine) => engine,
        Err(error) => return Some(Error::caused(Code::General, error.to_string(), error)),
    };
    engine.load(cid, || Ok(wasm.to_vec())).err().map(Error::from)
}

/// A manifest in TOML.
pub fn read_manifest(path: &Path) -> Result<Manifest> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::caused(Code::Usage, format!("can't read {}", path.display()), e))?;
    let wrong = |why: String| Error::new(Code::Usage, format!("{} is not a manifest: {why}", path.display()));
    let manifest: Manifest = toml_edit::de::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    manifest.validate().map_err(|e| wrong(e.to_string()))?;
    Ok(manifest)
}

fn assemble(path: &Path) -> Result<Vec<u8>> {
    wat::parse_file(path).map_err(|e| Error::new(Code::Usage, e.to_string()))
}
