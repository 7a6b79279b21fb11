//! `gridfs module inspect`.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use clap::Args;
use gridfs_modules::{Class, Examined, Import, MAX_WASM_BYTES, Manifest, examine};
use gridfs_store::{Cid, Codec};
use serde::Serialize;

use super::cannot_read;
use crate::cli::output::print;
use crate::cli::{Globals, runtime};
use crate::client::{self, Listener};
use crate::error::{Code, Error, Result};
use crate::project::refusal;
use crate::service::{Event, Request};

/// Exports that mean something to a node.
const MEANT: [&str; 2] = ["_start", "memory"];

#[derive(Args)]
#[command(after_help = "\
Examples:
  gridfs module inspect shout.wasm
  gridfs module inspect --json wc

The file may be anything, from anyone: it is read and compiled, never run. Exit status: 11 a node would refuse it.")]
pub(crate) struct Inspect {
    /// A file, or the name or CID of a module in the node
    module: String,
}

/// What was found.
#[derive(Serialize)]
struct Row {
    cid: String,
    size_bytes: u64,
    /// Why a node would not take it.
    refused: Option<String>,
    class: Option<Class>,
    class_because: String,
    imports: Vec<ImportRow>,
    /// Those that a node looks for.
    exports: Vec<String>,
    other_exports: usize,
    manifest: Option<Manifest>,
    /// What a node goes by if there is no manifest.
    assumed: Option<Manifest>,
    manifest_wrong: Option<String>,
}

#[derive(Serialize)]
struct ImportRow {
    namespace: String,
    name: String,
    offered: bool,
}

impl Inspect {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        let path = Path::new(&self.module);
        let wasm = if path.is_file() { read(path)? } else { fetch(globals, self.module)? };
        let row = row(&wasm);
        print(globals.json, &row, |out| write_row(out, &row))?;
        match row.refused {
            Some(_) => Err(Error::new(Code::NotModule, "a node would refuse it")),
            None => Ok(()),
        }
    }
}

/// At most one byte more than a node would take.
fn read(path: &Path) -> Result<Vec<u8>> {
    let mut wasm = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_WASM_BYTES + 1).read_to_end(&mut wasm));
    read.map_err(|e| cannot_read(path, e))?;
    Ok(wasm)
}

/// The bytes of what a name or CID stands for.
fn fetch(globals: &Globals, module: String) -> Result<Vec<u8>> {
    struct Bytes(Vec<u8>);
    impl Listener for Bytes {
        fn event(&mut self, event: Event) -> Result<()> {
            if let Event::Data(data) = event {
                self.0.extend(data);
            }
            let fits = self.0.len() as u64 <= MAX_WASM_BYTES;
            if fits { Ok(()) } else { Err(Error::new(Code::NotModule, "it is larger than any module")) }
        }
        fn rebuild(&mut self, _: gridfs_store::Progress) {}
    }
    let mut bytes = Bytes(Vec::new());
    let request = Request::Get { what: module, to: None };
    runtime()?.block_on(client::request(&globals.home, request, Box::new(io::empty()), &mut bytes))?;
    Ok(bytes.0)
}

fn row(wasm: &[u8]) -> Row {
    let cid = Cid::of(Codec::Raw, wasm);
    let refused = refusal(&cid, wasm).map(|error| error.to_string());
    let Examined { imports, exports, manifest, class } = examine(wasm);
    let class_because = class_because(class, &imports);
    let (meant, others): (Vec<_>, Vec<_>) = exports.into_iter().partition(|name| MEANT.contains(&name.as_str()));
    let assumed = matches!(manifest, Ok(None)).then(Manifest::untyped);
    let (manifest, manifest_wrong) = match manifest {
        Ok(manifest) => (manifest, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let import = |Import { module: namespace, name, offered }| ImportRow { namespace, name, offered };
    Row {
        cid: cid.to_string(),
        size_bytes: wasm.len() as u64,
        refused,
        class,
        class_because,
        imports: imports.into_iter().map(import).collect(),
        exports: meant,
        other_exports: others.len(),
        manifest,
        assumed,
        manifest_wrong,
    }
}

fn class_because(class: Option<Class>, imports: &[Import]) -> String {
    let of_node: Vec<&str> = imports.iter().filter(|i| i.module == "pg").map(|i| i.name.as_str()).collect();
    match class {
        None => "it can't be told".into(),
        Some(Class::Pure) => "all that it imports is deterministic".into(),
        Some(Class::Volatile) => {
            format!("what it imports from pg may answer otherwise next time: {}", of_node.join(", "))
        }
    }
}

fn write_row(out: &mut dyn io::Write, row: &Row) -> io::Result<()> {
    let class = row.class.map_or("-".into(), |class| class.to_string());
    writeln!(out, "cid       {}", row.cid)?;
    writeln!(out, "size      {} bytes", row.size_bytes)?;
    writeln!(out, "refused   {}", row.refused.as_deref().map_or("no".into(), plain))?;
    writeln!(out, "class     {class}: {}", plain(&row.class_because))?;
    writeln!(out, "exports   {}, and {} others", join(&row.exports), row.other_exports)?;
    write_imports(out, &row.imports)?;
    match (&row.manifest, &row.assumed, &row.manifest_wrong) {
        (Some(manifest), ..) => write_manifest(out, "manifest", manifest),
        (None, Some(assumed), _) => write_manifest(out, "manifest  none, so this is assumed:", assumed),
        (None, None, wrong) => writeln!(out, "manifest  {}", plain(wrong.as_deref().unwrap_or("none"))),
    }
}

fn write_imports(out: &mut dyn io::Write, imports: &[ImportRow]) -> io::Result<()> {
    writeln!(out, "imports{}", if imports.is_empty() { "   nothing" } else { "" })?;
    for of_namespace in imports.chunk_by(|a, b| a.namespace == b.namespace) {
        let name = |import: &ImportRow| {
            format!("{}{}", plain(&import.name), if import.offered { "" } else { " (not offered)" })
        };
        let names: Vec<String> = of_namespace.iter().map(name).collect();
        writeln!(out, "  {}: {}", plain(&of_namespace[0].namespace), names.join(", "))?;
    }
    Ok(())
}

fn write_manifest(out: &mut dyn io::Write, title: &str, manifest: &Manifest) -> io::Result<()> {
    // TOML has no numbers above 2^63.
    let text = toml_edit::ser::to_string_pretty(manifest).or_else(|_| serde_json::to_string_pretty(manifest))?;
    writeln!(out, "{title}")?;
    text.lines().try_for_each(|line| writeln!(out, "{}", format!("  {line}").trim_end()))
}

fn join(names: &[String]) -> String {
    if names.is_empty() { "nothing that a node needs".into() } else { names.join(", ") }
}

/// A text of unknown origin as it may be shown on a terminal.
fn plain(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] }).collect()
}
