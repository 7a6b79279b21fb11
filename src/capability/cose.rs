//! The long form: CWT claims (RFC 8392) in a tagged COSE_Sign1 (RFC 9052) with Ed25519, the parent embedded as a claim.
//!
//! ```text
//! 18([ << {1: -8} >>, {}, << claims >>, signature ])        protected header: alg EdDSA
//! claims {
//!   1 iss, 2 sub, 3 aud : text   keys as libp2p shows them, "12D3KooW..."
//!   4 exp, 5 nbf, 6 iat : uint   seconds since 1970
//!   7 cti               : bytes  16, random
//!   -65537 version      : uint   1
//!   -65538 prefix       : array  [promise, module, argument...]: links (tag 42), then links and texts
//! ? -65539 limits       : map    {? "fuel", ? "wall_ms", ? "memory_bytes", ? "output_bytes"}; at least one
//!   -65540 delegable    : uint
//! ? -65541 parent       : bytes  the whole parent, in this layout; absent from the root
//! }
//! ```
//!
//! Deterministic CBOR throughout: what is read must encode to the bytes it came from, so unknown claims and headers, and other
//! spellings, are refused. The version claim tells a capability from any other CWT of the same key, and COSE's `Sig_structure` from all
//! else that the key signs.

use coset::cbor::Value;
use coset::cwt::{ClaimName, ClaimsSet, Timestamp};
use coset::{CborSerializable as _, CoseSign1, CoseSign1Builder, HeaderBuilder, TaggedCborSerializable as _, iana};
use gridfs_modules::manifest::Limits;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Claims, MAX_BYTES, MAX_LINKS, MAX_TIME_S, Prefix, Refusal};
use crate::identity::{Identity, NodeId};

const VERSION: u64 = 1;
const SIGNATURE_BYTES: usize = 64;
/// Numbers of the claims that RFC 8392 leaves to private use.
const VERSION_CLAIM: i64 = -65537;
const PREFIX_CLAIM: i64 = -65538;
const LIMITS_CLAIM: i64 = -65539;
const DELEGABLE_CLAIM: i64 = -65540;
const PARENT_CLAIM: i64 = -65541;

/// A signed link with its parents.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Chain {
    claims: Claims,
    parent: Option<Box<Chain>>,
    signature: [u8; SIGNATURE_BYTES],
}

impl Chain {
    /// A token without a parent. The issuer is `identity`, whatever `claims` say.
    pub fn grant(claims: Claims, identity: &Identity) -> Result<Chain, Refusal> {
        Chain::sign(claims, None, identity)
    }

    /// A child of this token, refused if it is wider in anything or `identity` is not the holder's.
    pub fn attenuate(&self, claims: Claims, identity: &Identity) -> Result<Chain, Refusal> {
        Chain::sign(claims, Some(Box::new(self.clone())), identity)
    }

    fn sign(claims: Claims, parent: Option<Box<Chain>>, identity: &Identity) -> Result<Chain, Refusal> {
        let claims = Claims { issuer: identity.id(), ..claims };
        let chain = Chain::signed(claims, parent, identity);
        chain.check_links()?;
        // What would not be read back is not made.
        Chain::from_bytes(&chain.to_bytes())
    }

    /// Signed without a look at what it says.
    pub(super) fn signed(claims: Claims, parent: Option<Box<Chain>>, identity: &Identity) -> Chain {
        let unsigned = Chain { claims, parent, signature: [0; SIGNATURE_BYTES] };
        let signature = identity.sign_whole(&unsigned.to_cose().tbs_data(&[]));
        Chain { signature, ..unsigned }
    }

    /// Reads [`Chain::to_bytes`]; anything else is refused. Signatures are not checked yet.
    pub fn from_bytes(bytes: &[u8]) -> Result<Chain, Refusal> {
        if bytes.len() > MAX_BYTES {
            return Err(Refusal::TooLong);
        }
        let chain = read(bytes, MAX_LINKS)?;
        if chain.to_bytes() == bytes { Ok(chain) } else { Err(Refusal::NotDeterministic) }
    }

