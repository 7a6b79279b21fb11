//! Requests about promises: making, showing, accepting and revoking them.

use std::io::Read as _;
use std::sync::Arc;

use gridfs_store::{Cid, Codec, Durability, Target};

use super::{Answer, Input, PromiseRow, Service, blocking, row};
use crate::acceptance::asks;
use crate::accepted;
use crate::authority::Authority;
use crate::error::{Code, Error, Result};
use crate::names::check_name;
use crate::promise::{MAX_BYTES, Promise};
use crate::time;

impl Service {
    pub(super) async fn new_promise(
        &self,
        promise: Promise,
        modules: &[String],
        name: Option<String>,
    ) -> Result<Answer> {
        if let Some(name) = &name {
            check_name(name)?;
        }
        let resolver = self.resolver(Authority::Owner);
        let modules = modules.iter().map(|module| resolver.cid(module)).collect::<Result<Vec<_>>>()?;
        let promise = Promise { modules: (!modules.is_empty()).then_some(modules), ..promise };
        let node = self.node.clone();
        blocking(move || {
            let bytes = promise.signed_by(&node.kernel.identity).to_bytes();
            // What this node would not read back it does not make.
            Promise::from_bytes(&bytes)?;
            let kernel = &node.kernel;
            let mut batch = kernel.store.batch();
            let cid = batch.put_bytes(Codec::DagCbor, &bytes)?;
            let _kept = batch.commit(Durability::Durable)?;
            // Who makes a promise accepts it.
            kernel.accepted.accept(&cid)?;
            let target = Target::File { cid, size_bytes: bytes.len() as u64, executable: false };
            if let Some(name) = &name {
                kernel.names.change(&[(name.clone(), Some(target.clone()))])?;
            }
            Ok(Answer::Stored(row(name.unwrap_or_default(), &target)))
        })
        .await
    }

    pub(super) fn show_promise(&self, text: &str) -> Result<Answer> {
        let cid = self.resolver(Authority::Owner).promise(text)?;
        let promise = accepted::read(&self.node.kernel.store, &cid)?;
        Ok(Answer::Promises(vec![self.promise_row(&cid, &promise)]))
    }

    pub(super) async fn accept(&self, text: &str, accept: bool) -> Result<Answer> {
        let cid = self.resolver(Authority::Owner).promise(text)?;
        let kernel = self.node.kernel.clone();
        blocking(move || match accept {
            true => kernel.accepted.accept(&cid),
            false => kernel.accepted.revoke(&cid),
        })
        .await?;
        self.forget_looked_up(vec![cid]).await?;
        Ok(Answer::Done)
    }

    /// Stores a promise that somebody else may have made, and accepts it.
    pub(super) async fn accept_document(&self, input: Input) -> Result<Answer> {
        let kernel = self.node.kernel.clone();
        let (cid, size_bytes) = blocking(move || {
            let mut bytes = Vec::new();
            let read = input.take(MAX_BYTES + 1).read_to_end(&mut bytes);
            read.map_err(|e| Error::caused(Code::General, "can't read the promise", e))?;
            if bytes.len() as u64 > MAX_BYTES {
                return Err(Error::new(Code::Usage, format!("a promise has at most {MAX_BYTES} bytes")));
            }
            Promise::from_bytes(&bytes)?;
            let mut batch = kernel.store.batch();
            let cid = batch.put_bytes(Codec::DagCbor, &bytes)?;
            let _kept = batch.commit(Durability::Durable)?;
            kernel.accepted.accept(&cid)?;
            Ok((cid, bytes.len() as u64))
        })
        .await?;
        Ok(Answer::Stored(row(String::new(), &Target::File { cid, size_bytes, executable: false })))
    }

    /// Lets the mount look up anew all that is below these promises.
    pub(crate) async fn forget_looked_up(&self, promises: Vec<Cid>) -> Result<()> {
        let Some(kept) = self.kept.clone() else { return Ok(()) };
        blocking(move || {
            let forget = |promise: &Cid| kept.forget(promise.to_string().as_ref());
            promises.iter().try_for_each(forget).map_err(|e| Error::caused(Code::General, "the mount is gone", e))
        })
        .await
    }

    pub(super) fn promises(&self) -> Answer {
        let all = self.node.kernel.accepted.all();
        Answer::Promises(all.iter().map(|(cid, promise)| self.promise_row(cid, promise)).collect())
    }

    /// The accepted promises that cover a module and hold now: name or CID, CID and text.
    pub(super) fn runs_under(&self, module: &Cid) -> Vec<(String, String, String)> {
        let now_ms = time::now_ms();
        let all = self.node.kernel.accepted.all();
        let covering = all
            .iter()
            .filter(|(cid, promise)| !asks(cid) && promise.covers(module) && promise.check_time(now_ms).is_ok());
        let row = |(cid, promise): &(Cid, Arc<Promise>)| {
            let name = self.node.kernel.names.naming(cid).into_iter().next().unwrap_or_else(|| cid.to_string());
            (name, cid.to_string(), promise.text.clone())
        };
        let mut rows: Vec<_> = covering.map(row).collect();
        rows.sort();
        rows
    }

    fn promise_row(&self, cid: &Cid, promise: &Promise) -> PromiseRow {
        PromiseRow {
            cid: cid.to_string(),
            names: self.node.kernel.names.naming(cid),
            accepted: self.node.kernel.accepted.get(cid).is_ok(),
            text: promise.text.clone(),
            asks: promise.asks.clone(),
            issuer: promise.issuer.map(|issuer| issuer.to_string()),
            modules: promise.modules.as_ref().map(|modules| modules.iter().map(Cid::to_string).collect()),
            not_before: promise.not_before.map(time::text),
            not_after: promise.not_after.map(time::text),
            source: promise.source.to_string(),
            trust: promise.trust.to_string(),
            ttl_ms: promise.ttl_ms,
            share: promise.share,
            capability: promise.capability,
            limits: promise.limits,
        }
    }
}
