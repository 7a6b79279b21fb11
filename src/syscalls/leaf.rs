//! The leaves of the syscall tree: replies remembered by whole parms.
//!
//! Most calls of a busy node end here, so a hit costs one hash, one lock and one read of memory that may be far away: a leaf,
//! in two neighbouring cache lines. The table is in parts, each with its lock. Hashes are keyed at random (SipHash-1-3), so that
//! nobody can choose parms that meet in one place, and a leaf counts only if all of its parms are the same.
//!
//! A leaf takes 128 bytes, and its arguments where they take more than [`INLINE_BYTES`]; promise and module stand once for all
//! leaves of a part. The table is at most three quarters full. In a full part the leaf goes that was not asked for since the
//! hand of the clock last came by.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Mutex;

use gridfs_store::{Cid, Codec, Hash, Target};

use crate::module::Reply;
use crate::parms::{Parms, Value};

/// Most leaves.
pub const MAX_LEAVES: usize = 1 << 20;
/// Most bytes of arguments that stand apart from their leaves.
const MAX_APART_BYTES: usize = 64 << 20;
/// Longest parms that are kept.
const MAX_KEY_BYTES: usize = 16 << 10;
/// Arguments this long stand in the leaf: an object and a short text, or texts as long.
const INLINE_BYTES: usize = 38;
/// Parts of the table, a power of 2.
const PARTS: usize = 64;
/// Slots of a part with its first leaf, a power of 2.
const FIRST_SLOTS: usize = 16;
/// Most pairs of promise and module in a part. With one more it begins again, empty.
const MAX_PREFIXES: usize = 1024;

/// Bytes of an encoded CID: its codec and its digest.
const CID_BYTES: usize = 33;
/// The kind of a text, where CIDs have their codec.
const TEXT: u8 = 0;
/// Promise and module.
type Prefix = [u8; 2 * CID_BYTES];

/// Whole parms as bytes: of each its kind, and a CID's digest, or a text's length and the text.
pub struct Key {
    prefix: Prefix,
    arguments: Arguments,
}

enum Arguments {
    Inline { length: u8, bytes: [u8; INLINE_BYTES] },
    Apart(Box<[u8]>),
}

impl Key {
    /// The key of a call; none if its parms are too long to be kept.
    pub fn of(parms: &Parms) -> Option<Key> {
        let length: usize = parms.arguments.iter().map(encoded_bytes).sum();
        if size_of::<Prefix>() + length > MAX_KEY_BYTES {
            return None;
        }
        let mut prefix = [0; 2 * CID_BYTES];
        encode_cid(&parms.promise, &mut prefix[..CID_BYTES]);
        encode_cid(&parms.module, &mut prefix[CID_BYTES..]);
        let arguments = if length <= INLINE_BYTES {
            let mut bytes = [0; INLINE_BYTES];
            encode(&parms.arguments, &mut bytes);
            Arguments::Inline { length: length as u8, bytes }
        } else {
            let mut bytes = vec![0; length];
            encode(&parms.arguments, &mut bytes);
            Arguments::Apart(bytes.into())
        };
        Some(Key { prefix, arguments })
    }

    fn hash(&self, random: &RandomState) -> u64 {
        let mut hasher = random.build_hasher();
        hasher.write(&self.prefix);
        hasher.write(self.arguments.bytes());
        hasher.finish()
    }
}

impl Arguments {
    fn bytes(&self) -> &[u8] {
        match self {
            Arguments::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Arguments::Apart(bytes) => bytes,
        }
    }

    fn apart_bytes(&self) -> usize {
        if let Arguments::Apart(bytes) = self { bytes.len() } else { 0 }
    }
}

fn encoded_bytes(value: &Value) -> usize {
    match value {
        Value::Object(_) => CID_BYTES,
        Value::Text(text) => 1 + size_of::<u16>() + text.len(),
    }
}

fn encode(arguments: &[Value], mut to: &mut [u8]) {
    for value in arguments {
        let (place, rest) = to.split_at_mut(encoded_bytes(value));
        match value {
            Value::Object(cid) => encode_cid(cid, place),
            Value::Text(text) => {
                let length = u16::try_from(text.len()).expect("longer parms have no key");
                place[0] = TEXT;
                place[1..3].copy_from_slice(&length.to_le_bytes());
                place[3..].copy_from_slice(text.as_bytes());
            }
        }
        to = rest;
    }
}

