//! Capability tokens: signed grants over calls, which their holders narrow and hand on.
//!
//! A token says: the bearer of this key may, at this node, from then until then, make the calls whose parms begin like this,
//! each using no more than that. Who holds one may sign a child for another key, narrower or equal in everything. A token
//! carries its parents, so it is its own proof. Two forms:
//!
//! ```text
//! chain (cose.rs)                                      packed (packed.rs)
//! Sign1(issuer C) {                                    140 bytes: a grant that is not handed on,
//!   iss C, sub D, aud N, exp, nbf, iat, cti,           signed by the key whose authority it is
//!   prefix [promise, module, argument...],
//!   limits {fuel, wall_ms, memory_bytes, output_bytes},
//!   delegable 0,
//!   parent: Sign1(issuer A) {
//!     iss A, sub C, aud N, exp, nbf, iat, cti,         A: the root, signed by the node N itself
//!     prefix [promise], delegable 1 } }                   or by the issuer of the promise that is called
//! ```
//!
//! Text form: multibase base64url (`u...`) of either. Layout and limits: ARCHITECTURE.md, "Formats".
//!
//! Absent on purpose: taking back a single token. It ends with its time, with its promise, or with the key that signed it.

mod cose;
mod packed;
mod refusal;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use gridfs_modules::manifest::Limits;
use gridfs_store::{Hash, cbor};
use multibase::Base;

use crate::identity::NodeId;
use crate::parms::{Parms, Value};
use crate::path;

pub use cose::Chain;
pub use packed::{PACKED_BYTES, Packed};
pub use refusal::Refusal;

/// Longest token, in bytes.
pub const MAX_BYTES: usize = 16 << 10;
/// Most links of a chain.
pub const MAX_LINKS: usize = 8;
/// The last second that a token can name: that of the year 9999.
pub const MAX_TIME_S: u64 = 253_402_300_799;

/// The calls that a grant covers: those whose parms begin like this. Empty: all.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Prefix(Vec<Value>);

impl Prefix {
    /// Of promise, module and arguments, as many as there are; the first two are objects.
    pub fn new(values: Vec<Value>) -> Option<Prefix> {
        let named = values.iter().take(2).all(|value| matches!(value, Value::Object(_)));
        (named && values.len() <= 2 + path::MAX_ARGUMENTS).then_some(Prefix(values))
    }

    /// Promise, module and arguments.
    pub fn values(&self) -> &[Value] {
        &self.0
    }

    /// Whether all that `other` covers is covered.
    pub fn contains(&self, other: &Prefix) -> bool {
        other.0.starts_with(&self.0)
    }

    /// Whether a call is covered.
    pub fn covers(&self, parms: &Parms) -> bool {
        let mut values = values_of(parms);
        self.0.iter().all(|ours| values.next().as_ref() == Some(ours))
    }

    /// What stands for it in a packed token: BLAKE3 of its CBOR.
    pub fn hash(&self) -> Hash {
        Hash::of(&cbor::to_vec(&self.0))
    }

    /// Whether some prefix of a call, not longer than a packed token's, has this hash.
    fn hash_covers(hash: &Hash, parms: &Parms) -> bool {
        let values: Vec<Value> = values_of(parms).take(packed::MAX_VALUES).collect();
        (0..=values.len()).any(|length| Prefix(values[..length].to_vec()).hash() == *hash)
    }
}

impl std::fmt::Display for Prefix {
    /// As a path, an argument for each component.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.is_empty() {
            true => f.write_str("/"),
            false => self.0.iter().try_for_each(|value| write!(f, "/{}", path::encode(&value.text()))),
        }
    }
}

fn values_of(parms: &Parms) -> impl Iterator<Item = Value> + '_ {
    [Value::Object(parms.promise), Value::Object(parms.module)].into_iter().chain(parms.arguments.iter().cloned())
}

/// What one link of a token says. Times are in seconds since 1970.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claims {
    /// Who signed it.
    pub issuer: NodeId,
    /// Whom it is given to.
    pub holder: NodeId,
    /// The node at which it holds.
    pub audience: NodeId,
    /// From then on it holds no longer.
    pub expires_s: u64,
    /// From then on it holds.
    pub begins_s: u64,
    /// When it was made.
    pub issued_s: u64,
    /// Tells it from others of the same content.
    pub id: [u8; 16],
    /// The calls it covers.
    pub prefix: Prefix,
    /// What each call may use at most, where this is lower than its promise's limits.
    pub limits: Limits,
    /// How many more times it may be handed on.
    pub delegable: u64,
}

/// A token of either form, read but not yet believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Token {
    /// Signed links, each carried by the next.
    Chain(Chain),
    /// The short form.
    Packed(Packed),
}

