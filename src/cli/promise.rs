//! `gridfs promise`: the terms under which the node answers calls.

use std::fs::File;
use std::io;

use bytesize::ByteSize;
use clap::{Args, Subcommand, ValueEnum};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};

use super::Globals;
use super::limits::Limits;
use super::object::unexpected;
use super::output::print;
use crate::error::{Code, Error, Result};
use crate::identity::NodeId;
use crate::promise::{Listed, Promise as Document, PromiseLimits, Source, Trust};
use crate::service::{Answer, PromiseRow, Request};

#[derive(Subcommand)]
#[command(after_help = "\
A call names its promise first: /PROMISE/MODULE/ARGUMENTS. A node answers only under promises that it accepts; `local` and
`pub` are accepted from the start.

Examples:
  gridfs promise list
  gridfs promise new --name quick --text 'Small jobs, at once.' --module wc --module grep --wall-ms 2000
  gridfs promise show quick
  grid -p quick wc war.txt
  gridfs promise revoke pub          this node makes that promise no longer
  gridfs promise ledger              what was promised, and kept or not")]
pub(crate) enum Promise {
    /// Make a promise, signed with the node's key, and accept it
    New(Box<New>),
    /// Show what a promise says
    Show {
        /// Name or CID
        promise: String,
    },
    /// Answer calls under a promise from now on
    Accept {
        /// Name or CID, or a file that holds the document
        promise: String,
    },
    /// Refuse calls under a promise from now on
    Revoke {
        /// Name or CID
        promise: String,
    },
    /// List the promises that this node accepts
    List,
    /// Show which modules kept and which broke what they had accepted, and why
    Ledger,
}

#[derive(Args)]
pub(crate) struct New {
    /// What is promised
    #[arg(long)]
    text: String,
    /// What is asked in return
    #[arg(long, default_value = "Nothing.")]
    asks: String,
    /// The name to give it
    #[arg(long, short)]
    name: Option<String>,
    /// A module that it covers, by name or CID; without any it covers all
    #[arg(long = "module", value_name = "MODULE")]
    modules: Vec<String>,
    /// Where results may come from
    #[arg(long, default_value = "local")]
    source: From,
    /// A node whose claims are believed beside this node's own, by its public key (12D3KooW...)
    #[arg(long = "trust", value_name = "KEY")]
    trusted: Vec<NodeId>,
    /// How many of the trusted nodes must claim the same
    #[arg(long, value_name = "K", default_value_t = 1, requires = "trusted")]
    agree: u64,
    /// How many of 100 believed claims this node checks by computing them itself, like 0.5
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, requires = "trusted")]
    audit: f64,
    /// How long a volatile result holds, like 10s or 1h
    #[arg(long, value_name = "TIME", value_parser = span)]
    ttl: Option<u64>,
    /// Offer results to others
    #[arg(long)]
    share: bool,
    /// Demand authority: calls are the owner's, and of who holds a token of `gridfs cap grant`
    #[arg(long)]
    capability: bool,
    /// When it begins: a time like 2026-12-31T00:00:00Z, or from now on, like 2h
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<u64>,
    /// When it ends: a time, or from now on, like 30d
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<u64>,
    #[command(flatten)]
    limits: Limits,
}

/// Where results may come from.
#[derive(Clone, Copy, ValueEnum)]
enum From {
    /// This node alone
    Local,
    /// This node, then peers
    Fetch,
    /// This node and peers at once
    Race,
}

impl New {
    fn request(self) -> Request {
        let before = Document::local();
        let set = self.limits.set();
        let limits = PromiseLimits {
            fuel: set.fuel.unwrap_or(before.limits.fuel),
            wall_ms: set.wall_ms.unwrap_or(before.limits.wall_ms),
            memory_bytes: set.memory_bytes.unwrap_or(before.limits.memory_bytes),
            output_bytes: set.output_bytes.unwrap_or(before.limits.output_bytes),
        };
        let source = match self.source {
            From::Local => Source::Local,
            From::Fetch => Source::Fetch,
            From::Race => Source::Race,
        };
        let mut keys = self.trusted;
        keys.sort_unstable();
        keys.dedup();
        let trust = match keys.is_empty() {
            true => Trust::OWN,
            false => {
                Trust::Listed(Listed { keys, agree: self.agree, audit_ppm: (self.audit * 10_000.0).round() as u64 })
            }
        };
        let promise = Document {
            asks: self.asks,
            text: self.text,
            share: self.share,
            capability: self.capability,
            limits,
            source,
            trust,
            ttl_ms: self.ttl,
            not_before: self.from,
            not_after: self.until,
            ..before
        };
        Request::NewPromise { promise: Box::new(promise), modules: self.modules, name: self.name }
    }
}

