//! The native module `cas`: the stored object with this CID. A directory is browsed below it by whoever walks the path.

use gridfs_store::Target;

use crate::describe::{Runner, is_tree};
use crate::error::{Code, Error, Result};
use crate::module::{Acceptance, Call, Handling, Module, Reply};
use crate::parms::Value;

/// The module.
pub struct CasModule;

impl Module for CasModule {
    fn accept(&self, call: &Call) -> Result<Acceptance> {
        Ok(if call.module.runner == Runner::Cas { Acceptance::Accept } else { Acceptance::Reject })
    }

    fn handle<'a>(&'a self, call: &'a Call) -> Handling<'a> {
        Box::pin(async {
            let [Value::Object(cid)] = call.parms.arguments.as_slice() else {
                return Err(Error::new(Code::Usage, "cas takes one argument, a CID or a name"));
            };
            let store = &call.kernel.store;
            let object = store.object(cid)?.ok_or_else(|| {
                Error::new(Code::Unavailable, format!("{cid} is not stored on this node, and local asks no other"))
            })?;
            let result = if is_tree(store, cid) {
                Target::Directory { cid: *cid }
            } else {
                Target::File { cid: *cid, size_bytes: object.size_bytes(), executable: false }
            };
            Ok(Reply::stored(result))
        })
    }
}