/// Where, when and by whom a token is presented.
pub struct Presented<'a> {
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
    /// The node it is presented to.
    pub node: NodeId,
    /// The key that the presenter has shown to be its own.
    pub holder: NodeId,
    /// The keys whose grants count there: the node's own, and those of the issuers of the promises that it accepts.
    pub roots: &'a BTreeSet<NodeId>,
}

/// A token that was verified: what its holder may do here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// The key whose authority it is.
    root: NodeId,
    /// Whether that is the key of this node, which grants everything here.
    own: bool,
    scope: Scope,
    limits: Limits,
    begins_s: u64,
    expires_s: u64,
    /// BLAKE3 of the token.
    id: Hash,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Scope {
    Prefix(Prefix),
    Hash(Hash),
}

impl Token {
    /// Reads the text form.
    pub fn from_text(text: &str) -> Result<Token, Refusal> {
        if text.len() > 1 + MAX_BYTES.div_ceil(3) * 4 {
            return Err(Refusal::TooLong);
        }
        let bytes = text.starts_with(Base::Base64Url.code()).then(|| Base::Base64Url.decode(&text[1..]).ok());
        let token = Token::from_bytes(&bytes.flatten().ok_or(Refusal::NotText)?)?;
        if token.to_text() == text { Ok(token) } else { Err(Refusal::NotText) }
    }

    /// Reads either form. A chain of [`PACKED_BYTES`] bytes can't be: its three keys alone take more.
    pub fn from_bytes(bytes: &[u8]) -> Result<Token, Refusal> {
        match bytes.len() {
            PACKED_BYTES => Ok(Token::Packed(Packed::from_bytes(bytes)?)),
            _ => Ok(Token::Chain(Chain::from_bytes(bytes)?)),
        }
    }

    /// The bytes that travel.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Token::Chain(chain) => chain.to_bytes(),
            Token::Packed(packed) => packed.to_bytes().to_vec(),
        }
    }

    /// The text form.
    pub fn to_text(&self) -> String {
        multibase::encode(Base::Base64Url, self.to_bytes())
    }

    /// What the token gives to who presents it, if it can be believed and holds. Signatures are checked last.
    pub fn verify(&self, presented: &Presented<'_>) -> Result<Grant, Refusal> {
        let grant = match self {
            Token::Chain(chain) => {
                chain.check_links()?;
                let (claims, root) = (chain.claims(), chain.root().claims().issuer);
                if claims.audience != presented.node {
                    return Err(Refusal::Audience { wanted: claims.audience, here: presented.node });
                }
                if claims.holder != presented.holder {
                    return Err(Refusal::Holder { wanted: claims.holder, presenter: presented.holder });
                }
                if !presented.roots.contains(&root) {
                    return Err(Refusal::ForeignRoot(root));
                }
                Grant {
                    root,
                    own: root == presented.node,
                    scope: Scope::Prefix(claims.prefix.clone()),
                    limits: claims.limits,
                    begins_s: claims.begins_s,
                    expires_s: claims.expires_s,
                    id: Hash::of(&self.to_bytes()),
                }
            }
            Token::Packed(packed) => packed.grant_to(presented)?,
        };
        grant.check_time(presented.now_ms)?;
        match self {
            Token::Chain(chain) => chain.check_signatures()?,
            Token::Packed(packed) => packed.check_signature(grant.root, presented)?,
        }
        Ok(grant)
    }
}

impl Grant {
    /// Whether a call under a promise made by `issuer` is granted now.
    pub fn check(&self, parms: &Parms, issuer: Option<NodeId>, now_ms: u64) -> Result<(), Refusal> {
        self.check_time(now_ms)?;
        if !self.own && issuer != Some(self.root) {
            return Err(Refusal::NotItsPromise(self.root));
        }
        let covered = match &self.scope {
            Scope::Prefix(prefix) => prefix.covers(parms),
            Scope::Hash(hash) => Prefix::hash_covers(hash, parms),
        };
        let wanted = || format!("/{}/{} with these arguments", parms.promise, parms.module);
        if covered { Ok(()) } else { Err(Refusal::NotCovered { covers: self.covers(), wanted: wanted() }) }
    }

    /// What each call may use at most.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// From then on it holds no longer, in seconds since 1970.
    pub fn expires_s(&self) -> u64 {
        self.expires_s
    }

    /// Tells grants apart.
    pub fn id(&self) -> Hash {
        self.id
    }

    fn covers(&self) -> String {
        match &self.scope {
            Scope::Prefix(prefix) => prefix.to_string(),
            Scope::Hash(hash) => format!("the prefix whose hash is {hash}"),
        }
    }

    fn check_time(&self, now_ms: u64) -> Result<(), Refusal> {
        match now_ms / 1000 {
            now_s if now_s < self.begins_s => Err(Refusal::Early(self.begins_s)),
            now_s if now_s >= self.expires_s => Err(Refusal::Expired(self.expires_s)),
            _ => Ok(()),
        }
    }
}
