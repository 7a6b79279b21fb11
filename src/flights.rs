//! Single flight: one evaluation per memo key, however many wait for it.
//!
//! Waiters are counted; when the last one leaves, the evaluation is aborted. A guest waits for at most one nested call
//! at a time, so who waits for whom is a map; a wait that would close a circle is refused. A flight that a guest
//! waits for is *urgent*: it does not queue for admission behind calls that may themselves wait for it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};

use gridfs_store::Hash;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::error::{Code, Error, Result};

/// Where the result of an evaluation will be.
type Landing<T> = watch::Receiver<Option<Result<T>>>;

struct Flight<T> {
    waiters: usize,
    done: Landing<T>,
    urgent: Arc<Notify>,
    abort: AbortHandle,
    /// Tells flights of the same key apart.
    number: u64,
}

struct State<T> {
    flights: HashMap<Hash, Flight<T>>,
    /// The evaluation that waits, and the one it waits for.
    waits_for: HashMap<Hash, Hash>,
    next_number: u64,
}

/// The evaluations under way.
pub struct Flights<T> {
    state: Mutex<State<T>>,
    runtime: Handle,
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// Evaluations run on `runtime`.
    pub fn new(runtime: Handle) -> Arc<Flights<T>> {
        let state = State { flights: HashMap::new(), waits_for: HashMap::new(), next_number: 0 };
        Arc::new(Flights { state: Mutex::new(state), runtime })
    }

    /// Number of evaluations under way.
    pub fn count(&self) -> usize {
        self.state.lock().expect("no panic while it is held").flights.len()
    }

    /// Number of those who wait for them.
    pub fn waiting(&self) -> usize {
        let state = self.state.lock().expect("no panic while it is held");
        state.flights.values().map(|flight| flight.waiters).sum()
    }

    /// Joins the evaluation of `key`, or starts it with `evaluate`. `asking` is the evaluation that asks, if one does.
    pub async fn join<F>(
        self: &Arc<Self>,
        key: Hash,
        asking: Option<Hash>,
        evaluate: impl FnOnce(Arc<Notify>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (mut done, _seat) = self.board(key, asking, evaluate)?;
        let landed = done.wait_for(Option::is_some).await;
        match landed {
            Ok(result) => result.clone().expect("waited for it"),
            Err(_) => Err(Error::new(Code::General, "the evaluation ended without a result; see the log")),
        }
    }

    fn board<F>(
        self: &Arc<Self>,
        key: Hash,
        asking: Option<Hash>,
        evaluate: impl FnOnce(Arc<Notify>) -> F,
    ) -> Result<(Landing<T>, Seat<T>)>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut state = self.state.lock().expect("no panic while it is held");
        if let Some(asking) = asking {
            if state.would_circle(key, asking) {
                return Err(Error::new(Code::Cycle, "the call waits for its own result"));
            }
            state.waits_for.insert(asking, key);
        }
        if !state.flights.contains_key(&key) {
            let flight = self.depart(key, &mut state, evaluate);
            state.flights.insert(key, flight);
        }
        let flight = state.flights.get_mut(&key).expect("just made sure");
        flight.waiters += 1;
        if asking.is_some() {
            flight.urgent.notify_one();
        }
        let seat = Seat { flights: self.clone(), key, number: flight.number, asking };
        Ok((flight.done.clone(), seat))
    }

    fn depart<F>(
        self: &Arc<Self>,
        key: Hash,
        state: &mut State<T>,
        evaluate: impl FnOnce(Arc<Notify>) -> F,
    ) -> Flight<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let urgent = Arc::new(Notify::new());
        let (land, done) = watch::channel(None);
        let evaluation = evaluate(urgent.clone());
        let number = state.next_number;
        state.next_number += 1;
        let flights = self.clone();
        let task = self.runtime.spawn(async move {
            let result = evaluation.await;
            flights.remove(&key, number);
            land.send_replace(Some(result));
        });
        Flight { waiters: 0, done, urgent, abort: task.abort_handle(), number }
    }

    fn remove(&self, key: &Hash, number: u64) {
        let mut state = self.state.lock().expect("no panic while it is held");
        if state.flights.get(key).is_some_and(|flight| flight.number == number) {
            state.flights.remove(key);
        }
    }
}

