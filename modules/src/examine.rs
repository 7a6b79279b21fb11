//! What a WASM file says of itself, read without compiling or running it, as far as it can be read.

use wasmparser::{Parser, Payload};

use crate::class::{Class, class};
use crate::manifest::{self, Manifest, ManifestError};
use crate::wasi;

/// Most imports, and most exports, that are told of one file.
const MAX_TOLD: usize = 4096;

/// What was read.
#[derive(Debug)]
pub struct Examined {
    /// What it imports, in its own order, at most 4096 of them.
    pub imports: Vec<Import>,
    /// The names that it exports, in its own order, at most 4096 of them.
    pub exports: Vec<String>,
    /// The manifest that it carries, if it carries one.
    pub manifest: Result<Option<Manifest>, ManifestError>,
    /// Its class, if all that it imports is offered and nothing before its code is damaged.
    pub class: Option<Class>,
}

/// One import.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Import {
    /// The namespace.
    pub module: String,
    /// The name in it.
    pub name: String,
    /// Whether the ABI grid-1 has it.
    pub offered: bool,
}

/// Reads a file that may be anything; what lies behind its first damage is not told.
pub fn examine(wasm: &[u8]) -> Examined {
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
        match payload {
            Payload::ImportSection(section) => {
                let told = section.into_imports().map_while(Result::ok).map(|import| Import {
                    module: import.module.into(),
                    name: import.name.into(),
                    offered: wasi::offers(import.module, import.name),
                });
                imports.extend(told.take(MAX_TOLD - imports.len()));
            }
            Payload::ExportSection(section) => {
                let told = section.into_iter().map_while(Result::ok).map(|export| export.name.to_owned());
                exports.extend(told.take(MAX_TOLD - exports.len()));
            }
            _ => {}
        }
    }
    let offered = imports.iter().all(|import| import.offered);
    let class = if offered { class(wasm).ok() } else { None };
    Examined { imports, exports, manifest: manifest::extract(wasm), class }
}
