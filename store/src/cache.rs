//! A map that forgets what was used least recently, bounded by the weight of what it holds.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard};

/// A bounded, shared cache. The lock is held for map operations only, never while a value is made.
pub struct Cache<K, V> {
    limit: usize,
    inner: Mutex<Inner<K, V>>,
}

struct Inner<K, V> {
    slots: HashMap<K, Slot<V>>,
    /// Keys by time of last use.
    order: BTreeMap<u64, K>,
    clock: u64,
    weight: usize,
}

struct Slot<V> {
    value: V,
    weight: usize,
    used: u64,
}

impl<K: Hash + Eq + Copy, V: Clone> Cache<K, V> {
    /// A cache that holds values of at most `limit` weight together.
    pub fn new(limit: usize) -> Cache<K, V> {
        let inner = Inner { slots: HashMap::new(), order: BTreeMap::new(), clock: 0, weight: 0 };
        Cache { limit, inner: Mutex::new(inner) }
    }

    pub fn get(&self, key: &K) -> Option<V> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.clock += 1;
        let slot = inner.slots.get_mut(key)?;
        inner.order.remove(&slot.used);
        slot.used = inner.clock;
        inner.order.insert(slot.used, *key);
        Some(slot.value.clone())
    }

    /// Remembers `value`; one heavier than the whole cache is not kept.
    pub fn insert(&self, key: K, value: V, weight: usize) {
        let mut inner = self.lock();
        inner.remove(&key);
        if weight > self.limit {
            return;
        }
        while inner.weight + weight > self.limit {
            let Some((_, oldest)) = inner.order.first_key_value() else { break };
            let oldest = *oldest;
            inner.remove(&oldest);
        }
        inner.clock += 1;
        let used = inner.clock;
        inner.order.insert(used, key);
        inner.weight += weight;
        inner.slots.insert(key, Slot { value, weight, used });
    }

    pub fn remove(&self, key: &K) {
        self.lock().remove(key);
    }

    pub fn clear(&self) {
        let mut inner = self.lock();
        inner.slots.clear();
        inner.order.clear();
        inner.weight = 0;
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K, V>> {
        self.inner.lock().expect("no code that can panic runs under this lock")
    }
}

impl<K: Hash + Eq, V> Inner<K, V> {
    fn remove(&mut self, key: &K) {
        if let Some(slot) = self.slots.remove(key) {
            self.order.remove(&slot.used);
            self.weight -= slot.weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_the_least_recently_used() {
        let cache = Cache::new(10);
        cache.insert(1, "one", 4);
        cache.insert(2, "two", 4);
        assert_eq!(cache.get(&1), Some("one"));
        cache.insert(3, "three", 4);
        assert_eq!([1, 2, 3].map(|key| cache.get(&key)), [Some("one"), None, Some("three")]);
        cache.insert(4, "too heavy", 11);
        assert_eq!(cache.get(&4), None);
        cache.insert(1, "uno", 10);
        assert_eq!([1, 3].map(|key| cache.get(&key)), [Some("uno"), None]);
        assert_eq!(cache.lock().weight, 10);
    }
}
