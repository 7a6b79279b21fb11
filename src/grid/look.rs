//! Looking: from a directory and a name to a node, and the names that are known in a directory.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use gridfs_fuse::Entry;
use gridfs_modules::manifest::ArgKind;
use gridfs_store::Cid;
use gridfs_store::{Target, Tree};

use super::node::{CallNode, What};
use super::status::Report;
use super::{Grid, Node};
use crate::authority::Authority;
use crate::describe::{Description, Runner};
use crate::error::{Code, Error, Result};
use crate::parms::{Parms, Value};
use crate::partial;
use crate::path;
use crate::receipt::cid_of;
use crate::resolve::{Reach, Resolver, list_cid, now, stored_arguments};

/// The directory of status files.
const STATUS: &str = ".grid";
/// Most remembered calls that one directory lists.
const MAX_LISTED: usize = 100_000;

type Listing = Vec<(OsString, Entry<Node>)>;

impl Grid {
    /// The node called `name` in a directory that is not a stored tree.
    pub(super) fn look(&self, parent: &Node, name: &str, authority: &Authority) -> Result<Node> {
        match parent.what() {
            What::Root if name == STATUS => Ok(parent.child(name.as_bytes(), What::Status)),
            What::Root => self.look_name(parent, name, Resolver::promise, |cid| {
                authority.check_promise(&*self.kernel.promise(&cid)?, &cid)?;
                Ok(What::Promise { cid, epoch: self.kernel.epoch() })
            }),
            What::Status => match Report::named(name) {
                Some(report) => Ok(parent.child(name.as_bytes(), What::Report(report))),
                None => Err(Error::new(Code::UnknownName, format!("there is no status file {name:?}"))),
            },
            What::Promise { cid: promise, .. } => {
                self.look_name(parent, name, Resolver::cid, |cid| match self.kernel.modules.get(&cid) {
                    Ok(module) => Ok(What::Arguments { promise: *promise, module, texts: Vec::new() }),
                    Err(error) if error.code == Code::Unavailable && self.kernel.may_ask_peers(promise) => {
                        Ok(What::Absent { promise: *promise, module: cid })
                    }
                    Err(error) => Err(error),
                })
            }
            What::Arguments { promise, module, texts } => {
                self.look_below(parent, *promise, module, texts, name, authority)
            }
            _ => Err(Error::new(Code::UnknownName, format!("there is no {name:?} here"))),
        }
    }

    /// The node of an argument called `name`, after those in `texts`.
    fn look_below(
        &self,
        parent: &Node,
        promise: Cid,
        module: &Arc<Description>,
        texts: &[String],
        name: &str,
        authority: &Authority,
    ) -> Result<Node> {
        match self.look_argument(promise, module, texts, name, authority) {
            Ok(what) => Ok(parent.child(name.as_bytes(), what)),
            // What is malformed, or named by a digest not known here, is shown as a file that can't be opened and says why.
            Err(error) if matches!(error.code, Code::Usage | Code::Unavailable) => {
                Ok(parent.child(name.as_bytes(), What::Refused(error)))
            }
            Err(error) => Err(error),
        }
    }

    /// The first argument of a call of a module that is fetched from peers for it.
    pub(super) async fn look_fetched(&self, parent: &Node, name: &OsStr, authority: &Authority) -> Result<Node> {
        let What::Absent { promise, module } = parent.what() else { unreachable!("only absent modules are fetched") };
        let name = name.to_str().ok_or_else(|| Error::new(Code::UnknownName, "names on the grid are UTF-8"))?;
        let module = self.kernel.module(authority, &*self.kernel.promise(promise)?, module).await?;
        self.look_below(parent, *promise, &module, &[], name, authority)
    }

    /// A promise or module by CID; by name, or by another spelling of a CID, a link to it.
    fn look_name(
        &self,
        parent: &Node,
        name: &str,
        resolve: impl FnOnce(&Resolver, &str) -> Result<Cid>,
        by_cid: impl FnOnce(Cid) -> Result<What>,
    ) -> Result<Node> {
        if let Ok(cid) = name.parse() {
            return Ok(parent.child(name.as_bytes(), by_cid(cid)?));
        }
        let text = path::decode(name).map_err(|e| Error::caused(Code::Usage, e.to_string(), e))?;
        // Names are no secret.
        let cid = resolve(&self.resolver(&Authority::Owner), &text)?;
        Ok(parent.child(name.as_bytes(), What::Link(cid.to_string())))
    }

    fn look_argument(
        &self,
        promise: Cid,
        module: &Arc<Description>,
        texts: &[String],
        name: &str,
        authority: &Authority,
    ) -> Result<What> {
        let resolver = self.resolver(authority);
        if let Some(list) = name.strip_prefix('@').filter(|_| texts.is_empty()) {
            let cid = list_cid(&self.kernel, list)?;
            if cid.to_string() != list {
                return Ok(What::Link(format!("@{cid}")));
            }
            let texts = stored_arguments(&self.kernel, &cid)?;
            return self.look_call(&resolver, promise, module, texts, 0, name);
        }
        let usage = |e: path::PathError| Error::caused(Code::Usage, e.to_string(), e);
        if texts.len() + 1 < module.levels() {
            let text = path::decode(name).map_err(usage)?;
            return self.look_part(&resolver, promise, module, texts, text, name);
        }
        let mut all = texts.to_vec();
        all.extend(path::decode_component(name).map_err(usage)?);
        self.look_call(&resolver, promise, module, all, texts.len(), name)
    }

