//! A thread that makes lazy commits durable within about a second, and brings the index's file up to date now and then.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::index::Index;
use crate::memory;
use crate::writer::Writer;

/// Periods between two flushes of the index: what a crash leaves to replay.
const INDEX_PERIODS: u32 = 16;

/// The running thread.
pub struct Flusher {
    /// Dropped to end it. `None` once stopped, or when no thread could be had; lazy commits then wait for
    /// the next durable one or the end.
    running: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Flusher {
    /// Lazy commits wait for at most `lazy_for`.
    pub fn start(writer: Arc<Writer>, index: Arc<Index>, lazy_for: Duration) -> Flusher {
        let (alive, ended) = mpsc::channel::<()>();
        let work = move || {
            for period in 1u32.. {
                if ended.recv_timeout(lazy_for) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                flush(&writer);
                if period.is_multiple_of(INDEX_PERIODS) && flush_index(&index) {
                    memory::give_back();
                }
            }
        };
        let spawned = thread::Builder::new().name("gridfs-flush".into()).spawn(work);
        Flusher { running: spawned.ok().map(|thread| (alive, thread)) }
    }

    /// Ends the thread and waits for it.
    pub fn stop(&mut self) {
        if let Some((alive, thread)) = self.running.take() {
            drop(alive);
            if thread.join().is_err() {
                tracing::warn!("the flusher of the store panicked");
            }
        }
    }
}

fn flush(writer: &Writer) {
    if !writer.has_lazy() {
        return;
    }
    if let Err(error) = writer.sync() {
        tracing::warn!(error = &error as &dyn std::error::Error, "making lazy commits durable");
    }
}

/// Whether there was anything to write.
fn flush_index(index: &Index) -> bool {
    index.flush().unwrap_or_else(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "writing the index's file");
        false
    })
}