    /// The bytes that travel.
    pub fn to_bytes(&self) -> Vec<u8> {
        let cose = CoseSign1 { signature: self.signature.to_vec(), ..self.to_cose() };
        cose.to_tagged_vec().expect("claims have an encoding")
    }

    /// What the last link says.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The first link.
    pub fn root(&self) -> &Chain {
        self.links().last().expect("a chain has a link")
    }

    /// The links, from the last to the root.
    pub fn links(&self) -> impl Iterator<Item = &Chain> {
        std::iter::successors(Some(self), |link| link.parent.as_deref())
    }

    /// Refuses a link that is wider than its parent, or that another than its holder signed.
    pub(super) fn check_links(&self) -> Result<(), Refusal> {
        if self.links().count() > MAX_LINKS {
            return Err(Refusal::TooManyLinks);
        }
        for link in self.links() {
            if link.claims.begins_s >= link.claims.expires_s || link.claims.expires_s > MAX_TIME_S {
                return Err(Refusal::Backwards);
            }
            if let Some(parent) = &link.parent {
                check_narrower(&link.claims, &parent.claims)?;
            }
        }
        Ok(())
    }

    pub(super) fn check_signatures(&self) -> Result<(), Refusal> {
        let wrong = self.links().find(|link| {
            let signed = link.to_cose().tbs_data(&[]);
            !link.claims.issuer.verifies_whole(&signed, &link.signature)
        });
        wrong.map_or(Ok(()), |link| Err(Refusal::Signature(link.claims.issuer)))
    }

    /// Without its signature.
    fn to_cose(&self) -> CoseSign1 {
        let header = HeaderBuilder::new().algorithm(iana::Algorithm::EdDSA).build();
        CoseSign1Builder::new().protected(header).payload(self.payload()).build()
    }

    fn payload(&self) -> Vec<u8> {
        let claims = &self.claims;
        let time =
            |time_s: u64| i64::try_from(time_s).map(Timestamp::WholeSeconds).unwrap_or(Timestamp::WholeSeconds(-1));
        let mut rest = vec![(VERSION_CLAIM, value(&VERSION)), (PREFIX_CLAIM, value(&claims.prefix.0))];
        if claims.limits != Limits::default() {
            rest.push((LIMITS_CLAIM, value(&claims.limits)));
        }
        rest.push((DELEGABLE_CLAIM, value(&claims.delegable)));
        if let Some(parent) = &self.parent {
            rest.push((PARENT_CLAIM, Value::Bytes(parent.to_bytes())));
        }
        let set = ClaimsSet {
            issuer: Some(claims.issuer.to_string()),
            subject: Some(claims.holder.to_string()),
            audience: Some(claims.audience.to_string()),
            expiration_time: Some(time(claims.expires_s)),
            not_before: Some(time(claims.begins_s)),
            issued_at: Some(time(claims.issued_s)),
            cwt_id: Some(claims.id.to_vec()),
            rest: rest.into_iter().map(|(number, value)| (ClaimName::PrivateUse(number), value)).collect(),
        };
        set.to_vec().expect("claims have an encoding")
    }
}

fn value<T: Serialize>(of: &T) -> Value {
    Value::serialized(of).expect("its Serialize reports no error of its own")
}

