//! One writer's unit of visibility and durability.
//!
//! Data goes to the data pack as groups fill up; trees, manifests and memos are held here until the commit.
//! So a batch that is dropped leaves at most unnamed chunks behind. To keep memory bounded a batch commits
//! what it has so far (lazily) whenever `AUTO_DATA_BYTES` or `AUTO_META_BYTES` have gathered: a very long
//! batch becomes visible in parts, each of them complete in itself. Such a commit of data is made by a thread of its
//! own, one at a time, while the batch goes on.

use std::collections::{HashSet, VecDeque};
use std::io::Read;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::blob::{BlobWriter, Parts};
use crate::chunker::Chunker;
use crate::cid::{Cid, Codec};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::Error;
use crate::hash::Hash;
use crate::lease::Lease;
use crate::location::{self, Entry, join_memo};
use crate::manifest;
use crate::pack::{Class, Room};
use crate::press::{MAX_PRESSING, Pressed, Pressing};
use crate::record::{Draft, Kind, Member};
use crate::retire;
use crate::stat_cache::Unfinished;
use crate::store::Store;
use crate::tree::Tree;
use crate::writer::{Contribution, Durability, SMALL_BYTES};

/// Longest label of a memo.
pub const MAX_LABEL_BYTES: usize = 1024;
/// Longest value of a memo.
pub const MAX_MEMO_BYTES: usize = 64 * 1024;
const AUTO_DATA_BYTES: u64 = 256 << 20;
/// Of what comes from elsewhere less may be lost: it would have to come again.
const AUTO_PARCEL_BYTES: u64 = 64 << 20;
const AUTO_META_BYTES: usize = 8 << 20;

/// A batch of puts, visible after [`Batch::commit`].
pub struct Batch {
    /// Of its data, what is being committed. It ends before the lease and the store go.
    settling: Option<Settling>,
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
    /// What is remembered of files, once they are committed.
    unpublished: Vec<Unfinished>,
    /// Data appended since the last commit.
    data_bytes: u64,
    failed: bool,
    /// Keeps what this batch found stored, and what it stores.
    lease: Lease,
    /// Whether a collection copies through this batch.
    copies: bool,
    /// Packs to retire with the last commit.
    retiring: Vec<u32>,
    /// A buffer to use again.
    spare: Chunker,
    /// Empty groups, for their memory.
    spare_drafts: Vec<Draft>,
    /// What is computed of each file besides its name.
    also: Option<Algorithm>,
    digest: Option<Digest>,
}

/// A commit under way, which ends before this value: none goes on behind the back of a store that is closed.
struct Settling {
    thread: Option<JoinHandle<Result<(), Error>>>,
    /// What the index knows when it has ended.
    seen: HashSet<Hash>,
}

impl Batch {
    pub(crate) fn new(store: Arc<Store>) -> Batch {
        let lease = store.lease();
        Batch {
            store,
            data: Draft::default(),
            pressing: VecDeque::new(),
            chunks: Draft::default(),
            manifests: Draft::default(),
            memos: Draft::default(),
            meta: Contribution::default(),
            seen: HashSet::new(),
            settling: None,
            unpublished: Vec::new(),
            data_bytes: 0,
            failed: false,
            lease,
            copies: false,
            retiring: Vec::new(),
            spare: Chunker::default(),
            spare_drafts: Vec::new(),
            also: None,
            digest: None,
        }
    }

    /// The store this batch writes to.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Computes this digest, too, of each raw object put from now on, and remembers it as an alias ([`Store::alias`]).
    pub fn also_hash(&mut self, algorithm: Algorithm) {
        self.also = Some(algorithm);
    }

