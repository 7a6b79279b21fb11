//! What a module's CID stands for, learnt without running anything: its manifest, and who runs it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use gridfs_modules::manifest::{ArgKind, Argument, Returns};
use gridfs_modules::{Class, MAX_WASM_BYTES, Manifest, class, inspect};
use gridfs_store::Target;
use gridfs_store::{Cid, Codec, Store};

use crate::acceptance::asks;
use crate::builtins::Cas;
use crate::error::{Code, Error, Result};
use crate::parms::{Parms, Value};

/// Descriptions kept; beyond it all are forgotten and read again.
const MAX_KEPT: usize = 1024;
/// How every WASM binary begins.
const WASM_MAGIC: [u8; 4] = *b"\0asm";

/// Who runs a module.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Runner {
    /// The kernel itself: `cas`.
    Cas,
    /// The WASM engine.
    Wasm,
}

/// A module as the path grammar needs to know it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Description {
    /// The module.
    pub cid: Cid,
    /// Its manifest.
    pub manifest: Manifest,
    /// Who runs it.
    pub runner: Runner,
    /// Whether it sees nothing but its arguments, as its imports tell.
    pub class: Class,
}

impl Description {
    /// Number of path components that hold its arguments: one for each required argument, at least one.
    pub fn levels(&self) -> usize {
        self.required().max(1)
    }

    /// Number of required arguments.
    pub fn required(&self) -> usize {
        self.manifest.args.iter().filter(|argument| argument.required).count()
    }

    /// The declaration that argument `index` (from 0) falls under.
    pub fn argument(&self, index: usize) -> Option<&Argument> {
        let args = &self.manifest.args;
        args.get(index).or_else(|| args.last().filter(|last| last.variadic))
    }

    /// Whether calls under a promise result in directories. Those of `cas` may all the same: see
    /// [`Description::results_in_tree`].
    pub fn returns_tree(&self, promise: &Cid) -> bool {
        self.manifest.returns == Returns::Tree && !asks(promise)
    }

    /// Whether a call results in a directory.
    pub fn results_in_tree(&self, parms: &Parms, store: &Arc<Store>) -> bool {
        match (self.runner, parms.arguments.as_slice()) {
            (Runner::Cas, [Value::Object(cid)]) if !asks(&parms.promise) => is_tree(store, cid),
            _ => self.returns_tree(&parms.promise),
        }
    }

    /// Checks resolved arguments against the manifest: their number, and text or object.
    pub fn check(&self, arguments: &[Value]) -> Result<()> {
        let name = &self.manifest.name;
        if arguments.len() < self.required() {
            let missing = &self.manifest.args[arguments.len()].name;
            return Err(Error::new(
                Code::Usage,
                format!("{name} needs an argument {missing:?}; see grid --show {name}"),
            ));
        }
        for (index, value) in arguments.iter().enumerate() {
            let Some(argument) = self.argument(index) else {
                let most = self.manifest.args.len();
                return Err(Error::new(
                    Code::Usage,
                    format!("{name} takes at most {most} arguments, not {}", arguments.len()),
                ));
            };
            self.check_value(argument, value)?;
        }
        Ok(())
    }

    fn check_value(&self, argument: &Argument, value: &Value) -> Result<()> {
        let wrong = |what: String| {
            let (module, name) = (&self.manifest.name, &argument.name);
            Err(Error::new(Code::Usage, format!("argument {name:?} of {module} {what}")))
        };
        match (argument.kind, value) {
            (ArgKind::Text, Value::Text(_)) => Ok(()),
            (ArgKind::Int, Value::Text(text)) if is_integer(text) => Ok(()),
            (ArgKind::Int, Value::Text(text)) => wrong(format!("must be an integer in decimal, not {text:?}")),
            (ArgKind::Blob, Value::Object(_)) if self.runner == Runner::Cas => Ok(()),
            (ArgKind::Blob, Value::Object(cid)) if cid.codec == Codec::Raw => Ok(()),
            (ArgKind::Blob, Value::Object(cid)) => wrong(format!("must be a file; {cid} is a directory or record")),
            (ArgKind::Tree, Value::Object(cid)) if cid.codec == Codec::DagCbor => Ok(()),
            (ArgKind::Tree, Value::Object(cid)) => wrong(format!("must be a directory; {cid} is a file")),
            (ArgKind::Blob | ArgKind::Tree, Value::Text(_)) => wrong("must be a stored object, not a text".into()),
            (ArgKind::Text | ArgKind::Int, Value::Object(_)) => wrong("must be a text, not a stored object".into()),
        }
    }
}

/// Decimal, an optional minus, no leading zeros: one spelling per number, within 64 bits.
fn is_integer(text: &str) -> bool {
    text.parse::<i64>().is_ok_and(|number| number.to_string() == text)
}

/// Whether a stored object is a directory.
pub fn is_tree(store: &Arc<Store>, cid: &Cid) -> bool {
    cid.codec == Codec::DagCbor && store.tree(cid).is_ok()
}

/// Descriptions, read once.
pub struct Descriptions {
    store: Arc<Store>,
    cas: Arc<Description>,
    kept: Mutex<HashMap<Cid, Arc<Description>>>,
}

impl Descriptions {
    /// Reads modules from `store`.
    pub fn new(store: Arc<Store>) -> Descriptions {
        let Cas { cid, manifest } = Cas::new();
        let cas = Arc::new(Description { cid, manifest, runner: Runner::Cas, class: Class::Pure });
        Descriptions { store, cas, kept: Mutex::default() }
    }

    /// What `module` stands for; an error when it is not stored here or not a module.
    pub fn get(&self, module: &Cid) -> Result<Arc<Description>> {
        if *module == self.cas.cid {
            return Ok(self.cas.clone());
        }
        if let Some(known) = self.kept().get(module) {
            return Ok(known.clone());
        }
        if !self.is_module(module)? {
            return Err(Error::new(Code::NotModule, format!("{module} is not a module: it is no WebAssembly binary")));
        }
        let wasm = self.store.read(module, MAX_WASM_BYTES)?;
        let wrong = |e| Error::caused(Code::NotModule, format!("{module} is no module"), e);
        let (manifest, class) = (inspect(&wasm).map_err(wrong)?, class(&wasm).map_err(wrong)?);
        let description = Arc::new(Description { cid: *module, manifest, runner: Runner::Wasm, class });
        let mut kept = self.kept();
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(*module, description.clone());
        Ok(description)
    }

    /// Whether a stored object looks like a module, from its first bytes.
    pub fn is_module(&self, cid: &Cid) -> Result<bool> {
        if *cid == self.cas.cid {
            return Ok(true);
        }
        if cid.codec != Codec::Raw {
            return Ok(false);
        }
        let object = self
            .store
            .object(cid)?
            .ok_or_else(|| Error::new(Code::Unavailable, format!("module {cid} is not stored on this node")))?;
        let mut magic = [0; WASM_MAGIC.len()];
        Ok(object.read_at(0, &mut magic)? == magic.len() && magic == WASM_MAGIC)
    }

    /// Whether a name's target is a module; what can't be read is none.
    pub fn names_module(&self, target: &Target) -> bool {
        match target {
            Target::File { cid, .. } => self.is_module(cid).unwrap_or(false),
            Target::Directory { .. } | Target::Symlink { .. } => false,
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<Cid, Arc<Description>>> {
        self.kept.lock().expect("no panic while it is held")
    }
}
