//! Open files and directories by handle number.
//!
//! A handle is a count that never repeats, so a stale one meets nothing instead of somebody else's file. How many are
//! open at once is bounded.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::tree::Errno;

/// What is open, by number; cheap to clone, and a clone keeps it while a read is in progress.
pub(crate) struct Handles<T> {
    limit: usize,
    state: Mutex<State<T>>,
}

struct State<T> {
    next: u64,
    open: HashMap<u64, T>,
}

impl<T: Clone> Handles<T> {
    /// A table for at most `limit` open things.
    pub(crate) fn new(limit: usize) -> Self {
        let state = State { next: 1, open: HashMap::new() };
        Self { limit, state: Mutex::new(state) }
    }

    /// Enters `thing` and gives its handle; `ENFILE` when too much is open.
    pub(crate) fn open(&self, thing: T) -> Result<u64, Errno> {
        let mut state = self.lock();
        if state.open.len() >= self.limit {
            return Err(Errno::ENFILE);
        }
        let handle = state.next;
        state.next += 1;
        state.open.insert(handle, thing);
        Ok(handle)
    }

    /// What `handle` stands for; `EBADF` for a handle that is not open.
    pub(crate) fn get(&self, handle: u64) -> Result<T, Errno> {
        self.lock().open.get(&handle).cloned().ok_or(Errno::EBADF)
    }

    /// Forgets `handle`. What it stood for goes when the last read in progress lets go of it.
    pub(crate) fn close(&self, handle: u64) {
        let closed = self.lock().open.remove(&handle);
        // The lock is gone by now: destructors may take their time.
        drop(closed);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn handles_never_repeat() {
        let handles = Handles::new(2);
        assert_eq!(handles.open("a").unwrap(), 1);
        handles.close(1);
        assert_eq!(handles.open("b").unwrap(), 2);
        assert_eq!(handles.get(1).unwrap_err().code(), Errno::EBADF.code());
        assert_eq!(handles.get(2).unwrap(), "b");
    }

    #[test]
    fn the_limit_is_enfile_and_closing_makes_room() {
        let handles = Handles::new(2);
        handles.open(()).unwrap();
        handles.open(()).unwrap();
        assert_eq!(handles.open(()).unwrap_err().code(), Errno::ENFILE.code());
        handles.close(1);
        assert_eq!(handles.open(()).unwrap(), 3);
    }

    #[test]
    fn closing_what_is_not_open_is_nothing() {
        let handles = Handles::<()>::new(1);
        handles.close(17);
        assert_eq!(handles.get(17).unwrap_err().code(), Errno::EBADF.code());
    }

    #[test]
    fn a_read_in_progress_keeps_what_was_closed() {
        let handles = Handles::new(1);
        let handle = handles.open(Arc::new("kept")).unwrap();
        let reading = handles.get(handle).unwrap();
        handles.close(handle);
        assert_eq!(*reading, "kept");
    }
}