fn encode_cid(cid: &Cid, to: &mut [u8]) {
    to[0] = match cid.codec {
        Codec::Raw => 0x55,
        Codec::DagCbor => 0x71,
    };
    to[1..].copy_from_slice(&cid.hash.0);
}

/// A reply that can never differ.
#[repr(align(128))]
struct Leaf {
    arguments: Arguments,
    result: Hash,
    receipt: Hash,
    size_bytes: u64,
    epoch: u64,
    /// Where it stands in its part, and a first look at whether it is the one.
    tag: NonZeroU32,
    /// Which of its part's.
    prefix: u16,
    flags: u8,
}

/// The result is a directory.
const DIRECTORY: u8 = 1;
/// The result is a file whose CID has the codec dag-cbor.
const RECORD: u8 = 2;
/// The result is a file with the executable bit.
const EXECUTABLE: u8 = 4;
/// There is a receipt.
const RECEIPT: u8 = 8;
/// It was asked for since the hand of the clock last came by.
const USED: u8 = 16;

impl Leaf {
    /// None for what no call results in.
    fn new(tag: NonZeroU32, prefix: u16, arguments: Arguments, reply: &Reply, epoch: u64) -> Option<Leaf> {
        let (cid, size_bytes, mut flags) = match &reply.result {
            Target::File { cid, size_bytes, executable } => {
                let record = if cid.codec == Codec::DagCbor { RECORD } else { 0 };
                (cid, *size_bytes, record | if *executable { EXECUTABLE } else { 0 })
            }
            Target::Directory { cid } => (cid, 0, DIRECTORY),
            Target::Symlink { .. } => return None,
        };
        if reply.receipt.is_some() {
            flags |= RECEIPT;
        }
        let receipt = reply.receipt.map_or(Hash([0; 32]), |cid| cid.hash);
        Some(Leaf { arguments, result: cid.hash, receipt, size_bytes, epoch, tag, prefix, flags })
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn reply(&self) -> Reply {
        let record = |hash| Cid { codec: Codec::DagCbor, hash };
        let result = if self.has(DIRECTORY) {
            Target::Directory { cid: record(self.result) }
        } else {
            let codec = if self.has(RECORD) { Codec::DagCbor } else { Codec::Raw };
            let cid = Cid { codec, hash: self.result };
            Target::File { cid, size_bytes: self.size_bytes, executable: self.has(EXECUTABLE) }
        };
        Reply { receipt: self.has(RECEIPT).then(|| record(self.receipt)), ..Reply::stored(result) }
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
        let hash = key.hash(&self.random);
        let mut part = self.part(hash).lock().expect("no panic while it is held");
        let at = part.find(tag(hash), key)?;
        let Part { slots, prefixes, .. } = &mut *part;
        let leaf = slots[at].as_mut()?;
        let span_ms = &prefixes[usize::from(leaf.prefix)].span_ms;
        if leaf.epoch != epoch || *span_ms != ALWAYS && !span_ms.contains(&now_ms()) {
            return None;
        }
        leaf.flags |= USED;
        Some(leaf.reply())
    }

    pub(super) fn put(&self, key: Key, reply: &Reply, epoch: u64, span_ms: Range<u64>) {
        let hash = key.hash(&self.random);
        let mut part = self.part(hash).lock().expect("no panic while it is held");
        part.put(tag(hash), key, reply, epoch, span_ms);
    }

    pub(super) fn count(&self) -> usize {
        self.parts.iter().map(|part| part.lock().expect("no panic while it is held").leaves).sum()
    }

    fn part(&self, hash: u64) -> &Mutex<Part> {
        &self.parts[hash as usize % PARTS]
    }
}

/// The half of a hash that the leaf holds.
fn tag(hash: u64) -> NonZeroU32 {
    NonZeroU32::new((hash >> 32) as u32).unwrap_or(NonZeroU32::MIN)
}

/// What many leaves have in common.
struct Shared {
    prefix: Prefix,
    /// When the promise holds.
    span_ms: Range<u64>,
}

/// A time that does not end.
const ALWAYS: Range<u64> = 0..u64::MAX;

/// A part of the table: open addressing with linear probing.
#[derive(Default)]
struct Part {
    /// As many as a power of 2, or none.
    slots: Vec<Option<Leaf>>,
    leaves: usize,
    prefixes: Vec<Shared>,
    hand: usize,
    apart_bytes: usize,
}

impl Part {
    /// The slot of a key's leaf.
    fn find(&self, tag: NonZeroU32, key: &Key) -> Option<usize> {
        let slots = (0..self.slots.len()).map(|step| self.home(tag, step));
        let mut filled = slots.map_while(|at| Some((at, self.slots[at].as_ref()?)));
        let is_it = |leaf: &Leaf| {
            leaf.tag == tag
                && leaf.arguments.bytes() == key.arguments.bytes()
                && self.prefixes[usize::from(leaf.prefix)].prefix == key.prefix
        };
        filled.find(|(_, leaf)| is_it(leaf)).map(|(at, _)| at)
    }

