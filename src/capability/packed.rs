//! The short form, of the fields that the sketch of the protocol gave a capability token, big-endian:
//!
//! ```text
//!   0  32  function    BLAKE3 of the CBOR of the prefix [promise, module, argument...]
//!  32  64  signature   Ed25519's over "gridfs capability packed 1", a zero byte, the other 76 bytes, and the keys of
//!                      issuer, holder and audience, 32 bytes each
//!  96  16  delegation  the first 16 bytes of BLAKE3 (derive_key, context "gridfs capability packed 1 delegation") over the
//!                      same three keys: who gave it to whom, and where it holds
//! 112   8  start       seconds since 1970
//! 120   8  end
//! 128  12  limits      wall_ms, memory in KiB, output in KiB, 4 bytes each; ff ff ff ff: none of its own
//! 140
//! ```
//!
//! What fits is a grant that is not handed on: no parent, `delegable` 0, no limit on fuel, memory and output in whole KiB, at most
//! 16 arguments in the prefix. It has
//! no `iat` and no `cti`. The three keys are not in it but signed with it: who verifies it knows them, being the audience, having
//! the holder's key from the one who presents it, and having the keys that may grant. A prefix is recognised, not read.

use super::{Claims, Grant, MAX_TIME_S, Presented, Refusal, Scope};
use crate::identity::{Identity, NodeId, Purpose};
use gridfs_modules::manifest::Limits;
use gridfs_store::Hash;
use gridfs_store::cbor::Bytes;

/// Its length.
pub const PACKED_BYTES: usize = 140;
/// Longest prefix, promise and module included: who verifies it hashes every prefix of a call up to that.
pub(super) const MAX_VALUES: usize = 18;
const PURPOSE: Purpose = Purpose("gridfs capability packed 1");
const DELEGATION_CONTEXT: &str = "gridfs capability packed 1 delegation";
/// Stands for a limit that is not set.
const UNLIMITED: u32 = u32::MAX;
const KIB: u64 = 1024;

/// A grant in 140 bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Packed {
    /// Hash of the prefix that it covers.
    pub function: Hash,
    signature: [u8; 64],
    delegation: [u8; 16],
    /// From then on it holds, in seconds since 1970.
    pub begins_s: u64,
    /// From then on it holds no longer.
    pub expires_s: u64,
    wall_ms: u32,
    memory_kib: u32,
    output_kib: u32,
}

impl Packed {
    /// A grant by `identity`, if all that `claims` say fits.
    pub fn grant(claims: &Claims, identity: &Identity) -> Result<Packed, Refusal> {
        if claims.begins_s >= claims.expires_s || claims.expires_s > MAX_TIME_S {
            return Err(Refusal::Backwards);
        }
        if claims.delegable != 0 {
            return Err(Refusal::DoesNotFit("it can't be handed on, so --delegable must be 0"));
        }
        if claims.limits.fuel.is_some() {
            return Err(Refusal::DoesNotFit("it has no field for a limit on fuel; limit the time instead"));
        }
        if claims.prefix.values().len() > MAX_VALUES {
            return Err(Refusal::DoesNotFit("its prefix has at most 16 arguments"));
        }
        let unsigned = Packed {
            function: claims.prefix.hash(),
            signature: [0; 64],
            delegation: delegation(&identity.id(), &claims.holder, &claims.audience),
            begins_s: claims.begins_s,
            expires_s: claims.expires_s,
            wall_ms: field(claims.limits.wall_ms, 1)?,
            memory_kib: field(claims.limits.memory_bytes, KIB)?,
            output_kib: field(claims.limits.output_bytes, KIB)?,
        };
        let signed = unsigned.signed(&identity.id(), &claims.holder, &claims.audience);
        let Bytes(signature) = identity.sign(PURPOSE, &signed);
        Ok(Packed { signature: signature.try_into().expect("an Ed25519 signature has 64 bytes"), ..unsigned })
    }

