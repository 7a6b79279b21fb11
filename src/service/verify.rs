//! Checking a result: that its bytes are what their hashes say, that who claims it may be believed, and on request that running
//! the modules again gives the same.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use gridfs_modules::Class;
use gridfs_store::{Cid, Hash, Target};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::origin::{Asked, remembered};
use super::{Answer, Event, Report, Service, Verdict, VerifiedRow, blocking, gone};
use crate::error::{Code, Error, Result};
use crate::identity::NodeId;
use crate::kernel::Kernel;
use crate::lineage::Remembered;
use crate::parms::Parms;
use crate::promise::Trust;
use crate::receipt::cid_of;

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;

/// How thoroughly to check.
#[derive(Clone, Copy)]
pub(super) struct Demand {
    /// Whether to run the modules again.
    pub(super) rerun: bool,
    /// How many nodes must claim the same.
    pub(super) agree: u64,
}

impl Service {
    pub(super) async fn verify(&self, what: &str, demand: Demand, events: &mpsc::Sender<Event>) -> Result<Answer> {
        let asked = self.asked(what)?;
        let (kernel, report, runtime) = (self.node.kernel.clone(), Report::new(events.clone()), Handle::current());
        blocking(move || {
            let mut verifying = Verifying {
                kernel,
                demand,
                report,
                runtime,
                calls: HashSet::new(),
                read: HashSet::new(),
                rows: Vec::new(),
            };
            match asked {
                Asked::Call(call, _) => verifying.call(&call)?,
                Asked::Object(target) => {
                    let verdict = verifying.bytes(&cid_of(&target).expect("it was found by its CID"))?;
                    verifying.tell(what_is(&target), &target, verdict);
                }
            }
            Ok(Answer::Verified(verifying.rows))
        })
        .await
    }
}

fn what_is(target: &Target) -> String {
    cid_of(target).map(|cid| cid.to_string()).unwrap_or_default()
}

type Judged = std::result::Result<String, (Verdict, String)>;

struct Verifying {
    kernel: Arc<Kernel>,
    demand: Demand,
    report: Report,
    runtime: Handle,
    /// Calls told of.
    calls: HashSet<Hash>,
    /// Objects read and found whole.
    read: HashSet<Cid>,
    rows: Vec<VerifiedRow>,
}

impl Verifying {
    /// A call, and all below it.
    fn call(&mut self, call: &Remembered) -> Result<()> {
        if !self.calls.insert(call.key) {
            return Ok(());
        }
        for (parms, result) in &call.receipt.deps {
            self.dependency(parms, result)?;
        }
        let verdict = self.judge(call)?;
        self.tell(self.kernel.path_of(call), &call.memo.target(), verdict);
        Ok(())
    }

    fn dependency(&mut self, parms: &Parms, result: &Cid) -> Result<()> {
        // One that may not be asked for any more is as good as forgotten.
        if let Ok(Some(below)) = remembered(&self.kernel, parms)
            && below.memo.result == *result
        {
            return self.call(&below);
        }
        // Nothing is remembered of what a native module or a manifest answers, and nobody has to claim it.
        let verdict = self.bytes(result)?;
        let required = self.kernel.modules.get(&parms.module).map_or(0, |module| module.required());
        let target = Target::File { cid: *result, size_bytes: 0, executable: false };
        self.tell(parms.path(required), &target, verdict);
        Ok(())
    }

    fn judge(&mut self, call: &Remembered) -> Result<Judged> {
        let Remembered { key, memo, receipt } = call;
        if receipt.key() != *key || receipt.result != memo.result {
            return Ok(Err((Verdict::Corrupt, "its receipt tells of another call or result".into())));
        }
        if !receipt.is_signed() {
            return Ok(Err((Verdict::Corrupt, format!("its receipt is not signed by {}", receipt.issuer))));
        }
        if let Err(why) = self.bytes(&memo.result)? {
            return Ok(Err(why));
        }
        // Of a promise that is not accepted any more, nobody's claims count but this node's.
        let trust = self.kernel.promise(&receipt.parms.promise).map_or(Trust::OWN, |promise| promise.trust.clone());
        let claimants = BTreeSet::from([receipt.issuer]);
        if let Err(why) = self.believed(&trust, &claimants) {
            return Ok(Err((Verdict::Untrusted, why)));
        }
        if self.demand.rerun && receipt.class == Class::Pure { self.again(call) } else { Ok(Ok(self.told(call))) }
    }

    fn told(&self, call: &Remembered) -> String {
        match call.receipt.class {
            Class::Pure => format!("claimed by {}", call.receipt.issuer),
            Class::Volatile => {
                format!("claimed by {}; volatile, so another run may give another result", call.receipt.issuer)
            }
        }
    }

    fn believed(&self, trust: &Trust, claimants: &BTreeSet<NodeId>) -> std::result::Result<(), String> {
        let listed = claimants.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
        if !trust.believes(&self.kernel.identity.id(), claimants) {
            return Err(format!("it is claimed by {listed}; its promise believes {trust}"));
        }
        match claimants.len() as u64 >= self.demand.agree {
            true => Ok(()),
            false => Err(format!("it is claimed by {listed} alone, not by {} nodes", self.demand.agree)),
        }
    }

    fn again(&self, call: &Remembered) -> Result<Judged> {
        let computed = self.runtime.block_on(self.kernel.compute_again(call.receipt.parms.clone()))?;
        let result = cid_of(&computed.result).expect("a result is a file or a directory");
        Ok(match result == call.memo.result {
            true => Ok(format!("{}; another run gives the same", self.told(call))),
            false => Err((Verdict::Diverged, format!("another run gives {result}"))),
        })
    }

    /// Whether an object, and all in it, is there as its hash says.
    fn bytes(&mut self, cid: &Cid) -> Result<Judged> {
        match self.read(cid) {
            Ok(()) => Ok(Ok("its bytes are what their hash says".into())),
            Err(error) if matches!(error.code, Code::Corrupt | Code::Unavailable) => {
                Ok(Err((Verdict::Corrupt, error.to_string())))
            }
            Err(error) => Err(error),
        }
    }

    fn read(&mut self, cid: &Cid) -> Result<()> {
        if self.read.contains(cid) {
            return Ok(());
        }
        self.read_alone(cid)?;
        if crate::describe::is_tree(&self.kernel.store, cid) {
            for entry in self.kernel.store.tree(cid)?.entries() {
                if let Some(inner) = cid_of(&entry.target) {
                    self.read(&inner)?;
                }
            }
        }
        self.read.insert(*cid);
        Ok(())
    }

    fn read_alone(&mut self, cid: &Cid) -> Result<()> {
        let object = self.kernel.store.object(cid)?.ok_or(gridfs_store::Error::NotFound { cid: *cid })?;
        let (mut hasher, mut offset) = (blake3::Hasher::new(), 0);
        while offset < object.size_bytes() {
            let bytes = object.read(offset, READ_BYTES)?;
            hasher.update(&bytes);
            offset += bytes.len() as u64;
            if self.report.add(0, bytes.len() as u64).is_break() {
                return Err(gone());
            }
        }
        match Hash(*hasher.finalize().as_bytes()) == cid.hash {
            true => Ok(()),
            false => Err(Error::new(Code::Corrupt, format!("the bytes of {cid} are not what their hash says"))),
        }
    }

    fn tell(&mut self, path: String, target: &Target, judged: Judged) {
        let (verdict, why) = judged.map_or_else(|(verdict, why)| (verdict, why), |why| (Verdict::Fine, why));
        self.rows.push(VerifiedRow { path, result: what_is(target), verdict, why });
    }
}
