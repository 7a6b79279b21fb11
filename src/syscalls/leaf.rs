//! The leaves of the syscall tree: replies remembered by whole parms.
//!
//! Most calls of a busy node end here, so a hit costs one hash, one lock and two reads of memory that may be far away: a slot,
//! and the leaf that it points to. The table is in parts, each with its lock. Hashes are keyed at random (SipHash-1-3), so that
//! nobody can choose parms that meet in one slot, and a leaf counts only if all of its parms are the same.
//!
//! A leaf takes 208 bytes, at most 32 of slots, and the parms where they take more than [`INLINE_BYTES`]. In a full part the
//! leaf goes that was not asked for since the hand of the clock last came by.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::ops::Range;
use std::sync::Mutex;

use gridfs_store::{Cid, Codec, Target};

use crate::module::Reply;
use crate::parms::{Parms, Value};

/// Most leaves.
pub const MAX_LEAVES: usize = 1 << 20;
/// Most bytes of parms that stand apart from their leaves.
const MAX_APART_BYTES: usize = 64 << 20;
/// Longest parms that are kept.
const MAX_KEY_BYTES: usize = 16 << 10;
/// Parms this long stand in the leaf: promise, module and an object, or texts as long.
const INLINE_BYTES: usize = 102;
/// Parts of the table, a power of 2.
const PARTS: usize = 64;
/// Slots of a part with its first leaf, a power of 2.
const FIRST_SLOTS: usize = 16;

/// Whole parms as bytes: of each its kind, and a CID's digest, or a text's length and the text.
pub enum Key {
    /// In place.
    Inline {
        /// How many of the bytes.
        length: u8,
        /// The bytes.
        bytes: [u8; INLINE_BYTES],
    },
    /// Apart.
    Apart(Box<[u8]>),
}

impl Key {
    /// The key of a call; none if its parms are too long to be kept.
    pub fn of(parms: &Parms) -> Option<Key> {
        let arguments: usize = parms.arguments.iter().map(encoded_bytes).sum();
        let length = 2 * CID_BYTES + arguments;
        if length > MAX_KEY_BYTES {
            return None;
        }
        if length <= INLINE_BYTES {
            let mut bytes = [0; INLINE_BYTES];
            encode(parms, &mut bytes);
            return Some(Key::Inline { length: length as u8, bytes });
        }
        let mut bytes = vec![0; length];
        encode(parms, &mut bytes);
        Some(Key::Apart(bytes.into()))
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Key::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Key::Apart(bytes) => bytes,
        }
    }

    fn apart_bytes(&self) -> usize {
        if let Key::Apart(bytes) = self { bytes.len() } else { 0 }
    }
}

/// Bytes of an encoded CID: its codec and its digest.
const CID_BYTES: usize = 33;
/// The kind of a text, where CIDs have their codec.
const TEXT: u8 = 0;

fn encoded_bytes(value: &Value) -> usize {
    match value {
        Value::Object(_) => CID_BYTES,
        Value::Text(text) => 1 + size_of::<u32>() + text.len(),
    }
}

fn encode(parms: &Parms, mut to: &mut [u8]) {
    let mut put = |bytes: &[u8]| {
        let (place, rest) = std::mem::take(&mut to).split_at_mut(bytes.len());
        place.copy_from_slice(bytes);
        to = rest;
    };
    let kind = |codec| match codec {
        Codec::Raw => [0x55],
        Codec::DagCbor => [0x71],
    };
    for cid in [&parms.promise, &parms.module] {
        put(&kind(cid.codec));
        put(&cid.hash.0);
    }
    for value in &parms.arguments {
        match value {
            Value::Object(cid) => {
                put(&kind(cid.codec));
                put(&cid.hash.0);
            }
            Value::Text(text) => {
                put(&[TEXT]);
                put(&u32::try_from(text.len()).expect("longer parms have no key").to_le_bytes());
                put(text.as_bytes());
            }
        }
    }
}

struct Leaf {
    key: Key,
    /// Of a reply that can never differ.
    result: Target,
    receipt: Option<Cid>,
    epoch: u64,
    /// When the promise holds, unless it always does.
    span_ms: Option<Box<Range<u64>>>,
    /// It was asked for since the hand of the clock last came by.
    used: bool,
}