/// A time, or a span from now on, in milliseconds since 1970.
pub(super) fn time(text: &str) -> std::result::Result<u64, String> {
    let span =
        || text.parse::<Span>().ok().and_then(|span| Timestamp::now().to_zoned(TimeZone::UTC).checked_add(span).ok());
    let time = text.parse::<Timestamp>().ok().or_else(|| span().map(|time| time.timestamp()));
    let time_ms = time.and_then(|time| u64::try_from(time.as_millisecond()).ok());
    time_ms.ok_or_else(|| "write a time like 2026-12-31T00:00:00Z, or a span from now on like 30d or 2h".into())
}

/// A span in milliseconds.
fn span(text: &str) -> std::result::Result<u64, String> {
    let span = text.parse::<SignedDuration>().ok().and_then(|span| u64::try_from(span.as_millis()).ok());
    span.ok_or_else(|| "write a span like 10s, 5m or 1h".into())
}

impl Promise {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        let request = match self {
            Promise::New(new) => new.request(),
            Promise::Show { promise } => Request::ShowPromise { promise },
            Promise::Accept { promise } if promise.contains('/') => return accept_file(globals, &promise),
            Promise::Accept { promise } => Request::Accept { promise, accept: true },
            Promise::Revoke { promise } => Request::Accept { promise, accept: false },
            Promise::List => Request::Promises,
            Promise::Ledger => return super::ledger::run(globals),
        };
        let shows_one = matches!(request, Request::ShowPromise { .. });
        match globals.request(request)? {
            Answer::Done => Ok(()),
            Answer::Stored(row) => print(globals.json, &row, |out| {
                writeln!(out, "{}  {}", row.cid.as_deref().unwrap_or_default(), row.name)
            }),
            Answer::Promises(rows) if shows_one => {
                let row = rows.first().ok_or_else(unexpected)?;
                print(globals.json, row, |out| write_promise(out, row))
            }
            Answer::Promises(rows) => print(globals.json, &rows, |out| {
                rows.iter().try_for_each(|row| writeln!(out, "{}  {}  {}", row.cid, row.names.join(" "), row.text))
            }),
            _ => Err(unexpected()),
        }
    }
}

/// A promise made elsewhere.
fn accept_file(globals: &Globals, path: &str) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::caused(Code::Usage, format!("can't open {path}"), e))?;
    let Answer::Stored(row) = globals.request_with(Request::AcceptDocument, Box::new(file))? else {
        return Err(unexpected());
    };
    print(globals.json, &row, |out| writeln!(out, "{}", row.cid.as_deref().unwrap_or_default()))
}

fn write_promise(out: &mut dyn io::Write, row: &PromiseRow) -> io::Result<()> {
    writeln!(out, "{}\n", row.text)?;
    writeln!(out, "in return  {}", row.asks)?;
    writeln!(out, "cid        {}", row.cid)?;
    writeln!(out, "names      {}", if row.names.is_empty() { "-".into() } else { row.names.join(" ") })?;
    writeln!(out, "accepted   {}", if row.accepted { "yes" } else { "no; `gridfs promise accept` does" })?;
    writeln!(out, "made by    {}", row.issuer.as_deref().unwrap_or("every node, for itself"))?;
    writeln!(
        out,
        "covers     {}",
        row.modules.as_ref().map_or("every module".into(), |cids| cids.join("\n           "))
    )?;
    writeln!(out, "from       {}", row.not_before.as_deref().unwrap_or("ever"))?;
    writeln!(out, "until      {}", row.not_after.as_deref().unwrap_or("for ever"))?;
    writeln!(out, "source     {}", row.source)?;
    writeln!(out, "trusts     {}", row.trust)?;
    writeln!(out, "volatile   for {} ms", row.ttl_ms.map_or("60000 (the default)".into(), |ms| ms.to_string()))?;
    writeln!(out, "shared     {}", if row.share { "yes" } else { "no" })?;
    writeln!(out, "demands    {}", if row.capability { "a capability" } else { "no capability" })?;
    let PromiseLimits { fuel, wall_ms, memory_bytes, output_bytes } = row.limits;
    let (memory, output) = (ByteSize(memory_bytes), ByteSize(output_bytes));
    writeln!(out, "limits     {fuel} fuel, {wall_ms} ms, {memory} of memory, {output} of output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_given_or_counted_from_now() {
        assert_eq!(time("1970-01-01T00:00:02Z"), Ok(2000));
        let now_ms = crate::time::now_ms();
        let in_a_month = time("30d").unwrap();
        assert!(in_a_month >= now_ms + 30 * 86_400_000 && in_a_month < now_ms + 31 * 86_400_000);
        for wrong in ["", "soon", "1969-01-01T00:00:00Z", "-99999y"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        assert_eq!((span("10s"), span("1h")), (Ok(10_000), Ok(3_600_000)));
        for wrong in ["", "-5s", "soon", "30"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
