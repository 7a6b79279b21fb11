//! What the targets are fed: texts, names and bytes, made up, taken from a corpus, or mutated.

use std::fmt::Write as _;

use gridfs::path;

use crate::dice::Dice;

/// Pieces that mean something in a path or a CID.
const PIECES: [&str; 24] = [
    "%", "%2F", "%2f", "%00", "%FF", "%C3%A9", "%25", "%2E", "%2E%2E", ",", ",,", "@", ".", "..", "~", " ", "é",
    "\u{202e}", "bafkr4i", "bafyr4i", "z", "Qm", "/ipfs/", "-1",
];
/// Heads of CBOR items at their edges: long and endless lengths, tags, nesting.
const HEADS: [&[u8]; 14] = [
    b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\x7a\xff\xff\xff\xff",
    b"\xbb\x00\x00\x00\x01\x00\x00\x00\x00",
    b"\x9f",
    b"\xbf",
    b"\x5f",
    b"\xff",
    b"\xd8\x2a",
    b"\xda\x67\x72\x69\x64",
    b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xf9\x7e\x00",
    b"\x81\x81\x81\x81\x81\x81\x81\x81",
    b"\x18\x01",
];

/// Bytes without any sense, mostly few.
pub fn noise(dice: &mut Dice, limit: u64) -> Vec<u8> {
    let length = if dice.one_in(20) { dice.below(limit) } else { dice.below(limit.min(24)) };
    (0..length).map(|_| dice.roll() as u8).collect()
}

/// A text of pieces that mean something and characters that don't.
pub fn text(dice: &mut Dice) -> String {
    let mut text = String::new();
    for _ in 0..dice.below(8) {
        match dice.below(4) {
            0 => text.push_str(dice.pick::<&str>(&PIECES)),
            1 => text.push(char::from_u32(dice.below(0x11_0000) as u32).unwrap_or('\u{fffd}')),
            _ => text.push(char::from(b'!' + dice.below(94) as u8)),
        }
    }
    if dice.one_in(200) { text.repeat(1 + dice.below(60) as usize) } else { text }
}

/// One of `corpus`, changed a little.
pub fn mutated(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = dice.pick(corpus).clone();
    for _ in 0..1 + dice.below(3) {
        mutate(dice, &mut bytes, corpus);
    }
    bytes
}

fn mutate(dice: &mut Dice, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let at = dice.below(bytes.len() as u64 + 1) as usize;
    let end = at + dice.below((bytes.len() - at) as u64 + 1) as usize;
    match dice.below(9) {
        0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
        1 if at < bytes.len() => bytes[at] = dice.roll() as u8,
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..end)),
        4 if end - at < 256 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
        5 => {
            let other = dice.pick(corpus);
            let from = dice.below(other.len() as u64 + 1) as usize;
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        6 => drop(bytes.splice(at..at, dice.pick(&HEADS).iter().copied())),
        7 => drop(bytes.splice(at..at, dice.pick(&PIECES).bytes())),
        _ => drop(bytes.splice(at..end.min(at + 8), noise(dice, 9))),
    }
}

/// An argument spelled in one of many ways: bytes that needn't be percent-encoded are all the same, in either case.
pub fn respelled(dice: &mut Dice, argument: &str) -> String {
    if argument.is_empty() {
        return path::encode(argument);
    }
    let mut spelled = String::with_capacity(3 * argument.len());
    for byte in argument.bytes() {
        match dice.below(4) {
            0 | 1 if byte.is_ascii_alphanumeric() => spelled.push(char::from(byte)),
            0 | 2 => write!(spelled, "%{byte:02X}").expect("writing to a string can't fail"),
            _ => write!(spelled, "%{byte:02x}").expect("writing to a string can't fail"),
        }
    }
    spelled
}
