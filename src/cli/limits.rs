//! Options that limit what a call may use.

use bytesize::ByteSize;
use clap::Args;

#[derive(Args)]
pub(crate) struct Limits {
    /// Most instructions of a call, about
    #[arg(long)]
    fuel: Option<u64>,
    /// Longest time of a call, in milliseconds
    #[arg(long)]
    wall_ms: Option<u64>,
    /// Most memory of a call, like 64MiB
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Largest result of a call, like 1GiB
    #[arg(long, value_name = "SIZE")]
    output: Option<ByteSize>,
}

impl Limits {
    /// What was set of them.
    pub(crate) fn set(&self) -> gridfs_modules::manifest::Limits {
        gridfs_modules::manifest::Limits {
            fuel: self.fuel,
            wall_ms: self.wall_ms,
            memory_bytes: self.memory.map(|size| size.as_u64()),
            output_bytes: self.output.map(|size| size.as_u64()),
        }
    }
}
