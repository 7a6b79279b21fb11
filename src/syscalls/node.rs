//! The nodes of the syscall tree: who accepts what, and who keeps it.
//!
//! A trie, kept as a table of its prefixes: nothing ever walks it from the top, and the longest prefix is found by trying
//! the lengths that are in use. A node takes about 200 bytes, its parms, and 120 bytes and two short texts for each module;
//! the number of nodes and their bytes are limited, and those least recently looked at go first (CLOCK).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::error::Error;
use crate::parms::{Parms, Value};
use crate::path;

/// Most nodes.
pub const MAX_NODES: usize = 16_384;
/// Most bytes that they take, about.
pub const MAX_BYTES: usize = 32 << 20;
/// Most consulted modules that one node tells of.
pub(super) const MAX_TRACKS: usize = 64;
/// Most leading parms that an answer is remembered about.
pub(super) const MAX_STEPS: usize = 16;
/// Most bytes of these.
const MAX_STEP_BYTES: usize = 4096;
/// Longest id of a consulted module.
pub(super) const MAX_ID_BYTES: usize = 128;
/// Longest reason of a broken promise that is kept.
pub(super) const MAX_REASON_BYTES: usize = 256;
/// How long a module's answer holds before it is asked again.
pub const ANSWER_MS: u64 = 60_000;
/// The time in which what a record says against a module halves.
pub const HALF_LIFE_MS: u64 = 60_000;
/// The loss of who always fails.
pub(super) const WORST: u32 = 1 << 16;
/// A loss from here on is that of a promise broken lately: whoever has less is asked before.
pub const DOUBTFUL: u32 = WORST / 2;
/// Number of leading parms at which records are kept: promise and module.
const RECORD_STEPS: usize = 2;

/// The leading parms that a node stands for.
pub type Prefix = Arc<[Value]>;

/// The leading parms of a call, as far as the tree looks at them.
pub struct Steps(Vec<Value>);

impl Steps {
    /// Those of `parms`.
    pub fn of(parms: &Parms) -> Steps {
        let mut bytes = 0;
        let arguments = parms.arguments.iter().take(MAX_STEPS - RECORD_STEPS).take_while(|value| {
            bytes += value_bytes(value);
            bytes <= MAX_STEP_BYTES
        });
        let leading = [Value::Object(parms.promise), Value::Object(parms.module)];
        Steps(leading.into_iter().chain(arguments.cloned()).collect())
    }

    fn record(&self) -> &[Value] {
        &self.0[..RECORD_STEPS]
    }
}

/// What a module is known to answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer {
    /// Whether it accepts.
    pub accepts: bool,
    /// How many leading parms it said so about.
    pub about: usize,
}

/// What a node knows of one consulted module.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Track {
    /// The module's id.
    pub id: Arc<str>,
    /// Whether it accepts, and when it said so, in milliseconds since 1970.
    pub answer: Option<(bool, u64)>,
    /// How it keeps what it accepts; only at nodes of promise and module.
    pub record: Option<Record>,
}

/// Promises kept and broken.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Record {
    /// Calls answered.
    pub kept: u64,
    /// Calls accepted, but not answered.
    pub broken: u64,
    /// How long an answer took lately, in microseconds.
    pub latency_us: u64,
    /// What spoke against it at `time_ms`: 0 to 65,536.
    pub loss: u32,
    /// When the last promise was kept or broken.
    pub time_ms: u64,
    /// The last broken one.
    pub last_broken: Option<Broken>,
}

/// A broken promise.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Broken {
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// Why, in words.
    pub reason: Box<str>,
}

impl Track {
    fn new(id: &str) -> Track {
        Track { id: id.into(), answer: None, record: None }
    }

    /// The answer, while it holds. One from the future is none: the clock was set back.
    fn answer_at(&self, now_ms: u64) -> Option<bool> {
        let (accepts, time_ms) = self.answer?;
        now_ms.checked_sub(time_ms).is_some_and(|age_ms| age_ms < ANSWER_MS).then_some(accepts)
    }

    /// When it was last heard of.
    fn time_ms(&self) -> u64 {
        let answered_ms = self.answer.map_or(0, |(_, time_ms)| time_ms);
        answered_ms.max(self.record.as_ref().map_or(0, |record| record.time_ms))
    }

    fn bytes(&self) -> usize {
        let reason = self.record.iter().filter_map(|record| record.last_broken.as_ref());
        size_of::<Track>() + self.id.len() + reason.map(|broken| broken.reason.len()).sum::<usize>()
    }
}

impl Record {
    /// What speaks against it now.
    pub fn loss_at(&self, now_ms: u64) -> u32 {
        let halvings = now_ms.checked_sub(self.time_ms).map_or(u64::MAX, |age_ms| age_ms / HALF_LIFE_MS);
        u32::try_from(halvings).ok().and_then(|halvings| self.loss.checked_shr(halvings)).unwrap_or(0)
    }

