//! `gridfs init`, `put`, `get`, `stats`.

use std::io;
use std::path::PathBuf;

use clap::Args;
use gridfs_store::Algorithm;

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
  tar c . | gridfs put --name backup.tar -
  gridfs put --hash sha2-256 FILE    print a second CID, by SHA-256, that works like the first

With --hash every file, those inside directories too, is known by a second CID from then on. A directory itself
has none: its bytes hold the BLAKE3 CIDs of what is in it, so nobody else would find that digest.")]
pub(crate) struct Put {
    /// Give it this name, in place of what the name stood for
    #[arg(long, short)]
    name: Option<String>,
    /// Also compute this digest of each file's content, sha2-256 or sha3-256, and know the file by it
    #[arg(long, value_name = "ALGORITHM")]
    hash: Option<Algorithm>,
    /// Read every file, also those that look unchanged since an earlier put of the same directory
    #[arg(long)]
    force: bool,
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
            let request = Request::Put { source, name: self.name.clone(), hash: self.hash, force: self.force };
            let answer = globals.request(request)?;
            let Answer::Stored(row) = answer else { return Err(unexpected()) };
            if !globals.json {
                let alias = row.alias.iter().map(|alias| format!("  {alias}")).collect::<String>();
                println!("{}{alias}  {}", row.cid.as_deref().unwrap_or_default(), path.display());
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
  gridfs get /local/untar/src.tar/src  a path of the grid, computed if need be
  gridfs get grid:b... copy            what `gridfs share` on another machine printed a ticket for")]
pub(crate) struct Get {
    /// A CID, a name, a path of the grid, or a ticket
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
    let ratio = |of: u64, by: u64| if by == 0 { "-".into() } else { format!("{:.2}", of as f64 / by as f64) };
    let share = |of: u64, by: u64| if by == 0 { "-".into() } else { format!("{:.1} %", 100.0 * of as f64 / by as f64) };
    let count = |count: u64| count.to_string();
    let lines = [
        ("names", count(stats.names)),
        ("pins", count(stats.pins)),
        ("files named or pinned", count(stats.files)),
        ("their bytes", count(stats.file_bytes)),
        ("objects", count(stats.objects)),
        ("chunks", count(stats.chunks)),
        ("results, aliases, pins", count(stats.memos)),
        ("plain bytes", count(stats.plain_bytes)),
        ("stored bytes", count(stats.stored_bytes)),
        ("quota", stats.quota_bytes.map_or("-".into(), count)),
        ("bytes on disk", count(stats.disk_bytes)),
        ("plain copies", count(stats.copies_bytes)),
        ("deduplication ratio", ratio(stats.file_bytes, stats.plain_bytes)),
        ("compression ratio", ratio(stats.plain_bytes, stats.stored_bytes)),
        ("live part of packs", share(stats.live_bytes, stats.stored_bytes)),
        ("gc would free, about", count(stats.collectable_bytes)),
        ("calls", count(stats.calls)),
        ("answered from memory", count(stats.hits)),
        ("modules run", count(stats.runs)),
        ("modules failed", count(stats.failures)),
        ("fetched from peers", count(stats.fetched)),
        ("believed of peers", count(stats.claimed)),
        ("run for peers", count(stats.served)),
        ("modules running", count(stats.running)),
    ];
    lines.iter().try_for_each(|(what, value)| writeln!(out, "{what:<22} {value:>15}"))
}

pub(crate) fn absolute(path: &std::path::Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::caused(Code::Usage, format!("can't use {}", path.display()), e))
}

/// A path of the grid, a CID or a name as it was typed; a path relative to where one stands is made absolute.
pub(crate) fn spelled(what: String) -> String {
    let relative = !what.starts_with('/') && what.contains('/');
    let absolute = std::path::absolute(&what).ok().filter(|path| relative && path.symlink_metadata().is_ok());
    absolute.and_then(|path| path.into_os_string().into_string().ok()).unwrap_or(what)
}

pub(crate) fn unexpected() -> Error {
    Error::new(Code::General, "the daemon gave an answer to another question; is it of the same version?")
}