impl Leaf {
    fn new(key: Key, reply: &Reply, epoch: u64, span_ms: Option<Box<Range<u64>>>) -> Leaf {
        Leaf { key, result: reply.result.clone(), receipt: reply.receipt, epoch, span_ms, used: false }
    }

    fn reply(&self) -> Reply {
        Reply { receipt: self.receipt, ..Reply::stored(self.result.clone()) }
    }
}

/// All leaves.
pub(super) struct Leaves {
    parts: Box<[Mutex<Part>]>,
    random: RandomState,
}

impl Leaves {
    pub(super) fn new() -> Leaves {
        Leaves { parts: (0..PARTS).map(|_| Mutex::default()).collect(), random: RandomState::new() }
    }

    pub(super) fn get(&self, key: &Key, epoch: u64, now_ms: impl FnOnce() -> u64) -> Option<Reply> {
        let hash = self.random.hash_one(key.bytes());
        let mut part = self.part(hash).lock().expect("no panic while it is held");
        let index = part.find(tag(hash), key)?;
        let leaf = &mut part.leaves[index];
        if leaf.epoch != epoch || leaf.span_ms.as_ref().is_some_and(|span_ms| !span_ms.contains(&now_ms())) {
            return None;
        }
        leaf.used = true;
        Some(leaf.reply())
    }

    pub(super) fn put(&self, key: Key, reply: &Reply, epoch: u64, span_ms: Range<u64>) {
        let hash = self.random.hash_one(key.bytes());
        let span_ms = (span_ms != (0..u64::MAX)).then(|| Box::new(span_ms));
        let leaf = Leaf::new(key, reply, epoch, span_ms);
        let mut part = self.part(hash).lock().expect("no panic while it is held");
        match part.find(tag(hash), &leaf.key) {
            Some(index) => part.leaves[index] = leaf,
            None => part.insert(tag(hash), leaf, |leaf| tag(self.random.hash_one(leaf.key.bytes()))),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.parts.iter().map(|part| part.lock().expect("no panic while it is held").leaves.len()).sum()
    }

    fn part(&self, hash: u64) -> &Mutex<Part> {
        &self.parts[hash as usize % PARTS]
    }
}

/// The half of a hash that a slot holds.
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// A part of the table: open addressing with linear probing.
#[derive(Default)]
struct Part {
    /// The upper half a tag, the lower half the index of its leaf and 1; 0 is empty. A power of 2, or none.
    slots: Vec<u64>,
    leaves: Vec<Leaf>,
    hand: usize,
    apart_bytes: usize,
}

impl Part {
    fn find(&self, tag: u32, key: &Key) -> Option<usize> {
        self.probe(tag).map(|(_, index)| index).find(|index| self.leaves[*index].key.bytes() == key.bytes())
    }

    /// The slots with a tag, and the leaves they point to.
    fn probe(&self, tag: u32) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mask = self.slots.len().wrapping_sub(1);
        let slots = (0..self.slots.len()).map(move |step| (tag as usize).wrapping_add(step) & mask);
        let filled = slots.map(|at| (at, self.slots[at])).take_while(|(_, slot)| *slot != 0);
        filled.filter(move |(_, slot)| (slot >> 32) as u32 == tag).map(|(at, slot)| (at, slot as u32 as usize - 1))
    }

    fn insert(&mut self, tag: u32, leaf: Leaf, tag_of: impl Fn(&Leaf) -> u32) {
        let added = leaf.key.apart_bytes();
        while self.leaves.len() == MAX_LEAVES / PARTS || self.apart_bytes + added > MAX_APART_BYTES / PARTS {
            self.evict(&tag_of);
        }
        // At most half full: then a probe is short.
        if self.slots.len() < 2 * (self.leaves.len() + 1) {
            let old = std::mem::take(&mut self.slots);
            self.slots = vec![0; (2 * old.len()).max(FIRST_SLOTS)];
            old.into_iter().filter(|slot| *slot != 0).for_each(|slot| self.fill(slot));
        }
        self.fill(u64::from(tag) << 32 | (self.leaves.len() as u64 + 1));
        self.apart_bytes += added;
        self.leaves.push(leaf);
    }

