//! One writer's unit of visibility and durability.
//!
//! Data goes to the data pack as groups fill up; trees, manifests and memos are held here until the commit.
//! So a batch that is dropped leaves at most unnamed chunks behind. To keep memory bounded a batch commits
//! what it has so far (lazily) whenever `AUTO_DATA_BYTES` or `AUTO_META_BYTES` have gathered: a very long
//! batch becomes visible in parts, each of them complete in itself.

use std::collections::{HashSet, VecDeque};
use std::io::Read;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::blob::BlobWriter;
use crate::chunker::Chunker;
use crate::cid::{Cid, Codec};
use crate::error::Error;
use crate::hash::Hash;
use crate::location::{self, join_memo};
use crate::manifest;
use crate::pack::Class;
use crate::press::{MAX_PRESSING, Pressed, Pressing};
use crate::record::{Draft, Kind};
use crate::store::Store;
use crate::tree::Tree;
use crate::writer::{Contribution, Durability};

/// Longest label of a memo.
pub const MAX_LABEL_BYTES: usize = 1024;
/// Longest value of a memo.
pub const MAX_MEMO_BYTES: usize = 64 * 1024;
const AUTO_DATA_BYTES: u64 = 256 << 20;
const AUTO_META_BYTES: usize = 8 << 20;

/// A batch of puts, visible after [`Batch::commit`].
pub struct Batch {
    store: Arc<Store>,
    data: Draft,
    /// Full groups on their way through the press, oldest first.
    pressing: VecDeque<Pressing>,
    chunks: Draft,
    manifests: Draft,
    memos: Draft,
    /// Finished meta records.
    meta: Contribution,
    /// What this batch holds and the index may not know yet.
    seen: HashSet<Hash>,
    /// Data appended since the last commit.
    data_bytes: u64,
    failed: bool,
    /// A buffer to use again.
    spare: Chunker,
}

impl Batch {
    pub(crate) fn new(store: Arc<Store>) -> Batch {
        Batch {
            store,
            data: Draft::default(),
            pressing: VecDeque::new(),
            chunks: Draft::default(),
            manifests: Draft::default(),
            memos: Draft::default(),
            meta: Contribution::default(),
            seen: HashSet::new(),
            data_bytes: 0,
            failed: false,
            spare: Chunker::default(),
        }
    }

    /// The store this batch writes to.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Stores all that `reader` gives, in bounded memory; returns its name and size in bytes.
    pub fn put_reader(&mut self, codec: Codec, reader: &mut dyn Read) -> Result<(Cid, u64), Error> {
        self.put_sized(codec, reader, usize::MAX - 1, &mut |_| ControlFlow::Continue(()))
    }

