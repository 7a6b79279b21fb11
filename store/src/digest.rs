//! Digests other than BLAKE3, by which the world outside names the same bytes.
//!
//! They are made here from content and only here: a digest that somebody claims is a question, never a fact.

use std::fmt;
use std::str::FromStr;

use multihash::Multihash;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::cid::Codec;
use crate::error::Error;

/// Length of every digest here.
const DIGEST_BYTES: usize = 32;

/// How a digest is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// SHA-256 (FIPS 180-4), multihash 0x12.
    #[serde(rename = "sha2-256")]
    Sha2_256,
    /// SHA3-256 (FIPS 202), multihash 0x16.
    #[serde(rename = "sha3-256")]
    Sha3_256,
}

impl Algorithm {
    /// All there are.
    pub const ALL: [Algorithm; 2] = [Algorithm::Sha2_256, Algorithm::Sha3_256];

    /// The multihash code.
    pub const fn code(self) -> u64 {
        match self {
            Algorithm::Sha2_256 => 0x12,
            Algorithm::Sha3_256 => 0x16,
        }
    }

    /// The multihash name.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Sha2_256 => "sha2-256",
            Algorithm::Sha3_256 => "sha3-256",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Algorithm, Error> {
        let found = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == text);
        found.ok_or_else(|| Error::Algorithm { text: text.to_owned() })
    }
}

/// A digest of some bytes. Its text is the CID, version 1 and codec raw, that names the bytes by it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest {
    /// How it was computed.
    pub algorithm: Algorithm,
    /// The digest itself.
    pub bytes: [u8; DIGEST_BYTES],
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Code, length and digest, as the multihash specification has them.
    pub(crate) fn to_multihash(self) -> Multihash<64> {
        Multihash::wrap(self.algorithm.code(), &self.bytes).expect("32 bytes fit a 64-byte multihash")
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&cid::Cid::new_v1(Codec::Raw.code().into(), self.to_multihash()), f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A digest in the making.
pub(crate) enum Hasher {
    Sha2(sha2::Sha256),
    Sha3(Box<sha3::Sha3_256>),
}

impl Hasher {
    pub fn new(algorithm: Algorithm) -> Hasher {
        match algorithm {
            Algorithm::Sha2_256 => Hasher::Sha2(sha2::Sha256::new()),
            Algorithm::Sha3_256 => Hasher::Sha3(Box::default()),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha2(hasher) => hasher.update(bytes),
            Hasher::Sha3(hasher) => hasher.update(bytes),
        }
    }

    pub fn finish(self) -> Digest {
        match self {
            Hasher::Sha2(hasher) => Digest { algorithm: Algorithm::Sha2_256, bytes: hasher.finalize().into() },
            Hasher::Sha3(hasher) => Digest { algorithm: Algorithm::Sha3_256, bytes: hasher.finalize().into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4 and FIPS 202, example "abc".
    #[test]
    fn published_vectors() {
        let hex = |algorithm| Digest::of(algorithm, b"abc").bytes.map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(hex(Algorithm::Sha2_256), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hex(Algorithm::Sha3_256), "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532");
    }

    /// What `ipfs add --cid-version 1 --raw-leaves` prints for a file of "hello world".
    #[test]
    fn golden_text() {
        let text = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
        assert_eq!(Digest::of(Algorithm::Sha2_256, b"hello world").to_string(), text);
    }

    #[test]
    fn algorithms_have_their_multihash_names() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.to_string().parse::<Algorithm>().unwrap(), algorithm);
        }
        assert_eq!(
            "md5".parse::<Algorithm>().unwrap_err().to_string(),
            "\"md5\" is no digest known here; sha2-256 and sha3-256 are"
        );
    }
}
