//! `gridfs promise ledger`.

use std::io;

use super::Globals;
use super::object::unexpected;
use super::output::print;
use crate::error::Result;
use crate::service::{Answer, KeptRow, Request};

pub(crate) fn run(globals: &Globals) -> Result<()> {
    let Answer::Ledger(row) = globals.request(Request::Ledger)? else { return Err(unexpected()) };
    print(globals.json, &row, |out| {
        writeln!(out, "called")?;
        row.called.iter().try_for_each(|row| write_row(out, row))?;
        writeln!(out, "consulted")?;
        row.consulted.iter().try_for_each(|row| write_row(out, row))?;
        if row.more > 0 {
            writeln!(out, "and {} more that broke less", row.more)?;
        }
        Ok(())
    })
}

fn write_row(out: &mut dyn io::Write, row: &KeptRow) -> io::Result<()> {
    write!(out, "  kept {:>8}  broken {:>8}  {}", row.kept, row.broken, row.who)?;
    if !row.names.is_empty() {
        write!(out, "  {}", row.names.join(" "))?;
    }
    writeln!(out)?;
    match &row.last_broken {
        Some(broken) => writeln!(out, "      last broken {}: {}", broken.time, broken.reason.replace('\n', " ")),
        None => Ok(()),
    }
}
