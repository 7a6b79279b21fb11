//! Acceptance as a message: a call under the promise `accept` asks whether a module would handle it.
//!
//! `/accept/module/arguments` is answered with a message, which is a text: its first line is the path of the call that was asked
//! about, led by the promise to handle it (`accept`) or the promise not to (`reject`); then come the terms, in the module's
//! own words. A module whose manifest says nothing accepts whatever fits its arguments, on the terms of its manifest. One that
//! says `accept = "dynamic"` is asked by running it with `accept` in place of its name: exit status 0 accepts.

use std::sync::{Arc, LazyLock};

use gridfs_modules::manifest::Accepts;
use gridfs_store::{Cid, Codec, Durability, Store, Target};

use crate::error::{Code, Error, Result};
use crate::module::{Acceptance, Call, Handling, Module, Reply};
use crate::parms::Parms;
use crate::promise::Promise;

/// Longest message that is read back.
const MAX_MESSAGE_BYTES: u64 = 1 << 20;
/// Longest terms, in bytes; the rest is left out.
const MAX_TERMS_BYTES: usize = 64 * 1024;

static ACCEPT: LazyLock<Cid> = LazyLock::new(|| Promise::accept().cid());
static REJECT: LazyLock<Cid> = LazyLock::new(|| Promise::reject().cid());

/// Whether a call under this promise only asks for acceptance.
pub fn asks(promise: &Cid) -> bool {
    *promise == *ACCEPT
}

/// The call that asks whether this one would be accepted.
pub fn question(parms: &Parms) -> Parms {
    Parms { promise: *ACCEPT, ..parms.clone() }
}

/// The text of a message: whether the module handles `parms`, and its terms.
pub fn message(parms: &Parms, required: usize, accepts: bool, terms: &[u8]) -> String {
    let promise = if accepts { *ACCEPT } else { *REJECT };
    let path = Parms { promise, ..parms.clone() }.path(required);
    let terms = String::from_utf8_lossy(&terms[..terms.len().min(MAX_TERMS_BYTES)]);
    format!("{path}\n{}\n", terms.trim())
}

/// Refuses a call whose acceptance was asked for, unless the answer is to accept it.
pub fn check(store: &Arc<Store>, answer: &Reply) -> Result<()> {
    let Target::File { cid, .. } = answer.result else {
        return Err(Error::new(Code::General, "a module's answer is not a message"));
    };
    let message = store.read(&cid, MAX_MESSAGE_BYTES)?;
    let text = String::from_utf8_lossy(&message);
    let (call, terms) = text.split_once('\n').unwrap_or_default();
    match call.strip_prefix('/').and_then(|call| call.split_once('/')) {
        Some((promise, _)) if promise.parse() == Ok(*ACCEPT) => Ok(()),
        _ => Err(Error::new(Code::NotAccepted, format!("the module rejects the call: {}", terms.trim()))),
    }
}

/// Answers for the modules that accept every call that fits.
pub struct ByManifest;

impl Module for ByManifest {
    fn id(&self) -> &str {
        "manifest"
    }

    fn accept(&self, call: &Call) -> Result<Acceptance> {
        let answers = asks(&call.parms.promise) && call.module.manifest.accept == Accepts::Always;
        Ok(Acceptance::of_module(answers))
    }

    fn handle<'a>(&'a self, call: &'a Call) -> Handling<'a> {
        Box::pin(async {
            let terms = &call.module.manifest.promise;
            let text = message(&call.parms, call.module.required(), true, terms.as_bytes());
            let mut batch = call.kernel.store.batch();
            let cid = batch.put_bytes(Codec::Raw, text.as_bytes())?;
            batch.commit(Durability::Lazy)?;
            Ok(Reply::stored(Target::File { cid, size_bytes: text.len() as u64, executable: false }))
        })
    }
}

#[cfg(test)]
mod tests {
    use gridfs_store::Options;

    use super::*;
    use crate::parms::Value;

    #[test]
    fn a_message_leads_with_the_promise_to_handle_or_not() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(directory.path(), Options::default()).unwrap());
        let cid = Cid::of(Codec::Raw, b"x");
        let parms = Parms { promise: cid, module: cid, arguments: vec![Value::Text("/a b".into())] };
        assert_eq!(question(&parms), Parms { promise: Promise::accept().cid(), ..parms.clone() });
        assert!(asks(&question(&parms).promise) && !asks(&cid));
        let stored = |text: &str| {
            let mut batch = store.batch();
            let cid = batch.put_bytes(Codec::Raw, text.as_bytes()).unwrap();
            batch.commit(Durability::Lazy).unwrap();
            check(&store, &Reply::stored(Target::File { cid, size_bytes: text.len() as u64, executable: false }))
        };
        let accepts = message(&parms, 1, true, b" gladly\n");
        assert_eq!(accepts, format!("/{}/{cid}/%2Fa%20b\ngladly\n", Promise::accept().cid()));
        stored(&accepts).unwrap();
        let rejects = message(&parms, 1, false, b"too large");
        assert_eq!(stored(&rejects).unwrap_err().to_string(), "the module rejects the call: too large");
        for nonsense in ["", "\n", "gladly", &format!("{}\ngladly", Promise::accept().cid())] {
            assert_eq!(stored(nonsense).unwrap_err().code, Code::NotAccepted);
        }
    }
}
