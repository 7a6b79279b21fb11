//! Another digest for what is stored already, because it lies in the node's own mount.

use std::sync::Arc;

use gridfs_store::{Algorithm, Codec, Durability, Error, Store, Target};
use tokio::sync::mpsc;

use super::{Counted, Event, Input, Report, Stored, blocking};
use crate::error::Result;

/// Reads every file of `target` and makes it known by its digest. The second value is the digest of a single file.
pub(super) async fn rehash(
    store: Arc<Store>,
    target: Target,
    hash: Algorithm,
    events: mpsc::Sender<Event>,
) -> Result<Stored> {
    blocking(move || {
        let mut batch = store.batch();
        batch.also_hash(hash);
        let mut report = Report::new(events);
        let mut pending = vec![target.clone()];
        while let Some(target) = pending.pop() {
            match target {
                Target::File { cid, .. } => {
                    let object = store.object(&cid)?.ok_or(Error::NotFound { cid })?;
                    let mut input: Input = Box::new(object.reader());
                    let mut counted = Counted { inner: &mut input, report };
                    batch.put_reader(Codec::Raw, &mut counted).map_err(reason)?;
                    report = counted.report;
                }
                Target::Directory { cid } => {
                    pending.extend(store.tree(&cid)?.entries().iter().map(|entry| entry.target.clone()));
                }
                Target::Symlink { .. } => {}
            }
        }
        let digest = batch.digest().filter(|_| matches!(target, Target::File { .. }));
        let lease = batch.commit(Durability::Durable)?;
        Ok(Stored { target, digest, lease })
    })
    .await
}

/// Why an object could not be read, where the store tells it wrapped twice.
fn reason(error: Error) -> Error {
    match error {
        Error::Source(source) => source.downcast().unwrap_or_else(Error::Source),
        other => other,
    }
}
