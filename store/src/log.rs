//! Reads the commit log back: which commits hold after a crash, and where the log ends.
//!
//! A torn tail and damage look alike byte by byte; what tells them apart is what follows.
//!
//! - The last durable commit whose own span is whole vouches for everything before it: its data and all
//!   earlier commits were synced before it was written. Flaws before it are damage, and are kept.
//! - After it come lazy commits. Each holds if its span is whole, its sequence number is the next, and
//!   its data verifies record by record. The first that fails ends the log.
//!
//! Where the index knows of a later durable position, the scan begins there and never questions what lies
//! before.

use std::collections::BTreeMap;

use crate::commit::Commit;
use crate::error::Error;
use crate::index::Position;
use crate::pack::{Class, FILE_HEADER_BYTES, PackFile, Packs};
use crate::record::Kind;
use crate::walk::{Depth, Step, Walk};

/// The log as far as it holds.
pub struct LogEnd {
    pub end: Position,
    /// The last commit that was made as a durable one. What it vouches for is on disk; it may not be itself.
    pub durable: Position,
    /// Everything up to here is on disk.
    pub synced: Position,
    /// How far committed data reaches in each data pack the scan heard of.
    pub data: BTreeMap<u32, u64>,
}

struct Candidate {
    commit: Commit,
    meta_id: u32,
    meta_end: u64,
    /// Nothing is damaged between the start of its span and the commit.
    whole: bool,
}

/// Scans from `base`, which is known to hold.
pub fn scan(packs: &Packs, base: Position) -> Result<LogEnd, Error> {
    let mut candidates = Vec::new();
    for id in packs.ids(Class::Meta) {
        if id < base.meta_id {
            continue;
        }
        let from = if id == base.meta_id { base.meta_end } else { FILE_HEADER_BYTES };
        if let Some(pack) = packs.get(id)? {
            scan_pack(&pack, from, &mut candidates)?;
        }
    }
    settle(packs, base, &candidates)
}

fn scan_pack(pack: &PackFile, from: u64, candidates: &mut Vec<Candidate>) -> Result<(), Error> {
    let mut damaged_to = 0;
    for step in Walk::new(pack, from, u64::MAX, Depth::Full)? {
        match step? {
            Step::Damage { from, to, what } => {
                warn(pack, from, what);
                damaged_to = to;
            }
            Step::Torn { from, what } => warn(pack, from, what),
            Step::Record(found) if found.kind == Kind::Commit => {
                let Some(commit) = Commit::decode(&found.plain) else {
                    damaged_to = found.end();
                    continue;
                };
                let whole = damaged_to <= commit.span_start;
                candidates.push(Candidate { whole, meta_id: pack.id, meta_end: found.end(), commit });
            }
            Step::Record(_) => {}
        }
    }
    Ok(())
}

fn warn(pack: &PackFile, offset: u64, what: &str) {
    tracing::warn!(pack = %pack.path.display(), offset, what, "the store's log is torn or damaged here");
}

fn settle(packs: &Packs, base: Position, candidates: &[Candidate]) -> Result<LogEnd, Error> {
    let mut log = LogEnd { end: base, durable: base, synced: base, data: BTreeMap::new() };
    if base.data_id != 0 {
        log.data.insert(base.data_id, base.data_end);
    }
    let durable = |candidate: &Candidate| candidate.commit.durable && candidate.whole;
    let trusted = candidates.iter().rposition(durable).map_or(0, |last| last + 1);
    candidates[..trusted].iter().for_each(|candidate| log.accept(candidate));
    log.durable = log.end;
    if let Some(last) = candidates[..trusted].last() {
        log.synced = Position { meta_end: last.commit.span_start, ..log.end };
    }
    for candidate in &candidates[trusted..] {
        let next = candidate.whole && candidate.commit.sequence == log.end.sequence + 1;
        if !next || !log.data_verifies(packs, &candidate.commit)? {
            break;
        }
        log.accept(candidate);
    }
    Ok(log)
}

impl LogEnd {
    fn accept(&mut self, candidate: &Candidate) {
        self.data.extend(candidate.commit.data.iter().copied());
        let (data_id, data_end) = self.data.last_key_value().map_or((0, 0), |(id, end)| (*id, *end));
        self.end = Position {
            sequence: candidate.commit.sequence,
            meta_id: candidate.meta_id,
            meta_end: candidate.meta_end,
            data_id,
            data_end,
        };
    }

    /// Whether the data that `commit` adds is all there.
    fn data_verifies(&self, packs: &Packs, commit: &Commit) -> Result<bool, Error> {
        for (id, end) in &commit.data {
            let Some(pack) = packs.get(*id)? else { return Ok(false) };
            let from = self.data.get(id).copied().unwrap_or(FILE_HEADER_BYTES);
            if valid_prefix(&pack, from, *end)? < *end {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// How far the records of `from..end` are whole without a gap.
pub fn valid_prefix(pack: &PackFile, from: u64, end: u64) -> Result<u64, Error> {
    let mut reached = from;
    for step in Walk::new(pack, from, end, Depth::Full)? {
        match step? {
            Step::Record(found) => reached = found.end(),
            Step::Damage { .. } | Step::Torn { .. } => break,
        }
    }
    Ok(reached)
}
