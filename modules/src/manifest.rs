//! The manifest: what a module says of itself, in the custom section `grid.manifest` of its WASM file.
//!
//! The section holds deterministic CBOR (RFC 8949 section 4.2.1). A manifest has exactly one encoding: keys in order,
//! shortest heads, definite lengths, and a key at its default left out. So a decoder may compare: what does not
//! re-encode to the bytes it came from is refused. The structs declare their fields in the order of the encoded keys
//! (shorter first, then bytewise), because serde writes them in the order of declaration.
//!
//! ```text
//! Manifest {v 1, args [Argument], name, ? accept "dynamic", ? limits Limits, ? ttl_ms, promise,
//!           returns "blob" | "tree", version}
//! Argument {name, type "blob" | "tree" | "text" | "int", ? required false, ? variadic true}
//! Limits   {? fuel, ? wall_ms, ? memory_bytes, ? output_bytes}      at least one of them
//! ```
//!
//! A variadic argument says `required` false as well: each key has one default, whatever the others hold.
//!
//! Absent on purpose: whether the program keeps its promise, and whether its code is valid WASM. This file reads and
//! writes sections only.

use std::collections::BTreeSet;
use std::ops::Range;

use gridfs_store::cbor::{self, CborError};
use serde::{Deserialize, Serialize};
use wasmparser::{Encoding, Parser, Payload};

/// The custom section that holds the manifest.
pub const SECTION: &str = "grid.manifest";
/// The only version of the layout.
pub const VERSION: u64 = 1;
/// The longest encoded manifest.
pub const MAX_BYTES: usize = 64 * 1024;
/// The most arguments a module may declare.
pub const MAX_ARGS: usize = 32;
/// The longest name of a module or an argument, in bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// The longest promise, in bytes of UTF-8.
pub const MAX_PROMISE_BYTES: usize = 4 * 1024;
/// The longest version text, in bytes of UTF-8.
pub const MAX_VERSION_BYTES: usize = 64;

const WASM_MAGIC: &[u8] = b"\0asm";
/// The magic number and the version.
const WASM_HEADER_BYTES: usize = 8;

/// What a module says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this layout: [`VERSION`].
    pub v: u64,
    /// The declared arguments, in order: the required ones, then the optional ones, then at most one variadic.
    pub args: Vec<Argument>,
    /// The module's own name: 1 to 64 characters of `[a-z0-9._-]`, not `.` or `..`.
    pub name: String,
    /// Which calls it accepts.
    #[serde(default, skip_serializing_if = "Accepts::is_always")]
    pub accept: Accepts,
    /// What the module never needs more of. The lower of these and the caller's limits holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// How long a result holds if it is volatile, in milliseconds. The lower of this and the promise's holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// What the module promises its caller, in a sentence or two: 1 to 4096 bytes.
    pub promise: String,
    /// What a call returns.
    pub returns: Returns,
    /// The module's version: 1 to 64 bytes.
    pub version: String,
}

/// A declared argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Argument {
    /// Its name for people: 1 to 64 characters of `[a-z0-9._-]`, unlike the module's other arguments.
    pub name: String,
    /// What kind of value it takes.
    #[serde(rename = "type")]
    pub kind: ArgKind,
    /// Whether a call without it is refused.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub required: bool,
    /// Whether it stands for zero or more values. Only the last argument may, and it is not required.
    #[serde(default, skip_serializing_if = "is_false")]
    pub variadic: bool,
}

/// Which calls a module accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accepts {
    /// Every call whose arguments fit the manifest.
    #[default]
    Always,
    /// Those that it says it accepts, asked by running it with `accept` in place of its name.
    Dynamic,
}

impl Accepts {
    fn is_always(&self) -> bool {
        *self == Accepts::Always
    }
}

/// The kind of an argument's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArgKind {
    /// A blob, seen as a file.
    Blob,
    /// A tree, seen as a directory.
    Tree,
    /// A text.
    Text,
    /// A whole number, seen as its decimal text.
    Int,
}

/// The kind of a call's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Returns {
    /// What the program wrote to standard output.
    Blob,
    /// What the program made below `/out`.
    Tree,
}

/// Bounds that a module sets for itself. At least one is given, else the manifest has no limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Units of work, as the WASM engine counts fuel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
    /// Time on the clock, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
    /// Linear memory, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// The result, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<u64>,
}

