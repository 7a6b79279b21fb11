//! The record that ends packs: what lies in them was copied or is no longer wanted.
//!
//! Body, stored plain: count x pack id u32. It stands in the meta pack, and holds with the commit that follows it. The
//! files are removed afterwards; a crash in between leaves that to the next opening.

use crate::record::{self, Kind};

/// The record for `packs`.
pub fn encode(packs: &[u32]) -> Vec<u8> {
    let body: Vec<u8> = packs.iter().flat_map(|id| id.to_le_bytes()).collect();
    record::encode_plain(Kind::Retire, &body)
}

/// The packs of a record's body.
pub fn decode(body: &[u8]) -> Option<Vec<u32>> {
    let (ids, rest) = body.as_chunks::<4>();
    rest.is_empty().then(|| ids.iter().map(|id| u32::from_le_bytes(*id)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_retire() {
        let record = encode(&[3, 0x0102]);
        assert_eq!(record[24..], *b"\x03\0\0\0\x02\x01\0\0");
        assert_eq!(decode(&record[24..]), Some(vec![3, 0x0102]));
        assert_eq!(decode(&record[24..31]), None);
    }
}