impl<T> State<T> {
    /// Whether `key` already waits, directly or through others, for `asking`.
    fn would_circle(&self, key: Hash, asking: Hash) -> bool {
        let mut at = Some(key);
        while let Some(here) = at {
            if here == asking {
                return true;
            }
            at = self.waits_for.get(&here).copied();
        }
        false
    }
}

/// One waiter's place; leaving it may end the evaluation.
struct Seat<T> {
    flights: Arc<Flights<T>>,
    key: Hash,
    number: u64,
    asking: Option<Hash>,
}

impl<T> Drop for Seat<T> {
    fn drop(&mut self) {
        let mut state = self.flights.state.lock().expect("no panic while it is held");
        if let Some(asking) = self.asking {
            state.waits_for.remove(&asking);
        }
        let Some(flight) = state.flights.get_mut(&self.key).filter(|flight| flight.number == self.number) else {
            return;
        };
        flight.waiters -= 1;
        if flight.waiters == 0 {
            flight.abort.abort();
            state.flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn key(n: u8) -> Hash {
        Hash([n; 32])
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_thousand_waiters_share_one_evaluation() {
        let flights = Flights::new(Handle::current());
        let runs = Arc::new(AtomicUsize::new(0));
        let release = Arc::new(Notify::new());
        let waiters: Vec<_> = (0..1000)
            .map(|_| {
                let (flights, runs, release) = (flights.clone(), runs.clone(), release.clone());
                tokio::spawn(async move {
                    let evaluate = |_| async move {
                        runs.fetch_add(1, Ordering::SeqCst);
                        release.notified().await;
                        Ok(7)
                    };
                    flights.join(key(1), None, evaluate).await
                })
            })
            .collect();
        while flights.state.lock().unwrap().flights.get(&key(1)).is_none_or(|flight| flight.waiters < 1000) {
            tokio::task::yield_now().await;
        }
        release.notify_one();
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap().unwrap(), 7);
        }
        assert_eq!((runs.load(Ordering::SeqCst), flights.count()), (1, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_last_waiter_to_leave_ends_the_evaluation() {
        struct Ended(Arc<Notify>);
        impl Drop for Ended {
            fn drop(&mut self) {
                self.0.notify_one();
            }
        }
        let flights: Arc<Flights<()>> = Flights::new(Handle::current());
        let ended = Arc::new(Notify::new());
        let forever = |guard: Ended| async move {
            let _guard = guard;
            std::future::pending::<Result<()>>().await
        };
        let first = tokio::spawn({
            let (flights, guard) = (flights.clone(), Ended(ended.clone()));
            async move { flights.join(key(1), None, |_| forever(guard)).await }
        });
        let second = tokio::spawn({
            let (flights, unused) = (flights.clone(), Ended(Arc::new(Notify::new())));
            async move { flights.join(key(1), None, |_| forever(unused)).await }
        });
        while flights.state.lock().unwrap().flights.get(&key(1)).is_none_or(|flight| flight.waiters < 2) {
            tokio::task::yield_now().await;
        }
        first.abort();
        assert!(tokio::time::timeout(Duration::from_millis(50), ended.notified()).await.is_err());
        second.abort();
        tokio::time::timeout(Duration::from_secs(5), ended.notified()).await.expect("the evaluation was dropped");
        assert_eq!(flights.count(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_circle_of_waits_is_refused() {
        let flights: Arc<Flights<u8>> = Flights::new(Handle::current());
        let inner = flights.clone();
        // 1 asks 2, 2 asks 3, 3 asks 1.
        let result = flights
            .join(key(1), None, move |_| async move {
                let next = inner.clone();
                inner
                    .clone()
                    .join(key(2), Some(key(1)), move |_| async move {
                        let last = next.clone();
                        next.join(key(3), Some(key(2)), move |_| async move {
                            last.join(key(1), Some(key(3)), |_| async { Ok(0) }).await
                        })
                        .await
                    })
                    .await
            })
            .await;
        assert_eq!(result.unwrap_err().code, Code::Cycle);
        assert_eq!(flights.count(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_panic_is_an_error_for_the_waiter() {
        let flights: Arc<Flights<u8>> = Flights::new(Handle::current());
        let result = flights.join(key(1), None, |_| async { panic!("as tested") }).await;
        assert_eq!(result.unwrap_err().code, Code::General);
    }
}
