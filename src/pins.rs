//! Pins: objects kept although no name stands for them. Each is a memo in the store, labelled `pin/<cid>`.

use std::sync::Arc;

use gridfs_store::{Batch, Cid, Durability, Hash, Store, cbor};
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};

const LABEL: &[u8] = b"pin/";
/// Longest note kept with a pin, in bytes.
const MAX_NOTE_BYTES: usize = 4096;

/// One pinned object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pin {
    /// The object; a directory is kept with all that is in it.
    pub cid: Cid,
    /// Where it came from, as a person knows it.
    pub note: String,
    /// When it was pinned, in milliseconds since 1970.
    pub time_ms: u64,
}

/// What is stored of a pin: a dag-cbor map; keys in deterministic order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    v: u64,
    note: String,
    time_ms: u64,
}

fn label(cid: &Cid) -> Vec<u8> {
    [LABEL, cid.to_string().as_bytes()].concat()
}

fn key(cid: &Cid) -> Hash {
    Hash::of(&label(cid))
}

/// Pins an object, durably.
pub fn pin(store: &Arc<Store>, cid: &Cid, note: &str) -> Result<()> {
    let note = note.chars().take(MAX_NOTE_BYTES / 4).collect();
    let time_ms = jiff::Timestamp::now().as_millisecond().unsigned_abs();
    let mut batch: Batch = store.batch();
    batch.put_memo(key(cid), &label(cid), &cbor::to_vec(&Stored { v: 1, note, time_ms }))?;
    batch.commit(Durability::Durable)?;
    Ok(())
}

/// Removes a pin, durably; false if there was none.
pub fn unpin(store: &Arc<Store>, cid: &Cid) -> Result<bool> {
    if store.memo(&key(cid))?.is_none() {
        return Ok(false);
    }
    let mut batch = store.batch();
    batch.forget_memo(key(cid))?;
    batch.commit(Durability::Durable)?;
    Ok(true)
}

/// All pins, by CID.
pub fn pins(store: &Arc<Store>) -> Result<Vec<Pin>> {
    let mut pins = Vec::new();
    for memo in store.memos(LABEL)? {
        let (label, key) = memo?;
        let text = String::from_utf8_lossy(&label[LABEL.len()..]).into_owned();
        let unreadable = |what: String| Error::new(Code::Corrupt, format!("the pin of {text} can't be read: {what}"));
        let cid = text.parse().map_err(|e| unreadable(format!("{e}")))?;
        // Removed just now.
        let Some(value) = store.memo(&key)? else { continue };
        let stored: Stored = cbor::from_slice(&value).map_err(|e| unreadable(e.to_string()))?;
        pins.push(Pin { cid, note: stored.note, time_ms: stored.time_ms });
    }
    Ok(pins)
}

#[cfg(test)]
mod tests {
    use gridfs_store::{Codec, Options};

    use super::*;

    #[test]
    fn pins_survive_and_go() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (Cid::of(Codec::Raw, b"1"), Cid::of(Codec::DagCbor, b"2"));
        {
            let store = Arc::new(Store::open(directory.path(), Options::default()).unwrap());
            pin(&store, &one, "/tmp/one").unwrap();
            pin(&store, &two, "/tmp/two").unwrap();
            pin(&store, &two, "again").unwrap();
            assert!(unpin(&store, &one).unwrap() && !unpin(&store, &one).unwrap());
        }
        let store = Arc::new(Store::open(directory.path(), Options::default()).unwrap());
        let pins = pins(&store).unwrap();
        assert_eq!(pins.iter().map(|pin| (pin.cid, pin.note.as_str())).collect::<Vec<_>>(), [(two, "again")]);
    }
}
