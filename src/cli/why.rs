//! `gridfs why`: how bytes came to be.

use std::io;

use bytesize::ByteSize;
use clap::Args;

use super::Globals;
use super::object::unexpected;
use super::output::print;
use crate::error::Result;
use crate::service::{Answer, CallRow, OriginRow, Request};

#[derive(Args)]
#[command(after_help = "\
Shows the call that gave a result, what it was given, and the calls that it made, down to what was put here. Nothing is run.

Examples:
  gridfs why ~/grid/local/wc/war.txt
  gridfs why /local/sort/%2Flocal%2Fwords%2Fwar.txt
  gridfs why --json bafkrei...")]
pub(crate) struct Why {
    /// A path of the grid, a CID or a name
    what: String,
}

impl Why {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        match globals.request(Request::Why { what: super::object::spelled(self.what) })? {
            Answer::Origin(row) => print(globals.json, &row, |out| write_origin(out, &row, "", "")),
            _ => Err(unexpected()),
        }
    }
}

/// An object in one line, then how it came to be.
fn write_origin(out: &mut dyn io::Write, row: &OriginRow, indent: &str, label: &str) -> io::Result<()> {
    let size = row.size_bytes.map_or_else(String::new, |bytes| format!("  {}", ByteSize(bytes)));
    let names = if row.names.is_empty() { String::new() } else { format!("  {}", row.names.join(" ")) };
    let missing = if row.stored { "" } else { "  not stored here" };
    writeln!(out, "{indent}{label}{}{size}{names}{missing}", row.cid)?;
    match &row.call {
        Some(call) => write_call(out, call, &format!("{indent}  ")),
        None => Ok(()),
    }
}

fn write_call(out: &mut dyn io::Write, call: &CallRow, indent: &str) -> io::Result<()> {
    let CallRow { module, promise, class, wall_ms, fuel, time, engine, issuer, .. } = call;
    if call.again {
        return writeln!(out, "{indent}from {module} under {promise}, as told above");
    }
    writeln!(out, "{indent}from {module} under {promise}: {class}, {wall_ms} ms, {fuel} fuel")?;
    writeln!(out, "{indent}  call     {}", call.path)?;
    writeln!(out, "{indent}  run      {time} by {issuer} with {engine}")?;
    writeln!(out, "{indent}  receipt  {}", call.receipt)?;
    if let Some(stderr) = &call.stderr {
        writeln!(out, "{indent}  stderr   {stderr}")?;
    }
    let below = format!("{indent}  ");
    for (name, input) in &call.inputs {
        write_origin(out, input, &below, &format!("given {name}  "))?;
    }
    call.calls.iter().try_for_each(|made| write_origin(out, made, &below, "called  "))
}
