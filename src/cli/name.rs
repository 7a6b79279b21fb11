//! `gridfs name`: the symbol table.

use clap::Subcommand;

use super::Globals;
use super::object::unexpected;
use super::output::{print, write_rows};
use crate::error::Result;
use crate::service::{Answer, Request};

#[derive(Subcommand)]
#[command(after_help = "\
Examples:
  gridfs name set latest war.txt     one more name for the same thing
  gridfs name log                    what changed, newest first
  gridfs name rollback ROOT          make an older state the newest again")]
pub(crate) enum Name {
    /// Let a name stand for a CID, another name or a path of the grid
    Set {
        /// The name
        name: String,
        /// What it stands for
        to: String,
    },
    /// Forget a name; what it stood for stays
    Rm {
        /// The name
        name: String,
    },
    /// List the names
    List {
        /// As of this root
        #[arg(long)]
        at: Option<String>,
    },
    /// List the changes of the symbol table, newest first
    Log {
        /// At most this many
        #[arg(long, short = 'n', default_value_t = 20)]
        limit: usize,
    },
    /// Make the names of an older root the newest again
    Rollback {
        /// The root, as `name log` shows it
        to: String,
    },
}

impl Name {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        match self {
            Name::Set { name, to } => root(globals, Request::SetName { name, to: Some(to) }),
            Name::Rm { name } => root(globals, Request::SetName { name, to: None }),
            Name::Rollback { to } => root(globals, Request::Rollback { to }),
            Name::List { at } => {
                let Answer::Rows(rows) = globals.request(Request::Names { at })? else { return Err(unexpected()) };
                print(globals.json, &rows, |out| write_rows(out, &rows))
            }
            Name::Log { limit } => {
                let answer = globals.request(Request::NameLog { limit })?;
                let Answer::Changes(changes) = answer else { return Err(unexpected()) };
                print(globals.json, &changes, |out| {
                    for change in &changes {
                        writeln!(out, "{}  {}", change.root, change.time)?;
                        for line in &change.changes {
                            writeln!(out, "    {line}")?;
                        }
                    }
                    Ok(())
                })
            }
        }
    }
}

fn root(globals: &Globals, request: Request) -> Result<()> {
    let Answer::Root(root) = globals.request(request)? else { return Err(unexpected()) };
    print(globals.json, &root, |out| writeln!(out, "{root}"))
}
