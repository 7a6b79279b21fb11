//! Small records of the node's own, in the store: each a memo labelled `<kind>/<key>`. Collections of garbage leave them.

use std::sync::Arc;

use gridfs_store::{Batch, Durability, Hash, Store};

use crate::error::Result;

/// One kind of record.
#[derive(Clone, Copy)]
pub struct Records(pub &'static str);

impl Records {
    fn label(self, key: &str) -> Vec<u8> {
        format!("{}{key}", self.0).into_bytes()
    }

    fn hash(self, key: &str) -> Hash {
        Hash::of(&self.label(key))
    }

    /// Whether a memo's label is that of such a record.
    pub fn has_label(self, label: &[u8]) -> bool {
        label.starts_with(self.0.as_bytes())
    }

    /// Puts a record with what else is put.
    pub fn put(self, batch: &mut Batch, key: &str, value: &[u8]) -> Result<()> {
        Ok(batch.put_memo(self.hash(key), &self.label(key), value)?)
    }

    /// Sets a record, durably.
    pub fn set(self, store: &Arc<Store>, key: &str, value: &[u8]) -> Result<()> {
        let mut batch = store.batch();
        self.put(&mut batch, key, value)?;
        batch.commit(Durability::Durable)?;
        Ok(())
    }

    /// The record of this key.
    pub fn get(self, store: &Arc<Store>, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(store.memo(&self.hash(key))?)
    }

    /// Removes a record, durably; false if there was none.
    pub fn remove(self, store: &Arc<Store>, key: &str) -> Result<bool> {
        if self.get(store, key)?.is_none() {
            return Ok(false);
        }
        let mut batch = store.batch();
        batch.forget_memo(self.hash(key))?;
        batch.commit(Durability::Durable)?;
        Ok(true)
    }

    /// All records of this kind with their keys, in the order of these.
    pub fn all(self, store: &Arc<Store>) -> Result<Vec<(String, Vec<u8>)>> {
        let mut records = Vec::new();
        for memo in store.memos(self.0.as_bytes())? {
            let (label, hash) = memo?;
            let key = String::from_utf8_lossy(&label[self.0.len()..]).into_owned();
            // Removed just now.
            let Some(value) = store.memo(&hash)? else { continue };
            records.push((key, value));
        }
        Ok(records)
    }
}
