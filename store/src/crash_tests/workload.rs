//! Deterministic workloads: what users do to a store, step by step.
//!
//! A new kind of step is a variant of [`Step`], a line in [`Step::random`] and an arm in [`World::apply`].

use crate::batch::Batch;
use crate::cid::{Cid, Codec};
use crate::dice::Dice;
use crate::error::Error;
use crate::hash::Hash;
use crate::mark::Marker;
use crate::tree::{Target, Tree, TreeEntry};
use crate::writer::Durability;

use super::model::{Commit, Model};
use super::world::World;

/// Contents are drawn from so many of each kind, so that many are put twice.
const SEEDS: u64 = 12;
const MEMO_KEYS: u64 = 5;

#[derive(Clone, Debug)]
pub enum Step {
    /// A batch.
    Commit(Changes, Durability),
    /// A batch that is never committed.
    Drop(Changes),
    /// Two batches at a time. The second is committed first, lazily.
    Interleave(Changes, Changes, Durability),
    /// Garbage is collected: of every third commit, counted from this number, the objects are no longer needed.
    Collect(u64),
    /// Lazy commits become durable.
    Sync,
    /// The store is closed and opened again.
    Reopen,
    /// The process dies, and the store is opened again.
    Kill,
}

/// What a batch does.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub puts: Vec<Put>,
    pub memos: Vec<Memo>,
}

/// An object, or a directory with what is in it. The same kind and seed are the same bytes.
#[derive(Clone, Copy, Debug)]
pub enum Put {
    /// One chunk that can't be compressed.
    Noise(u64),
    /// Several chunks that can.
    Long(u64),
    /// So many chunks that the first are appended to a data pack before the batch is committed.
    Bulk(u64),
    /// Two nested directories with three files.
    Tree(u64),
}

#[derive(Clone, Copy, Debug)]
pub struct Memo {
    pub key: u64,
    /// Its value is a few hundred bytes that follow from this.
    pub seed: u64,
}

impl Step {
    /// A workload of so many steps.
    pub fn workload(seed: u64, steps: usize) -> Vec<Step> {
        let mut dice = Dice::new(seed);
        (0..steps).map(|_| Step::random(&mut dice)).collect()
    }

    /// Whether it can't be done without writing.
    pub fn commits(&self) -> bool {
        matches!(self, Step::Commit(..))
    }

    fn random(dice: &mut Dice) -> Step {
        match dice.below(16) {
            0 => Step::Drop(Changes::bulky(dice)),
            1 => Step::Interleave(Changes::bulky(dice), Changes::random(dice), durability(dice)),
            2 => Step::Sync,
            3 => Step::Reopen,
            4 | 5 => Step::Kill,
            6 | 7 => Step::Collect(dice.below(3)),
            _ => Step::Commit(Changes::random(dice), durability(dice)),
        }
    }
}

fn durability(dice: &mut Dice) -> Durability {
    if dice.one_in(2) { Durability::Lazy } else { Durability::Durable }
}

impl Changes {
    pub fn random(dice: &mut Dice) -> Changes {
        let put = |dice: &mut Dice| match dice.below(6) {
            0 => Put::Long(dice.below(SEEDS)),
            1 | 2 => Put::Tree(dice.below(SEEDS)),
            _ => Put::Noise(dice.below(SEEDS)),
        };
        let puts = (0..dice.below(4)).map(|_| put(dice)).collect();
        let memos = (0..dice.below(3)).map(|_| Memo { key: dice.below(MEMO_KEYS), seed: dice.roll() }).collect();
        Changes { puts, memos }
    }

    fn bulky(dice: &mut Dice) -> Changes {
        let mut changes = Changes::random(dice);
        if dice.one_in(2) {
            changes.puts.push(Put::Bulk(dice.below(2)));
        }
        changes
    }

    pub fn apply(&self, batch: &mut Batch, model: &mut Model, commit: &mut Commit) -> Result<(), Error> {
        for put in &self.puts {
            put.apply(batch, model, commit)?;
        }
        for memo in &self.memos {
            let key = Hash::of(&memo.key.to_le_bytes());
            let value = noise(memo.seed, 10 + (memo.seed % 700) as usize);
            batch.put_memo(key, format!("memo {}", memo.key).as_bytes(), &value)?;
            commit.memos.push((key, value));
        }
        Ok(())
    }
}