    /// An argument that is a directory level of its own.
    fn look_part(
        &self,
        resolver: &Resolver,
        promise: Cid,
        module: &Arc<Description>,
        texts: &[String],
        text: String,
        name: &str,
    ) -> Result<What> {
        let kind = module.argument(texts.len()).map_or(ArgKind::Text, |argument| argument.kind);
        let is_object = matches!(kind, ArgKind::Blob | ArgKind::Tree);
        let canonical = if !is_object {
            Some(text.clone())
        } else if text.starts_with('/') {
            let target = now(resolver.path(&text))?;
            target.as_ref().and_then(cid_of).map(|cid| cid.to_string())
        } else {
            Some(resolver.cid(&text)?.to_string())
        };
        match canonical {
            Some(canonical) if path::encode(&canonical) != name => Ok(What::Link(path::encode(&canonical))),
            known => {
                let texts = texts.iter().cloned().chain([known.unwrap_or(text)]).collect();
                Ok(What::Arguments { promise, module: module.clone(), texts })
            }
        }
    }

    /// A call with all its arguments: itself, a link to its canonical path, or not resolved yet.
    /// `above` components stand between the module and `name`.
    fn look_call(
        &self,
        resolver: &Resolver,
        promise: Cid,
        module: &Arc<Description>,
        texts: Vec<String>,
        above: usize,
        name: &str,
    ) -> Result<What> {
        let Some(parms) = now(resolver.parms(promise, module, &texts))? else {
            return Ok(What::Unresolved { promise, module: module.clone(), texts });
        };
        let required = module.required();
        let components = parms.components(required);
        let here: Vec<String> = texts[..above.min(texts.len())].iter().map(|text| path::encode(text)).collect();
        let is_canonical = components.len() == above + 1 && components[..above] == here && components[above] == name;
        // Arguments too long for a path are named by the CID of their list.
        if is_canonical || name.starts_with('@') && !parms.fits(required) {
            return Ok(What::Call(self.call_node(parms, module)));
        }
        Ok(What::Link("../".repeat(above) + &components.join("/")))
    }

    fn call_node(&self, parms: Parms, module: &Arc<Description>) -> CallNode {
        let is_tree = module.results_in_tree(&parms, &self.kernel.store) || self.is_expected_tree(&parms, module);
        CallNode { parms, module: module.clone(), is_tree, reply: OnceLock::new() }
    }

    /// Whether a call is one of `cas` for what is not here, and said to be a directory.
    fn is_expected_tree(&self, parms: &Parms, module: &Description) -> bool {
        match parms.arguments.as_slice() {
            [Value::Object(cid)] if module.runner == Runner::Cas && self.elsewhere.is_directory(cid) => {
                !self.kernel.store.contains(cid).unwrap_or(true) // one that can't be looked up is not said to be missing
            }
            _ => false,
        }
    }

    fn resolver(&self, authority: &Authority) -> Resolver {
        Resolver::new(self.kernel.clone(), authority.clone(), Reach::Known)
    }

    /// The stored directory at a node, if it needs no run; `None` when it does or the node is no such directory.
    pub(super) fn tree_at_hand(&self, node: &Node) -> Option<Result<(Arc<Tree>, SystemTime)>> {
        match node.what() {
            What::Stored(Target::Directory { cid }) => Some(self.read_tree(*cid, node.time())),
            What::Call(call) if call.is_tree => match self.known(call) {
                Ok(Some((reply, time))) => Some(self.result_tree(&reply.result, time)),
                Ok(None) => None,
                Err(error) => Some(Err(error)),
            },
            _ => None,
        }
    }

    /// The directory that a call results in, computed if need be.
    pub(super) async fn computed_tree(&self, node: &Node, authority: Authority) -> Result<(Arc<Tree>, SystemTime)> {
        let (reply, time) = self.compute(node, authority).await?;
        self.result_tree(&reply.result, time)
    }

    fn result_tree(&self, result: &Target, time: SystemTime) -> Result<(Arc<Tree>, SystemTime)> {
        match result {
            Target::Directory { cid } => self.read_tree(*cid, time),
            _ => Err(Error::new(Code::General, "the result is a file, not a directory")),
        }
    }

    fn read_tree(&self, cid: Cid, time: SystemTime) -> Result<(Arc<Tree>, SystemTime)> {
        Ok((self.kernel.store.tree(&cid)?, time))
    }

    /// One entry of a stored directory.
    pub(super) fn child(&self, dir: &Node, tree: &Tree, time: SystemTime, name: &[u8]) -> Result<Entry<Node>> {
        let entry = tree.get(name).ok_or_else(|| Error::new(Code::UnknownName, "there is no such name"))?;
        self.stored(dir, self.is_table(dir)?, name, &entry.target, time)
    }