    /// The slot where a leaf belongs, and those that follow it.
    fn home(&self, tag: NonZeroU32, step: usize) -> usize {
        (tag.get() as usize).wrapping_add(step) & (self.slots.len() - 1)
    }

    fn put(&mut self, tag: NonZeroU32, key: Key, reply: &Reply, epoch: u64, span_ms: Range<u64>) {
        if let Some(at) = self.find(tag, &key) {
            self.remove(at);
        }
        let prefix = self.prefix(key.prefix, span_ms);
        if let Some(leaf) = Leaf::new(tag, prefix, key.arguments, reply, epoch) {
            self.insert(leaf);
        }
    }

    /// The place of a prefix among this part's.
    fn prefix(&mut self, prefix: Prefix, span_ms: Range<u64>) -> u16 {
        if let Some(at) = self.prefixes.iter().position(|shared| shared.prefix == prefix) {
            self.prefixes[at].span_ms = span_ms;
            return at as u16;
        }
        if self.prefixes.len() == MAX_PREFIXES {
            *self = Part::default();
        }
        self.prefixes.push(Shared { prefix, span_ms });
        self.prefixes.len() as u16 - 1
    }

    fn insert(&mut self, leaf: Leaf) {
        let added = leaf.arguments.apart_bytes();
        while self.leaves == MAX_LEAVES / PARTS || self.apart_bytes + added > MAX_APART_BYTES / PARTS {
            self.evict();
        }
        if 4 * (self.leaves + 1) > 3 * self.slots.len() {
            let slots = (2 * self.slots.len()).max(FIRST_SLOTS);
            let old = std::mem::replace(&mut self.slots, (0..slots).map(|_| None).collect());
            old.into_iter().flatten().for_each(|leaf| self.fill(leaf));
        }
        self.leaves += 1;
        self.apart_bytes += added;
        self.fill(leaf);
    }

    fn fill(&mut self, leaf: Leaf) {
        let mut step = 0;
        while self.slots[self.home(leaf.tag, step)].is_some() {
            step += 1;
        }
        let at = self.home(leaf.tag, step);
        self.slots[at] = Some(leaf);
    }

    /// Lets one leaf go.
    fn evict(&mut self) {
        loop {
            self.hand = (self.hand + 1) & (self.slots.len() - 1);
            match &mut self.slots[self.hand] {
                Some(leaf) if leaf.has(USED) => leaf.flags &= !USED,
                Some(_) => return self.remove(self.hand),
                None => {}
            }
        }
    }

    /// Empties a slot; what was pushed beyond it moves up (Knuth, The Art of Computer Programming, 6.4, algorithm R).
    fn remove(&mut self, mut hole: usize) {
        let gone = self.slots[hole].take().expect("only a leaf is removed");
        self.leaves -= 1;
        self.apart_bytes -= gone.arguments.apart_bytes();
        let mask = self.slots.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let Some(leaf) = &self.slots[at] else { return };
            let home = self.home(leaf.tag, 0);
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.slots[hole] = self.slots[at].take();
                hole = at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::dice::Dice;

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
            vec![text(&"a".repeat(35))],
            vec![text(&"a".repeat(36))],
            vec![text(&"a".repeat(1000))],
        ];
        let keys: Vec<Key> = lists.iter().map(|list| Key::of(&parms(list)).unwrap()).collect();
        for (one, key) in keys.iter().enumerate() {
            let same = |other: &&Key| other.arguments.bytes() == key.arguments.bytes();
            assert_eq!(keys.iter().filter(same).count(), 1, "{:?}", lists[one]);
        }
        assert!(matches!(keys[11].arguments, Arguments::Inline { length: 38, .. }));
        assert!(matches!(keys[12].arguments, Arguments::Apart(_)));
        assert!(Key::of(&parms(&[text(&"a".repeat(MAX_KEY_BYTES))])).is_none());
    }

