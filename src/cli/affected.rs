//! `gridfs affected`, `gridfs revoke`: what an object went into.

use clap::Args;

use super::Globals;
use super::object::unexpected;
use super::output::print;
use crate::error::Result;
use crate::service::{Answer, Request};

#[derive(Args)]
#[command(after_help = "\
Lists the remembered calls that an input or a module went into, however indirectly.

Examples:
  gridfs affected wc             what the module wc was run for
  gridfs affected bafkrei...     what a file went into, alone or in a directory")]
pub(crate) struct Affected {
    /// A CID or a name
    what: String,
}

#[derive(Args)]
#[command(after_help = "\
Forgets the results that an object went into, and those that gave it: they are computed again when they are asked for. The
object itself stays.

Examples:
  gridfs affected wc && gridfs revoke wc
  gridfs revoke bafkrei...       a result that is wrong")]
pub(crate) struct Revoke {
    /// A CID or a name
    what: String,
}

impl Affected {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        paths(globals, Request::Affected { what: self.what, revoke: false })
    }
}

impl Revoke {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        paths(globals, Request::Affected { what: self.what, revoke: true })
    }
}

fn paths(globals: &Globals, request: Request) -> Result<()> {
    let Answer::Paths(paths) = globals.request(request)? else { return Err(unexpected()) };
    print(globals.json, &paths, |out| paths.iter().try_for_each(|path| writeln!(out, "{path}")))
}
