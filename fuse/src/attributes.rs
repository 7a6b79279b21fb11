//! A node's attributes as the kernel wants them.

use fuser::{FileAttr, FileType, INodeNo};

use crate::tree::{Attr, Kind};

/// Block size that `stat` and `statfs` report, in bytes.
pub(crate) const BLOCK_BYTES: u32 = 4096;

/// Unit of `st_blocks`, in bytes (stat(3type)).
const SECTOR_BYTES: u64 = 512;

/// Whom everything in the mount belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    /// `attr` of the node with the inode number `ino`.
    pub(crate) fn file_attr(self, ino: u64, attr: &Attr) -> FileAttr {
        let (perm, nlink) = match attr.kind {
            Kind::File { executable: false } => (0o444, 1),
            Kind::File { executable: true } => (0o555, 1),
            Kind::Directory => (0o555, 2),
            Kind::Symlink => (0o777, 1),
        };
        FileAttr {
            ino: INodeNo(ino),
            size: attr.size,
            blocks: attr.size.div_ceil(SECTOR_BYTES),
            atime: attr.time,
            mtime: attr.time,
            ctime: attr.time,
            crtime: attr.time,
            kind: file_type(attr.kind),
            perm,
            nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        }
    }
}

/// The type that a directory entry shows.
pub(crate) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File { .. } => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn shown(kind: Kind, size: u64) -> FileAttr {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        let attr = Attr { kind, size, time, ttl: Duration::ZERO };
        Owner { uid: 7, gid: 8 }.file_attr(99, &attr)
    }

    #[test]
    fn modes_and_links_follow_the_kind() {
        let of = |kind| {
            let attr = shown(kind, 0);
            (attr.kind, attr.perm, attr.nlink)
        };
        assert_eq!(of(Kind::File { executable: false }), (FileType::RegularFile, 0o444, 1));
        assert_eq!(of(Kind::File { executable: true }), (FileType::RegularFile, 0o555, 1));
        assert_eq!(of(Kind::Directory), (FileType::Directory, 0o555, 2));
        assert_eq!(of(Kind::Symlink), (FileType::Symlink, 0o777, 1));
    }

    #[test]
    fn blocks_are_sectors_rounded_up() {
        let blocks = |size| shown(Kind::File { executable: false }, size).blocks;
        assert_eq!([0, 1, 512, 513, 4096, u64::MAX].map(blocks), [0, 1, 1, 2, 8, 1 << 55]);
    }

    #[test]
    fn owner_number_and_times_are_carried_over() {
        let attr = shown(Kind::Directory, 3);
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        assert_eq!((attr.ino, attr.uid, attr.gid, attr.blksize), (INodeNo(99), 7, 8, 4096));
        assert_eq!([attr.atime, attr.mtime, attr.ctime, attr.crtime], [time; 4]);
    }
}
