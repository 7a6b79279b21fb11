//! Parms: the tuple (promise, module, argument...) that names a call, and the memo key that names its evaluation.

use std::fmt;

use gridfs_modules::Limits;
use gridfs_store::{Cid, Hash, cbor};
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::ser::{SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};

use crate::path;

/// CBOR tag of Parms: "grid".
pub const GRID_TAG: u64 = 0x6772_6964;
/// The ABI that evaluations follow; another ABI would give other memo keys.
pub const ABI_PROFILE: &str = "grid-1";

/// One resolved argument.
#[derive(Clone, Debug, Eq, PartialEq, Hash)]
pub enum Value {
    /// A `text`, or an `int` in decimal.
    Text(String),
    /// A `blob` or `tree`: a stored object.
    Object(Cid),
}

impl Value {
    /// The argument as text: itself, or the CID.
    pub fn text(&self) -> String {
        match self {
            Value::Text(text) => text.clone(),
            Value::Object(cid) => cid.to_string(),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Text(text) => serializer.serialize_str(text),
            Value::Object(cid) => cid.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        let value = ciborium::Value::deserialize(deserializer)?;
        match value {
            ciborium::Value::Text(text) => Ok(Value::Text(text)),
            ciborium::Value::Tag(42, bytes) => match *bytes {
                ciborium::Value::Bytes(bytes) => {
                    let cid = bytes.strip_prefix(&[0]).ok_or_else(|| de::Error::custom("a link starts with 0x00"))?;
                    Cid::from_bytes(cid).map(Value::Object).map_err(de::Error::custom)
                }
                _ => Err(de::Error::custom("a link is a byte string")),
            },
            _ => Err(de::Error::custom("an argument is a text or a link")),
        }
    }
}

/// A call: who promises, what runs, on what.
#[derive(Clone, Debug, Eq, PartialEq, Hash)]
pub struct Parms {
    /// The promise under which it is called.
    pub promise: Cid,
    /// The module.
    pub module: Cid,
    /// The resolved arguments.
    pub arguments: Vec<Value>,
}

impl Parms {
    /// What an evaluation depends on: the module, and the objects it is given.
    pub fn inputs(&self) -> impl Iterator<Item = Cid> + '_ {
        let objects = self.arguments.iter().filter_map(|value| match value {
            Value::Object(cid) => Some(*cid),
            Value::Text(_) => None,
        });
        objects.chain([self.module])
    }

    /// The canonical components after the promise and module, for a module with `required` required arguments.
    /// A component may be longer than file systems take; [`Parms::fits`] tells.
    pub fn components(&self, required: usize) -> Vec<String> {
        let texts: Vec<String> = self.arguments.iter().map(Value::text).collect();
        let alone = required.saturating_sub(1).min(texts.len());
        let mut components: Vec<String> = texts[..alone].iter().map(|text| path::encode(text)).collect();
        components.push(path::encode_component(texts[alone..].iter().map(String::as_str)));
        components
    }

    /// The canonical path, `/promise/module/arguments`.
    pub fn path(&self, required: usize) -> String {
        format!("/{}/{}/{}", self.promise, self.module, self.components(required).join("/"))
    }

    /// Whether every component of the canonical path is short enough for a file system.
    pub fn fits(&self, required: usize) -> bool {
        self.components(required).iter().all(|c| c.len() <= path::MAX_COMPONENT_BYTES)
    }

    /// The bytes that travel: deterministic CBOR `0x67726964([promise, module, argument...])`.
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::to_vec(&ciborium::tag::Required::<_, GRID_TAG>(self))
    }

    /// Reads [`Parms::to_bytes`]; anything else is refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Parms, cbor::CborError> {
        cbor::from_slice::<ciborium::tag::Required<Parms, GRID_TAG>>(bytes).map(|tagged| tagged.0)
    }

    /// The memo key: BLAKE3 of the deterministic CBOR of parms, ABI profile and limits.
    pub fn memo_key(&self, limits: &Limits) -> Hash {
        let Limits { fuel, wall_ms, memory_bytes, output_bytes } = *limits;
        Hash::of(&cbor::to_vec(&(self, ABI_PROFILE, (fuel, wall_ms, memory_bytes, output_bytes))))
    }
}

impl Serialize for Parms {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(Some(2 + self.arguments.len()))?;
        sequence.serialize_element(&self.promise)?;
        sequence.serialize_element(&self.module)?;
        for argument in &self.arguments {
            sequence.serialize_element(argument)?;
        }
        sequence.end()
    }
}

