//! A directory as an object: names and what they stand for.
//!
//! Encoding (deterministic CBOR, codec dag-cbor): `[1, [[name, kind, link-or-bytes, size?], ...]]` with kind
//! 0 file, 1 executable file, 2 directory, 3 symlink; the size is there for files only.
//!
//! Invariants of every [`Tree`], made here or decoded: entries sorted bytewise by name, names unique and
//! usable as one path component, directories are dag-cbor. Owners, times and permission bits beyond
//! "executable" are deliberately absent: equal content must have equal names.

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cbor::{self, Bytes, CborError};
use crate::cid::{Cid, Codec};

const VERSION: u64 = 1;
/// Longest name, the limit of Linux file systems.
pub const MAX_NAME_BYTES: usize = 255;
/// Longest symlink target: PATH_MAX less the terminator.
pub const MAX_SYMLINK_BYTES: usize = 4095;

/// A directory.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tree {
    entries: Vec<TreeEntry>,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeEntry {
    /// The name: 1 to 255 bytes, not necessarily UTF-8.
    pub name: Vec<u8>,
    /// What it stands for.
    pub target: Target,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A regular file.
    File {
        /// Its content.
        cid: Cid,
        /// Length of the content in bytes.
        size_bytes: u64,
        /// Whether any execute bit was set.
        executable: bool,
    },
    /// A directory, itself a tree object.
    Directory {
        /// The tree.
        cid: Cid,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, uninterpreted: 1 to 4,095 bytes without NUL.
        target: Vec<u8>,
    },
}

/// Why entries or bytes are not a directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// Not deterministic CBOR of the right shape.
    #[error("not the encoding of a tree")]
    Cbor(#[from] CborError),
    /// Written by a later version.
    #[error("tree version {0} is not supported; this program reads version 1")]
    Version(u64),
    /// A name that can't be a path component.
    #[error("{:?} can't be a name in a directory", String::from_utf8_lossy(.0))]
    Name(Vec<u8>),
    /// A name longer than 255 bytes.
    #[error("a name of {0} bytes; the limit is 255")]
    NameLength(usize),
    /// Two entries of one name.
    #[error("the name {:?} occurs twice", String::from_utf8_lossy(.0))]
    Duplicate(Vec<u8>),
    /// An encoding whose entries are out of order.
    #[error("the name {:?} is out of order", String::from_utf8_lossy(.0))]
    Unsorted(Vec<u8>),
    /// A symlink target that is empty, too long or contains NUL.
    #[error("the symlink {:?} has an impossible target", String::from_utf8_lossy(.0))]
    Symlink(Vec<u8>),
    /// A directory entry whose CID is not dag-cbor.
    #[error("the directory {:?} does not name a dag-cbor object", String::from_utf8_lossy(.0))]
    DirectoryCodec(Vec<u8>),
}

impl Tree {
    /// Sorts and checks `entries`.
    pub fn new(mut entries: Vec<TreeEntry>) -> Result<Tree, TreeError> {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        check(&entries)?;
        Ok(Tree { entries })
    }

    /// The one encoding of this directory.
    pub fn encode(&self) -> Vec<u8> {
        cbor::to_vec(&(VERSION, &self.entries))
    }

    /// Decodes bytes from an untrusted source.
    pub fn decode(bytes: &[u8]) -> Result<Tree, TreeError> {
        let (version, entries): (u64, Vec<TreeEntry>) = cbor::from_slice(bytes)?;
        if version != VERSION {
            return Err(TreeError::Version(version));
        }
        check(&entries)?;
        Ok(Tree { entries })
    }

    /// Looks up a name.
    pub fn get(&self, name: &[u8]) -> Option<&TreeEntry> {
        let at = self.entries.binary_search_by(|entry| entry.name.as_slice().cmp(name)).ok()?;
        Some(&self.entries[at])
    }

    /// All entries, sorted bytewise by name.
    pub fn entries(&self) -> &[TreeEntry] {
        &self.entries
    }
}

fn check(entries: &[TreeEntry]) -> Result<(), TreeError> {
    for entry in entries {
        check_name(&entry.name)?;
        check_target(entry)?;
    }
    for pair in entries.windows(2) {
        match pair[0].name.cmp(&pair[1].name) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => return Err(TreeError::Duplicate(pair[1].name.clone())),
            std::cmp::Ordering::Greater => return Err(TreeError::Unsorted(pair[1].name.clone())),
        }
    }
    Ok(())
}

