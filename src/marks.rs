//! Marked objects: pins, which keep what no name stands for, accepted promises, and what is shared with peers. A mark is a memo in
//! the store, labelled `<mark>/<cid>`.

use std::sync::Arc;

use gridfs_store::{Batch, Cid, Durability, Store, cbor};
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};
use crate::followed::FOLLOWED;
use crate::published::{HEAD, PUBLISHED};
use crate::records::Records;

/// Longest note kept with a mark, in bytes.
const MAX_NOTE_BYTES: usize = 4096;

/// Objects that are kept although no name stands for them.
pub const PINS: Marks = Marks(Records("pin/"));
/// Promises that the node accepts.
pub const ACCEPTED: Marks = Marks(Records("accepted/"));
/// Objects that any peer may read.
pub const SHARED: Marks = Marks(Records("shared/"));
/// Claims that show their signers to be liars.
pub const EVIDENCE: Marks = Marks(Records("evidence/"));

/// One kind of mark; all kinds are roots of a collection of garbage.
#[derive(Clone, Copy)]
pub struct Marks(Records);

/// One marked object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mark {
    /// The object; a directory is kept with all that is in it.
    pub cid: Cid,
    /// Where it came from, as a person knows it.
    pub note: String,
    /// When it was marked, in milliseconds since 1970.
    pub time_ms: u64,
}

/// What is stored of a mark: a dag-cbor map; keys in deterministic order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    v: u64,
    note: String,
    time_ms: u64,
}

/// Whether a memo's label is that of a mark, or of another record that a collection leaves.
pub fn is_mark(label: &[u8]) -> bool {
    let marks = [PINS, ACCEPTED, SHARED, EVIDENCE].map(|marks| marks.0);
    marks.into_iter().chain([PUBLISHED, HEAD, FOLLOWED]).any(|records| records.has_label(label))
}

impl Marks {
    /// Marks an object, durably.
    pub fn set(self, store: &Arc<Store>, cid: &Cid, note: &str) -> Result<()> {
        self.set_all(store, [cid], note)
    }

    /// Marks objects, durably, at once.
    pub fn set_all<'a>(self, store: &Arc<Store>, cids: impl IntoIterator<Item = &'a Cid>, note: &str) -> Result<()> {
        let note = note.chars().take(MAX_NOTE_BYTES / 4).collect();
        let stored = cbor::to_vec(&Stored { v: 1, note, time_ms: crate::time::now_ms() });
        let mut batch: Batch = store.batch();
        cids.into_iter().try_for_each(|cid| self.0.put(&mut batch, &cid.to_string(), &stored))?;
        batch.commit(Durability::Durable)?;
        Ok(())
    }

    /// Whether an object has such a mark.
    pub fn has(self, store: &Arc<Store>, cid: &Cid) -> Result<bool> {
        Ok(self.0.get(store, &cid.to_string())?.is_some())
    }

    /// Removes a mark, durably; false if there was none.
    pub fn remove(self, store: &Arc<Store>, cid: &Cid) -> Result<bool> {
        self.0.remove(store, &cid.to_string())
    }

    /// All marks of this kind, by CID.
    pub fn all(self, store: &Arc<Store>) -> Result<Vec<Mark>> {
        let records = self.0.all(store)?.into_iter();
        records.map(|(text, value)| self.mark(&text, &value)).collect()
    }

    fn mark(self, text: &str, value: &[u8]) -> Result<Mark> {
        let unreadable =
            |what: String| Error::new(Code::Corrupt, format!("the mark {}{text} can't be read: {what}", self.0.0));
        let cid = text.parse().map_err(|e| unreadable(format!("{e}")))?;
        let stored: Stored = cbor::from_slice(value).map_err(|e| unreadable(e.to_string()))?;
        Ok(Mark { cid, note: stored.note, time_ms: stored.time_ms })
    }
}

#[cfg(test)]
mod tests {
    use gridfs_store::{Codec, Options};

    use super::*;

    #[test]
    fn marks_survive_and_go() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (Cid::of(Codec::Raw, b"1"), Cid::of(Codec::DagCbor, b"2"));
        {
            let store = Arc::new(Store::open(directory.path(), Options::default()).unwrap());
            PINS.set(&store, &one, "/tmp/one").unwrap();
            PINS.set(&store, &two, "/tmp/two").unwrap();
            PINS.set(&store, &two, "again").unwrap();
            ACCEPTED.set(&store, &one, "").unwrap();
            assert!(PINS.has(&store, &one).unwrap() && !SHARED.has(&store, &one).unwrap());
            assert!(PINS.remove(&store, &one).unwrap() && !PINS.remove(&store, &one).unwrap());
        }
        let store = Arc::new(Store::open(directory.path(), Options::default()).unwrap());
        let pins = PINS.all(&store).unwrap();
        assert_eq!(pins.iter().map(|pin| (pin.cid, pin.note.as_str())).collect::<Vec<_>>(), [(two, "again")]);
        assert_eq!(ACCEPTED.all(&store).unwrap()[0].cid, one);
    }
}
