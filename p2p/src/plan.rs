//! Which chunks of a fetch are asked of whom.
//!
//! The chunks that are missing here, in their order, are cut into spans; each peer has some spans to answer at a time, and
//! takes the next when it has answered one. What a peer that failed had to answer goes back, and what it does not have goes to
//! others. When all spans are taken and one is not answered for a while, another peer is asked for it as well.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use gridfs_store::{Chunk, Hash};
use libp2p::PeerId;

use crate::wire::MAX_WANTED;

/// Bytes of a span, before compression.
const SPAN_BYTES: u64 = 4 << 20;
/// After so long a span is asked of another peer as well.
pub const HEDGE: Duration = Duration::from_secs(1);

/// The plan of one fetch.
pub struct Plan {
    needed: Vec<Chunk>,
    had: Vec<bool>,
    had_bytes: u64,
    spans: Vec<Span>,
    /// Spans that nobody was asked for, or whose peers failed.
    waiting: VecDeque<usize>,
    /// Spans that somebody is being asked for.
    taken: HashSet<usize>,
    open: usize,
    blamed: HashMap<PeerId, &'static str>,
}

struct Span {
    range: Range<usize>,
    takers: Vec<PeerId>,
    since: Instant,
    /// Who does not have all of it.
    lacking: Vec<PeerId>,
    done: bool,
}

/// What a peer is to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// To send these chunks, of so many bytes.
    Send { span: usize, wanted: Vec<Hash>, wanted_bytes: u64 },
    /// To wait: others are at it.
    Wait,
    /// Nothing: there is nothing left that it has, or nothing left.
    Nothing,
}

impl Plan {
    /// To fetch these chunks, each of which is named once.
    pub fn new(needed: Vec<Chunk>, now: Instant) -> Plan {
        let mut spans = Vec::new();
        let (mut start, mut bytes) = (0, 0);
        for (at, (_, size_bytes)) in needed.iter().enumerate() {
            let is_full = bytes + u64::from(*size_bytes) > SPAN_BYTES || at - start == MAX_WANTED;
            if is_full && at > start {
                spans.push(start..at);
                (start, bytes) = (at, 0);
            }
            bytes += u64::from(*size_bytes);
        }
        if start < needed.len() {
            spans.push(start..needed.len());
        }
        let span = |range| Span { range, takers: Vec::new(), since: now, lacking: Vec::new(), done: false };
        let spans: Vec<Span> = spans.into_iter().map(span).collect();
        Plan {
            had: vec![false; needed.len()],
            had_bytes: 0,
            needed,
            waiting: (0..spans.len()).collect(),
            taken: HashSet::new(),
            open: spans.len(),
            spans,
            blamed: HashMap::new(),
        }
    }

    /// Whether everything is there.
    pub fn is_done(&self) -> bool {
        self.open == 0
    }

    /// Bytes that have come, of those that are needed.
    pub fn had_bytes(&self) -> u64 {
        self.had_bytes
    }

    /// Whether a chunk has come.
    pub fn has(&self, at: usize) -> bool {
        self.had[at]
    }

    /// What `peer` is to do now.
    pub fn next(&mut self, peer: PeerId, now: Instant) -> Next {
        if self.open == 0 || self.blamed.contains_key(&peer) {
            return Next::Nothing;
        }
        let fits = |at: &usize| !self.spans[*at].lacking.contains(&peer);
        let next = self.waiting.iter().position(fits).and_then(|position| self.waiting.remove(position));
        let is_new_to = |span: &Span| !span.lacking.contains(&peer) && !span.takers.contains(&peer);
        let late = || {
            let others = self.taken.iter().copied().filter(|at| is_new_to(&self.spans[*at]));
            let late = others.filter(|at| now.duration_since(self.spans[*at].since) >= HEDGE);
            late.min_by_key(|at| self.spans[*at].since)
        };
        let Some(at) = next.or_else(late) else {
            let may_come = self.taken.iter().any(|at| is_new_to(&self.spans[*at]));
            return if may_come { Next::Wait } else { Next::Nothing };
        };
        let span = &mut self.spans[at];
        span.takers.push(peer);
        span.since = now;
        self.taken.insert(at);
        let left = span.range.clone().filter(|at| !self.had[*at]).map(|at| self.needed[at]);
        let (mut wanted, mut wanted_bytes) = (Vec::new(), 0);
        for (hash, size_bytes) in left {
            wanted.push(hash);
            wanted_bytes += u64::from(size_bytes);
        }
        Next::Send { span: at, wanted, wanted_bytes }
    }

    /// A needed chunk has come, and is stored. `false` if it had come before.
    pub fn arrived(&mut self, at: usize) -> bool {
        let is_new = !std::mem::replace(&mut self.had[at], true);
        if is_new {
            self.had_bytes += u64::from(self.needed[at].1);
        }
        is_new
    }

