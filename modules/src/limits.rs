//! What one call may use at most.

use serde::{Deserialize, Serialize};

use crate::manifest;

/// Upper bounds of one evaluation. They are part of the memo key: a call under other limits is another call.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Fuel: about one unit per WASM instruction.
    pub fuel: u64,
    /// Wall-clock time in milliseconds.
    pub wall_ms: u64,
    /// Linear memory and tables, in bytes.
    pub memory_bytes: u64,
    /// Bytes written to the result, standard output or files below `/out`, and what their names take.
    pub output_bytes: u64,
}

impl Limits {
    /// The lower of these limits and those that a manifest declares.
    pub fn lowered_by(self, declared: Option<&manifest::Limits>) -> Limits {
        let Some(declared) = declared else { return self };
        let lower = |ours: u64, theirs: Option<u64>| theirs.map_or(ours, |t| ours.min(t));
        Limits {
            fuel: lower(self.fuel, declared.fuel),
            wall_ms: lower(self.wall_ms, declared.wall_ms),
            memory_bytes: lower(self.memory_bytes, declared.memory_bytes),
            output_bytes: lower(self.output_bytes, declared.output_bytes),
        }
    }
}