    fn keep(&mut self, latency_us: u64, now_ms: u64) {
        // Logarithmic, and always below `DOUBTFUL`: slow is better than broken.
        let slowness = latency_us.max(1).ilog2() * (DOUBTFUL / u64::BITS);
        self.loss = self.loss_at(now_ms).midpoint(slowness);
        self.latency_us = match self.kept {
            0 => latency_us,
            _ => self.latency_us - self.latency_us / 4 + latency_us / 4,
        };
        self.kept = self.kept.saturating_add(1);
        self.time_ms = now_ms;
    }

    fn break_it(&mut self, error: &Error, now_ms: u64) {
        // What the call itself is to blame for, another module would answer alike.
        if !error.code.is_final() {
            self.loss = self.loss_at(now_ms).midpoint(WORST);
            self.time_ms = now_ms;
        }
        self.broken = self.broken.saturating_add(1);
        let mut reason = error.to_string();
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        self.last_broken = Some(Broken { time_ms: now_ms, reason: reason.into() });
    }
}

#[derive(Default)]
struct Node {
    tracks: Vec<Track>,
    /// It was looked at since the hand of the clock last came by.
    used: bool,
}

impl Node {
    /// What is known of a module, made if need be; then who was not heard of for longest may go.
    fn track(&mut self, id: &str) -> &mut Track {
        let found = self.tracks.iter().position(|track| &*track.id == id);
        let index = found.unwrap_or_else(|| {
            if self.tracks.len() == MAX_TRACKS {
                let oldest = (0..MAX_TRACKS).min_by_key(|index| self.tracks[*index].time_ms());
                self.tracks.swap_remove(oldest.expect("there are some"));
            }
            self.tracks.push(Track::new(id));
            self.tracks.len() - 1
        });
        &mut self.tracks[index]
    }

    fn find(&self, id: &str) -> Option<&Track> {
        self.tracks.iter().find(|track| &*track.id == id)
    }

    fn bytes(&self, prefix: &[Value]) -> usize {
        let tracks: usize = self.tracks.iter().map(Track::bytes).sum();
        NODE_BYTES + prefix.iter().map(value_bytes).sum::<usize>() + tracks
    }
}

/// What a node takes beside its parms and tracks: itself, its entries in the table and the queue.
const NODE_BYTES: usize = 160;

fn value_bytes(value: &Value) -> usize {
    size_of::<Value>() + if let Value::Text(text) = value { text.len() } else { 0 }
}

/// All nodes.
#[derive(Default)]
pub(super) struct Nodes {
    table: HashMap<Prefix, Node>,
    /// Every prefix of the table once, in the order in which the hand of the clock comes by.
    clock: VecDeque<Prefix>,
    /// Number of nodes with so many parms.
    lengths: [usize; MAX_STEPS + 1],
    bytes: usize,
    /// Something has changed since it was saved.
    changed: bool,
}

impl Nodes {
    pub(super) fn answers(&mut self, steps: &Steps, ids: &[&str], now_ms: u64) -> Vec<Option<Answer>> {
        let mut answers = vec![None; ids.len()];
        for about in (0..=steps.0.len()).rev().filter(|about| self.lengths[*about] > 0) {
            let Some(node) = self.table.get_mut(&steps.0[..about]) else { continue };
            node.used = true;
            for (answer, id) in answers.iter_mut().zip(ids).filter(|(answer, _)| answer.is_none()) {
                let accepts = node.find(id).and_then(|track| track.answer_at(now_ms));
                *answer = accepts.map(|accepts| Answer { accepts, about });
            }
        }
        answers
    }

    pub(super) fn learn(&mut self, steps: &Steps, id: &str, about: usize, accepts: bool, now_ms: u64) {
        let Some(prefix) = steps.0.get(..about) else { return };
        self.change(prefix, id, |track| track.answer = Some((accepts, now_ms)));
    }

    pub(super) fn losses(&self, steps: &Steps, ids: &[&str], now_ms: u64) -> Vec<u32> {
        let node = self.table.get(steps.record());
        let record = |id: &&str| node.and_then(|node| node.find(id)).and_then(|track| track.record.as_ref());
        ids.iter().map(|id| record(id).map_or(0, |record| record.loss_at(now_ms))).collect()
    }

    pub(super) fn kept(&mut self, steps: &Steps, id: &str, latency_us: u64, now_ms: u64) {
        self.change(steps.record(), id, |track| track.record.get_or_insert_default().keep(latency_us, now_ms));
    }

    pub(super) fn broken(&mut self, steps: &Steps, id: &str, error: &Error, now_ms: u64) {
        self.change(steps.record(), id, |track| track.record.get_or_insert_default().break_it(error, now_ms));
    }