impl Put {
    fn apply(self, batch: &mut Batch, model: &mut Model, commit: &mut Commit) -> Result<(), Error> {
        let mut put = |codec, bytes: &[u8]| {
            let cid = model.put(codec, bytes);
            assert_eq!(batch.put_bytes(codec, bytes)?, cid);
            commit.objects.push(cid);
            Ok(cid)
        };
        match self {
            Put::Noise(seed) => put(Codec::Raw, &noise(seed, (seed * seed * 60) as usize)).map(|_| ()),
            Put::Long(seed) => put(Codec::Raw, &lines(seed, 500, 250 + 30 * seed)).map(|_| ()),
            Put::Bulk(seed) => put(Codec::Raw, &lines(!seed, 40_000, 56)).map(|_| ()),
            Put::Tree(seed) => {
                let files = (0..3).map(|n| Ok((n, put(Codec::Raw, &noise(100 * seed + n, 50))?)));
                let files = files.collect::<Result<Vec<_>, Error>>()?;
                let inner = put(Codec::DagCbor, &tree(&files[..2], None))?;
                put(Codec::DagCbor, &tree(&files[2..], Some(inner))).map(|_| ())
            }
        }
    }
}

fn tree(files: &[(u64, Cid)], directory: Option<Cid>) -> Vec<u8> {
    let file = |(n, cid): &(u64, Cid)| TreeEntry {
        name: format!("file {n}").into_bytes(),
        target: Target::File { cid: *cid, size_bytes: 50, executable: false },
    };
    let directory = directory.map(|cid| TreeEntry { name: b"inner".to_vec(), target: Target::Directory { cid } });
    Tree::new(files.iter().map(file).chain(directory).collect()).expect("the names are valid").encode()
}

/// Bytes that can't be compressed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Bytes that can: a line again and again, each time with its number.
fn lines(seed: u64, line_bytes: usize, count: u64) -> Vec<u8> {
    let line = noise(seed, line_bytes);
    let mut bytes = Vec::new();
    for number in 0..count {
        bytes.extend_from_slice(&line);
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes
}

impl World {
    /// Does one step. After an error the store may be stopped or poisoned; the model is right all the same.
    pub fn apply(&mut self, step: &Step) -> Result<(), Error> {
        match step {
            Step::Commit(changes, durability) => {
                let mut batch = self.store().batch();
                let mut commit = Commit::default();
                changes.apply(&mut batch, &mut self.model, &mut commit)?;
                self.commit(batch, commit, *durability)
            }
            Step::Drop(changes) => {
                let mut batch = self.store().batch();
                changes.apply(&mut batch, &mut self.model, &mut Commit::default())
            }
            Step::Interleave(one, other, durability) => {
                let (mut first, mut second) = (self.store().batch(), self.store().batch());
                let (mut one_commit, mut other_commit) = (Commit::default(), Commit::default());
                one.apply(&mut first, &mut self.model, &mut one_commit)?;
                other.apply(&mut second, &mut self.model, &mut other_commit)?;
                self.commit(second, other_commit, Durability::Lazy)?;
                self.commit(first, one_commit, *durability)
            }
            Step::Collect(from) => {
                let needed = self.model.let_go(*from);
                let mark = |marker: &mut Marker<'_>| needed.iter().try_for_each(|cid| marker.keep(cid));
                self.store().collect::<Error>(false, &mut |_| (), mark).map(drop)
            }
            Step::Sync => {
                self.store().sync()?;
                self.model.all_durable();
                Ok(())
            }
            Step::Reopen => {
                self.close();
                self.open()
            }
            Step::Kill => {
                self.kill();
                self.open()
            }
        }
    }

    /// Commits, and keeps the model informed.
    pub fn commit(&mut self, mut batch: Batch, commit: Commit, durability: Durability) -> Result<(), Error> {
        let (key, label, number) = self.model.next_number();
        batch.put_memo(key, label, &number)?;
        self.model.attempt(commit);
        let committed = batch.commit(durability).map(drop);
        match &committed {
            Ok(()) if durability == Durability::Durable => self.model.all_durable(),
            // It may be there or not.
            Err(Error::Poisoned { .. }) | Ok(()) => {}
            Err(_) => self.model.take_back(),
        }
        committed
    }
}
