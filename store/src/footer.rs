//! The footer that seals a full pack: the offsets of its records, findable from the end of the file.
//!
//! Body, stored plain: count x record offset u32, then count u32, then the magic `gEnd`.

use crate::error::Error;
use crate::pack::{FILE_HEADER_BYTES, PackFile};
use crate::record::{self, HEADER_BYTES, Kind, Record};
use crate::walk::{Depth, Step, Walk};

const MAGIC: [u8; 4] = *b"gEnd";
const TRAILER_BYTES: u64 = 8;

/// The footer record for a pack whose records end at `end`.
pub fn encode(pack: &PackFile, end: u64) -> Result<Vec<u8>, Error> {
    let (mut body, mut count) = (Vec::new(), 0u32);
    for step in Walk::new(pack, FILE_HEADER_BYTES, end, Depth::Tables)? {
        if let Step::Record(found) = step? {
            body.extend_from_slice(&(found.offset as u32).to_le_bytes());
            count += 1;
        }
    }
    body.extend_from_slice(&count.to_le_bytes());
    body.extend_from_slice(&MAGIC);
    Ok(record::encode_plain(Kind::Footer, &body))
}

/// The offsets in a footer's body.
pub fn offsets(body: &[u8]) -> Option<Vec<u32>> {
    let (list, trailer) = body.split_at_checked(body.len().checked_sub(TRAILER_BYTES as usize)?)?;
    let (offsets, rest) = list.as_chunks::<4>();
    let count = u32::from_le_bytes(*trailer.first_chunk()?) as usize;
    let whole = rest.is_empty() && offsets.len() == count && trailer[4..] == MAGIC;
    whole.then(|| offsets.iter().map(|offset| u32::from_le_bytes(*offset)).collect())
}

/// Whether the pack ends with a valid footer.
pub fn is_sealed(pack: &PackFile) -> Result<bool, Error> {
    let size_bytes = pack.size_bytes()?;
    if size_bytes < FILE_HEADER_BYTES + HEADER_BYTES as u64 + TRAILER_BYTES {
        return Ok(false);
    }
    let mut trailer = [0; TRAILER_BYTES as usize];
    pack.read_at(size_bytes - TRAILER_BYTES, &mut trailer)?;
    let count = u32::from_le_bytes(trailer[..4].try_into().expect("four of eight bytes"));
    let record_bytes = HEADER_BYTES as u64 + u64::from(count) * 4 + TRAILER_BYTES;
    if trailer[4..] != MAGIC || record_bytes > size_bytes - FILE_HEADER_BYTES {
        return Ok(false);
    }
    let mut bytes = vec![0; record_bytes as usize];
    pack.read_at(size_bytes - record_bytes, &mut bytes)?;
    Ok(Record::decode(bytes).is_ok_and(|record| record.kind == Kind::Footer))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::disk::Files;
    use crate::hash::Hash;
    use crate::pack::{Class, Packs, Room};
    use crate::record::Draft;

    #[test]
    fn golden_footer() {
        let dir = tempfile::tempdir().unwrap();
        let pack = Packs::open(Arc::new(Files::new(dir.path().into()))).unwrap().create(Class::Data).unwrap();
        let mut draft = Draft::default();
        draft.push(&Hash::of(b"abc"), true, b"abc");
        let record = draft.seal(Kind::Chunks).parts().concat();
        pack.append(24, &record, Room::Plenty).unwrap();
        pack.append(24 + 63, &record, Room::Plenty).unwrap();
        assert!(!is_sealed(&pack).unwrap());
        let footer = encode(&pack, 24 + 126).unwrap();
        assert_eq!(footer[24..], *b"\x18\0\0\0\x57\0\0\0\x02\0\0\0gEnd");
        assert_eq!((offsets(&footer[24..]), offsets(&footer[28..])), (Some(vec![24, 24 + 63]), None));
        pack.append(24 + 126, &footer, Room::Plenty).unwrap();
        assert!(is_sealed(&pack).unwrap());
        pack.truncate(24 + 126 + footer.len() as u64 - 1).unwrap();
        assert!(!is_sealed(&pack).unwrap());
    }
}