    /// The digest of the raw object put last, if [`Batch::also_hash`] asked for one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
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
        let mut blob = self.blob(codec);
        blob.write_all_of(self, reader, hint, observe)?;
        self.finish(blob)
    }

    /// Stores `bytes`.
    pub fn put_bytes(&mut self, codec: Codec, bytes: &[u8]) -> Result<Cid, Error> {
        let mut blob = self.blob(codec);
        blob.write(self, bytes)?;
        Ok(self.finish(blob)?.0)
    }

    fn blob(&mut self, codec: Codec) -> BlobWriter {
        let also = self.also_hasher().filter(|_| codec == Codec::Raw);
        BlobWriter::over(codec, std::mem::take(&mut self.spare), manifest::FAN_OUT).also(also)
    }

    /// For the next raw object.
    pub(crate) fn also_hasher(&self) -> Option<Hasher> {
        self.also.map(Hasher::new)
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

    /// Lets go of a remembered value.
    pub fn forget_memo(&mut self, key: Hash) -> Result<(), Error> {
        self.put_memo(key, b"", b"")
    }

    /// Remembers that the file `cid` has this digest.
    pub(crate) fn put_alias(&mut self, digest: Digest, cid: &Cid) -> Result<(), Error> {
        self.digest = Some(digest);
        let key = digest.alias_key();
        if self.seen.contains(&key) || self.is_alias_of(&digest, cid) {
            return Ok(());
        }
        self.seen.insert(key);
        self.put_memo(key, b"", &cid.to_bytes())
    }

    /// Makes everything put so far visible. No collection takes it while the lease is held: time to name it.
    pub fn commit(mut self, durability: Durability) -> Result<Lease, Error> {
        self.check()?;
        self.commit_so_far(durability)?;
        self.unpublished.drain(..).for_each(Unfinished::publish);
        Ok(self.lease)
    }

    pub(crate) fn publish_after_commit(&mut self, unfinished: Unfinished) {
        self.unpublished.push(unfinished);
    }

    /// Whether an object or chunk need not be put: this batch has it, or it is stored already. If so, it stays.
    pub(crate) fn is_stored(&self, hash: &Hash) -> Result<bool, Error> {
        let settling = self.settling.as_ref().is_some_and(|settling| settling.seen.contains(hash));
        if settling || self.seen.contains(hash) {
            return Ok(true);
        }
        let mut held = self.lease.held();
        let Some(location) = self.store.locate(hash)? else { return Ok(false) };
        held.find(hash);
        if location.manifest {
            held.keep(Cid { codec: Codec::Raw, hash: *hash });
        }
        Ok(true)
    }

    /// Whether the alias is known already. If so, it stays. One that can't be read is to be written anew.
    fn is_alias_of(&self, digest: &Digest, cid: &Cid) -> bool {
        let mut held = self.lease.held();
        let is_known = matches!(self.store.alias(digest), Ok(Some(known)) if known == *cid);
        if is_known {
            held.find(&digest.alias_key());
        }
        is_known
    }

    /// A batch for the copies of a collection.
    pub(crate) fn for_copies(store: Arc<Store>) -> Batch {
        Batch { copies: true, ..Batch::new(store) }
    }

    /// Copies a member of another pack, whether or not it is stored.
    pub(crate) fn copy(&mut self, kind: Kind, class: Class, member: &Member, bytes: &[u8]) -> Result<(), Error> {
        self.check()?;
        match (kind, class) {
            (Kind::Chunks, Class::Data) => {
                self.data.push(&member.key, member.whole, bytes);
                if self.data.is_full() { self.press_data() } else { Ok(()) }
            }
            _ => {
                self.draft(kind).push(&member.key, member.whole, bytes);
                self.flush_if_full(kind)
            }
        }
    }

    /// Copies a whole record of a data pack as it is.
    pub(crate) fn copy_record(&mut self, record: Vec<u8>, entries: Vec<Entry>, plain_bytes: u64) -> Result<(), Error> {
        self.check()?;
        self.data_bytes += plain_bytes;
        self.append_record([&record, &[]], entries)
    }

    /// Appends a record of chunks that was made elsewhere; `entries` are those of its members that are not stored yet.
    pub(crate) fn put_record(&mut self, record: &[u8], entries: Vec<Entry>, new_bytes: u64) -> Result<(), Error> {
        self.check()?;
        self.seen.extend(entries.iter().map(|entry| entry.key));
        self.data_bytes += new_bytes;
        self.append_record([record, &[]], entries)?;
        if self.data_bytes >= AUTO_PARCEL_BYTES { self.commit_data() } else { Ok(()) }
    }

    /// Stores the manifest of an object whose chunks are stored.
    pub(crate) fn put_parts(&mut self, object: &Hash, chunks: &[(Hash, u32)]) -> Result<(), Error> {
        let mut parts = Parts::default();
        chunks.iter().try_for_each(|(hash, size_bytes)| parts.list(self, hash, u64::from(*size_bytes)))?;
        parts.finish(self, object)
    }

    /// Makes the chunks put so far findable, and safe within about a second; objects wait for [`Batch::commit`].
    pub fn commit_chunks(&mut self) -> Result<(), Error> {
        self.check()?;
        self.commit_data()?;
        self.settle()
    }

    /// Retires packs with the commit, which is durable.
    pub(crate) fn commit_retiring(mut self, packs: &[u32]) -> Result<(), Error> {
        self.check()?;
        self.retiring.extend_from_slice(packs);
        self.commit_so_far(Durability::Durable)
    }

    pub(crate) fn put_chunk(&mut self, class: Class, bytes: &[u8], whole: bool) -> Result<Hash, Error> {
        self.check()?;
        let hash = Hash::of(bytes);
        if self.is_stored(&hash)? {
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
        if self.is_stored(object)? {
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
        let draft = self.take_group();
        self.pressing.push_back(self.store.press().press(draft));
        if self.data_bytes >= AUTO_DATA_BYTES { self.commit_data() } else { Ok(()) }
    }

    /// Appends all data to the pack: what the press has, then the open group.
    fn flush_data(&mut self) -> Result<(), Error> {
        while !self.pressing.is_empty() {
            self.append_pressed()?;
        }
        if self.data.is_empty() {
            return Ok(());
        }
        let draft = self.take_group();
        self.append(Pressed::of(draft))
    }

    /// The open group; an empty one takes its place, so there are never more than are under way and one.
    fn take_group(&mut self) -> Draft {
        let next = self.spare_drafts.pop().unwrap_or_default();
        std::mem::replace(&mut self.data, next)
    }

    fn append_pressed(&mut self) -> Result<(), Error> {
        let Some(oldest) = self.pressing.pop_front() else { return Ok(()) };
        self.append(oldest.wait())
    }

    fn append(&mut self, pressed: Pressed) -> Result<(), Error> {
        self.data_bytes += pressed.record.draft().body().len() as u64;
        let appended = self.append_record(pressed.record.parts(), pressed.entries);
        let mut draft = pressed.record.into_draft();
        draft.clear();
        self.spare_drafts.push(draft);
        appended
    }

    fn append_record(&mut self, record: [&[u8]; 2], entries: Vec<Entry>) -> Result<(), Error> {
        let room = if self.copies { Room::Reserve } else { Room::Plenty };
        let writer = self.store.writer();
        let appended = self.check_quota(record).and_then(|()| writer.append(record, entries, room));
        self.failed |= appended.is_err();
        appended
    }

    /// A collection needs room for a while to make some.
    fn check_quota(&self, [first, second]: [&[u8]; 2]) -> Result<(), Error> {
        if self.copies { Ok(()) } else { self.store.check_quota((first.len() + second.len()) as u64) }
    }

    /// Has the data made visible, and forgets which it was once that is done. Meta records stay back.
    fn commit_data(&mut self) -> Result<(), Error> {
        self.flush_data()?;
        self.settle()?;
        self.data_bytes = 0;
        let writer = Arc::clone(self.store.writer());
        let commit = move || writer.commit(Contribution::default(), Durability::Lazy);
        let thread = thread::Builder::new().name("gridfs-commit".into()).spawn(commit);
        let thread = thread.map_err(Error::Thread)?;
        self.settling = Some(Settling { thread: Some(thread), seen: std::mem::take(&mut self.seen) });
        Ok(())
    }

    /// Waits for the commit under way.
    fn settle(&mut self) -> Result<(), Error> {
        let Some(mut settling) = self.settling.take() else { return Ok(()) };
        let committed = settling.wait();
        self.failed |= committed.is_err();
        committed
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
        let record = draft.seal(kind);
        let mut entries = record.draft().entries(kind, record.record_bytes());
        let start = self.meta.records.len() as u64;
        entries.iter_mut().for_each(|entry| entry.place(0, start));
        record.parts().iter().for_each(|part| self.meta.records.extend_from_slice(part));
        self.meta.entries.append(&mut entries);
    }

    fn commit_so_far(&mut self, durability: Durability) -> Result<(), Error> {
        self.flush_data()?;
        self.settle()?;
        // A collection copies memos; nobody else may replace one between its look and its commit.
        let store = Arc::clone(&self.store);
        let _order = (!self.copies).then(|| store.memo_order().read().expect("nothing panics while it is held"));
        for kind in [Kind::Chunks, Kind::Manifests, Kind::Memos] {
            self.flush_meta(kind);
        }
        if !self.retiring.is_empty() {
            self.meta.records.extend_from_slice(&retire::encode(&self.retiring));
            self.meta.retired.append(&mut self.retiring);
        }
        if self.meta.records.len() > SMALL_BYTES {
            self.check_quota([&self.meta.records, &[]])?;
        }
        self.meta.makes_room = self.copies;
        let committed = self.store.writer().commit(std::mem::take(&mut self.meta), durability);
        self.failed |= committed.is_err();
        committed?;
        self.data_bytes = 0;
        self.seen.clear();
        Ok(())
    }
}

impl Settling {
    fn wait(&mut self) -> Result<(), Error> {
        self.thread.take().map_or(Ok(()), |thread| thread.join().expect("a commit does not panic"))
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        if let Err(error) = self.wait() {
            tracing::debug!(error = &error as &dyn std::error::Error, "a batch was dropped while it committed data");
        }
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
