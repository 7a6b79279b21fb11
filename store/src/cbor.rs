//! Deterministic CBOR (RFC 8949 section 4.2.1): one value, one encoding.
//!
//! Integers, lengths and floats are written in their shortest form by the encoder. The order of map keys is
//! the order in which a struct declares its fields: **declare them sorted bytewise by their encoded names**
//! (shorter names first, then bytewise). [`from_slice`] accepts only what [`to_vec`] would have written, so
//! a struct declared out of order still round-trips but is not deterministic CBOR to other readers.

use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Nesting allowed in what is decoded.
const MAX_DEPTH: usize = 128;

/// Why bytes are not the deterministic encoding of the wanted type.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CborError {
    /// Not CBOR, or not of this type.
    #[error("not valid CBOR for this type")]
    Decode(#[source] ciborium::de::Error<std::io::Error>),
    /// Bytes follow the value.
    #[error("{0} bytes follow the CBOR value")]
    Trailing(usize),
    /// The same value has another, shorter or ordered, encoding.
    #[error("not the deterministic encoding (RFC 8949 section 4.2.1) of its value")]
    NotDeterministic,
}

/// Encodes `value`. Panics if its `Serialize` implementation reports an error of its own.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    ciborium::into_writer(value, &mut bytes).expect("writing to memory fails only if the type's Serialize does");
    bytes
}

/// Decodes bytes from an untrusted source: bounded depth, no trailing bytes, deterministic encodings only.
pub fn from_slice<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, CborError> {
    let mut rest = bytes;
    let value: T = ciborium::de::from_reader_with_recursion_limit(&mut rest, MAX_DEPTH).map_err(CborError::Decode)?;
    if !rest.is_empty() {
        return Err(CborError::Trailing(rest.len()));
    }
    match to_vec(&value) == bytes {
        true => Ok(value),
        false => Err(CborError::NotDeterministic),
    }
}

/// A CBOR byte string (serde would write a `Vec<u8>` as an array of integers).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        deserializer.deserialize_byte_buf(BytesVisitor)
    }
}

struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a byte string")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
        Ok(Bytes(bytes.to_vec()))
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
        Ok(Bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Sample {
        a: u64,
        bb: Bytes,
    }

    #[test]
    fn golden_struct() {
        let sample = Sample { a: 500, bb: Bytes(vec![1, 2]) };
        let bytes = to_vec(&sample);
        assert_eq!(bytes, [0xa2, 0x61, b'a', 0x19, 1, 0xf4, 0x62, b'b', b'b', 0x42, 1, 2]);
        assert_eq!(from_slice::<Sample>(&bytes).unwrap(), sample);
    }

    #[test]
    fn refuses_what_is_not_deterministic() {
        let refused = |bytes: &[u8]| matches!(from_slice::<u64>(bytes), Err(CborError::NotDeterministic));
        assert_eq!(from_slice::<u64>(&[0x18, 24]).unwrap(), 24);
        assert!(refused(&[0x18, 5]), "5 in two bytes");
        assert!(refused(&[0x19, 0, 24]), "24 in three bytes");
        let indefinite = from_slice::<Bytes>(&[0x5f, 0x41, 1, 0xff]);
        assert!(matches!(indefinite, Err(CborError::NotDeterministic)), "indefinite length");
        let keys_swapped = [0xa2, 0x62, b'b', b'b', 0x40, 0x61, b'a', 1];
        assert!(matches!(from_slice::<Sample>(&keys_swapped), Err(CborError::NotDeterministic)));
    }

    #[test]
    fn refuses_trailing_bytes_and_depth() {
        assert!(matches!(from_slice::<u64>(&[1, 2]), Err(CborError::Trailing(1))));
        let deep = [0x81; 100_000];
        assert!(matches!(from_slice::<ciborium::Value>(&deep), Err(CborError::Decode(_))));
    }

    #[test]
    fn huge_claimed_lengths_allocate_nothing() {
        let string = [0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert!(matches!(from_slice::<Bytes>(&string), Err(CborError::Decode(_))));
        let array = [0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert!(matches!(from_slice::<Vec<Bytes>>(&array), Err(CborError::Decode(_))));
    }
}
