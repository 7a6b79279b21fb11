//! The commit record: it makes everything written before it visible, all or nothing.
//!
//! ```text
//! 0              8                16           20
//! | sequence u64 | span start u64 | flags u32  | count u32 | count x { data pack id u32 | length u64 } |
//! ```
//!
//! Flag bit 0: durable, i.e. the listed data and every earlier commit were synced before this record was
//! written. The span is what was written to the meta pack together with this record.

use crate::record::{self, Kind};

const DURABLE: u32 = 1;
const HEAD_BYTES: usize = 24;
const ENTRY_BYTES: usize = 12;

/// One commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// One more than the commit before; the first is 1.
    pub sequence: u64,
    /// Offset in the meta pack at which this commit's records begin.
    pub span_start: u64,
    pub durable: bool,
    /// Data packs written to since the last commit, and how far each now reaches.
    pub data: Vec<(u32, u64)>,
}

impl Commit {
    /// The whole record.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(HEAD_BYTES + self.data.len() * ENTRY_BYTES);
        body.extend_from_slice(&self.sequence.to_le_bytes());
        body.extend_from_slice(&self.span_start.to_le_bytes());
        body.extend_from_slice(&u32::from(self.durable).to_le_bytes());
        body.extend_from_slice(&(self.data.len() as u32).to_le_bytes());
        for (id, end) in &self.data {
            body.extend_from_slice(&id.to_le_bytes());
            body.extend_from_slice(&end.to_le_bytes());
        }
        record::encode_plain(Kind::Commit, &body)
    }

    /// Parses the record's body.
    pub fn decode(body: &[u8]) -> Option<Commit> {
        let (head, list) = body.split_at_checked(HEAD_BYTES)?;
        let le64 = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).ok();
        let le32 = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes).ok();
        let count = le32(&head[20..])? as usize;
        let data = list
            .chunks_exact(ENTRY_BYTES)
            .map(|entry| Some((le32(&entry[..4])?, le64(&entry[4..])?)))
            .collect::<Option<Vec<_>>>()?;
        (list.len() == count * ENTRY_BYTES).then_some(Commit {
            sequence: le64(&head[..8])?,
            span_start: le64(&head[8..16])?,
            durable: le32(&head[16..20])? & DURABLE != 0,
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_commit() {
        let commit = Commit { sequence: 3, span_start: 24, durable: true, data: vec![(1, 0x0102)] };
        let record = commit.encode();
        let body = [
            3, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, //
            1, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(record[24..], body);
        assert_eq!(Commit::decode(&body), Some(commit));
        assert_eq!(Commit::decode(&body[..35]), None);
    }
}