    /// All entries of a stored directory.
    pub(super) fn children(&self, dir: &Node, tree: &Tree, time: SystemTime) -> Result<Listing> {
        let is_table = self.is_table(dir)?;
        let entry = |entry: &gridfs_store::TreeEntry| {
            let stored = self.stored(dir, is_table, &entry.name, &entry.target, time)?;
            Ok((OsStr::from_bytes(&entry.name).to_owned(), stored))
        };
        tree.entries().iter().map(entry).collect()
    }

    /// Whether a directory is a table of names that another node publishes.
    fn is_table(&self, dir: &Node) -> Result<bool> {
        let What::Call(call) = dir.what() else { return Ok(false) };
        match call.parms.arguments.as_slice() {
            [Value::Object(cid)] if call.module.runner == Runner::Cas => partial::is(&self.kernel.store, cid),
            _ => Ok(false),
        }
    }

    fn stored(
        &self,
        dir: &Node,
        is_table: bool,
        name: &[u8],
        target: &Target,
        time: SystemTime,
    ) -> Result<Entry<Node>> {
        if let (true, Some(cid)) = (is_table, cid_of(target)) {
            if let Target::Directory { .. } = target {
                self.elsewhere.expect_directory(cid);
            }
            return self.entry(dir.child_at(name, What::Link(format!("../{cid}")), time));
        }
        let what = What::Stored(target.clone());
        match dir.is_fixed() {
            true => self.entry(dir.child_at(name, what, time)),
            // The next time something else may have this name; what it names now never changes.
            false => Ok(Entry { ttl: Duration::ZERO, ..self.entry(dir.version_at(name, what, time))? }),
        }
    }

    /// What is known in a directory that is not a stored tree: names that fit, and remembered calls.
    pub(super) fn known_names(&self, dir: &Node) -> Result<Listing> {
        let mut names: BTreeSet<String> = BTreeSet::new();
        match dir.what() {
            What::Root => {
                names.insert(STATUS.into());
                names.extend(self.names_of(|_, cid| self.kernel.promise(&cid).is_ok()));
            }
            What::Status => names.extend(Report::ALL.map(|report| report.name().into())),
            What::Promise { .. } => names.extend(self.names_of(|target, _| self.kernel.modules.names_module(target))),
            What::Arguments { promise, module, texts } => {
                let kind = module.argument(texts.len()).map(|argument| argument.kind);
                names.extend(self.names_of(|target, _| fits(kind, module.runner, target)));
                names.extend(self.remembered(*promise, module, texts)?);
            }
            _ => return Err(Error::new(Code::General, "not a directory")),
        }
        let mut listing = Vec::with_capacity(names.len());
        for name in names {
            // A name that went away since is not listed. Neither is a call whose result no longer holds: a walk that
            // follows no links meets nothing that is pending.
            let Ok(node) = self.look(dir, &name, &Authority::Owner) else { continue };
            if matches!(node.what(), What::Call(call) if !matches!(self.known(call), Ok(Some(_)))) {
                continue;
            }
            if let Ok(entry) = self.entry(node) {
                listing.push((name.into(), entry));
            }
        }
        Ok(listing)
    }

    /// The names whose target passes, as path components.
    fn names_of(&self, passes: impl Fn(&Target, Cid) -> bool) -> Vec<String> {
        let table = self.kernel.names.table();
        let passing =
            table.entries().iter().filter(|entry| cid_of(&entry.target).is_some_and(|cid| passes(&entry.target, cid)));
        passing.map(|entry| path::encode(&String::from_utf8_lossy(&entry.name))).collect()
    }

    /// The components that follow in the paths of remembered calls.
    fn remembered(&self, promise: Cid, module: &Description, texts: &[String]) -> Result<BTreeSet<String>> {
        let mut prefix = format!("{promise}/{}/", module.cid);
        for text in texts {
            prefix.push_str(&path::encode(text));
            prefix.push('/');
        }
        let mut components = BTreeSet::new();
        for memo in self.kernel.store.memos(prefix.as_bytes())? {
            let (label, _) = memo?;
            let rest = String::from_utf8_lossy(&label[prefix.len()..]).into_owned();
            components.insert(rest.split('/').next().unwrap_or_default().to_owned());
            if components.len() >= MAX_LISTED {
                break;
            }
        }
        Ok(components)
    }
}

/// Whether a name could be an argument of this kind.
fn fits(kind: Option<ArgKind>, runner: Runner, target: &Target) -> bool {
    match (kind, target) {
        (Some(ArgKind::Blob), Target::Directory { .. }) => runner == Runner::Cas,
        (Some(ArgKind::Blob), Target::File { cid, .. }) => {
            runner == Runner::Cas || cid.codec == gridfs_store::Codec::Raw
        }
        (Some(ArgKind::Tree), Target::Directory { .. }) => true,
        _ => false,
    }
}