/// Why a manifest, or the WASM file that should hold it, was refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Longer than [`MAX_BYTES`].
    #[error("the manifest has {bytes} bytes; at most {MAX_BYTES} are allowed")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Not CBOR, or not of the declared shape.
    #[error("the manifest is not CBOR of the declared shape: {0}")]
    Shape(#[source] Box<ciborium::de::Error<std::io::Error>>),
    /// CBOR of the right shape, in another than its one encoding, or with bytes after it.
    #[error(
        "the manifest is not in its deterministic encoding (RFC 8949 section 4.2.1, defaults left out, nothing after it)"
    )]
    NotDeterministic,
    /// A layout of another version.
    #[error("the manifest says v = {0}; this program reads v = {VERSION}")]
    Version(u64),
    /// A name of the module or of an argument that breaks the rules for names.
    #[error("{0:?} is not a name: 1 to {MAX_NAME_BYTES} characters of [a-z0-9._-], other than \".\" and \"..\"")]
    Name(String),
    /// A text that is empty, too long, or holds control characters.
    #[error("the manifest's {key} must have 1 to {max_bytes} bytes and no control characters but line feeds")]
    Text {
        /// Which text.
        key: &'static str,
        /// The most bytes it may have.
        max_bytes: usize,
    },
    /// More arguments than [`MAX_ARGS`].
    #[error("the manifest declares {0} arguments; at most {MAX_ARGS} are allowed")]
    TooManyArguments(usize),
    /// Two arguments of one name.
    #[error("two arguments are named {0:?}; each needs a name of its own")]
    SameName(String),
    /// A required argument behind an optional one.
    #[error("argument {0:?} is required but follows an optional one; put it before")]
    RequiredAfterOptional(String),
    /// A variadic argument that says it is required.
    #[error("argument {0:?} is variadic, so it may be absent: give it required = false")]
    RequiredVariadic(String),
    /// A variadic argument with others behind it.
    #[error("argument {0:?} is variadic but not the last; only the last may be")]
    VariadicNotLast(String),
    /// Limits without a limit.
    #[error("the manifest has limits but sets none of them; leave the key out")]
    EmptyLimits,
    /// The file does not start like a WASM file.
    #[error("the file is not a WASM module: it does not start with \"\\0asm\"")]
    NotWasm,
    /// The file does not parse as the sections of a core WASM module.
    #[error("the file is not a WASM module: {0}")]
    Wasm(#[source] wasmparser::BinaryReaderError),
    /// The file is a WASM component.
    #[error("the file is a WASM component; only core modules can carry a manifest")]
    Component,
    /// A section that core modules do not have.
    #[error("the file is not a WASM module: it has a section of the unknown kind {0}")]
    UnknownSection(u8),
    /// More than one manifest section.
    #[error("the file has more than one custom section {SECTION}; it must have at most one")]
    TwoManifests,
}

impl Manifest {
    /// What holds for a module that carries no manifest: any number of texts in, a blob out.
    pub fn untyped() -> Manifest {
        Manifest {
            v: VERSION,
            args: vec![Argument { name: "args".into(), kind: ArgKind::Text, required: false, variadic: true }],
            name: "module".into(),
            accept: Accepts::Always,
            limits: None,
            ttl_ms: None,
            promise: "A program without a manifest: it takes any texts and returns a blob.".into(),
            returns: Returns::Blob,
            version: "0".into(),
        }
    }

    /// Reads a manifest from its one encoding, and validates it.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        if bytes.len() > MAX_BYTES {
            return Err(ManifestError::TooLong { bytes: bytes.len() });
        }
        let manifest: Manifest = cbor::from_slice(bytes).map_err(|error| match error {
            CborError::Decode(error) => ManifestError::Shape(Box::new(error)),
            _ => ManifestError::NotDeterministic,
        })?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// The one encoding of this manifest. It does not validate: [`decode`](Manifest::decode) and [`embed`] do.
    pub fn encode(&self) -> Vec<u8> {
        cbor::to_vec(self)
    }

    /// Checks what the types cannot say.
    pub fn validate(&self) -> Result<(), ManifestError> {
        if self.v != VERSION {
            return Err(ManifestError::Version(self.v));
        }
        check_name(&self.name)?;
        check_text("promise", &self.promise, MAX_PROMISE_BYTES)?;
        check_text("version", &self.version, MAX_VERSION_BYTES)?;
        if self.limits == Some(Limits::default()) {
            return Err(ManifestError::EmptyLimits);
        }
        check_arguments(&self.args)
    }
}