fn check_name(name: &[u8]) -> Result<(), TreeError> {
    if name.len() > MAX_NAME_BYTES {
        return Err(TreeError::NameLength(name.len()));
    }
    let reserved = name.is_empty() || name == b"." || name == b"..";
    match reserved || name.contains(&b'/') || name.contains(&0) {
        true => Err(TreeError::Name(name.to_vec())),
        false => Ok(()),
    }
}

fn check_target(entry: &TreeEntry) -> Result<(), TreeError> {
    match &entry.target {
        Target::File { .. } => Ok(()),
        Target::Directory { cid } if cid.codec == Codec::DagCbor => Ok(()),
        Target::Directory { .. } => Err(TreeError::DirectoryCodec(entry.name.clone())),
        Target::Symlink { target } => {
            let possible = (1..=MAX_SYMLINK_BYTES).contains(&target.len()) && !target.contains(&0);
            possible.then_some(()).ok_or_else(|| TreeError::Symlink(entry.name.clone()))
        }
    }
}

struct BytesRef<'a>(&'a [u8]);

impl Serialize for BytesRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl Serialize for TreeEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = if matches!(self.target, Target::File { .. }) { 4 } else { 3 };
        let mut seq = serializer.serialize_seq(Some(fields))?;
        seq.serialize_element(&BytesRef(&self.name))?;
        match &self.target {
            Target::File { cid, size_bytes, executable } => {
                seq.serialize_element(&u8::from(*executable))?;
                seq.serialize_element(cid)?;
                seq.serialize_element(size_bytes)?;
            }
            Target::Directory { cid } => {
                seq.serialize_element(&2u8)?;
                seq.serialize_element(cid)?;
            }
            Target::Symlink { target } => {
                seq.serialize_element(&3u8)?;
                seq.serialize_element(&BytesRef(target))?;
            }
        }
        seq.end()
    }
}

impl<'de> Deserialize<'de> for TreeEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TreeEntry, D::Error> {
        deserializer.deserialize_seq(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = TreeEntry;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a tree entry")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<TreeEntry, A::Error> {
        let Bytes(name) = field(&mut seq)?;
        let target = match field::<u64, _>(&mut seq)? {
            kind @ (0 | 1) => {
                Target::File { cid: field(&mut seq)?, size_bytes: field(&mut seq)?, executable: kind == 1 }
            }
            2 => Target::Directory { cid: field(&mut seq)? },
            3 => Target::Symlink { target: field::<Bytes, _>(&mut seq)?.0 },
            other => return Err(A::Error::custom(format_args!("unknown kind of tree entry {other}"))),
        };
        match seq.next_element::<serde::de::IgnoredAny>()? {
            None => Ok(TreeEntry { name, target }),
            Some(_) => Err(A::Error::custom("a tree entry has too many fields")),
        }
    }
}

