//! Content identifiers: the names of objects.
//!
//! A CID here is always version 1, one of two codecs, and a BLAKE3-256 multihash; its one text form is
//! multibase base32 lower case (59 characters). Everything else is refused with its reason, so that equal
//! content has exactly one name. [`crate::AnyCid`] takes in what is spelled otherwise.

use std::fmt;
use std::str::FromStr;

use ciborium::tag::Required;
use multihash::Multihash;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cbor::Bytes;
use crate::hash::Hash;

/// The multihash code.
pub(crate) const BLAKE3_256: u64 = 0x1e;
const DIGEST_BYTES: u8 = 32;
/// CBOR tag of an IPLD link (DAG-CBOR specification, "Links").
const LINK_TAG: u64 = 42;

/// What the bytes of an object are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// Plain bytes, multicodec 0x55.
    Raw,
    /// Deterministic CBOR, multicodec 0x71: trees and records.
    DagCbor,
}

impl Codec {
    /// The multicodec number.
    pub const fn code(self) -> u8 {
        match self {
            Codec::Raw => 0x55,
            Codec::DagCbor => 0x71,
        }
    }
}

/// The name of an object: its codec and the BLAKE3 hash of its whole content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cid {
    /// How to read the content.
    pub codec: Codec,
    /// BLAKE3 of the content.
    pub hash: Hash,
}

/// Why bytes or text are not a CID of this store.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CidError {
    /// Not a CID at all. The parser's reason is kept as text because its error can't be compared or cloned.
    #[error("not a CID: {0}")]
    Malformed(String),
    /// A version that nobody has defined yet.
    #[error("CID version is unknown; only version 1 is supported")]
    UnknownVersion,
    /// A known version other than 1.
    #[error("CID version {0} is not supported; only version 1 is")]
    Version(u64),
    /// A codec other than raw and dag-cbor.
    #[error("CID codec {0:#x} is not supported; only raw (0x55) and dag-cbor (0x71) are")]
    Codec(u64),
    /// A multihash other than BLAKE3-256.
    #[error("CID multihash {0:#x} is not supported; only BLAKE3-256 (0x1e) is")]
    Multihash(u64),
    /// A multihash that is neither BLAKE3-256 nor a digest that files can have besides.
    #[error("CID multihash {0:#x} is not supported; BLAKE3-256 (0x1e), sha2-256 (0x12) and sha3-256 (0x16) are")]
    Digest(u64),
    /// SHA-2 or SHA-3 of something else than a file's content.
    #[error("CID codec {0:#x} is not supported with sha2-256 and sha3-256; only raw (0x55), a file's content, is")]
    NotContent(u64),
    /// A digest that is not 32 bytes long.
    #[error("CID digest has {0} bytes; those supported have 32")]
    DigestLength(usize),
    /// A CID, but not in its one canonical form.
    #[error("not the canonical form of this CID, which is {0}")]
    NotCanonical(Cid),
}

impl CidError {
    /// Whether the text or bytes are nothing like a CID.
    pub fn is_no_cid(&self) -> bool {
        matches!(self, CidError::Malformed(_) | CidError::UnknownVersion)
    }
}

impl Cid {
    /// Names `bytes`.
    pub fn of(codec: Codec, bytes: &[u8]) -> Cid {
        Cid { codec, hash: Hash::of(bytes) }
    }

    /// The binary form: version, codec, multihash code and length, digest.
    pub fn to_bytes(&self) -> [u8; 36] {
        let mut bytes = [0; 36];
        bytes[..4].copy_from_slice(&[1, self.codec.code(), BLAKE3_256 as u8, DIGEST_BYTES]);
        bytes[4..].copy_from_slice(&self.hash.0);
        bytes
    }

    /// Parses the binary form; trailing bytes are refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Cid, CidError> {
        let parsed = cid::Cid::try_from(bytes).map_err(malformed)?;
        let cid = Cid::from_parsed(&parsed)?;
        match cid.to_bytes() == bytes {
            true => Ok(cid),
            false => Err(CidError::NotCanonical(cid)),
        }
    }

    pub(crate) fn from_parsed(parsed: &cid::Cid) -> Result<Cid, CidError> {
        if parsed.version() != cid::Version::V1 {
            return Err(CidError::Version(parsed.version().into()));
        }
        let codec = match parsed.codec() {
            0x55 => Codec::Raw,
            0x71 => Codec::DagCbor,
            other => return Err(CidError::Codec(other)),
        };
        if parsed.hash().code() != BLAKE3_256 {
            return Err(CidError::Multihash(parsed.hash().code()));
        }
        let digest = parsed.hash().digest();
        let hash = digest.try_into().map_err(|_| CidError::DigestLength(digest.len()))?;
        Ok(Cid { codec, hash: Hash(hash) })
    }

    fn to_parsed(self) -> cid::Cid {
        let hash = Multihash::wrap(BLAKE3_256, &self.hash.0).expect("32 bytes fit a 64-byte multihash");
        cid::Cid::new_v1(self.codec.code().into(), hash)
    }
}