/// Returns `wasm` with `manifest` as its last section, in place of any it carried.
pub fn embed(wasm: &[u8], manifest: &Manifest) -> Result<Vec<u8>, ManifestError> {
    manifest.validate()?;
    let content = manifest.encode();
    if content.len() > MAX_BYTES {
        return Err(ManifestError::TooLong { bytes: content.len() });
    }
    let mut out = wasm.to_vec();
    for section in manifest_sections(wasm)?.into_iter().rev() {
        out.drain(section.whole);
    }
    let size = leb128(SECTION.len()).len() + SECTION.len() + content.len();
    out.push(0);
    out.extend(leb128(size));
    out.extend(leb128(SECTION.len()));
    out.extend(SECTION.as_bytes());
    out.extend(content);
    Ok(out)
}

/// The manifest that `wasm` carries, if it carries one.
pub fn extract(wasm: &[u8]) -> Result<Option<Manifest>, ManifestError> {
    match manifest_sections(wasm)?.as_slice() {
        [] => Ok(None),
        [section] => Manifest::decode(&wasm[section.content.clone()]).map(Some),
        _ => Err(ManifestError::TwoManifests),
    }
}

/// Where a manifest section lies in the file.
struct ManifestSection {
    /// With the section's id and size.
    whole: Range<usize>,
    /// What follows the section's name: the CBOR.
    content: Range<usize>,
}

/// The manifest sections of a core module, whose every section is parsed on the way.
fn manifest_sections(wasm: &[u8]) -> Result<Vec<ManifestSection>, ManifestError> {
    if !wasm.starts_with(WASM_MAGIC) {
        return Err(ManifestError::NotWasm);
    }
    let mut found = Vec::new();
    let mut end = WASM_HEADER_BYTES;
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(ManifestError::Wasm)?;
        match payload {
            Payload::Version { encoding: Encoding::Component, .. } => {
                return Err(ManifestError::Component);
            }
            Payload::UnknownSection { id, .. } => return Err(ManifestError::UnknownSection(id)),
            _ => {}
        }
        let Some((_, range)) = payload.as_section() else {
            continue;
        };
        let start = std::mem::replace(&mut end, range.end);
        if let Payload::CustomSection(section) = &payload
            && section.name() == SECTION
        {
            found.push(ManifestSection { whole: start..range.end, content: section.data_offset()..range.end });
        }
    }
    Ok(found)
}

fn check_arguments(args: &[Argument]) -> Result<(), ManifestError> {
    if args.len() > MAX_ARGS {
        return Err(ManifestError::TooManyArguments(args.len()));
    }
    let mut names = BTreeSet::new();
    let mut optional = false;
    for (i, arg) in args.iter().enumerate() {
        check_name(&arg.name)?;
        if !names.insert(&arg.name) {
            return Err(ManifestError::SameName(arg.name.clone()));
        }
        if arg.variadic && arg.required {
            return Err(ManifestError::RequiredVariadic(arg.name.clone()));
        }
        if arg.variadic && i + 1 != args.len() {
            return Err(ManifestError::VariadicNotLast(arg.name.clone()));
        }
        if arg.required && optional {
            return Err(ManifestError::RequiredAfterOptional(arg.name.clone()));
        }
        optional |= !arg.required;
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), ManifestError> {
    let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    let length_fits = (1..=MAX_NAME_BYTES).contains(&name.len());
    if length_fits && name.bytes().all(allowed) && name != "." && name != ".." {
        return Ok(());
    }
    Err(ManifestError::Name(name.into()))
}

/// A promise and a version are shown on terminals, so they hold no control characters.
fn check_text(key: &'static str, text: &str, max_bytes: usize) -> Result<(), ManifestError> {
    let length_fits = (1..=max_bytes).contains(&text.len());
    if length_fits && !text.chars().any(|c| c.is_control() && c != '\n') {
        return Ok(());
    }
    Err(ManifestError::Text { key, max_bytes })
}

/// Unsigned LEB128, the number format of WASM (core specification, section 5.2.2).
fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn yes() -> bool {
    true
}

fn is_true(flag: &bool) -> bool {
    *flag
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

#[cfg(test)]
mod tests;
