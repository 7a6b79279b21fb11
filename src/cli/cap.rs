//! `gridfs cap`: tokens that let others call, and hand that on.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use clap::{Args, Subcommand};

use super::Globals;
use super::limits::Limits;
use super::object::unexpected;
use super::output::print;
use super::promise::time;
use crate::capability::MAX_BYTES;
use crate::error::{Code, Error, Result};
use crate::service::{Answer, LinkRow, Request, Terms, TokenRow, VerifyCapability};

#[derive(Subcommand)]
#[command(after_help = "\
A token lets the node that holds it make the calls below a prefix, at one node, for a time. Its holder may hand it on, never
wider. Promises made with `gridfs promise new --capability` are for the owner and for holders of tokens alone.

Examples:
  gridfs cap key                                       the node's own key, to be granted to
  gridfs cap grant --to KEY --prefix /quick/wc --for 7d --delegable 1 -o token
  gridfs cap attenuate token --to OTHER --prefix /quick/wc/war.txt
  gridfs cap verify token --path /quick/wc/war.txt
  grid --cap token -p quick wc war.txt                 also as GRID_CAP=token")]
pub(crate) enum Cap {
    /// Print the node's own key
    Key,
    /// Sign a token
    Grant {
        #[command(flatten)]
        terms: Wanted,
        /// Make it 140 bytes long: not to be handed on, no limit on fuel
        #[arg(long)]
        packed: bool,
    },
    /// Hand on a token that was given to this node, narrower or the same
    Attenuate {
        /// The token, or a file that holds it
        token: String,
        #[command(flatten)]
        terms: Wanted,
    },
    /// Show what a token says; nothing is verified
    Show {
        /// The token, or a file that holds it
        token: String,
    },
    /// Verify a token; with --path also that it covers that call
    Verify {
        /// The token, or a file that holds it
        token: String,
        /// The call, /PROMISE/MODULE/ARGUMENTS
        #[arg(long)]
        path: Option<String>,
        /// The node at which it shall hold; without it this one
        #[arg(long, value_name = "KEY")]
        node: Option<String>,
        /// Who presents it; without it the holder, or this node for a packed token, which does not name one
        #[arg(long, value_name = "KEY")]
        holder: Option<String>,
    },
}

#[derive(Args)]
pub(crate) struct Wanted {
    /// The key that is to hold it, as `gridfs cap key` prints it there
    #[arg(long, value_name = "KEY")]
    to: String,
    /// The calls it covers, /PROMISE/MODULE/ARGUMENT.. from the left; without it all, or all that the parent covers
    #[arg(long, value_name = "PATH")]
    prefix: Option<String>,
    /// The node at which it holds; without it this one, or the parent's
    #[arg(long, value_name = "KEY")]
    audience: Option<String>,
    /// When it begins: a time like 2026-12-31T00:00:00Z, or from now on, like 2h
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<u64>,
    /// For how long from now on it holds, like 7d; without it 30 days, or as long as the parent
    #[arg(long = "for", value_name = "SPAN", value_parser = time, conflicts_with = "until")]
    span: Option<u64>,
    /// When it ends: a time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<u64>,
    #[command(flatten)]
    limits: Limits,
    /// How many more times it may be handed on
    #[arg(long, value_name = "N", default_value_t = 0)]
    delegable: u64,
    /// Write the token to this new file instead of printing it
    #[arg(short, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Wanted {
    fn terms(self, packed: bool) -> (Box<Terms>, Option<PathBuf>) {
        let terms = Terms {
            to: self.to,
            prefix: self.prefix,
            audience: self.audience,
            begins_ms: self.from,
            expires_ms: self.span.or(self.until),
            limits: self.limits.set(),
            delegable: self.delegable,
            packed,
        };
        (Box::new(terms), self.out)
    }
}

impl Cap {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        let (request, out) = match self {
            Cap::Key => (Request::Key, None),
            Cap::Grant { terms, packed } => {
                let (terms, out) = terms.terms(packed);
                (Request::Grant(terms), out)
            }
            Cap::Attenuate { token, terms } => {
                let (terms, out) = terms.terms(false);
                (Request::Attenuate { token: read_token(token)?, terms }, out)
            }
            Cap::Show { token } => (Request::ShowCapability { token: read_token(token)? }, None),
            Cap::Verify { token, path, node, holder } => {
                let token = read_token(token)?;
                (Request::VerifyCapability(VerifyCapability { token, path, node, holder }), None)
            }
        };
        match (globals.request(request)?, out) {
            (Answer::Text(text), Some(out)) => write_new(&out, &text),
            (Answer::Text(text), None) => print(globals.json, &text, |out| writeln!(out, "{text}")),
            (Answer::Token(row), _) => print(globals.json, &row, |out| write_token(out, &row)),
            _ => Err(unexpected()),
        }
    }
}

/// A token as it was given: itself, or the file that holds it.
pub(super) fn read_token(given: String) -> Result<String> {
    let path = Path::new(&given);
    if !path.is_file() {
        return Ok(given);
    }
    let mut text = String::new();
    let most = 2 * MAX_BYTES as u64;
    let read = std::fs::File::open(path).and_then(|file| file.take(most).read_to_string(&mut text));
    read.map_err(|e| Error::caused(Code::Usage, format!("can't read the token in {given}"), e))?;
    Ok(text.trim().to_owned())
}

fn write_new(path: &Path, text: &str) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| writeln!(file, "{text}"));
    written.map_err(|e| Error::caused(Code::General, format!("can't write the token to {}", path.display()), e))
}

fn write_token(out: &mut dyn io::Write, row: &TokenRow) -> io::Result<()> {
    writeln!(out, "{} token of {} bytes, {}", row.form, row.bytes, row.id)?;
    row.links.iter().zip((1..=row.links.len()).rev()).try_for_each(|(link, number)| write_link(out, link, number))
}

fn write_link(out: &mut dyn io::Write, link: &LinkRow, number: usize) -> io::Result<()> {
    let key = |key: &Option<String>| key.clone().unwrap_or_else(|| "(not in a packed token)".into());
    writeln!(out, "\nlink {number}")?;
    writeln!(out, "granted by  {}", key(&link.issuer))?;
    writeln!(out, "to          {}", key(&link.holder))?;
    writeln!(out, "holds at    {}", key(&link.audience))?;
    writeln!(out, "from        {}", link.begins)?;
    writeln!(out, "until       {}", link.expires)?;
    match &link.prefix {
        Some(prefix) => writeln!(out, "covers      {prefix}")?,
        None => writeln!(out, "covers      the prefix whose hash is {}", link.prefix_hash)?,
    }
    let limits = [
        link.limits.fuel.map(|fuel| format!("{fuel} fuel")),
        link.limits.wall_ms.map(|time| format!("{time} ms")),
        link.limits.memory_bytes.map(|size| format!("{} of memory", ByteSize(size))),
        link.limits.output_bytes.map(|size| format!("{} of output", ByteSize(size))),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    writeln!(out, "limits      {}", if limits.is_empty() { "the promise's".into() } else { limits.join(", ") })?;
    writeln!(out, "handed on   {} more times", link.delegable)
}
