//! Requests about where bytes come from: explaining a result, checking it, and what depends on an object.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::time::Instant;

use gridfs_store::{Cid, Codec, Hash, Target};
use tokio::sync::mpsc;

use super::{Answer, CallRow, Event, OriginRow, PROGRESS_EVERY, Progress, Service, blocking};
use crate::authority::Authority;
use crate::error::{Code, Error, Result};
use crate::kernel::Kernel;
use crate::lineage::Remembered;
use crate::parms::{Parms, Value};
use crate::receipt::{Receipt, cid_of};
use crate::resolve::{Reach, Resolver, now};
use crate::time;

/// Most calls that one explanation tells of.
const MAX_CALLS: usize = 10_000;

/// What a person asks about.
pub(super) enum Asked {
    /// A call with a result, and what is asked about in that result.
    Call(Box<Remembered>, Target),
    /// A stored object.
    Object(Target),
}

impl Service {
    pub(super) async fn why(&self, what: &str, events: &mpsc::Sender<Event>) -> Result<Answer> {
        let asked = self.asked(what)?;
        let (node, events) = (self.node.clone(), events.clone());
        blocking(move || {
            let kernel = &node.kernel;
            let origins = kernel.origins(&mut listener(&events))?;
            let mut telling = Telling { kernel, origins: &origins, told: HashSet::new() };
            let row = match asked {
                Asked::Object(target) => telling.asked(&cid_of(&target).expect("it was found by its CID"))?,
                Asked::Call(call, found) => {
                    let row = telling.call(&call)?;
                    let cid = cid_of(&found).map(|cid| cid.to_string()).unwrap_or_default();
                    OriginRow { cid, size_bytes: size(&found), ..row }
                }
            };
            Ok(Answer::Origin(Box::new(row)))
        })
        .await
    }

    pub(super) async fn affected(&self, what: &str, revoke: bool, events: &mpsc::Sender<Event>) -> Result<Answer> {
        let cid = self.resolver(Authority::Owner).cid(what)?;
        let (kernel, events) = (self.node.kernel.clone(), events.clone());
        let paths = blocking(move || match revoke {
            true => kernel.revoke(&cid, &mut listener(&events)),
            false => {
                let affected = kernel.affected(&cid, &mut listener(&events))?;
                Ok(kernel.paths_of(affected.calls.values()))
            }
        })
        .await?;
        if revoke {
            let promises = self.node.kernel.accepted.all();
            self.forget_looked_up(promises.into_iter().map(|(cid, _)| cid).collect()).await?;
        }
        Ok(Answer::Paths(paths.into_iter().collect()))
    }

    /// What stands at a grid path, or what a name or CID stands for. Nothing is run.
    pub(super) fn asked(&self, what: &str) -> Result<Asked> {
        let kernel = &self.node.kernel;
        let what = self.inside_mount(&super::Source::Path(what.into())).unwrap_or_else(|| what.to_owned());
        if !what.starts_with('/') {
            return Ok(Asked::Object(self.resolver(Authority::Owner).name(&what)?));
        }
        let pending = || {
            Error::new(Code::Unavailable, format!("{what:?} has no result yet; read it first, as with `gridfs get`"))
        };
        let resolver = Resolver::new(kernel.clone(), Authority::Owner, Reach::Known);
        let (parms, _) = now(resolver.path_parms(&what))?.ok_or_else(pending)?;
        let found = now(resolver.path(&what))?.ok_or_else(pending)?;
        match remembered(kernel, &parms)? {
            Some(call) => Ok(Asked::Call(Box::new(call), found)),
            None => Ok(Asked::Object(found)),
        }
    }
}

/// What is remembered of a call.
pub(super) fn remembered(kernel: &Kernel, parms: &Parms) -> Result<Option<Remembered>> {
    let limits = kernel.limits(&parms.promise, &*kernel.modules.get(&parms.module)?)?;
    kernel.remembered(&parms.memo_key(&limits))
}

