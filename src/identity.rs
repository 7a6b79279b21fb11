//! Who a node is: an Ed25519 key, made on the node when it is first opened, never printed and never sent.
//!
//! `keys/node` holds the private key's 32 bytes (the seed of RFC 8032), readable by the owner alone. The public key is shown
//! as libp2p shows it: base58btc of the identity multihash of the key's protobuf, `12D3KooW...`.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use multibase::Base;
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use gridfs_store::cbor::Bytes;

use crate::error::{Code, Error, Result};

const KEY_FILE: &str = "node";
/// Identity multihash of 36 bytes; protobuf: key type Ed25519, then 32 bytes.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// What a signature is for. It stands before what is signed, so that one kind of record can't pass for another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Purpose(pub &'static str);

/// A node's public key.
#[derive(Clone, Copy, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct NodeId(pub [u8; 32]);

/// A node's private key.
pub struct Identity(SigningKey);

impl Identity {
    /// The key in the directory `keys`, made if there is none.
    pub fn open(keys: &Path) -> Result<Identity> {
        let path = keys.join(KEY_FILE);
        let failed = |what: &str, e: io::Error| {
            Error::caused(Code::General, format!("can't {what} the node's key {}", path.display()), e)
        };
        match fs::read(&path) {
            Ok(bytes) => {
                let seed = <[u8; 32]>::try_from(bytes).map_err(|bytes| {
                    let why = format!("{} has {} bytes, a key has 32; ", path.display(), bytes.len());
                    Error::new(Code::General, why + "put back a copy, or remove it and be another node")
                })?;
                Ok(Identity(SigningKey::from_bytes(&seed)))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut seed = [0; 32];
                getrandom::fill(&mut seed)
                    .map_err(|e| Error::caused(Code::General, "the system gives no random bytes for a key", e))?;
                create(&path, &seed).map_err(|e| failed("write", e))?;
                Ok(Identity(SigningKey::from_bytes(&seed)))
            }
            Err(e) => Err(failed("read", e)),
        }
    }

    /// The private key's 32 bytes, for the handshakes with peers.
    pub(crate) fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public key.
    pub fn id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Signs `bytes`.
    pub fn sign(&self, purpose: Purpose, bytes: &[u8]) -> Bytes {
        Bytes(self.sign_whole(&purpose.before(bytes)).to_vec())
    }

    /// Signs bytes that say themselves what they are for, as COSE's `Sig_structure` does.
    pub fn sign_whole(&self, bytes: &[u8]) -> [u8; 64] {
        self.0.sign(bytes).to_bytes()
    }
}

/// Whole or not at all: a key cut short would be another node.
fn create(path: &Path, seed: &[u8; 32]) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(seed)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    fs::File::open(path.parent().expect("a key lies in a directory"))?.sync_all()
}

impl Purpose {
    fn before(self, bytes: &[u8]) -> Vec<u8> {
        [self.0.as_bytes(), &[0], bytes].concat()
    }
}

impl NodeId {
    /// Whether `signature` is this node's, of `bytes`. Weak keys and other spellings of a signature are refused.
    pub fn verifies(&self, purpose: Purpose, bytes: &[u8], signature: &Bytes) -> bool {
        self.verifies_whole(&purpose.before(bytes), &signature.0)
    }

    /// The same of bytes that say themselves what they are for.
    pub fn verifies_whole(&self, bytes: &[u8], signature: &[u8]) -> bool {
        let (Ok(key), Ok(signature)) = (VerifyingKey::from_bytes(&self.0), Signature::from_slice(signature)) else {
            return false;
        };
        key.verify_strict(bytes, &signature).is_ok()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Base::Base58Btc.encode([PEER_ID_PREFIX.as_slice(), &self.0].concat()))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for NodeId {
    type Err = Error;

    fn from_str(text: &str) -> Result<NodeId> {
        let bytes = Base::Base58Btc.decode(text).unwrap_or_default();
        let key = bytes.strip_prefix(&PEER_ID_PREFIX).and_then(|key| key.try_into().ok());
        key.map(NodeId).ok_or_else(|| {
            Error::new(Code::Usage, format!("{text:?} is not a node's public key; `gridfs cap key` prints one"))
        })
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<NodeId, D::Error> {
        let Bytes(bytes) = Bytes::deserialize(deserializer)?;
        bytes.try_into().map(NodeId).map_err(|_| de::Error::custom("a public key has 32 bytes"))
    }
}

#[cfg(test)]
impl Identity {
    /// The key of this seed.
    pub fn of_seed(seed: [u8; 32]) -> Identity {
        Identity(SigningKey::from_bytes(&seed))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const PURPOSE: Purpose = Purpose("gridfs test");

    /// The first test vector of RFC 8032, section 7.1.
    fn rfc_key() -> Identity {
        let seed = [
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44, 0x49,
            0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
        ];
        Identity(SigningKey::from_bytes(&seed))
    }

    #[test]
    fn a_key_is_made_once_and_is_the_owners_alone() {
        let keys = tempfile::tempdir().unwrap();
        let first = Identity::open(keys.path()).unwrap().id();
        assert_eq!(Identity::open(keys.path()).unwrap().id(), first);
        let path = keys.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, b"short").unwrap();
        let error = Identity::open(keys.path()).err().unwrap().to_string();
        assert!(error.contains("has 5 bytes, a key has 32"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"short", "it is left for its owner to look at");
    }

    #[test]
    fn public_keys_read_back_in_text_and_cbor() {
        let id = rfc_key().id();
        assert_eq!(id.to_string(), "12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV");
        assert_eq!(id.to_string().parse::<NodeId>().unwrap(), id);
        let bytes = gridfs_store::cbor::to_vec(&id);
        assert_eq!(gridfs_store::cbor::from_slice::<NodeId>(&bytes).unwrap(), id);
        for wrong in ["", "12D3KooW", "QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC", "0OIl"] {
            wrong.parse::<NodeId>().unwrap_err();
        }
    }

    #[test]
    fn a_signature_holds_for_its_bytes_its_key_and_its_purpose() {
        let key = rfc_key();
        let signature = key.sign(PURPOSE, b"what is signed");
        assert!(key.id().verifies(PURPOSE, b"what is signed", &signature));
        assert!(!key.id().verifies(PURPOSE, b"what is signes", &signature));
        assert!(!key.id().verifies(Purpose("gridfs other"), b"what is signed", &signature));
        assert!(!NodeId([7; 32]).verifies(PURPOSE, b"what is signed", &signature));
        for bit in 0..signature.0.len() * 8 {
            let mut flipped = signature.clone();
            flipped.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.id().verifies(PURPOSE, b"what is signed", &flipped), "bit {bit}");
        }
        assert!(!key.id().verifies(PURPOSE, b"what is signed", &Bytes(signature.0[..63].to_vec())));
    }
}