    /// A peer says that it has sent a span, but for what is not there. Says what is wrong with that.
    pub fn answered(&mut self, peer: PeerId, at: usize, missing: &[Hash]) -> Result<(), &'static str> {
        let span = &mut self.spans[at];
        span.takers.retain(|taker| *taker != peer);
        if span.done {
            return Ok(());
        }
        let mut left = span.range.clone().filter(|at| !self.had[*at]).map(|at| self.needed[at].0).peekable();
        if left.peek().is_none() {
            span.done = true;
            self.taken.remove(&at);
            self.waiting.retain(|waiting| *waiting != at);
            self.open -= 1;
            return Ok(());
        }
        if !left.all(|hash| missing.contains(&hash)) {
            return Err("chunks said to be sent that were not");
        }
        span.lacking.push(peer);
        self.put_back(at);
        Ok(())
    }

    /// A peer answers no more.
    pub fn leave(&mut self, peer: PeerId) {
        let taken: Vec<usize> = self.taken.iter().copied().collect();
        for at in taken {
            self.spans[at].takers.retain(|taker| *taker != peer);
            self.put_back(at);
        }
    }

    fn put_back(&mut self, at: usize) {
        if self.spans[at].takers.is_empty() && self.taken.remove(&at) {
            self.waiting.push_front(at);
        }
    }

    /// A peer sent rubbish; it is asked for nothing more.
    pub fn blame(&mut self, peer: PeerId, what: &'static str) {
        self.leave(peer);
        self.blamed.entry(peer).or_insert(what);
    }

    /// What a peer is blamed for.
    pub fn blamed(&self, peer: &PeerId) -> Option<&'static str> {
        self.blamed.get(peer).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(count: u32, size_bytes: u32) -> Vec<Chunk> {
        (0..count).map(|n| (Hash::of(&n.to_le_bytes()), size_bytes)).collect()
    }

    fn take(plan: &mut Plan, peer: PeerId, now: Instant) -> (usize, Vec<Hash>) {
        match plan.next(peer, now) {
            Next::Send { span, wanted, .. } => (span, wanted),
            other => panic!("{other:?}"),
        }
    }

    fn send(plan: &mut Plan, span: usize) {
        for at in plan.spans[span].range.clone() {
            plan.arrived(at);
        }
    }

    #[test]
    fn spans_are_bounded_in_bytes_and_chunks() {
        let now = Instant::now();
        let ranges = |plan: &Plan| plan.spans.iter().map(|span| span.range.len()).collect::<Vec<_>>();
        assert_eq!(ranges(&Plan::new(chunks(3000, 10), now)), [1024, 1024, 952]);
        assert_eq!(ranges(&Plan::new(chunks(20, 1 << 20), now)), [4, 4, 4, 4, 4]);
        assert_eq!(ranges(&Plan::new(chunks(2, 8 << 20), now)), [1, 1]);
        assert!(Plan::new(Vec::new(), now).is_done());
    }

    #[test]
    fn what_a_peer_leaves_is_asked_of_another() {
        let (now, a, b) = (Instant::now(), PeerId::random(), PeerId::random());
        let mut plan = Plan::new(chunks(8, 1 << 20), now);
        let (first, _) = take(&mut plan, a, now);
        plan.arrived(0);
        plan.leave(a);
        let (again, wanted) = take(&mut plan, b, now);
        assert_eq!((again, wanted.len()), (first, 3), "what has come is not asked for again");
        let (second, _) = take(&mut plan, b, now);
        assert_eq!(plan.next(b, now), Next::Nothing, "it has all of it to do");
        assert_eq!(plan.next(a, now), Next::Wait);
        for span in [first, second] {
            send(&mut plan, span);
            plan.answered(b, span, &[]).unwrap();
        }
        assert!(plan.is_done() && plan.next(a, now) == Next::Nothing);
        assert_eq!(plan.had_bytes(), 8 << 20);
    }

    #[test]
    fn a_late_span_is_asked_of_another_as_well() {
        let (now, slow, quick) = (Instant::now(), PeerId::random(), PeerId::random());
        let mut plan = Plan::new(chunks(4, 1 << 20), now);
        let (span, _) = take(&mut plan, slow, now);
        assert_eq!(plan.next(quick, now), Next::Wait);
        assert_eq!(take(&mut plan, quick, now + HEDGE).0, span);
        send(&mut plan, span);
        plan.answered(quick, span, &[]).unwrap();
        assert!(plan.is_done());
        plan.answered(slow, span, &[]).unwrap();
        plan.leave(slow);
        assert!(plan.is_done());
    }

    #[test]
    fn what_one_does_not_have_another_may() {
        let (now, poor, rich) = (Instant::now(), PeerId::random(), PeerId::random());
        let mut plan = Plan::new(chunks(4, 1 << 20), now);
        let (span, wanted) = take(&mut plan, poor, now);
        assert!((0..3).all(|at| plan.arrived(at)));
        plan.answered(poor, span, &wanted[3..]).unwrap();
        assert_eq!(plan.next(poor, now), Next::Nothing);
        assert_eq!(take(&mut plan, rich, now), (span, wanted[3..].to_vec()));
    }

    #[test]
    fn who_lies_about_what_was_sent_is_blamed_and_asked_no_more() {
        let (now, liar) = (Instant::now(), PeerId::random());
        let mut plan = Plan::new(chunks(4, 1 << 20), now);
        let (span, _) = take(&mut plan, liar, now);
        let what = plan.answered(liar, span, &[]).unwrap_err();
        plan.blame(liar, what);
        assert_eq!(plan.blamed(&liar), Some("chunks said to be sent that were not"));
        assert_eq!(plan.next(liar, now), Next::Nothing);
        assert!(matches!(plan.next(PeerId::random(), now), Next::Send { .. }));
    }
}
