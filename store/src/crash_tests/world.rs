//! A store on a simulated disk, its index in a temporary directory, and the model of what it is to hold.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::dice::Dice;
use crate::disk::sim::Sim;
use crate::error::Error;
use crate::hash::Hash;
use crate::store::{Options, Store};
use crate::writer::Limits;

use super::model::Model;
use super::workload::Step;

/// Small packs, so that many are begun and sealed. No thread makes lazy commits durable: what happens when is up to
/// the steps.
const LIMITS: Limits = Limits { data_bytes: 8_000, meta_bytes: 1_500, lazy_for: Duration::MAX };

pub struct World {
    pub sim: Sim,
    pub model: Model,
    store: Option<Arc<Store>>,
    dir: TempDir,
}

/// Which index is found.
#[derive(Clone, Copy, Debug)]
enum IndexFound {
    /// None.
    Gone,
    /// As it was at the end: it may be ahead of the packs.
    Kept,
    /// As it was when the store was closed before, or none.
    Earlier,
}

/// What an end leaves behind.
pub struct Found {
    sim: Sim,
    index: IndexFound,
    /// Only the process ended: what it wrote is still seen, but not on disk.
    died: bool,
}

impl Found {
    /// Tells it from others.
    pub fn mark(&self) -> Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[self.index as u8, u8::from(self.died)]);
        for (name, bytes) in self.sim.content() {
            hasher.update(name.as_bytes()).update(blake3::hash(&bytes).as_bytes());
        }
        hasher.finalize().into()
    }
}

impl World {
    /// A new store.
    pub fn new() -> World {
        World::over(Sim::new(), Model::default())
    }

    fn over(sim: Sim, model: Model) -> World {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary directory");
        World { sim, model, store: None, dir }
    }

    /// Runs a workload until the disk stops, or to its end.
    pub fn run(&mut self, steps: &[Step]) {
        let mut ran = self.open();
        for step in steps {
            if ran.is_err() {
                break;
            }
            ran = self.apply(step);
        }
        if let Err(error) = ran {
            assert!(self.sim.has_stopped(), "nothing was to fail, but: {error:?}");
        }
    }

    pub fn store(&self) -> &Arc<Store> {
        self.store.as_ref().expect("the store is open")
    }

    /// Opens the store and finds out which commits it holds.
    pub fn open(&mut self) -> Result<(), Error> {
        let disk = Arc::new(self.sim.clone());
        let store = Arc::new(Store::open_limited(self.dir.path(), disk, Options::default(), LIMITS)?);
        self.model.settle(&store);
        self.store = Some(store);
        if self.dir.path().join("index.bad-1").exists() {
            // It was found to be ahead of the packs. Once the packs have grown again nobody could tell.
            self.forget_earlier_index();
        }
        Ok(())
    }

    /// Closing makes lazy commits durable, if nothing is in its way.
    pub fn close(&mut self) {
        let synced = self.store.take().is_some_and(|store| store.sync().is_ok());
        if synced {
            self.model.all_durable();
        }
        self.remember_index();
    }

    /// The process dies. What it wrote is still seen, but not on disk.
    pub fn kill(&mut self) {
        self.sim.stop();
        self.store = None;
        self.sim.resume();
        self.remember_index();
    }

    pub fn is_open(&self) -> bool {
        self.store.is_some()
    }

    /// As `check`, where the last commits may hold or not.
    pub fn check_as_it_is(&self) {
        let mut model = self.model.clone();
        model.settle(self.store());
        model.check(self.store());
    }

    pub fn check(&self) {
        self.model.check(self.store());
    }

    /// What may be found after the process has ended, or the power, without a chance to close the store.
    pub fn find(&mut self, dice: &mut Dice) -> Found {
        self.sim.stop();
        self.store = None;
        self.sim.resume();
        let index = *dice.pick(&[IndexFound::Gone, IndexFound::Kept, IndexFound::Earlier]);
        let died = dice.one_in(4);
        let sim = if died { self.sim.fork() } else { self.sim.crash(dice.roll()) };
        Found { sim, index, died }
    }

    /// The world in which that is found.
    pub fn after(&self, found: Found) -> World {
        let world = World::over(found.sim, self.model.clone());
        let name = match found.index {
            IndexFound::Gone => return world,
            IndexFound::Kept => "index",
            IndexFound::Earlier => "earlier",
        };
        for (from, to) in [(name, "index"), ("earlier", "earlier")] {
            copy(&self.dir.path().join(from), &world.dir.path().join(to));
        }
        world
    }

    fn remember_index(&self) {
        self.forget_earlier_index();
        copy(&self.dir.path().join("index"), &self.dir.path().join("earlier"));
    }

    fn forget_earlier_index(&self) {
        let earlier = self.dir.path().join("earlier");
        if earlier.exists() {
            fs::remove_dir_all(&earlier).expect("it is removed");
        }
    }
}

/// Copies a directory, a file, or nothing.
fn copy(from: &Path, to: &Path) {
    if from.is_file() {
        fs::copy(from, to).expect("it is copied");
    } else if from.is_dir() {
        fs::create_dir_all(to).expect("it is made");
        for entry in fs::read_dir(from).expect("it is listed") {
            let name = entry.expect("it is listed").file_name();
            copy(&from.join(&name), &to.join(&name));
        }
    }
}
