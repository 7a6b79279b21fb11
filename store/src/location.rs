//! Where a member lies, and what the index is to know about it.

use crate::hash::Hash;
use crate::record::{Flaw, Kind, Member};
use crate::records::Place;
use crate::walk::Found;

/// Length of an encoded [`Location`].
pub const LOCATION_BYTES: usize = 22;

/// Where a member lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    pub pack: u32,
    pub offset: u64,
    pub record_bytes: u32,
    pub plain_bytes: u32,
    pub member: u16,
    /// A manifest, not a chunk.
    pub manifest: bool,
    /// A chunk that is an object by itself.
    pub whole: bool,
}

const WHOLE: u32 = 1 << 31;
const MANIFEST: u32 = 1 << 30;

impl Location {
    /// pack u32, offset u64, record length u32, plain length and flags u32, member u16.
    pub fn encode(&self) -> [u8; LOCATION_BYTES] {
        assert!(self.plain_bytes < MANIFEST, "a member is far smaller");
        let flags = if self.whole { WHOLE } else { 0 } | if self.manifest { MANIFEST } else { 0 };
        let mut bytes = [0; LOCATION_BYTES];
        bytes[..4].copy_from_slice(&self.pack.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.offset.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.record_bytes.to_le_bytes());
        bytes[16..20].copy_from_slice(&(self.plain_bytes | flags).to_le_bytes());
        bytes[20..].copy_from_slice(&self.member.to_le_bytes());
        bytes
    }

    /// Where its record begins.
    pub fn place(&self) -> Place {
        (self.pack, self.offset)
    }

    pub fn decode(bytes: &[u8; LOCATION_BYTES]) -> Location {
        let le32 = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four"));
        Location {
            pack: le32(0),
            offset: u64::from_le_bytes(bytes[4..12].try_into().expect("a slice of eight")),
            record_bytes: le32(12),
            plain_bytes: le32(16) & (MANIFEST - 1),
            member: u16::from_le_bytes([bytes[20], bytes[21]]),
            manifest: le32(16) & MANIFEST != 0,
            whole: le32(16) & WHOLE != 0,
        }
    }

    /// The plain bytes of a chunk; a manifest stands for others' bytes and has none of its own.
    pub fn chunk_bytes(&self) -> u64 {
        if self.manifest { 0 } else { self.plain_bytes.into() }
    }
}

/// One fact for the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Hash,
    pub location: Location,
    /// `Some` for memos.
    pub label: Option<Vec<u8>>,
}

/// The entries of a record that will lie at offset 0 of pack 0 until [`Entry::place`] moves them.
pub fn entries(kind: Kind, record_bytes: u32, members: &[Member], plain: &[u8]) -> Result<Vec<Entry>, Flaw> {
    let entry = |(number, member): (usize, &Member)| {
        let location = Location {
            pack: 0,
            offset: 0,
            record_bytes,
            plain_bytes: member.range.len() as u32,
            member: number as u16,
            manifest: kind == Kind::Manifests,
            whole: member.whole,
        };
        let label = match kind {
            Kind::Memos => Some(split_memo(plain.get(member.range.clone()).unwrap_or_default())?.0.to_vec()),
            _ => None,
        };
        Ok(Entry { key: member.key, location, label })
    };
    members.iter().enumerate().map(entry).collect()
}

/// The entries of a record met on a walk through `pack`; commits and footers have none.
pub fn entries_of(pack: u32, found: &Found) -> Result<Vec<Entry>, Flaw> {
    let mut entries = entries(found.kind, found.record_bytes, &found.members, &found.plain)?;
    entries.iter_mut().for_each(|entry| entry.place(pack, found.offset));
    Ok(entries)
}

impl Entry {
    /// Whether this is the end of a memo: no label and no value.
    pub fn forgets(&self) -> bool {
        self.label.as_ref().is_some_and(Vec::is_empty) && self.location.plain_bytes == 2
    }

    /// Moves the entry to `pack`, `by` bytes further on.
    pub fn place(&mut self, pack: u32, by: u64) {
        self.location.pack = pack;
        self.location.offset += by;
    }
}

/// A memo's member: label length u16, label, value.
pub fn join_memo(label: &[u8], value: &[u8]) -> Vec<u8> {
    let mut member = Vec::with_capacity(2 + label.len() + value.len());
    member.extend_from_slice(&(label.len() as u16).to_le_bytes());
    member.extend_from_slice(label);
    member.extend_from_slice(value);
    member
}

/// Label and value of a memo's member.
pub fn split_memo(member: &[u8]) -> Result<(&[u8], &[u8]), Flaw> {
    let (len, rest) = member.split_first_chunk::<2>().ok_or("a memo is cut short")?;
    rest.split_at_checked(u16::from_le_bytes(*len).into()).ok_or("a memo is cut short")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn location_round_trip() {
        let location =
            Location { pack: 1, offset: 2, record_bytes: 3, plain_bytes: 4, member: 5, manifest: true, whole: false };
        let bytes = location.encode();
        assert_eq!(bytes, [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0x40, 5, 0]);
        assert_eq!(Location::decode(&bytes), location);
    }

    #[test]
    fn memo_member() {
        let member = join_memo(b"wc", b"42");
        assert_eq!(member, b"\x02\0wc42");
        assert_eq!(split_memo(&member), Ok((&b"wc"[..], &b"42"[..])));
        assert_eq!(split_memo(b"\x03\0wc"), Err("a memo is cut short"));
    }
}
