//! CIDs as they come from outside: a name of this store in any spelling, or another digest of a file's content.
//!
//! [`Cid`] has one spelling, so that equal things compare equal. What a person pastes may be spelled in any multibase
//! and name the bytes by SHA-2 or SHA-3; this type takes it all in, and leads back to a [`Cid`] through
//! [`crate::Store::alias`].

use std::str::FromStr;

use cid::multibase;

use crate::cid::{BLAKE3_256, Cid, CidError, Codec, malformed};
use crate::digest::{Algorithm, Digest};

/// Longer texts are not looked at. The longest spelling of 64 bytes of digest, base 2, stays below; some bases take
/// quadratic time.
const MAX_TEXT_BYTES: usize = 1024;

/// A CID, by the digest it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyCid {
    /// By BLAKE3-256: a name of this store.
    Own(Cid),
    /// By another digest of a file's content. Which file that is, only a store can tell that has computed it.
    Foreign(Digest),
}

impl FromStr for AnyCid {
    type Err = CidError;

    fn from_str(text: &str) -> Result<AnyCid, CidError> {
        let parsed = parse(text)?;
        let code = parsed.hash().code();
        if code == BLAKE3_256 {
            return Cid::from_parsed(&parsed).map(AnyCid::Own);
        }
        let algorithm = Algorithm::ALL.into_iter().find(|algorithm| algorithm.code() == code);
        let algorithm = algorithm.ok_or(CidError::Digest(code))?;
        if parsed.version() != cid::Version::V1 {
            return Err(CidError::Version(parsed.version().into()));
        }
        if parsed.codec() != u64::from(Codec::Raw.code()) {
            return Err(CidError::NotContent(parsed.codec()));
        }
        let digest = parsed.hash().digest();
        let bytes = digest.try_into().map_err(|_| CidError::DigestLength(digest.len()))?;
        Ok(AnyCid::Foreign(Digest { algorithm, bytes }))
    }
}

/// The whole text as a CID. The parser alone would also look behind a "/ipfs/", and pass over bytes that follow.
fn parse(text: &str) -> Result<cid::Cid, CidError> {
    if text.len() > MAX_TEXT_BYTES || text.contains("/ipfs/") {
        return Err(CidError::Malformed("too long, or a path".into()));
    }
    let parsed = cid::Cid::try_from(text).map_err(malformed)?;
    if parsed.version() == cid::Version::V1 {
        let (_, bytes) = multibase::decode(text).map_err(|error| CidError::Malformed(error.to_string()))?;
        if bytes != parsed.to_bytes() {
            return Err(CidError::Malformed("bytes follow it".into()));
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use multihash::Multihash;

    use super::*;

    const BASES: [multibase::Base; 8] = [
        multibase::Base::Base2,
        multibase::Base::Base16Lower,
        multibase::Base::Base32Lower,
        multibase::Base::Base32Upper,
        multibase::Base::Base36Lower,
        multibase::Base::Base58Btc,
        multibase::Base::Base64,
        multibase::Base::Base64Url,
    ];

    fn spelled(codec: u64, code: u64, digest: &[u8]) -> cid::Cid {
        cid::Cid::new_v1(codec, Multihash::wrap(code, digest).unwrap())
    }

    #[test]
    fn every_base_spells_the_same() {
        let own = Cid::of(Codec::DagCbor, b"abc");
        let parsed = spelled(0x71, 0x1e, &own.hash.0);
        for algorithm in Algorithm::ALL {
            let digest = Digest::of(algorithm, b"abc");
            let foreign = spelled(0x55, algorithm.code(), &digest.bytes);
            assert_eq!(foreign.to_string(), digest.to_string());
            for base in BASES {
                assert_eq!(foreign.to_string_of_base(base).unwrap().parse(), Ok(AnyCid::Foreign(digest)), "{base:?}");
                assert_eq!(parsed.to_string_of_base(base).unwrap().parse(), Ok(AnyCid::Own(own)), "{base:?}");
            }
        }
    }

    #[test]
    fn other_cids_are_refused_by_reason() {
        let parse = |text: &str| text.parse::<AnyCid>();
        let with = |codec, code, digest: &[u8]| parse(&spelled(codec, code, digest).to_string());
        assert_eq!(parse("QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n"), Err(CidError::Version(0)));
        assert_eq!(with(0x70, 0x12, &[0; 32]), Err(CidError::NotContent(0x70)));
        assert_eq!(with(0x71, 0x16, &[0; 32]), Err(CidError::NotContent(0x71)));
        assert_eq!(with(0x70, 0x1e, &[0; 32]), Err(CidError::Codec(0x70)));
        assert_eq!(with(0x55, 0x12, &[0; 20]), Err(CidError::DigestLength(20)));
        let sha2_512 = with(0x55, 0x13, &[0; 64]).unwrap_err();
        assert_eq!(sha2_512, CidError::Digest(0x13));
        assert_eq!(
            sha2_512.to_string(),
            "CID multihash 0x13 is not supported; BLAKE3-256 (0x1e), sha2-256 (0x12) and sha3-256 (0x16) are"
        );
    }

    #[test]
    fn what_is_no_cid() {
        let digest = Digest::of(Algorithm::Sha2_256, b"abc");
        let bytes = [spelled(0x55, 0x12, &digest.bytes).to_bytes(), vec![0]].concat();
        let long = multibase::encode(multibase::Base::Base32Lower, &bytes);
        for text in ["", "war.txt", "bananas", &format!("/ipfs/{digest}"), &format!("{digest} "), &long] {
            assert!(text.parse::<AnyCid>().is_err_and(|error| error.is_no_cid()), "{text}");
        }
        assert!("z".repeat(10 << 20).parse::<AnyCid>().is_err_and(|error| error.is_no_cid()));
    }
}
