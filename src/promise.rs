//! Promise documents: the terms under which a node runs or serves calls, stored as dag-cbor.
//!
//! Two are built in and accepted by every node: `local` and `pub`.

use gridfs_modules::Limits;
use gridfs_store::{Cid, Codec, cbor};
use serde::{Deserialize, Serialize};

/// Where a result may come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// This node alone.
    Local,
    /// This node first, then peers.
    Fetch,
    /// This node and peers at once.
    Race,
}

/// Whose claims about results are believed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// This node's own.
    #[serde(rename = "self")]
    Own,
}

/// A promise document, version 1. Fields stand in deterministic CBOR order.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promise {
    v: u64,
    /// What is asked in return.
    pub asks: String,
    /// What is promised.
    pub text: String,
    /// Whether results are offered to others.
    pub share: bool,
    /// Whose claims are believed.
    pub trust: Trust,
    /// What one call may use at most.
    pub limits: PromiseLimits,
    /// Where results may come from.
    pub source: Source,
    /// The modules covered; absent: every module.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub modules: Option<Vec<Cid>>,
}

/// [`Limits`] with its fields in deterministic CBOR order.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromiseLimits {
    /// See [`Limits::fuel`].
    pub fuel: u64,
    /// See [`Limits::wall_ms`].
    pub wall_ms: u64,
    /// See [`Limits::memory_bytes`].
    pub memory_bytes: u64,
    /// See [`Limits::output_bytes`].
    pub output_bytes: u64,
}

impl From<PromiseLimits> for Limits {
    fn from(limits: PromiseLimits) -> Limits {
        let PromiseLimits { fuel, wall_ms, memory_bytes, output_bytes } = limits;
        Limits { fuel, wall_ms, memory_bytes, output_bytes }
    }
}

/// Ten minutes, about 2 * 10^12 instructions, 1 GiB of memory, 64 GiB of output.
const BUILTIN_LIMITS: PromiseLimits =
    PromiseLimits { fuel: 2_000_000_000_000, wall_ms: 600_000, memory_bytes: 1 << 30, output_bytes: 64 << 30 };

impl Promise {
    /// `local`: run here, ask no one, share nothing.
    pub fn local() -> Promise {
        Promise {
            v: 1,
            asks: "Nothing.".into(),
            text: "I run your call on this machine alone. I ask no other node, and I tell no other node.".into(),
            share: false,
            trust: Trust::Own,
            limits: BUILTIN_LIMITS,
            source: Source::Local,
            modules: None,
        }
    }

    /// `pub`: run here or fetch, and share.
    pub fn public() -> Promise {
        Promise {
            asks: "Let me offer the result to others, as others offer theirs to you.".into(),
            text: "I answer your call from this machine or from a node that has the answer, and I share the result."
                .into(),
            share: true,
            source: Source::Fetch,
            ..Promise::local()
        }
    }

    /// The stored form.
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::to_vec(self)
    }

    /// Its CID.
    pub fn cid(&self) -> Cid {
        Cid::of(Codec::DagCbor, &self.to_bytes())
    }

    /// Whether calls of `module` are covered.
    pub fn covers(&self, module: &Cid) -> bool {
        self.modules.as_ref().is_none_or(|modules| modules.contains(module))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_promises_have_fixed_names() {
        for promise in [Promise::local(), Promise::public()] {
            assert_eq!(cbor::from_slice::<Promise>(&promise.to_bytes()).unwrap(), promise);
        }
        // A change here changes every permanent address and memo key: make a new version instead.
        assert_eq!(Promise::local().cid().to_string(), "bafyr4igce42yrwit4lo2he6ibmxwlwrezs3svjx4wgwqbqzsuyhaml5vc4");
        assert_eq!(Promise::public().cid().to_string(), "bafyr4iej3lqpratnibpua3ujouf3xq4zaewyfsfdqx57oabijaoj3zsxbm");
    }
}
