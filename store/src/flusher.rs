//! A thread that makes lazy commits durable within about a second.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::writer::Writer;

const PERIOD: Duration = Duration::from_millis(800);

/// The running thread.
pub struct Flusher {
    /// Dropped to end it. `None` once stopped, or when no thread could be had; lazy commits then wait for
    /// the next durable one or the end.
    running: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Flusher {
    pub fn start(writer: Arc<Writer>) -> Flusher {
        let (alive, ended) = mpsc::channel::<()>();
        let work = move || {
            while ended.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                flush(&writer);
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