/// Reads a link and at most `links` - 1 parents.
fn read(bytes: &[u8], links: usize) -> Result<Chain, Refusal> {
    let fewer = links.checked_sub(1).ok_or(Refusal::TooManyLinks)?;
    let cose = CoseSign1::from_tagged_slice(bytes).map_err(Refusal::Malformed)?;
    let payload = cose.payload.ok_or(Refusal::Claim("the payload"))?;
    let set = ClaimsSet::from_slice(&payload).map_err(Refusal::Malformed)?;
    let mut private = Private::default();
    for (name, value) in set.rest {
        match name {
            ClaimName::PrivateUse(VERSION_CLAIM) => private.version = read_claim("version", &value)?,
            ClaimName::PrivateUse(PREFIX_CLAIM) => private.prefix = Some(read_claim("prefix", &value)?),
            ClaimName::PrivateUse(LIMITS_CLAIM) => private.limits = read_claim("limits", &value)?,
            ClaimName::PrivateUse(DELEGABLE_CLAIM) => private.delegable = Some(read_claim("delegable", &value)?),
            ClaimName::PrivateUse(PARENT_CLAIM) => {
                let parent = value.as_bytes().ok_or(Refusal::Claim("parent"))?;
                private.parent = Some(Box::new(read(parent, fewer)?));
            }
            _ => return Err(Refusal::NotDeterministic),
        }
    }
    if private.version != VERSION {
        return Err(Refusal::Version(private.version));
    }
    let claims = Claims {
        issuer: key("iss", set.issuer)?,
        holder: key("sub", set.subject)?,
        audience: key("aud", set.audience)?,
        expires_s: time("exp", set.expiration_time)?,
        begins_s: time("nbf", set.not_before)?,
        issued_s: time("iat", set.issued_at)?,
        id: set.cwt_id.and_then(|id| id.try_into().ok()).ok_or(Refusal::Claim("cti"))?,
        prefix: private.prefix.and_then(Prefix::new).ok_or(Refusal::Claim("prefix"))?,
        limits: private.limits,
        delegable: private.delegable.ok_or(Refusal::Claim("delegable"))?,
    };
    let signature = cose.signature.try_into().map_err(|_| Refusal::Claim("the signature"))?;
    Ok(Chain { claims, parent: private.parent, signature })
}

/// The claims of private use, as far as they were met.
#[derive(Default)]
struct Private {
    version: u64,
    prefix: Option<Vec<crate::parms::Value>>,
    limits: Limits,
    delegable: Option<u64>,
    parent: Option<Box<Chain>>,
}

fn read_claim<T: DeserializeOwned>(name: &'static str, value: &Value) -> Result<T, Refusal> {
    value.deserialized().map_err(|_| Refusal::Claim(name))
}

/// A bearer token, which has no holder, is refused here too.
fn key(name: &'static str, text: Option<String>) -> Result<NodeId, Refusal> {
    text.and_then(|text| text.parse().ok()).ok_or(Refusal::Claim(name))
}

fn time(name: &'static str, time: Option<Timestamp>) -> Result<u64, Refusal> {
    match time {
        Some(Timestamp::WholeSeconds(time_s)) => u64::try_from(time_s).map_err(|_| Refusal::Claim(name)),
        _ => Err(Refusal::Claim(name)),
    }
}

fn check_narrower(child: &Claims, parent: &Claims) -> Result<(), Refusal> {
    if child.issuer != parent.holder {
        return Err(Refusal::WrongSigner { signer: child.issuer, holder: parent.holder });
    }
    if child.audience != parent.audience {
        return Err(Refusal::OtherAudience { child: child.audience, parent: parent.audience });
    }
    if parent.delegable == 0 {
        return Err(Refusal::NotDelegable);
    }
    if child.delegable >= parent.delegable {
        return Err(Refusal::DelegatesMore { child: child.delegable, parent: parent.delegable });
    }
    if !parent.prefix.contains(&child.prefix) {
        return Err(Refusal::WiderPrefix { child: child.prefix.to_string(), parent: parent.prefix.to_string() });
    }
    if child.begins_s < parent.begins_s || child.expires_s > parent.expires_s {
        return Err(Refusal::LongerValid);
    }
    let limits = [
        ("fuel", child.limits.fuel, parent.limits.fuel),
        ("wall_ms", child.limits.wall_ms, parent.limits.wall_ms),
        ("memory_bytes", child.limits.memory_bytes, parent.limits.memory_bytes),
        ("output_bytes", child.limits.output_bytes, parent.limits.output_bytes),
    ];
    let higher = limits.iter().find(|(_, child, parent)| parent.is_some_and(|most| child.is_none_or(|own| own > most)));
    higher.map_or(Ok(()), |(name, ..)| Err(Refusal::WiderLimit(name)))
}