    /// Changes what the node at `prefix` knows of a module.
    fn change(&mut self, prefix: &[Value], id: &str, change: impl FnOnce(&mut Track)) {
        if id.len() > MAX_ID_BYTES {
            return;
        }
        if !self.table.contains_key(prefix) {
            let prefix: Prefix = prefix.into();
            self.lengths[prefix.len()] += 1;
            self.bytes += Node::default().bytes(&prefix);
            self.clock.push_back(prefix.clone());
            self.table.insert(prefix, Node::default());
        }
        let node = self.table.get_mut(prefix).expect("just made sure");
        let before = node.bytes(prefix);
        change(node.track(id));
        node.used = true;
        self.bytes = self.bytes - before + node.bytes(prefix);
        self.changed = true;
        while self.table.len() > MAX_NODES || self.bytes > MAX_BYTES {
            self.evict();
        }
    }

    /// Lets the next node go that was not looked at since the hand last came by.
    fn evict(&mut self) {
        let Some(prefix) = self.clock.pop_front() else { return };
        let node = self.table.get_mut(&prefix).expect("what is on the clock is in the table");
        if std::mem::take(&mut node.used) {
            self.clock.push_back(prefix);
            return;
        }
        self.bytes -= node.bytes(&prefix);
        self.lengths[prefix.len()] -= 1;
        self.table.remove(&prefix);
    }

    pub(super) fn all(&self) -> Vec<(Prefix, Vec<Track>)> {
        self.table.iter().map(|(prefix, node)| (prefix.clone(), node.tracks.clone())).collect()
    }

    /// All nodes, if anything has changed since this was asked last.
    pub(super) fn changed(&mut self) -> Option<Vec<(Prefix, Vec<Track>)>> {
        std::mem::take(&mut self.changed).then(|| self.all())
    }

    /// What was to be saved was not.
    pub(super) fn set_changed(&mut self) {
        self.changed = true;
    }

    /// Puts back what was saved, within the limits.
    pub(super) fn restore(&mut self, nodes: Vec<(Prefix, Vec<Track>)>) {
        for (prefix, tracks) in nodes {
            for track in tracks {
                self.change(&prefix, &track.id.clone(), |place| *place = track);
            }
        }
        self.changed = false;
    }
}

/// The path of a prefix: its parms as components.
pub fn path(prefix: &[Value]) -> String {
    let components: Vec<String> = prefix.iter().map(|value| path::encode(&value.text())).collect();
    format!("/{}", components.join("/"))
}

#[cfg(test)]
mod tests {
    use gridfs_store::{Cid, Codec};

    use super::*;
    use crate::error::Code;

    fn parms(arguments: &[&str]) -> Parms {
        let arguments = arguments.iter().map(|text| Value::Text((*text).into())).collect();
        Parms { promise: Cid::of(Codec::DagCbor, b"promise"), module: Cid::of(Codec::Raw, b"module"), arguments }
    }

    fn steps(arguments: &[&str]) -> Steps {
        Steps::of(&parms(arguments))
    }

    fn answer(nodes: &mut Nodes, arguments: &[&str], now_ms: u64) -> Option<(bool, usize)> {
        nodes.answers(&steps(arguments), &["m"], now_ms)[0].map(|answer| (answer.accepts, answer.about))
    }

    #[test]
    fn the_longest_prefix_with_an_answer_counts() {
        let mut nodes = Nodes::default();
        assert_eq!(answer(&mut nodes, &["a"], 0), None);
        nodes.learn(&steps(&["a"]), "m", 1, false, 0);
        nodes.learn(&steps(&["a"]), "m", 3, true, 0);
        nodes.learn(&steps(&["a"]), "other", 4, true, 0);
        assert_eq!(answer(&mut nodes, &[], 0), Some((false, 1)));
        assert_eq!(answer(&mut nodes, &["b"], 0), Some((false, 1)));
        assert_eq!(answer(&mut nodes, &["a"], 0), Some((true, 3)));
        assert_eq!(answer(&mut nodes, &["a", "b"], 0), Some((true, 3)));
        // What it said last counts.
        nodes.learn(&steps(&["a"]), "m", 3, false, 1);
        assert_eq!(answer(&mut nodes, &["a", "b"], 1), Some((false, 3)));
        // Of more parms than the call has, nothing is learnt.
        assert_eq!(nodes.table.len(), 2);
    }

    #[test]
    fn an_answer_gets_old() {
        let mut nodes = Nodes::default();
        nodes.learn(&steps(&[]), "m", 2, false, 1000);
        assert_eq!(answer(&mut nodes, &[], 1000 + ANSWER_MS - 1), Some((false, 2)));
        assert_eq!(answer(&mut nodes, &[], 1000 + ANSWER_MS), None);
        assert_eq!(answer(&mut nodes, &[], 999), None, "of the future");
    }

