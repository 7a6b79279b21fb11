//! Whether the same call of a module always has the same result: read off its imports, never claimed.

use std::fmt;

use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload};

use crate::engine::LoadError;
use crate::wasi::pg;

/// The class of a module, or of a result.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Whatever it may do is deterministic.
    Pure,
    /// It imports what depends on the node or on the time: a result holds for a while.
    Volatile,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::Pure => "pure",
            Class::Volatile => "volatile",
        })
    }
}

/// The class of a WASM file, without compiling it.
pub fn class(wasm: &[u8]) -> Result<Class, LoadError> {
    let mut class = Class::Pure;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(invalid)? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    if import.map_err(invalid)?.module == pg::NAMESPACE {
                        class = Class::Volatile;
                    }
                }
            }
            // Imports stand before all code.
            Payload::CodeSectionStart { .. } => break,
            _ => {}
        }
    }
    Ok(class)
}

fn invalid(error: wasmparser::BinaryReaderError) -> LoadError {
    LoadError::Invalid(error.to_string())
}