    /// As `put_reader`, with the size expected, and telling of each read; the answer may end it.
    pub(crate) fn put_sized(
        &mut self,
        codec: Codec,
        reader: &mut dyn Read,
        hint: usize,
        observe: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(Cid, u64), Error> {
        let mut blob = BlobWriter::over(codec, std::mem::take(&mut self.spare), manifest::FAN_OUT);
        blob.write_all_of(self, reader, hint, observe)?;
        self.finish(blob)
    }

    /// Stores `bytes`.
    pub fn put_bytes(&mut self, codec: Codec, bytes: &[u8]) -> Result<Cid, Error> {
        let mut blob = BlobWriter::over(codec, std::mem::take(&mut self.spare), manifest::FAN_OUT);
        blob.write(self, bytes)?;
        Ok(self.finish(blob)?.0)
    }

    fn finish(&mut self, blob: BlobWriter) -> Result<(Cid, u64), Error> {
        let (cid, size_bytes, chunker) = blob.finish_keeping(self)?;
        self.spare = chunker;
        Ok((cid, size_bytes))
    }

    /// Stores a directory.
    pub fn put_tree(&mut self, tree: &Tree) -> Result<Cid, Error> {
        self.put_bytes(Codec::DagCbor, &tree.encode())
    }

    /// Remembers `value` under `key`, replacing what was there. Labels need not be unique.
    pub fn put_memo(&mut self, key: Hash, label: &[u8], value: &[u8]) -> Result<(), Error> {
        check_memo("label", label.len(), MAX_LABEL_BYTES)?;
        check_memo("value", value.len(), MAX_MEMO_BYTES)?;
        self.check()?;
        self.memos.push(&key, false, &join_memo(label, value));
        self.flush_if_full(Kind::Memos)
    }

    /// Makes everything put so far visible.
    pub fn commit(mut self, durability: Durability) -> Result<(), Error> {
        self.check()?;
        self.commit_so_far(durability)
    }

    pub(crate) fn put_chunk(&mut self, class: Class, bytes: &[u8], whole: bool) -> Result<Hash, Error> {
        self.check()?;
        let hash = Hash::of(bytes);
        if self.seen.contains(&hash) || self.store.index().get(&hash)?.is_some() {
            return Ok(hash);
        }
        self.seen.insert(hash);
        match class {
            Class::Data => {
                self.data.push(&hash, whole, bytes);
                if self.data.is_full() {
                    self.press_data()?
                }
            }
            Class::Meta => {
                self.chunks.push(&hash, whole, bytes);
                self.flush_if_full(Kind::Chunks)?;
            }
        }
        Ok(hash)
    }

    pub(crate) fn put_manifest(&mut self, object: &Hash, root: &[u8]) -> Result<(), Error> {
        self.check()?;
        if self.seen.contains(object) || self.store.index().get(object)?.is_some() {
            return Ok(());
        }
        self.seen.insert(*object);
        self.manifests.push(object, true, root);
        self.flush_if_full(Kind::Manifests)
    }

    fn check(&self) -> Result<(), Error> {
        if self.failed { Err(Error::BatchFailed) } else { Ok(()) }
    }

    /// Hands the open group, which is full, to the press, and appends what it has ready.
    fn press_data(&mut self) -> Result<(), Error> {
        while self.pressing.len() >= MAX_PRESSING {
            self.append_pressed()?;
        }
        let draft = std::mem::take(&mut self.data);
        self.pressing.push_back(self.store.press().press(draft));
        if self.data_bytes >= AUTO_DATA_BYTES { self.commit_data() } else { Ok(()) }
    }

    /// Appends all data to the pack: what the press has, then the open group.
    fn flush_data(&mut self) -> Result<(), Error> {
        while !self.pressing.is_empty() {
            self.append_pressed()?;
        }
        let draft = std::mem::take(&mut self.data);
        if draft.is_empty() { Ok(()) } else { self.append(Pressed::of(&draft)) }
    }

    fn append_pressed(&mut self) -> Result<(), Error> {
        let Some(oldest) = self.pressing.pop_front() else { return Ok(()) };
        self.append(oldest.wait())
    }

    fn append(&mut self, pressed: Pressed) -> Result<(), Error> {
        self.data_bytes += pressed.plain_bytes;
        let appended = self.store.writer().append(&pressed.record, pressed.entries);
        self.failed |= appended.is_err();
        appended
    }

    /// Makes the data visible, and forgets which it was. Meta records stay back.
    fn commit_data(&mut self) -> Result<(), Error> {
        self.flush_data()?;
        self.data_bytes = 0;
        let committed = self.store.writer().commit(Contribution::default(), Durability::Lazy);
        self.failed |= committed.is_err();
        committed?;
        self.seen.clear();
        Ok(())
    }

    fn draft(&mut self, kind: Kind) -> &mut Draft {
        match kind {
            Kind::Manifests => &mut self.manifests,
            Kind::Memos => &mut self.memos,
            _ => &mut self.chunks,
        }
    }

    fn flush_if_full(&mut self, kind: Kind) -> Result<(), Error> {
        if self.draft(kind).is_full() {
            self.flush_meta(kind);
        }
        match self.meta.records.len() >= AUTO_META_BYTES {
            true => self.commit_so_far(Durability::Lazy),
            false => Ok(()),
        }
    }

    fn flush_meta(&mut self, kind: Kind) {
        let draft = std::mem::take(self.draft(kind));
        if draft.is_empty() {
            return;
        }
        let record = draft.encode(kind);
        let mut entries = draft.entries(kind, record.len() as u32);
        let start = self.meta.records.len() as u64;
        entries.iter_mut().for_each(|entry| entry.place(0, start));
        self.meta.records.extend_from_slice(&record);
        self.meta.entries.append(&mut entries);
    }

    fn commit_so_far(&mut self, durability: Durability) -> Result<(), Error> {
        self.flush_data()?;
        for kind in [Kind::Chunks, Kind::Manifests, Kind::Memos] {
            self.flush_meta(kind);
        }
        let committed = self.store.writer().commit(std::mem::take(&mut self.meta), durability);
        self.failed |= committed.is_err();
        committed?;
        self.data_bytes = 0;
        self.seen.clear();
        Ok(())
    }
}

fn check_memo(what: &'static str, size_bytes: usize, max_bytes: usize) -> Result<(), Error> {
    match size_bytes > max_bytes {
        true => Err(Error::MemoTooLarge { what, size_bytes, max_bytes }),
        false => Ok(()),
    }
}

impl Draft {
    pub(crate) fn entries(&self, kind: Kind, record_bytes: u32) -> Vec<location::Entry> {
        location::entries(kind, record_bytes, &self.members(), self.body())
            .expect("a draft's own members are well formed")
    }
}
