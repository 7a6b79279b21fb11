//! `gridfs syscalls`.

use std::io;

use clap::Args;

use super::Globals;
use super::object::unexpected;
use super::output::print;
use crate::error::Result;
use crate::service::{Answer, Request, SyscallsRow, TrackRow};

#[derive(Args)]
#[command(after_help = "\
A call is put to the modules that accept calls with its leading parms: promise, module, arguments. The tree says which have
accepted, which have rejected and when, and how they have kept what they accepted: that decides who is asked first. It is
learnt from calls; answers hold for a minute, and what was broken is forgiven with time.

Examples:
  gridfs syscalls
  gridfs syscalls --json | jq '.nodes[].modules[] | select(.broken > 0)'")]
pub(crate) struct Syscalls {}

impl Syscalls {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        let Answer::Syscalls(row) = globals.request(Request::Syscalls)? else { return Err(unexpected()) };
        print(globals.json, &row, |out| write_tree(out, &row))
    }
}

fn write_tree(out: &mut dyn io::Write, row: &SyscallsRow) -> io::Result<()> {
    for node in &row.nodes {
        writeln!(out, "{}", node.named)?;
        node.modules.iter().try_for_each(|track| write_track(out, track))?;
    }
    if row.more > 0 {
        writeln!(out, "and {} more nodes", row.more)?;
    }
    writeln!(out, "{} replies remembered", row.remembered)
}

fn write_track(out: &mut dyn io::Write, track: &TrackRow) -> io::Result<()> {
    let answer = match (track.accepts, track.age_s) {
        (Some(true), Some(age_s)) => format!("accepts ({age_s} s ago)"),
        (Some(false), Some(age_s)) => format!("rejects ({age_s} s ago)"),
        _ => "answers each call anew".into(),
    };
    write!(out, "  {:<8} {answer}", track.id)?;
    if track.kept + track.broken > 0 {
        write!(out, "; kept {}, broken {}", track.kept, track.broken)?;
    }
    if track.kept > 0 {
        write!(out, ", {}.{:03} ms", track.latency_us / 1000, track.latency_us % 1000)?;
    }
    if let Some(broken) = &track.last_broken {
        write!(out, "; last broken {}: {}", broken.time, broken.reason.replace('\n', " "))?;
    }
    writeln!(out)
}
