//! Turns: how many later answers one process may have under way.
//!
//! A program with hundreds of threads, or one that reads ahead through a listing, takes its own turns one after the other
//! and leaves room for everybody else's first question. Turns are given in the order in which they are asked for.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Who takes turns. An entry lives as long as somebody of that process has or awaits one.
pub(crate) struct Admission {
    limit: usize,
    processes: Mutex<HashMap<u32, Process>>,
}

struct Process {
    callers: usize,
    turns: Arc<Semaphore>,
}

impl Admission {
    /// `limit` turns for each process, at least 1.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: limit.max(1), processes: Mutex::default() })
    }

    /// Waits until the process of `thread` has a turn free. Threads unknown here (0) count as one process.
    pub(crate) async fn turn(self: Arc<Self>, thread: u32) -> Turn {
        let process = process_of(thread).unwrap_or(thread);
        let turns = {
            let mut processes = self.lock();
            let new = || Process { callers: 0, turns: Arc::new(Semaphore::new(self.limit)) };
            let entry = processes.entry(process).or_insert_with(new);
            entry.callers += 1;
            Arc::clone(&entry.turns)
        };
        // Before the wait, so that a caller who gives up is counted out as well.
        let mut turn = Turn { admission: self, process, _permit: None };
        turn._permit = turns.acquire_owned().await.ok();
        turn
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Process>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One turn, or the wait for it; dropping it makes room for the next.
pub(crate) struct Turn {
    admission: Arc<Admission>,
    process: u32,
    /// None while it waits: the semaphore is never closed.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut processes = self.admission.lock();
        let Some(entry) = processes.get_mut(&self.process) else { return };
        entry.callers -= 1;
        if entry.callers == 0 {
            processes.remove(&self.process);
        }
    }
}

/// The process that a thread is of (`Tgid` of proc_pid_status(5)); `None` if it is gone or hidden.
fn process_of(thread: u32) -> Option<u32> {
    // The line is among the first.
    let mut status = [0; 1024];
    let count = File::open(format!("/proc/{thread}/status")).ok()?.read(&mut status).ok()?;
    let line = status[..count].split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Tgid:"))?;
    str::from_utf8(line).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    #[test]
    fn a_thread_is_of_its_process() {
        let of_thread = || process_of(rustix::thread::gettid().as_raw_pid().cast_unsigned());
        assert_eq!(of_thread(), Some(std::process::id()));
        assert_eq!(std::thread::spawn(of_thread).join().unwrap(), Some(std::process::id()));
        assert_eq!((process_of(0), process_of(u32::MAX)), (None, None));
    }

    #[tokio::test]
    async fn turns_are_a_process_s_own_and_nothing_is_left_of_it() {
        let admission = Admission::new(2);
        // No threads: each counts as a process.
        let (one, other) = (u32::MAX, u32::MAX - 1);
        let first = Arc::clone(&admission).turn(one).await;
        let _second = Arc::clone(&admission).turn(one).await;
        let mut third = Box::pin(Arc::clone(&admission).turn(one));
        let mut fourth = Box::pin(Arc::clone(&admission).turn(one));
        assert!(matches!(futures_poll(&mut third).await, Poll::Pending));
        assert!(matches!(futures_poll(&mut fourth).await, Poll::Pending));
        drop(Arc::clone(&admission).turn(other).await);
        assert_eq!(admission.lock().len(), 1);
        drop(third);
        drop(first);
        let fourth = fourth.await;
        drop((_second, fourth));
        assert!(admission.lock().is_empty());
    }

    /// Polls a future once.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        std::future::poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut *future).poll(context))).await
    }
}
