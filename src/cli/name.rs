//! `gridfs name`: the symbol table.

use clap::Subcommand;

use super::Globals;
use super::object::unexpected;
use super::output::{print, write_rows};
use crate::error::Result;
use crate::service::{Answer, FollowedRow, Request};

#[derive(Subcommand)]
#[command(after_help = "\
Examples:
  gridfs name set latest war.txt     one more name for the same thing
  gridfs name log                    what changed, newest first
  gridfs name rollback ROOT          make an older state the newest again
  gridfs name publish linux notes    let peers see these two names, and read what they stand for
  gridfs name follow 12D3KooW... --as ann
                                     let ann stand for what a peer publishes:
  ls -l ~/grid/pub/cas/ann           its names, each a link; what is opened is fetched, and stays
  gridfs name update ann             ask it again; the daemon does so by itself every 10 to 15 minutes")]
pub(crate) enum Name {
    /// Let a name stand for a CID, another name or a path of the grid
    Set {
        /// The name
        name: String,
        /// What it stands for
        to: String,
    },
    /// Forget a name; what it stood for stays. It is published no longer
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
    /// Let all peers see names, and read what these stand for, now and when they change
    Publish {
        /// The names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Let peers see names no longer
    Unpublish {
        /// The names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Let a name stand for what a peer publishes; without a peer, list who is followed
    Follow {
        /// Its id, or an address that ends with it
        peer: Option<String>,
        /// The name [default: peer- and the end of the id]
        #[arg(long = "as", value_name = "NAME", requires = "peer")]
        name: Option<String>,
    },
    /// Follow a peer no longer
    Unfollow {
        /// The name that stands for what it publishes
        name: String,
    },
    /// Ask again what is published by who is followed
    Update {
        /// Only by the peer under this name
        name: Option<String>,
    },
}

impl Name {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        match self {
            Name::Set { name, to } => root(globals, Request::SetName { name, to: Some(to) }),
            Name::Rm { name } => root(globals, Request::SetName { name, to: None }),
            Name::Rollback { to } => root(globals, Request::Rollback { to }),
            Name::Publish { names } => done(globals, Request::Publish { names, publish: true }),
            Name::Unpublish { names } => done(globals, Request::Publish { names, publish: false }),
            Name::Follow { peer: Some(peer), name } => followed(globals, Request::Follow { peer, name }),
            Name::Follow { peer: None, .. } => followed(globals, Request::Follows),
            Name::Unfollow { name } => done(globals, Request::Unfollow { name }),
            Name::Update { name } => followed(globals, Request::UpdateNames { name }),
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

fn done(globals: &Globals, request: Request) -> Result<()> {
    let Answer::Done = globals.request(request)? else { return Err(unexpected()) };
    Ok(())
}

fn followed(globals: &Globals, request: Request) -> Result<()> {
    let Answer::Followed(rows) = globals.request(request)? else { return Err(unexpected()) };
    print(globals.json, &rows, |out| {
        for FollowedRow { name, node, names, published, since } in &rows {
            writeln!(out, "{name}  {node}  {names} names as of {published}, followed since {since}")?;
        }
        Ok(())
    })
}