fn field<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(seq: &mut A) -> Result<T, A::Error> {
    seq.next_element()?.ok_or_else(|| A::Error::custom("a tree entry has too few fields"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &[u8]) -> TreeEntry {
        let target = Target::File { cid: Cid::of(Codec::Raw, b"x"), size_bytes: 1, executable: false };
        TreeEntry { name: name.to_vec(), target }
    }

    fn link(name: &[u8], target: &[u8]) -> TreeEntry {
        TreeEntry { name: name.to_vec(), target: Target::Symlink { target: target.to_vec() } }
    }

    /// Encodes entries without any check.
    fn unchecked(version: u64, entries: &[TreeEntry]) -> Vec<u8> {
        cbor::to_vec(&(version, entries))
    }

    #[test]
    fn golden_encoding() {
        let raw = Cid::of(Codec::Raw, b"");
        let dir = Cid::of(Codec::DagCbor, &[0x82, 1, 0x80]);
        let run = Target::File { cid: raw, size_bytes: 300, executable: true };
        let entries = vec![
            TreeEntry { name: b"run".to_vec(), target: run },
            link(b"l", b"../x"),
            TreeEntry { name: b"d".to_vec(), target: Target::Directory { cid: dir } },
            TreeEntry { name: b"e".to_vec(), target: Target::File { cid: raw, size_bytes: 0, executable: false } },
        ];
        let tree = Tree::new(entries).unwrap();
        let link_head = [0xd8, 42, 0x58, 37, 0];
        let expected = [
            &[0x82, 1, 0x84, 0x83, 0x41, b'd', 2][..],
            &link_head,
            &dir.to_bytes(),
            &[0x84, 0x41, b'e', 0],
            &link_head,
            &raw.to_bytes(),
            &[0, 0x83, 0x41, b'l', 3, 0x44],
            b"../x",
            &[0x84, 0x43, b'r', b'u', b'n', 1],
            &link_head,
            &raw.to_bytes(),
            &[0x19, 1, 0x2c],
        ]
        .concat();
        assert_eq!(tree.encode(), expected);
        assert_eq!(Tree::decode(&expected).unwrap(), tree);
        assert_eq!(Tree::default().encode(), [0x82, 1, 0x80]);
        assert_eq!(tree.get(b"l"), Some(&link(b"l", b"../x")));
        assert_eq!(tree.get(b"m"), None);
    }

    #[test]
    fn hostile_names_are_refused_both_ways() {
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0"] {
            assert!(matches!(Tree::decode(&unchecked(1, &[file(name)])), Err(TreeError::Name(n)) if n == name));
            assert!(matches!(Tree::new(vec![file(name)]), Err(TreeError::Name(n)) if n == name));
        }
        let longest = vec![b'n'; 255];
        assert!(Tree::new(vec![file(&longest)]).is_ok());
        assert!(matches!(Tree::new(vec![file(&[b'n'; 256])]), Err(TreeError::NameLength(256))));
    }

    #[test]
    fn order_and_uniqueness_are_demanded() {
        let unsorted = unchecked(1, &[file(b"b"), file(b"a")]);
        assert!(matches!(Tree::decode(&unsorted), Err(TreeError::Unsorted(name)) if name == b"a"));
        let twice = unchecked(1, &[file(b"a"), file(b"a")]);
        assert!(matches!(Tree::decode(&twice), Err(TreeError::Duplicate(name)) if name == b"a"));
        assert!(matches!(Tree::new(vec![file(b"a"), link(b"a", b"x")]), Err(TreeError::Duplicate(_))));
        let sorted = Tree::new(vec![file(b"b"), file(b"a")]).unwrap();
        assert_eq!(sorted.entries(), [file(b"a"), file(b"b")]);
    }

    #[test]
    fn impossible_targets_are_refused() {
        for target in [&b""[..], b"a\0b", &[b'x'; 4096]] {
            assert!(matches!(Tree::decode(&unchecked(1, &[link(b"l", target)])), Err(TreeError::Symlink(_))));
        }
        let raw = TreeEntry { name: b"d".to_vec(), target: Target::Directory { cid: Cid::of(Codec::Raw, b"") } };
        assert!(matches!(Tree::decode(&unchecked(1, &[raw])), Err(TreeError::DirectoryCodec(_))));
    }

    #[test]
    fn other_encodings_are_refused() {
        let cbor_error = |bytes: &[u8]| matches!(Tree::decode(bytes), Err(TreeError::Cbor(_)));
        assert!(matches!(Tree::decode(&unchecked(2, &[])), Err(TreeError::Version(2))));
        assert!(cbor_error(&[]), "nothing");
        assert!(cbor_error(&[0x82, 1, 0x80, 0]), "trailing byte");
        assert!(cbor_error(&[0x82, 0x18, 1, 0x80]), "version in two bytes");
        assert!(cbor_error(&[0x9f, 1, 0x80, 0xff]), "indefinite length");
        assert!(cbor_error(&[0x83, 1, 0x80, 0]), "a third field");
        assert!(cbor_error(&[0x82, 1, 0x81, 0x83, 0x41, b'a', 4, 0x40]), "kind 4");
        assert!(cbor_error(&[0x82, 1, 0x81, 0x83, 0x61, b'a', 3, 0x41, b'x']), "a name as text");
        assert!(cbor_error(&[0x82, 1, 0x81, 0x82, 0x41, b'a', 3]), "a field short");
        assert!(cbor_error(&[0x82, 1, 0x81, 0x84, 0x41, b'a', 3, 0x41, b'x', 0]), "a field too many");
        assert!(cbor_error(&[0x82, 1, 0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), "huge count");
        let huge_name = [0x82, 1, 0x81, 0x83, 0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert!(cbor_error(&huge_name), "huge name");
    }
}