    #[test]
    fn kept_promises_and_time_heal_what_broken_ones_hurt() {
        let (mut nodes, steps) = (Nodes::default(), steps(&["x"]));
        let busy = Error::new(Code::Busy, "too much");
        let loss = |nodes: &Nodes, now_ms| nodes.losses(&steps, &["m"], now_ms)[0];
        assert_eq!(loss(&nodes, 0), 0);
        nodes.broken(&steps, "m", &busy, 0);
        assert_eq!([0, 1, 2, 3].map(|lives| loss(&nodes, lives * HALF_LIFE_MS)), [32_768, 16_384, 8192, 4096]);
        assert_eq!((loss(&nodes, HALF_LIFE_MS - 1), loss(&nodes, u64::MAX)), (32_768, 0));
        nodes.broken(&steps, "m", &busy, 0);
        assert_eq!(loss(&nodes, 0), 49_152);
        let after = [1, 1, 1, 1].map(|latency_us| {
            nodes.kept(&steps, "m", latency_us, 0);
            loss(&nodes, 0)
        });
        assert_eq!(after, [24_576, 12_288, 6144, 3072]);
        // Slow is worse than quick, and better than broken.
        let slow = [1, 1000, 1_000_000, u64::MAX].map(|latency_us| {
            (0..40).for_each(|_| nodes.kept(&steps, "m", latency_us, 0));
            loss(&nodes, 0)
        });
        assert!(slow.is_sorted() && slow[0] == 0 && slow[3] < DOUBTFUL, "{slow:?}");
    }

    #[test]
    fn what_the_call_is_to_blame_for_is_counted_and_not_held_against_its_handler() {
        let (mut nodes, steps) = (Nodes::default(), steps(&["x"]));
        let reason = "ü".repeat(MAX_REASON_BYTES);
        nodes.broken(&steps, "m", &Error::new(Code::ModuleFailed, reason), 7);
        let record = nodes.all()[0].1[0].record.clone().unwrap();
        assert_eq!((record.kept, record.broken, record.loss), (0, 1, 0));
        let last = Broken { time_ms: 7, reason: "ü".repeat(MAX_REASON_BYTES / 2).into() };
        assert_eq!(record.last_broken, Some(last));
    }

    #[test]
    fn the_tree_has_limits() {
        let mut nodes = Nodes::default();
        for n in 0..MAX_NODES as u64 + 5000 {
            nodes.learn(&steps(&[&n.to_string()]), "m", 3, true, n);
            nodes.kept(&steps(&[]), "m", 1, n);
        }
        assert_eq!((nodes.table.len(), nodes.clock.len()), (MAX_NODES, MAX_NODES));
        assert_eq!(nodes.lengths.iter().sum::<usize>(), MAX_NODES);
        assert_eq!(nodes.losses(&steps(&[]), &["m"], 0), [0]);
        assert!(nodes.table.contains_key(steps(&[]).record()), "what is in use stays");
        let bytes = |nodes: &Nodes| nodes.table.iter().map(|(prefix, node)| node.bytes(prefix)).sum::<usize>();
        assert_eq!(nodes.bytes, bytes(&nodes));
        // Long parms and many modules reach the other limit first.
        let (mut nodes, long) = (Nodes::default(), "x".repeat(3000));
        for n in 0..5000u64 {
            for id in 0..16 {
                nodes.learn(&steps(&[&long, &n.to_string()]), &format!("peer/{id:0123}"), 4, true, n);
            }
        }
        assert!(nodes.bytes <= MAX_BYTES && nodes.bytes > MAX_BYTES / 2, "{}", nodes.bytes);
        assert_eq!(nodes.bytes, bytes(&nodes));
        for id in 0..MAX_TRACKS as u64 + 10 {
            nodes.learn(&steps(&[]), &format!("peer/{id}"), 2, true, id);
        }
        let tracks = &nodes.table[steps(&[]).record()].tracks;
        assert_eq!((tracks.len(), tracks.iter().map(Track::time_ms).min()), (MAX_TRACKS, Some(10)));
        nodes.learn(&steps(&[]), &"m".repeat(MAX_ID_BYTES + 1), 2, true, 0);
        assert!(nodes.table[steps(&[]).record()].tracks.iter().all(|track| track.id.len() <= MAX_ID_BYTES));
    }

    #[test]
    fn only_so_many_parms_are_looked_at() {
        let many: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(steps(&many).0.len(), MAX_STEPS);
        assert_eq!(steps(&["a", &"x".repeat(MAX_STEP_BYTES), "b"]).0.len(), 3);
        let mut nodes = Nodes::default();
        nodes.learn(&steps(&many), "m", 102, true, 0);
        assert_eq!(nodes.table.len(), 0);
    }
}
