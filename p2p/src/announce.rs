//! When which key is announced: new ones first, then all of them in their order, once in half the time that an announcement
//! holds, at a bounded rate.

use std::collections::{HashSet, VecDeque};
use std::ops::Bound;
use std::time::{Duration, Instant};

use libp2p::kad::{self, QueryId, RecordKey};

use crate::limits::Limits;
use crate::providers::Providers;

/// Announcements under way at a time.
const MAX_UNDER_WAY: usize = 16;

/// What is announced next.
pub struct Announcer {
    every: Duration,
    per_s: f64,
    fresh: VecDeque<[u8; 32]>,
    /// The key announced last, of a sweep under way.
    sweep: Option<Bound<[u8; 32]>>,
    next_sweep: Instant,
    under_way: HashSet<QueryId>,
    /// Announcements that may begin now.
    allowance: f64,
    counted: Instant,
}

impl Announcer {
    /// Nothing to announce yet.
    pub fn new(limits: &Limits, now: Instant) -> Announcer {
        let every = limits.announced_for / 2;
        Announcer {
            every,
            per_s: limits.announced_per_s.into(),
            fresh: VecDeque::new(),
            sweep: None,
            next_sweep: now + every,
            under_way: HashSet::new(),
            allowance: 0.0,
            counted: now,
        }
    }

    /// A key is to be announced soon.
    pub fn add(&mut self, key: [u8; 32]) {
        self.fresh.push_back(key);
    }

    /// An announcement is over, if the query was one.
    pub fn ended(&mut self, query: &QueryId) {
        self.under_way.remove(query);
    }

    /// Begins what is due.
    pub fn step(&mut self, kad: &mut kad::Behaviour<Providers>, now: Instant) {
        let passed_s = now.saturating_duration_since(self.counted).as_secs_f64();
        self.allowance = (self.allowance + passed_s * self.per_s).min(self.per_s.max(1.0));
        self.counted = now;
        if self.sweep.is_none() && now >= self.next_sweep {
            self.sweep = Some(Bound::Unbounded);
            self.next_sweep = now + self.every;
        }
        while self.allowance >= 1.0 && self.under_way.len() < MAX_UNDER_WAY {
            let Some(key) = self.next(kad.store_mut()) else { return };
            self.allowance -= 1.0;
            match kad.start_providing(RecordKey::new(&key)) {
                Ok(query) => drop(self.under_way.insert(query)),
                Err(error) => tracing::debug!(%error, "a key can't be announced"),
            }
        }
    }

    fn next(&mut self, providers: &Providers) -> Option<[u8; 32]> {
        while let Some(key) = self.fresh.pop_front() {
            // It may have been withdrawn.
            if providers.announced().contains(&key) {
                return Some(key);
            }
        }
        let after = self.sweep?;
        let next = providers.announced().range((after, Bound::Unbounded)).next().copied();
        self.sweep = next.map(Bound::Excluded);
        next
    }
}

#[cfg(test)]
mod tests {
    use gridfs_store::Hash;
    use libp2p::PeerId;

    use super::*;
    use crate::providers::Quota;

    #[test]
    fn new_keys_go_first_and_all_of_them_in_order_before_they_expire() {
        let (limits, start) = (Limits::default(), Instant::now());
        let quota = Quota { records: 1, records_per_peer: 1, announced: 10 };
        let mut providers = Providers::new(PeerId::random(), quota, || 0);
        let mut announcer = Announcer::new(&limits, start);
        let keys: Vec<Hash> = [3, 1, 2].map(|n| Hash([n; 32])).to_vec();
        for key in &keys {
            assert!(providers.announce(key));
            announcer.add(key.0);
        }
        providers.withdraw(&keys[1]);
        let order = |announcer: &mut Announcer, providers: &Providers| {
            std::iter::from_fn(|| announcer.next(providers)).map(|key| key[0]).collect::<Vec<_>>()
        };
        assert_eq!(order(&mut announcer, &providers), [3, 2]);
        assert_eq!(order(&mut announcer, &providers), []);
        announcer.sweep = Some(Bound::Unbounded);
        assert_eq!(order(&mut announcer, &providers), [2, 3]);
        assert!(announcer.sweep.is_none() && announcer.next_sweep == start + limits.announced_for / 2);
    }

    #[test]
    fn announcements_begin_at_a_bounded_rate() {
        let limits = Limits { announced_per_s: 2, ..Limits::default() };
        let (local, start) = (PeerId::random(), Instant::now());
        let quota = Quota { records: 1, records_per_peer: 1, announced: 100 };
        let mut kad = kad::Behaviour::new(local, Providers::new(local, quota, || 0));
        let mut announcer = Announcer::new(&limits, start);
        for n in 0..100u8 {
            assert!(kad.store_mut().announce(&Hash([n; 32])));
            announcer.add([n; 32]);
        }
        let begun = |announcer: &Announcer| 100 - announcer.fresh.len();
        announcer.step(&mut kad, start);
        assert_eq!(begun(&announcer), 0);
        announcer.step(&mut kad, start + Duration::from_secs(1));
        assert_eq!(begun(&announcer), 2);
        announcer.step(&mut kad, start + Duration::from_secs(1000));
        assert_eq!(begun(&announcer), 4, "no more after a pause");
        for second in 1001..1100 {
            announcer.step(&mut kad, start + Duration::from_secs(second));
        }
        assert_eq!(begun(&announcer), MAX_UNDER_WAY, "none of them has ended");
    }
}
