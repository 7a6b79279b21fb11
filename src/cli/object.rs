//! `gridfs init`, `put`, `get`, `stats`.

use std::io;
use std::path::PathBuf;

use clap::Args;

use super::Globals;
use super::output::print;
use crate::error::{Code, Error, Result};
use crate::service::{Answer, Request, Source, StatsRow};

/// Creates the node's home.
pub(crate) fn init(globals: &Globals) -> Result<()> {
    globals.request(Request::Stats)?;
    println!("{}", globals.home.display());
    Ok(())
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  gridfs put war.txt photos/         print a CID for each
  gridfs put --name linux linux-6.1  store a directory and name it
  tar c . | gridfs put --name backup.tar -")]
pub(crate) struct Put {
    /// Give it this name, in place of what the name stood for
    #[arg(long, short)]
    name: Option<String>,
    /// Files and directories; - is standard input
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

impl Put {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        if self.name.is_some() && self.paths.len() != 1 {
            return Err(Error::new(Code::Usage, "--name takes one path: each needs a name of its own"));
        }
        let mut rows = Vec::new();
        for path in &self.paths {
            let source = match path.as_os_str() == "-" {
                true => Source::Stream,
                false => Source::Path(absolute(path)?),
            };
            let answer = globals.request(Request::Put { source, name: self.name.clone() })?;
            let Answer::Stored(row) = answer else { return Err(unexpected()) };
            if !globals.json {
                println!("{}  {}", row.cid.as_deref().unwrap_or_default(), path.display());
            }
            rows.push(row);
        }
        if globals.json { print(true, &rows, |_| Ok(())) } else { Ok(()) }
    }
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  gridfs get war.txt > copy.txt
  gridfs get linux /tmp/linux          a directory needs a place to go
  gridfs get /local/untar/src.tar/src  a path of the grid, computed if need be")]
pub(crate) struct Get {
    /// A CID, a name or a path of the grid
    what: String,
    /// Write it here; nothing may be there yet
    to: Option<PathBuf>,
}

impl Get {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        let to = self.to.as_ref().map(|to| absolute(to)).transpose()?;
        globals.request(Request::Get { what: self.what, to })?;
        Ok(())
    }
}

/// Prints counts and sizes.
pub(crate) fn stats(globals: &Globals) -> Result<()> {
    let Answer::Stats(stats) = globals.request(Request::Stats)? else { return Err(unexpected()) };
    print(globals.json, &stats, |out| write_stats(out, &stats))
}

fn write_stats(out: &mut dyn io::Write, stats: &StatsRow) -> io::Result<()> {
    let lines = [
        ("objects", stats.objects),
        ("chunks", stats.chunks),
        ("remembered results", stats.memos),
        ("names", stats.names),
        ("plain bytes", stats.plain_bytes),
        ("stored bytes", stats.stored_bytes),
        ("bytes on disk", stats.disk_bytes),
        ("calls", stats.calls),
        ("answered from memory", stats.hits),
        ("modules run", stats.runs),
        ("modules failed", stats.failures),
        ("modules running", stats.running),
    ];
    lines.iter().try_for_each(|(what, count)| writeln!(out, "{what:<21} {count:>15}"))
}

pub(crate) fn absolute(path: &std::path::Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::caused(Code::Usage, format!("can't use {}", path.display()), e))
}

pub(crate) fn unexpected() -> Error {
    Error::new(Code::General, "the daemon gave an answer to another question; is it of the same version?")
}
