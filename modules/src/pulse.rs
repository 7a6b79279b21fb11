//! The beat at which running guests let others run, and at which a cancelled one ends.
//!
//! Compiled code looks at the engine's epoch at every loop and call; when it has moved on, the guest yields. That
//! bounds work inside host calls too, which fuel does not count. The thread that moves the epoch on lives while guests
//! run, and a little longer, so that a node at rest does not wake up.

use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Time between two beats.
const PERIOD: Duration = Duration::from_millis(5);
/// Beats without a guest after which the thread ends.
const MAX_IDLE_BEATS: u32 = 200;

/// The beat of one engine.
pub(crate) struct Pulse {
    engine: wasmtime::Engine,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    guests: usize,
    thread_alive: bool,
}

/// A guest that needs the beat.
pub(crate) struct Beating(Arc<Pulse>);

impl Pulse {
    pub(crate) fn new(engine: wasmtime::Engine) -> Arc<Pulse> {
        Arc::new(Pulse { engine, state: Mutex::default() })
    }

    /// Keeps the beat going until what is returned is dropped.
    pub(crate) fn keep(self: &Arc<Self>) -> std::io::Result<Beating> {
        let mut state = self.state();
        if !state.thread_alive {
            let pulse = self.clone();
            std::thread::Builder::new().name("gridfs-pulse".into()).spawn(move || pulse.beat())?;
            state.thread_alive = true;
        }
        state.guests += 1;
        Ok(Beating(self.clone()))
    }

    fn beat(&self) {
        let mut idle_beats = 0;
        while idle_beats < MAX_IDLE_BEATS || !self.rest() {
            std::thread::sleep(PERIOD);
            self.engine.increment_epoch();
            idle_beats = if self.state().guests == 0 { idle_beats + 1 } else { 0 };
        }
    }

    /// Whether the thread may end: no guest has come meanwhile.
    fn rest(&self) -> bool {
        let mut state = self.state();
        state.thread_alive = state.guests > 0;
        !state.thread_alive
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.0.state().guests -= 1;
    }
}
