//! The native module `cas`: the stored object with this CID. A directory is browsed below it by whoever walks the path.

use gridfs_store::Target;

use crate::acceptance::asks;
use crate::describe::{Runner, is_tree};
use crate::error::{Code, Error, Result};
use crate::module::{Acceptance, Call, Handling, Module, Reply};
use crate::parms::Value;
use crate::peers::Peers;

/// The module.
pub struct CasModule;

impl Module for CasModule {
    fn id(&self) -> &str {
        "cas"
    }

    fn accept(&self, call: &Call) -> Result<Acceptance> {
        Ok(Acceptance::of_module(call.module.runner == Runner::Cas && !asks(&call.parms.promise)))
    }

    fn handle<'a>(&'a self, call: &'a Call) -> Handling<'a> {
        Box::pin(async {
            let [Value::Object(cid)] = call.parms.arguments.as_slice() else {
                return Err(Error::new(Code::Usage, "cas takes one argument, a CID or a name"));
            };
            Peers::supply_inputs(call).await?;
            let store = &call.kernel.store;
            let object = store
                .object(cid)?
                .ok_or_else(|| Error::new(Code::Unavailable, format!("{cid} is not stored on this node")))?;
            let result = if is_tree(store, cid) {
                Target::Directory { cid: *cid }
            } else {
                Target::File { cid: *cid, size_bytes: object.size_bytes(), executable: false }
            };
            Ok(Reply::stored(result))
        })
    }
}
