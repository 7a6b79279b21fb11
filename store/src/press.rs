//! Compression on the other cores: full groups become records while the caller reads, cuts and hashes on.
//!
//! A batch hands over its full groups and takes the records back in the same order, at most [`MAX_PRESSING`] of them
//! under way, so memory is bounded. What a batch ends with is compressed by the caller: a small put never waits for
//! another thread.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::location::Entry;
use crate::record::{Draft, Kind, Sealed};

/// Groups of one batch under way at a time: one thread makes them about as fast as four compress.
pub const MAX_PRESSING: usize = 4;
/// Groups of all batches that wait for a thread.
const MAX_WAITING: usize = 16;

/// A group as it is appended to a data pack.
pub struct Pressed {
    pub record: Sealed,
    pub entries: Vec<Entry>,
}

impl Pressed {
    /// Compresses a group of data chunks.
    pub fn of(draft: Draft) -> Pressed {
        let record = draft.seal(Kind::Chunks);
        let entries = record.draft().entries(Kind::Chunks, record.record_bytes());
        Pressed { record, entries }
    }
}

/// A group on its way. The lock is never contended: it lets a batch be shared between threads.
pub struct Pressing(Mutex<Receiver<Pressed>>);

impl Pressing {
    /// Waits for the record.
    pub fn wait(self) -> Pressed {
        let pressed = self.0.into_inner().expect("nothing panics while it is held");
        pressed.recv().expect("the press finishes what it was given")
    }
}

struct Job {
    draft: Draft,
    done: SyncSender<Pressed>,
}

/// The threads that compress.
pub struct Press {
    /// Taken when the press stops.
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Press {
    /// One thread per core.
    pub fn start() -> std::io::Result<Press> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (jobs, waiting) = sync_channel::<Job>(MAX_WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        let thread = |_| {
            let waiting = Arc::clone(&waiting);
            std::thread::Builder::new().name("gridfs-press".into()).spawn(move || work(&waiting))
        };
        let threads = (0..cores).map(thread).collect::<Result<_, _>>()?;
        Ok(Press { jobs: Some(jobs), threads })
    }

    /// Hands a group over.
    pub fn press(&self, draft: Draft) -> Pressing {
        let (done, pressed) = sync_channel(1);
        let jobs = self.jobs.as_ref().expect("the press stops when the store is dropped");
        jobs.send(Job { draft, done }).expect("its threads run as long as the press");
        Pressing(Mutex::new(pressed))
    }
}

fn work(waiting: &Mutex<Receiver<Job>>) {
    loop {
        let job = waiting.lock().expect("receiving does not panic").recv();
        let Ok(Job { draft, done }) = job else { return };
        // A batch that was dropped takes nothing back.
        let _ = done.send(Pressed::of(draft));
    }
}

impl Drop for Press {
    fn drop(&mut self) {
        drop(self.jobs.take());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a compressing thread panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Hash;

    fn draft(seed: u8) -> Draft {
        let bytes: Vec<u8> = (0..100_000u32).map(|n| (n / 7) as u8 ^ seed).collect();
        let mut draft = Draft::default();
        draft.push(&Hash::of(&bytes), true, &bytes);
        draft
    }

    #[test]
    fn what_is_pressed_is_what_the_caller_would_have_made() {
        let press = Press::start().unwrap();
        let pending: Vec<_> = (0..50).map(|seed| press.press(draft(seed))).collect();
        for (seed, pressed) in (0..50).zip(pending) {
            let (pressed, expected) = (pressed.wait(), Pressed::of(draft(seed)));
            assert!(pressed.record.parts() == expected.record.parts());
            assert_eq!(pressed.record.draft().body().len(), 100_000);
        }
    }

    #[test]
    fn a_press_stops_with_work_that_nobody_takes_back() {
        let press = Press::start().unwrap();
        drop((0..8).map(|seed| press.press(draft(seed))).collect::<Vec<_>>());
        drop(press);
    }
}
