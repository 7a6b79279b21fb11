//! How open files are read: through the kernel's pages, or straight from a plain file (passthrough).
//!
//! The kernel opens an inode in one of the two ways at a time, and for the second from one plain file; another way is
//! `EIO`. So whoever opens a file that is open already is served as the others are. An open counts from before its reply
//! until its release was heard of, which is longer than it counts for the kernel.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The ways in which inodes are open; `B` is what the kernel knows a plain file by.
pub(crate) struct Modes<B>(Mutex<HashMap<u64, Mode<B>>>);

struct Mode<B> {
    opens: usize,
    backing: Option<Arc<B>>,
}

impl<B> Modes<B> {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Counts one more open of `ino`. Returns the plain file that serves it, `None` for the kernel's pages; `offered` is
    /// taken if it is the only open.
    pub(crate) fn opened(&self, ino: u64, offered: Option<B>) -> Option<Arc<B>> {
        let mut modes = self.lock();
        match modes.entry(ino) {
            Entry::Vacant(new) => {
                let backing = offered.map(Arc::new);
                new.insert(Mode { opens: 1, backing: backing.clone() });
                backing
            }
            Entry::Occupied(mut known) => {
                known.get_mut().opens += 1;
                let backing = known.get().backing.clone();
                // The lock is gone by the time the offer is dropped, which is a system call.
                drop(modes);
                backing
            }
        }
    }

    /// Counts one open less; one that was not counted is nothing.
    pub(crate) fn closed(&self, ino: u64) {
        let mut modes = self.lock();
        let Entry::Occupied(mut known) = modes.entry(ino) else { return };
        known.get_mut().opens -= 1;
        let last = (known.get().opens == 0).then(|| known.remove());
        drop(modes);
        drop(last);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Mode<B>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_open_decides_until_the_last_is_closed() {
        let modes = Modes::new();
        let backing = |offered| modes.opened(7, offered).map(|backing| *backing);
        assert_eq!(backing(None), None);
        assert_eq!(backing(Some("copy")), None, "it is open through the kernel's pages");
        modes.closed(7);
        assert_eq!(backing(Some("copy")), None);
        modes.closed(7);
        modes.closed(7);
        assert_eq!(backing(Some("copy")), Some("copy"));
        assert_eq!(backing(Some("another")), Some("copy"));
        assert_eq!(backing(None), Some("copy"));
        for _ in 0..3 {
            modes.closed(7);
        }
        assert_eq!(backing(None), None);
    }

    #[test]
    fn inodes_are_apart_and_nothing_is_left_of_them() {
        let modes = Modes::new();
        let held = modes.opened(1, Some("one")).unwrap();
        assert_eq!(modes.opened(2, None), None);
        modes.closed(3);
        modes.closed(2);
        assert_eq!(Arc::strong_count(&held), 2);
        modes.closed(1);
        assert_eq!(Arc::strong_count(&held), 1);
        modes.closed(1);
        assert!(modes.lock().is_empty());
    }
}