    fn fill(&mut self, slot: u64) {
        let mask = self.slots.len() - 1;
        let mut at = (slot >> 32) as usize & mask;
        while self.slots[at] != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }

    /// Lets one leaf go.
    fn evict(&mut self, tag_of: impl Fn(&Leaf) -> u32) {
        loop {
            self.hand = if self.hand < self.leaves.len() { self.hand } else { 0 };
            if !std::mem::take(&mut self.leaves[self.hand].used) {
                break;
            }
            self.hand += 1;
        }
        let (gone, last) = (self.hand, self.leaves.len() - 1);
        let slot_of = |part: &Part, index| {
            let mut slots = part.probe(tag_of(&part.leaves[index]));
            slots.find(|(_, found)| *found == index).expect("every leaf has a slot").0
        };
        // The last leaf takes its place.
        let (freed, moved) = (slot_of(self, gone), slot_of(self, last));
        self.slots[moved] = self.slots[moved] >> 32 << 32 | (gone as u64 + 1);
        self.empty(freed);
        self.apart_bytes -= self.leaves.swap_remove(gone).key.apart_bytes();
    }

    /// Empties a slot; what was pushed beyond it moves up (Knuth, The Art of Computer Programming, 6.4, algorithm R).
    fn empty(&mut self, mut hole: usize) {
        let mask = self.slots.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            if slot == 0 {
                break;
            }
            let home = (slot >> 32) as usize & mask;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::dice::Dice;

    const ALWAYS: Range<u64> = 0..u64::MAX;

    fn parms(arguments: &[Value]) -> Parms {
        let promise = Cid::of(Codec::DagCbor, b"promise");
        Parms { promise, module: Cid::of(Codec::Raw, b"module"), arguments: arguments.to_vec() }
    }

    fn key(text: &str) -> Key {
        Key::of(&parms(&[Value::Text(text.into())])).unwrap()
    }

    fn reply(number: u64) -> Reply {
        let cid = Cid::of(Codec::Raw, &number.to_le_bytes());
        Reply::stored(Target::File { cid, size_bytes: number, executable: false })
    }

    #[test]
    fn other_parms_have_other_keys() {
        let (text, object) = (|text: &str| Value::Text(text.into()), Value::Object(Cid::of(Codec::Raw, b"x")));
        let same = Value::Object(Cid { codec: Codec::DagCbor, hash: Cid::of(Codec::Raw, b"x").hash });
        let lists: Vec<Vec<Value>> = vec![
            vec![],
            vec![text("")],
            vec![text(""), text("")],
            vec![text("ab")],
            vec![text("a"), text("b")],
            vec![text("\0\0\0\0\0")],
            vec![object.clone()],
            vec![text(&object.text())],
            vec![same],
            vec![object.clone(), text("a")],
            vec![text("a"), object],
            vec![text(&"a".repeat(31))],
            vec![text(&"a".repeat(32))],
            vec![text(&"a".repeat(1000))],
        ];
        let keys: Vec<Key> = lists.iter().map(|list| Key::of(&parms(list)).unwrap()).collect();
        for (one, key) in keys.iter().enumerate() {
            assert_eq!(keys.iter().filter(|other| other.bytes() == key.bytes()).count(), 1, "{:?}", lists[one]);
        }
        assert!(matches!(keys[11], Key::Inline { length: 102, .. }) && matches!(keys[12], Key::Apart(_)));
        assert!(Key::of(&parms(&[text(&"a".repeat(MAX_KEY_BYTES))])).is_none());
    }

    #[test]
    fn a_leaf_takes_what_it_is_said_to_take() {
        assert_eq!(size_of::<Leaf>(), 208);
    }

    #[test]
    fn a_reply_holds_in_its_epoch_and_its_time() {
        let leaves = Leaves::new();
        leaves.put(key("x"), &reply(1), 5, 1000..2000);
        let at = |epoch, now_ms| leaves.get(&key("x"), epoch, || now_ms);
        assert_eq!(at(5, 1000), Some(reply(1)));
        assert_eq!((at(5, 999), at(5, 2000), at(6, 1000), at(4, 1000)), (None, None, None, None));
        leaves.put(key("x"), &reply(2), 6, ALWAYS);
        assert_eq!((at(6, 0), at(6, 5000), leaves.count()), (Some(reply(2)), Some(reply(2)), 1));
    }

    /// Slots and leaves of a part belong together, and every leaf is found from its home slot.
    fn check(part: &Part, tag_of: impl Fn(&Leaf) -> u32) {
        assert_eq!(part.slots.iter().filter(|slot| **slot != 0).count(), part.leaves.len());
        assert!(part.leaves.is_empty() || part.slots.len() >= 2 * part.leaves.len());
        for (index, leaf) in part.leaves.iter().enumerate() {
            assert_eq!(part.find(tag_of(leaf), &leaf.key), Some(index));
        }
        let apart: usize = part.leaves.iter().map(|leaf| leaf.key.apart_bytes()).sum();
        assert_eq!(part.apart_bytes, apart);
    }

    #[test]
    fn a_part_is_a_map_whose_tags_may_collide() {
        let seed = 7;
        eprintln!("seed {seed}");
        let (mut dice, mut part, mut map) = (Dice::new(seed), Part::default(), HashMap::new());
        // Few tags, the highest and the lowest: chains run into each other and around the end.
        let tag_of =
            |key: &Key| [0, 1, 2, u32::MAX, u32::MAX - 1][key.bytes().iter().map(|b| *b as usize).sum::<usize>() % 5];
        for number in 0..20_000 {
            let text = dice.below(400).to_string();
            let leaf = Leaf { used: dice.one_in(2), ..Leaf::new(key(&text), &reply(number), 0, None) };
            let tag = tag_of(&leaf.key);
            match (part.find(tag, &leaf.key), dice.one_in(2)) {
                (Some(index), _) => {
                    assert_eq!(Some(part.leaves[index].reply()), map.insert(text, leaf.reply()));
                    part.leaves[index] = leaf;
                }
                (None, true) => {
                    assert_eq!(map.insert(text, leaf.reply()), None);
                    part.insert(tag, leaf, |leaf| tag_of(&leaf.key));
                }
                (None, false) if !part.leaves.is_empty() => {
                    let before: Vec<Reply> = part.leaves.iter().map(|leaf| leaf.reply()).collect();
                    part.evict(|leaf| tag_of(&leaf.key));
                    let gone =
                        before.iter().find(|reply| part.leaves.iter().all(|leaf| leaf.reply() != **reply)).unwrap();
                    map.retain(|_, reply| reply != gone);
                }
                (None, false) => {}
            }
            if number % 100 == 0 {
                check(&part, |leaf| tag_of(&leaf.key));
            }
        }
        assert_eq!(map.len(), part.leaves.len());
        for (text, reply) in map {
            let index = part.find(tag_of(&key(&text)), &key(&text)).unwrap();
            assert_eq!(part.leaves[index].reply(), reply);
        }
    }

    #[test]
    fn a_full_table_lets_go_what_is_not_asked_for() {
        let leaves = Leaves::new();
        let number = MAX_LEAVES as u64 / 8;
        // Long keys fill it before the number of leaves does.
        let long = |number: u64| key(&format!("{number:01000}"));
        for n in 0..number {
            leaves.put(long(n), &reply(n), 0, ALWAYS);
            assert_eq!(leaves.get(&long(0), 0, || 0), Some(reply(0)), "what is asked for stays");
        }
        let apart: usize = leaves.parts.iter().map(|part| part.lock().unwrap().apart_bytes).sum();
        assert!(apart <= MAX_APART_BYTES && apart > MAX_APART_BYTES / 2, "{apart}");
        assert!(leaves.count() < 70_000 && leaves.get(&long(number - 1), 0, || 0) == Some(reply(number - 1)));
        for part in &leaves.parts {
            check(&part.lock().unwrap(), |leaf| tag(leaves.random.hash_one(leaf.key.bytes())));
        }
    }
}
