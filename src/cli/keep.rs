//! `gridfs gc`, `gridfs pin`.

use std::io;

use clap::{Args, Subcommand};

use super::Globals;
use super::object::unexpected;
use super::output::print;
use crate::error::Result;
use crate::service::{Answer, CollectedRow, PinRow, Request};

#[derive(Args)]
#[command(after_help = "\
Kept is what a name or a pin stands for, with all that is in it; remembered results whose module and inputs are kept; and
what is being put or read at the moment. Puts, reads and calls go on meanwhile.

Examples:
  gridfs gc --dry-run     what would go
  gridfs name rm old && gridfs gc")]
pub(crate) struct Gc {
    /// Only show what would be removed
    #[arg(long)]
    dry_run: bool,
}

impl Gc {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        let answer = globals.request(Request::Collect { dry_run: self.dry_run })?;
        let Answer::Collected(row) = answer else { return Err(unexpected()) };
        if row.damaged_packs > 0 {
            eprintln!("{} damaged packs were left as they are; see `gridfs fsck`", row.damaged_packs);
        }
        print(globals.json, &row, |out| write_collected(out, &row))
    }
}

fn write_collected(out: &mut dyn io::Write, row: &CollectedRow) -> io::Result<()> {
    let (freed, forgotten) = match row.dry_run {
        true => ("would free, about", "would forget"),
        false => ("freed", "forgotten"),
    };
    let lines = [
        ("kept", row.live, "chunks and objects"),
        ("unneeded", row.dead, "chunks and objects"),
        (forgotten, row.forgotten, "remembered results and aliases"),
        (freed, row.freed_bytes, "bytes"),
        ("stored", row.stored_bytes, "bytes"),
    ];
    lines.iter().try_for_each(|(what, count, unit)| writeln!(out, "{what:<18} {count:>15} {unit}"))
}

#[derive(Subcommand)]
#[command(after_help = "\
What is put without a name is pinned by itself.

Examples:
  gridfs pin add /local/untar/src.tar   keep a result
  gridfs pin add grid:b...              fetch what a ticket names, and keep it
  gridfs pin list
  gridfs pin rm CID")]
pub(crate) enum Pin {
    /// Keep an object although nothing names it
    Add {
        /// A CID, a name, a path of the grid, or a ticket
        what: String,
    },
    /// Keep it no longer; the next `gridfs gc` takes it unless a name stands for it
    Rm {
        /// A CID, or a name that stands for it
        what: String,
    },
    /// List what is pinned
    List,
}

impl Pin {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        let request = match self {
            Pin::Add { what } => Request::Pin { what },
            Pin::Rm { what } => Request::Unpin { what },
            Pin::List => Request::Pins,
        };
        match globals.request(request)? {
            Answer::Pins(pins) => print(globals.json, &pins, |out| write_pins(out, &pins)),
            Answer::Done => Ok(()),
            _ => Err(unexpected()),
        }
    }
}

fn write_pins(out: &mut dyn io::Write, pins: &[PinRow]) -> io::Result<()> {
    pins.iter().try_for_each(|pin| writeln!(out, "{}  {}  {}", pin.cid, pin.time, pin.note))
}
