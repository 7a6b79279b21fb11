//! `gridfs fsck`: is everything that was stored still there?

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use clap::Args;
use gridfs_store::{Options, Store};

use super::Globals;
use super::object::unexpected;
use super::output::{Output, print};
use crate::error::{Code, Error, Result};
use crate::home::Home;
use crate::names::Names;
use crate::service::check::Checking;
use crate::service::{Answer, CheckRow, FindingRow, Request};

#[derive(Args)]
#[command(after_help = "\
Examples:
  gridfs fsck                directories, manifests, and the index against what is stored
  gridfs fsck --read-data    every byte as well
  gridfs fsck --repair       save what is intact; then put again what is listed as lost

Exit status 14 says that something can't be read. Damaged files are renamed, not deleted.")]
pub(crate) struct Fsck {
    /// Read all data and verify every chunk against its hash
    #[arg(long)]
    read_data: bool,
    /// Repair what can be repaired; reads all data first
    #[arg(long)]
    repair: bool,
}

impl Fsck {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        let row = match globals.request(Request::Check { read_data: self.read_data, repair: self.repair }) {
            Ok(Answer::Checked(row)) => row,
            Ok(_) => return Err(unexpected()),
            // The damage may be what keeps the node from being opened.
            Err(error) if matches!(error.code, Code::Corrupt | Code::Unavailable) => {
                self.without_node(globals).map_err(|own| own.during(format!("{error}; and then")))?
            }
            Err(error) => return Err(error),
        };
        print(globals.json, &row, |out| write(out, &row))?;
        let left = row.repaired.as_ref().map_or(&row.findings, |repaired| &repaired.left);
        verdict(left, self.repair)
    }

    /// Opens nothing but the store.
    fn without_node(&self, globals: &Globals) -> Result<CheckRow> {
        let home = Arc::new(Home::open(&globals.home)?);
        let store = Arc::new(Store::open(&home.store(), Options::default())?);
        let names = Names::open(store.clone(), home.clone()).ok(); // without them, objects are told by their CIDs
        let mut output = Output::new();
        let mut progress = |progress: gridfs_store::Progress| {
            output.checking(progress.done_bytes, progress.total_bytes);
            ControlFlow::Continue(())
        };
        let checking = Checking { store: &store, home: &home, names: names.as_ref() };
        let row = match self.repair {
            true => checking.repair(&mut progress),
            false => checking.run(self.read_data, &mut progress),
        };
        output.finish()?;
        row
    }
}

fn verdict(left: &[FindingRow], repair: bool) -> Result<()> {
    if !left.iter().any(|finding| finding.level == "error") {
        return Ok(());
    }
    let why = match repair {
        true => "what is listed as lost is gone; put it again, and everything that needs it reads again",
        false => "the store is damaged; gridfs fsck --repair saves what is intact",
    };
    Err(Error::new(Code::Corrupt, why))
}

fn write(out: &mut dyn io::Write, row: &CheckRow) -> io::Result<()> {
    write_findings(out, &row.findings)?;
    let depth = if row.read_data { "every byte" } else { "all but the data" };
    writeln!(
        out,
        "checked {} packs of {} bytes, {depth}; {} objects have names",
        row.packs, row.stored_bytes, row.reached
    )?;
    let Some(repaired) = &row.repaired else { return Ok(()) };
    for file in &repaired.set_aside {
        writeln!(out, "what is intact was saved from {}", file.display())?;
    }
    if repaired.left.is_empty() {
        return writeln!(out, "repaired; nothing is left to do");
    }
    writeln!(out, "repaired; what is left:")?;
    write_findings(out, &repaired.left)
}

fn write_findings(out: &mut dyn io::Write, findings: &[FindingRow]) -> io::Result<()> {
    findings.iter().try_for_each(|finding| writeln!(out, "{}: {}", finding.level, finding.text))
}