    #[test]
    fn a_leaf_takes_what_it_is_said_to_take() {
        assert_eq!(size_of::<Option<Leaf>>(), 128);
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

    #[test]
    fn a_leaf_tells_what_it_was_told() {
        let (raw, record) = (Cid::of(Codec::Raw, b"x"), Cid::of(Codec::DagCbor, b"x"));
        let file = |cid, executable| Target::File { cid, size_bytes: 5, executable };
        let leaves = Leaves::new();
        for result in [file(raw, false), file(raw, true), file(record, false), Target::Directory { cid: record }] {
            for receipt in [None, Some(record)] {
                let reply = Reply { receipt, ..Reply::stored(result.clone()) };
                leaves.put(key("x"), &reply, 0, ALWAYS);
                assert_eq!(leaves.get(&key("x"), 0, || 0), Some(reply));
            }
        }
        assert_eq!(leaves.count(), 1);
    }

    #[test]
    fn many_promises_and_modules_are_told_apart() {
        let mut part = Part::default();
        let key = |number: u64| {
            let module = Cid::of(Codec::Raw, &number.to_le_bytes());
            Key::of(&Parms { module, ..parms(&[]) }).unwrap()
        };
        let (number, tag) = (2 * MAX_PREFIXES as u64 + 5, |number: u64| tag(number << 32));
        for n in 0..number {
            part.put(tag(n), key(n), &reply(n), 0, ALWAYS);
        }
        let found = |n| part.find(tag(n), &key(n)).map(|at| part.slots[at].as_ref().unwrap().reply());
        let kept = number - 5..number;
        assert!((0..number).all(|n| found(n) == kept.contains(&n).then(|| reply(n))));
        check(&part);
    }

    /// Every leaf is found, and all are counted.
    fn check(part: &Part) {
        let leaves: Vec<(usize, &Leaf)> =
            part.slots.iter().enumerate().flat_map(|(at, leaf)| Some((at, leaf.as_ref()?))).collect();
        assert_eq!(leaves.len(), part.leaves);
        assert!(4 * part.leaves <= 3 * part.slots.len());
        for (at, leaf) in &leaves {
            let mut way = (0..).map(|step| part.home(leaf.tag, step)).take_while(|on| on != at);
            assert!(way.all(|on| part.slots[on].is_some()));
        }
        let apart: usize = leaves.iter().map(|(_, leaf)| leaf.arguments.apart_bytes()).sum();
        assert_eq!(part.apart_bytes, apart);
    }

    #[test]
    fn a_part_is_a_map_whose_tags_may_collide() {
        let seed = 7;
        eprintln!("seed {seed}");
        let (mut dice, mut part, mut map) = (Dice::new(seed), Part::default(), HashMap::new());
        // Few tags, the highest and the lowest: chains run into each other and around the end.
        let tag_of = |text: &str| {
            let tags = [1, 2, 3, u32::MAX, u32::MAX - 1];
            NonZeroU32::new(tags[text.bytes().map(usize::from).sum::<usize>() % 5]).unwrap()
        };
        for number in 0..20_000 {
            let text = dice.below(400).to_string();
            let found = part.find(tag_of(&text), &key(&text));
            let reply_of = |at: usize| part.slots[at].as_ref().unwrap().reply();
            assert_eq!(found.map(reply_of), map.get(&text).cloned());
            if let Some(at) = found {
                part.slots[at].as_mut().unwrap().flags |= if dice.one_in(2) { USED } else { 0 };
            }
            if !dice.one_in(3) {
                part.put(tag_of(&text), key(&text), &reply(number), 0, ALWAYS);
                map.insert(text, reply(number));
            } else if part.leaves > 0 {
                let before = part.leaves;
                part.evict();
                assert_eq!(part.leaves, before - 1);
                map.retain(|text, _| part.find(tag_of(text), &key(text)).is_some());
            }
            assert_eq!(map.len(), part.leaves);
            if number % 100 == 0 {
                check(&part);
            }
        }
        assert!(map.len() > 100);
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
            check(&part.lock().unwrap());
        }
    }
}
