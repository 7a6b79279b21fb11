//! Tickets: one line of text that says where an object, or the result of a call, can be had.
//!
//! `grid:` and, in multibase, a deterministic CBOR map. A ticket is no right: what its node shares, it shares with all its peers.

use std::fmt;
use std::str::FromStr;

use gridfs_p2p::Multiaddr;
use gridfs_store::{Cid, cbor};
use multibase::Base;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};
use crate::identity::NodeId;
use crate::parms::Parms;

const PREFIX: &str = "grid:";
/// Longest ticket read, in characters.
const MAX_CHARS: usize = 64 << 10;
/// Most addresses in a ticket.
pub const MAX_ADDRESSES: usize = 8;

/// Where something can be had.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ticket {
    /// The node that shares it.
    pub node: NodeId,
    /// Where that node listens.
    pub addresses: Vec<Multiaddr>,
    /// What it is.
    pub what: Shared,
}

/// What a ticket is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Shared {
    /// An object.
    Object(Cid),
    /// The result of a call.
    Call(Parms),
}

/// The map; keys in deterministic order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    v: u64,
    node: NodeId,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    call: Option<Parms>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    object: Option<Cid>,
    addresses: Vec<String>,
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (object, call) = match &self.what {
            Shared::Object(cid) => (Some(*cid), None),
            Shared::Call(parms) => (None, Some(parms.clone())),
        };
        let addresses = self.addresses.iter().take(MAX_ADDRESSES).map(Multiaddr::to_string).collect();
        let document = Document { v: 1, node: self.node, call, object, addresses };
        write!(f, "{PREFIX}{}", multibase::encode(Base::Base32Lower, cbor::to_vec(&document)))
    }
}

impl FromStr for Ticket {
    type Err = Error;

    fn from_str(text: &str) -> Result<Ticket> {
        let wrong = |why: String| Error::new(Code::Usage, format!("this is not a ticket of `gridfs share`: {why}"));
        let coded = text.strip_prefix(PREFIX).ok_or_else(|| wrong(format!("it does not begin with {PREFIX}")))?;
        if text.len() > MAX_CHARS {
            return Err(wrong("it is too long".into()));
        }
        let (_, bytes) = multibase::decode(coded).map_err(|e| wrong(format!("{e}; is it whole?")))?;
        let document: Document = cbor::from_slice(&bytes).map_err(|e| wrong(format!("{e}; is it whole?")))?;
        let what = match (document.v, document.object, document.call) {
            (1, Some(cid), None) => Shared::Object(cid),
            (1, None, Some(parms)) => Shared::Call(parms),
            (1, ..) => return Err(wrong("it names not one thing".into())),
            (version, ..) => return Err(wrong(format!("its version is {version}; this gridfs knows version 1"))),
        };
        if document.addresses.len() > MAX_ADDRESSES {
            return Err(wrong(format!("it has more than {MAX_ADDRESSES} addresses")));
        }
        let address = |text: &String| text.parse().map_err(|e| wrong(format!("{text:?} is no address: {e}")));
        let addresses = document.addresses.iter().map(address).collect::<Result<_>>()?;
        Ok(Ticket { node: document.node, addresses, what })
    }
}

impl Ticket {
    /// Whether a text is meant to be one.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(PREFIX)
    }
}

#[cfg(test)]
mod tests {
    use gridfs_store::Codec;

    use super::*;
    use crate::parms::Value;

    fn tickets() -> [Ticket; 2] {
        let cid = Cid::of(Codec::Raw, b"x");
        let node = NodeId([7; 32]);
        let addresses = vec!["/ip4/127.0.0.1/tcp/4747".parse().unwrap()];
        let parms = Parms { promise: Cid::of(Codec::DagCbor, b"p"), module: cid, arguments: vec![Value::Object(cid)] };
        let object = Ticket { node, addresses, what: Shared::Object(cid) };
        [Ticket { addresses: Vec::new(), what: Shared::Call(parms), ..object.clone() }, object]
    }

    #[test]
    fn tickets_read_back() {
        for ticket in tickets() {
            assert_eq!(ticket.to_string().parse::<Ticket>().unwrap(), ticket);
        }
        // A change here makes tickets that were handed out worthless: make a new version instead.
        let golden = "grid:burqxmalenzxwizkyeadqobyha4dqobyha4dqobyha4dqobyha4dqobyha4dqobyha4dqoztpmjvgky3u3avfqjiaafkr4ib247mal5tytjsaflfxblkas2ufuvv7nacov4s4asj2y2lvjdjqwvuwczdeojsxg43fooaxol3joa2c6mjsg4xdalrqfyys65ddoaxtinzug4";
        assert_eq!(tickets()[1].to_string(), golden);
    }

    #[test]
    fn what_is_no_ticket_is_said_to_be_none() {
        let good = tickets()[1].to_string();
        let cut = &good[..good.len() - 3];
        let long = format!("grid:b{}", "a".repeat(MAX_CHARS));
        for wrong in ["", "grid:", "grid:b", "grid:bAAAA", "bafkqaaa", cut, &long] {
            let error = wrong.parse::<Ticket>().unwrap_err();
            assert!(error.to_string().starts_with("this is not a ticket"), "{error}");
        }
        for bit in 0..8 {
            let mut bytes = multibase::decode(&good[PREFIX.len()..]).unwrap().1;
            bytes[1] ^= 1 << bit;
            assert!(format!("grid:{}", multibase::encode(Base::Base32Lower, bytes)).parse::<Ticket>().is_err());
        }
    }
}
