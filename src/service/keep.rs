//! Requests about what is kept: pins, collections of garbage, counts.

use std::sync::atomic::{AtomicU64, Ordering};

use gridfs_store::{Cid, Lease, Phase, Target};
use tokio::sync::mpsc;

use super::{Answer, CollectedRow, Event, Input, PinRow, Reading, Service, Source, StatsRow, Stored, blocking, store};
use crate::authority::Authority;
use crate::error::{Code, Error, Result};
use crate::marks::{Mark, PINS};
use crate::receipt::cid_of;

impl Service {
    /// Stores with room made first if the quota is near; when it is met nevertheless, says what would help.
    pub(super) async fn put_with_room(
        &self,
        source: Source,
        reading: Reading,
        input: Input,
        events: mpsc::Sender<Event>,
    ) -> Result<Stored> {
        let kernel = self.node.kernel.clone();
        blocking(move || kernel.make_room()).await?;
        let stored = store(self.node.kernel.store.clone(), source, reading, input, events).await;
        match stored {
            Err(error) => {
                let kernel = self.node.kernel.clone();
                blocking(move || Err(kernel.explain_quota(error))).await
            }
            stored => stored,
        }
    }

    /// Keeps a stored object from being collected for a while.
    pub(super) fn hold(&self, cid: &Cid) -> Result<Lease> {
        let store = &self.node.kernel.store;
        let lease = store.lease();
        lease.keep(cid);
        // Asked after it was kept: a collection may just have taken it.
        match store.contains(cid)? {
            true => Ok(lease),
            false => Err(Error::new(Code::Unavailable, format!("{cid} is not stored on this node any more"))),
        }
    }

    pub(super) fn held(&self, target: Target) -> Stored {
        let lease = self.node.kernel.store.lease();
        cid_of(&target).iter().for_each(|cid| lease.keep(cid));
        Stored { target, digest: None, lease }
    }

    pub(super) async fn collect(&self, dry_run: bool, events: &mpsc::Sender<Event>) -> Result<Answer> {
        let (kernel, events) = (self.node.kernel.clone(), events.clone());
        let copies = self.node.copies.clone();
        blocking(move || {
            let done = kernel.collect(dry_run, &mut |phase| {
                // Progress that finds no room is superseded by the next.
                let _ = events.try_send(Event::Collecting(match phase {
                    Phase::Marking(count) => format!("{count} objects and chunks marked"),
                    Phase::Sweeping(done, all) => format!("{done} of {all} packs done"),
                }));
            })?;
            // What can't be told is kept.
            copies.retain(|cid| kernel.store.contains(cid).unwrap_or(true));
            Ok(Answer::Collected(CollectedRow {
                dry_run,
                live: done.live,
                dead: done.dead,
                forgotten: done.forgotten,
                packs: done.packs,
                freed_bytes: done.freed_bytes,
                stored_bytes: kernel.store.stored_bytes(),
                damaged_packs: done.damaged_packs,
            }))
        })
        .await
    }

    pub(super) async fn pin(&self, what: &str, events: &mpsc::Sender<Event>) -> Result<Answer> {
        let target = self.target_or_ticket(what, events).await?;
        let cid = cid_of(&target).ok_or_else(|| Error::new(Code::Usage, format!("{what} is a link")))?;
        let _kept = self.hold(&cid)?;
        PINS.set(&self.node.kernel.store, &cid, what)?;
        self.pins_of(|pin| *pin == cid)
    }

    pub(super) fn unpin(&self, what: &str) -> Result<Answer> {
        let cid = self.resolver(Authority::Owner).cid(what)?;
        match PINS.remove(&self.node.kernel.store, &cid)? {
            true => Ok(Answer::Done),
            false => {
                let why = format!("{what} is not pinned; `gridfs pin list` shows what is");
                Err(Error::new(Code::UnknownName, why))
            }
        }
    }

    pub(super) fn pins(&self) -> Result<Answer> {
        self.pins_of(|_| true)
    }

    fn pins_of(&self, wanted: impl Fn(&Cid) -> bool) -> Result<Answer> {
        let pins = PINS.all(&self.node.kernel.store)?;
        let row = |pin: Mark| PinRow { cid: pin.cid.to_string(), time: crate::time::text(pin.time_ms), note: pin.note };
        Ok(Answer::Pins(pins.into_iter().filter(|pin| wanted(&pin.cid)).map(row).collect()))
    }

    pub(super) async fn stats(&self) -> Result<Answer> {
        let (kernel, copies) = (self.node.kernel.clone(), self.node.copies.clone());
        blocking(move || {
            let found = kernel.collect(true, &mut |_| ())?;
            let stats = kernel.store.stats()?;
            let pins = PINS.all(&kernel.store)?.len() as u64;
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            Ok(Answer::Stats(StatsRow {
                objects: stats.objects,
                chunks: stats.chunks,
                // Marks are counted by themselves.
                memos: stats.memos.saturating_sub(pins + kernel.accepted.all().len() as u64),
                names: kernel.names.table().entries().len() as u64,
                pins,
                plain_bytes: stats.plain_bytes,
                stored_bytes: stats.stored_bytes,
                disk_bytes: stats.disk_bytes,
                copies_bytes: copies.total_bytes(),
                quota_bytes: kernel.store.quota_bytes(),
                files: found.files,
                file_bytes: found.file_bytes,
                live_bytes: found.live_bytes,
                collectable_bytes: found.freed_bytes,
                calls: count(&kernel.counters.calls),
                hits: count(&kernel.counters.hits),
                runs: count(&kernel.counters.runs),
                renewed: count(&kernel.counters.renewed),
                fetched: count(&kernel.counters.fetched),
                claimed: count(&kernel.counters.claimed),
                served: count(&kernel.counters.served),
                failures: count(&kernel.counters.failures),
                running: kernel.running() as u64,
            }))
        })
        .await
    }
}