    /// Reads [`Packed::to_bytes`]. The signature is not checked yet.
    pub fn from_bytes(bytes: &[u8]) -> Result<Packed, Refusal> {
        let bytes: &[u8; PACKED_BYTES] = bytes.try_into().map_err(|_| Refusal::Claim("its length"))?;
        let mut rest = bytes.as_slice();
        let packed = Packed {
            function: Hash(take(&mut rest)),
            signature: take(&mut rest),
            delegation: take(&mut rest),
            begins_s: u64::from_be_bytes(take(&mut rest)),
            expires_s: u64::from_be_bytes(take(&mut rest)),
            wall_ms: u32::from_be_bytes(take(&mut rest)),
            memory_kib: u32::from_be_bytes(take(&mut rest)),
            output_kib: u32::from_be_bytes(take(&mut rest)),
        };
        match packed.begins_s < packed.expires_s && packed.expires_s <= MAX_TIME_S {
            true => Ok(packed),
            false => Err(Refusal::Backwards),
        }
    }

    /// The bytes that travel.
    pub fn to_bytes(&self) -> [u8; PACKED_BYTES] {
        let mut bytes = Vec::with_capacity(PACKED_BYTES);
        bytes.extend_from_slice(&self.function.0);
        bytes.extend_from_slice(&self.signature);
        bytes.extend_from_slice(&self.after_signature());
        bytes.try_into().expect("the fields take 140 bytes")
    }

    /// What each call may use at most.
    pub fn limits(&self) -> Limits {
        let limit = |value: u32, unit: u64| (value != UNLIMITED).then(|| u64::from(value) * unit);
        Limits {
            fuel: None,
            wall_ms: limit(self.wall_ms, 1),
            memory_bytes: limit(self.memory_kib, KIB),
            output_bytes: limit(self.output_kib, KIB),
        }
    }

    /// What it gives, by the one key that may have given it to this holder here. Its signature is not checked yet.
    pub(super) fn grant_to(&self, presented: &Presented<'_>) -> Result<Grant, Refusal> {
        let gave = |root: &&NodeId| delegation(root, &presented.holder, &presented.node) == self.delegation;
        let root = *presented.roots.iter().find(gave).ok_or(Refusal::Stranger)?;
        Ok(Grant {
            root,
            own: root == presented.node,
            scope: Scope::Hash(self.function),
            limits: self.limits(),
            begins_s: self.begins_s,
            expires_s: self.expires_s,
            id: Hash::of(&self.to_bytes()),
        })
    }

    pub(super) fn check_signature(&self, root: NodeId, presented: &Presented<'_>) -> Result<(), Refusal> {
        let signed = self.signed(&root, &presented.holder, &presented.node);
        match root.verifies(PURPOSE, &signed, &Bytes(self.signature.to_vec())) {
            true => Ok(()),
            false => Err(Refusal::Signature(root)),
        }
    }

    fn signed(&self, issuer: &NodeId, holder: &NodeId, audience: &NodeId) -> Vec<u8> {
        [&self.function.0[..], &self.after_signature(), &issuer.0, &holder.0, &audience.0].concat()
    }

    fn after_signature(&self) -> Vec<u8> {
        let times = [self.begins_s.to_be_bytes(), self.expires_s.to_be_bytes()].concat();
        let limits = [self.wall_ms, self.memory_kib, self.output_kib].map(u32::to_be_bytes).concat();
        [&self.delegation[..], &times, &limits].concat()
    }
}

fn delegation(issuer: &NodeId, holder: &NodeId, audience: &NodeId) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key(DELEGATION_CONTEXT);
    hasher.update(&issuer.0).update(&holder.0).update(&audience.0);
    let mut proof = [0; 16];
    proof.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    proof
}

fn field(limit: Option<u64>, unit: u64) -> Result<u32, Refusal> {
    let Some(limit) = limit else { return Ok(UNLIMITED) };
    if limit % unit != 0 {
        return Err(Refusal::DoesNotFit("memory and output are counted in whole KiB"));
    }
    let value = u32::try_from(limit / unit).ok().filter(|value| *value != UNLIMITED);
    value.ok_or(Refusal::DoesNotFit("a limit takes more than 32 bits; without one the promise's holds"))
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (field, after) = rest.split_first_chunk().expect("the fields take 140 bytes");
    *rest = after;
    *field
}
