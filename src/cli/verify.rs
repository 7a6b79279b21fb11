//! `gridfs verify`: is a result to be believed?

use clap::Args;

use super::Globals;
use super::object::{spelled, unexpected};
use super::output::print;
use crate::error::{Code, Error, Result};
use crate::service::{Answer, Request, Verdict, VerifiedRow};

#[derive(Args)]
#[command(after_help = "\
Checks a result and all results below it: that the bytes are what their hashes say, that the receipts are signed, and by
somebody whom the promise believes. The exit status tells the worst: 0 fine, 14 corrupt, 16 diverged, 17 untrusted.

Examples:
  gridfs verify ~/grid/local/wc/war.txt
  gridfs verify --rerun /local/wc/war.txt     run the modules again and compare
  gridfs verify war.txt                       the bytes of a stored object")]
pub(crate) struct Verify {
    /// A path of the grid, a CID or a name
    what: String,
    /// Run the modules again, and compare the results
    #[arg(long)]
    rerun: bool,
    /// How many nodes must claim the same result
    #[arg(long, value_name = "K", default_value_t = 1)]
    agree: u64,
}

impl Verify {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        let request = Request::Verify { what: spelled(self.what), rerun: self.rerun, agree: self.agree };
        let Answer::Verified(rows) = globals.request(request)? else { return Err(unexpected()) };
        print(globals.json, &rows, |out| {
            rows.iter().try_for_each(|row| {
                let verdict = format!("{:?}", row.verdict).to_lowercase();
                writeln!(out, "{verdict:<9}  {}  {}\n           {}", row.result, row.path, row.why)
            })
        })?;
        rows.iter().max_by_key(|row| row.verdict).map_or(Ok(()), verdict)
    }
}

fn verdict(worst: &VerifiedRow) -> Result<()> {
    let (code, advice) = match worst.verdict {
        Verdict::Fine => return Ok(()),
        Verdict::Untrusted => (Code::Untrusted, "`gridfs verify --rerun` shows what this node gets"),
        Verdict::Diverged => (Code::Diverged, "`gridfs revoke` makes it be computed again, with all that it went into"),
        Verdict::Corrupt => (Code::Corrupt, "`gridfs fsck --read-data` tells what else is damaged"),
    };
    Err(Error::new(code, format!("{}: {}; {advice}", worst.path, worst.why)))
}
