//! Inode numbers, which programs compare to tell files apart: of the content below `/in` and `/grid`, of the path below
//! `/out`, counted in memory.

use gridfs_store::{Object, Target};

use crate::guest::{Found, Place};
use crate::out::OutPath;
use crate::scratch;

/// The number of what has none of its own: standard streams, and "..".
pub(crate) const NONE: u64 = 0;

pub(crate) fn of_object(object: &Object) -> u64 {
    first_8(&object.cid().hash.0)
}

pub(crate) fn of_target(target: &Target) -> u64 {
    match target {
        Target::File { cid, .. } | Target::Directory { cid } => first_8(&cid.hash.0),
        Target::Symlink { target } => of_name(&[b"link", target]),
    }
}

pub(crate) fn of_out(path: &OutPath) -> u64 {
    let path: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
    of_name(&[b"out", &path.join(&b'/')])
}

pub(crate) fn of_scratch(number: scratch::Number) -> u64 {
    number as u64 + 1
}

pub(crate) fn of_place(place: &Place) -> u64 {
    match place {
        Place::In => of_name(&[b"in"]),
        Place::Grid => of_name(&[b"grid"]),
        Place::Out(path) => of_out(path),
        Place::Stored(cid) => first_8(&cid.hash.0),
        Place::Scratch(number) => of_scratch(*number),
    }
}

pub(crate) fn of_found(found: &Found) -> u64 {
    match found {
        Found::In => of_place(&Place::In),
        Found::Grid => of_place(&Place::Grid),
        Found::Stored(target) => of_target(target),
    }
}

fn of_name(parts: &[&[u8]]) -> u64 {
    first_8(blake3::hash(&parts.join(&b'/')).as_bytes())
}

fn first_8(hash: &[u8; 32]) -> u64 {
    u64::from_le_bytes(hash[..8].try_into().expect("8 of 32 bytes"))
}