/// Notices when the command goes away, and tells now and then that it goes on.
pub(super) fn listener(events: &mpsc::Sender<Event>) -> impl FnMut() -> ControlFlow<()> {
    let (mut last, mut seen) = (Instant::now(), 0);
    move || {
        seen += 1;
        if last.elapsed() >= PROGRESS_EVERY {
            last = Instant::now();
            // Progress that finds no room is superseded by the next.
            let _ = events.try_send(Event::Progress(Progress { files: seen, bytes: 0 }));
        }
        if events.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Tells how objects came to be; each call once.
struct Telling<'a> {
    kernel: &'a Kernel,
    origins: &'a HashMap<Cid, Hash>,
    told: HashSet<Hash>,
}

impl Telling<'_> {
    fn call(&mut self, call: &Remembered) -> Result<OriginRow> {
        let target = call.memo.target();
        let row = self.row(&call.memo.result, size(&target));
        let again = !self.told.insert(call.key) || self.told.len() > MAX_CALLS;
        Ok(OriginRow { call: Some(Box::new(self.call_row(call, again)?)), ..row })
    }

    fn call_row(&mut self, call: &Remembered, again: bool) -> Result<CallRow> {
        let Receipt { parms, class, engine, issuer, time_ms, wall_ms, fuel, stderr, deps, .. } = &call.receipt;
        let module = self.kernel.modules.get(&parms.module).ok(); // one that is gone has only its CID
        let described = module.as_ref().map(|module| format!("{} {}", module.manifest.name, module.manifest.version));
        let (mut inputs, mut calls) = (Vec::new(), Vec::new());
        if !again {
            for (index, value) in parms.arguments.iter().enumerate() {
                let Value::Object(cid) = value else { continue };
                let argument = module.as_ref().and_then(|module| module.argument(index));
                let name = argument.map_or_else(|| (index + 1).to_string(), |argument| argument.name.clone());
                inputs.push((name, self.object(cid)?));
            }
            for (parms, result) in deps {
                calls.push(self.dependency(parms, result)?);
            }
        }
        Ok(CallRow {
            path: self.kernel.path_of(call),
            promise: self.name(&parms.promise),
            module: described.unwrap_or_else(|| parms.module.to_string()),
            receipt: call.memo.receipt.to_string(),
            class: class.to_string(),
            engine: engine.clone(),
            issuer: issuer.to_string(),
            time: time::text(*time_ms),
            wall_ms: *wall_ms,
            fuel: *fuel,
            stderr: stderr.map(|cid| cid.to_string()),
            again,
            inputs,
            calls,
        })
    }

    /// A nested call with the result that it had then.
    fn dependency(&mut self, parms: &Parms, result: &Cid) -> Result<OriginRow> {
        // A promise that is not accepted any more, or a module that is gone, leaves the result to tell of.
        match remembered(self.kernel, parms) {
            Ok(Some(call)) if call.memo.result == *result => self.call(&call),
            _ => self.object(result),
        }
    }

    /// An object: what a name stands for, the result of a call, or just stored.
    fn object(&mut self, cid: &Cid) -> Result<OriginRow> {
        let size_bytes = match cid.codec {
            Codec::Raw => self.kernel.store.object(cid)?.map(|object| object.size_bytes()),
            Codec::DagCbor => None,
        };
        let row = self.row(cid, size_bytes);
        // What has a name was put here; that a call gives the same need not be why it is here.
        if row.names.is_empty() { self.asked(cid).map(|asked| OriginRow { size_bytes, ..asked }) } else { Ok(row) }
    }

    /// An object as the result of a call, if it is one.
    fn asked(&mut self, cid: &Cid) -> Result<OriginRow> {
        match self.origins.get(cid).map(|key| self.kernel.remembered(key)).transpose()?.flatten() {
            Some(call) => self.call(&call),
            None => Ok(self.row(cid, None)),
        }
    }

    fn row(&self, cid: &Cid, size_bytes: Option<u64>) -> OriginRow {
        let stored = self.kernel.store.contains(cid).unwrap_or(false); // damage is told by verify and fsck
        OriginRow { cid: cid.to_string(), size_bytes, names: self.kernel.names.naming(cid), stored, call: None }
    }

    fn name(&self, cid: &Cid) -> String {
        self.kernel.names.naming(cid).into_iter().next().unwrap_or_else(|| cid.to_string())
    }
}

fn size(target: &Target) -> Option<u64> {
    match target {
        Target::File { size_bytes, .. } => Some(*size_bytes),
        Target::Directory { .. } | Target::Symlink { .. } => None,
    }
}