impl<'de> Deserialize<'de> for Parms {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Parms, D::Error> {
        struct ParmsVisitor;
        impl<'de> Visitor<'de> for ParmsVisitor {
            type Value = Parms;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of promise, module and arguments")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Parms, A::Error> {
                let missing = |what: &str| de::Error::custom(format!("the {what} is missing"));
                let promise = sequence.next_element()?.ok_or_else(|| missing("promise"))?;
                let module = sequence.next_element()?.ok_or_else(|| missing("module"))?;
                let mut arguments = Vec::new();
                while let Some(argument) = sequence.next_element()? {
                    if arguments.len() == path::MAX_ARGUMENTS {
                        return Err(de::Error::custom("too many arguments"));
                    }
                    arguments.push(argument);
                }
                Ok(Parms { promise, module, arguments })
            }
        }
        deserializer.deserialize_seq(ParmsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use gridfs_store::Codec;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn sample() -> Parms {
        Parms {
            promise: Cid::of(Codec::DagCbor, b"promise"),
            module: Cid::of(Codec::Raw, b"module"),
            arguments: vec![Value::Object(Cid::of(Codec::Raw, b"blob")), Value::Text("-l".into())],
        }
    }

    const LIMITS: Limits = Limits { fuel: 1, wall_ms: 2, memory_bytes: 3, output_bytes: 4 };

    #[test]
    fn golden_bytes() {
        let link = |cid: Cid| format!("d82a582500{}", hex(&cid.to_bytes()));
        let parms = sample();
        let Value::Object(blob) = parms.arguments[0] else { unreachable!() };
        let expected = format!("da6772696484{}{}{}622d6c", link(parms.promise), link(parms.module), link(blob));
        assert_eq!(hex(&parms.to_bytes()), expected);
        assert_eq!(
            parms.memo_key(&LIMITS).to_string(),
            "3489b45c9d1415562db9fdb67b85bb1fdb920007ee9383f0287ea597c8af2a9c"
        );
    }

    #[test]
    fn round_trip() {
        let parms = sample();
        assert_eq!(Parms::from_bytes(&parms.to_bytes()).unwrap(), parms);
    }

    #[test]
    fn every_change_of_a_byte_is_refused_or_another_call() {
        let (parms, bytes) = (sample(), sample().to_bytes());
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[position] ^= 1 << bit;
                if let Ok(other) = Parms::from_bytes(&changed) {
                    assert_ne!(other, parms);
                    assert_eq!(other.to_bytes(), changed, "two spellings of one call");
                }
            }
        }
        for length in 0..bytes.len() {
            assert!(Parms::from_bytes(&bytes[..length]).is_err(), "cut at {length}");
        }
        assert!(Parms::from_bytes(&[bytes, vec![0]].concat()).is_err(), "a byte too many");
    }

    #[test]
    fn whatever_differs_gives_another_memo_key() {
        let base = sample();
        let key = base.memo_key(&LIMITS);
        let variants = [
            Parms { promise: Cid::of(Codec::DagCbor, b"other"), ..base.clone() },
            Parms { module: Cid::of(Codec::Raw, b"other"), ..base.clone() },
            Parms { arguments: base.arguments[..1].to_vec(), ..base.clone() },
            Parms { arguments: vec![base.arguments[0].clone(), Value::Text("-w".into())], ..base.clone() },
            // The text of a CID is not the object.
            Parms { arguments: base.arguments.iter().map(|a| Value::Text(a.text())).collect(), ..base.clone() },
        ];
        for variant in variants {
            assert_ne!(variant.memo_key(&LIMITS), key, "{variant:?}");
        }
        for limits in [
            Limits { fuel: 9, ..LIMITS },
            Limits { wall_ms: 9, ..LIMITS },
            Limits { memory_bytes: 9, ..LIMITS },
            Limits { output_bytes: 9, ..LIMITS },
        ] {
            assert_ne!(base.memo_key(&limits), key, "{limits:?}");
        }
    }

    #[test]
    fn components_follow_the_required_arguments() {
        let parms = sample();
        let blob = parms.arguments[0].text();
        assert_eq!(parms.components(0), [format!("{blob},-l")]);
        assert_eq!(parms.components(1), [format!("{blob},-l")]);
        assert_eq!(parms.components(2), [blob, "-l".into()]);
        let none = Parms { arguments: Vec::new(), ..parms };
        assert_eq!(none.components(0), [","]);
        let long = Parms { arguments: vec![Value::Text("x".repeat(256))], ..none };
        assert_eq!((long.fits(1), long.components(1)[0].len()), (false, 256));
    }
}
