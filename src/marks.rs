//! Marked objects: pins, which keep what no name stands for, accepted promises, and what is shared with peers. A mark is a memo in
//! the store, labelled `<mark>/<cid>`.

use std::sync::Arc;

use gridfs_store::{Batch, Cid, Durability, Hash, Store, cbor};
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};

/// Longest note kept with a mark, in bytes.
const MAX_NOTE_BYTES: usize = 4096;

/// Objects that are kept although no name stands for them.
pub const PINS: Marks = Marks("pin/");
/// Promises that the node accepts.
pub const ACCEPTED: Marks = Marks("accepted/");
/// Objects that any peer may read.
pub const SHARED: Marks = Marks("shared/");
/// Claims that show their signers to be liars.
pub const EVIDENCE: Marks = Marks("evidence/");

/// One kind of mark; all kinds are roots of a collection of garbage.
#[derive(Clone, Copy)]
pub struct Marks(&'static str);

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

/// Whether a memo's label is that of a mark.
pub fn is_mark(label: &[u8]) -> bool {
    [PINS, ACCEPTED, SHARED, EVIDENCE].iter().any(|marks| label.starts_with(marks.0.as_bytes()))
}

impl Marks {
    fn label(self, cid: &Cid) -> Vec<u8> {
        format!("{}{cid}", self.0).into_bytes()
    }

    fn key(self, cid: &Cid) -> Hash {
        Hash::of(&self.label(cid))
    }

    /// Marks an object, durably.
    pub fn set(self, store: &Arc<Store>, cid: &Cid, note: &str) -> Result<()> {
        let note = note.chars().take(MAX_NOTE_BYTES / 4).collect();
        let time_ms = crate::time::now_ms();
        let mut batch: Batch = store.batch();
        batch.put_memo(self.key(cid), &self.label(cid), &cbor::to_vec(&Stored { v: 1, note, time_ms }))?;
        batch.commit(Durability::Durable)?;
        Ok(())
    }

    /// Whether an object has such a mark.
    pub fn has(self, store: &Arc<Store>, cid: &Cid) -> Result<bool> {
        Ok(store.memo(&self.key(cid))?.is_some())
    }

    /// Removes a mark, durably; false if there was none.
    pub fn remove(self, store: &Arc<Store>, cid: &Cid) -> Result<bool> {
        if store.memo(&self.key(cid))?.is_none() {
            return Ok(false);
        }
        let mut batch = store.batch();
        batch.forget_memo(self.key(cid))?;
        batch.commit(Durability::Durable)?;
        Ok(true)
    }

    /// All marks of this kind, by CID.
    pub fn all(self, store: &Arc<Store>) -> Result<Vec<Mark>> {
        let mut marks = Vec::new();
        for memo in store.memos(self.0.as_bytes())? {
            let (label, key) = memo?;
            let text = String::from_utf8_lossy(&label[self.0.len()..]).into_owned();
            let unreadable =
                |what: String| Error::new(Code::Corrupt, format!("the mark {}{text} can't be read: {what}", self.0));
            let cid = text.parse().map_err(|e| unreadable(format!("{e}")))?;
            // Removed just now.
            let Some(value) = store.memo(&key)? else { continue };
            let stored: Stored = cbor::from_slice(&value).map_err(|e| unreadable(e.to_string()))?;
            marks.push(Mark { cid, note: stored.note, time_ms: stored.time_ms });
        }
        Ok(marks)
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