pub(crate) fn malformed(error: cid::Error) -> CidError {
    match error {
        cid::Error::InvalidCidVersion => CidError::UnknownVersion,
        other => CidError::Malformed(other.to_string()),
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_parsed(), f)
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Cid {
    type Err = CidError;

    fn from_str(text: &str) -> Result<Cid, CidError> {
        let parsed = cid::Cid::try_from(text).map_err(malformed)?;
        let cid = Cid::from_parsed(&parsed)?;
        match cid.to_string() == text {
            true => Ok(cid),
            false => Err(CidError::NotCanonical(cid)),
        }
    }
}

impl Serialize for Cid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut link = Vec::with_capacity(37);
        link.push(0);
        link.extend_from_slice(&self.to_bytes());
        Required::<_, LINK_TAG>(Bytes(link)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Cid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cid, D::Error> {
        let Required(Bytes(link)) = Required::<Bytes, LINK_TAG>::deserialize(deserializer)?;
        match link.split_first() {
            Some((0, bytes)) => Cid::from_bytes(bytes).map_err(serde::de::Error::custom),
            _ => Err(serde::de::Error::custom("a link must begin with the identity multibase byte 0x00")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor;

    const EMPTY_RAW: &str = "bafkr4ifpcne3t5pzugtkaqcn5i3nzskjtpfslsnnyejlpte2spfoihzsmi";

    #[test]
    fn golden_text() {
        let raw = Cid::of(Codec::Raw, b"");
        assert_eq!(raw.to_string(), EMPTY_RAW);
        assert_eq!(EMPTY_RAW.len(), 59);
        assert_eq!(EMPTY_RAW.parse(), Ok(raw));
        let tree = Cid::of(Codec::DagCbor, b"");
        assert_eq!(tree.to_string(), "bafyr4ifpcne3t5pzugtkaqcn5i3nzskjtpfslsnnyejlpte2spfoihzsmi");
        assert_eq!(Cid::from_bytes(&tree.to_bytes()), Ok(tree));
    }

    #[test]
    fn golden_link() {
        let cid = Cid::of(Codec::Raw, b"");
        let bytes = cbor::to_vec(&cid);
        assert_eq!(bytes[..9], [0xd8, 42, 0x58, 37, 0, 1, 0x55, 0x1e, 0x20]);
        assert_eq!(bytes[9..], cid.hash.0);
        assert_eq!(cbor::from_slice::<Cid>(&bytes).unwrap(), cid);
        assert!(cbor::from_slice::<Cid>(&cbor::to_vec(&Bytes(bytes[4..].to_vec()))).is_err(), "untagged");
    }

    #[test]
    fn other_cids_are_refused_by_reason() {
        let v0 = "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n";
        assert_eq!(v0.parse::<Cid>(), Err(CidError::Version(0)));
        let mut v2 = Cid::of(Codec::Raw, b"").to_bytes();
        v2[0] = 2;
        assert_eq!(Cid::from_bytes(&v2), Err(CidError::UnknownVersion));
        let with = |codec, code, digest: &[u8]| {
            cid::Cid::new_v1(codec, Multihash::wrap(code, digest).unwrap()).to_string().parse::<Cid>()
        };
        assert_eq!(with(0x70, 0x1e, &[0; 32]), Err(CidError::Codec(0x70)));
        assert_eq!(with(0x55, 0x12, &[0; 32]), Err(CidError::Multihash(0x12)));
        assert_eq!(with(0x55, 0x1e, &[0; 20]), Err(CidError::DigestLength(20)));
        assert!(matches!("".parse::<Cid>(), Err(CidError::Malformed(_))));
        assert!(matches!("hello".parse::<Cid>(), Err(CidError::Malformed(_))));
    }

    #[test]
    fn only_the_canonical_form_parses() {
        let cid = Cid::of(Codec::Raw, b"");
        let upper = format!("B{}", EMPTY_RAW[1..].to_uppercase());
        for text in [upper, format!("/ipfs/{EMPTY_RAW}"), format!("{EMPTY_RAW} ")] {
            assert!(text.parse::<Cid>().is_err(), "{text}");
        }
        let base58 = cid.to_parsed().to_string_of_base(cid::multibase::Base::Base58Btc).unwrap();
        assert_eq!(base58.parse::<Cid>(), Err(CidError::NotCanonical(cid)));
        let mut long = cid.to_bytes().to_vec();
        long.push(0);
        assert!(Cid::from_bytes(&long).is_err());
        assert!(Cid::from_bytes(&long[..35]).is_err());
    }
}
