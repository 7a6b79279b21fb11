//! `grid`, the call by hand.

use clap::Parser;

use super::Globals;
use super::cap::read_token;
use super::module::show;
use super::object::unexpected;
use super::output::{print, write_rows};
use crate::error::Result;
use crate::home::Home;
use crate::service::{Answer, Request, Spelled, Word};

/// Call a module and print the result.
#[derive(Parser)]
#[command(
    name = "grid",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  grid wc war.txt                   a local file is stored first
  grid grep 'whale|whales' moby.txt -i
  cat moby.txt | grid sha256 -      - is standard input
  grid --show wc                    what wc promises
  cat \"$(grid --path wc war.txt)\"   the call as a path, when the grid is mounted

An argument that names a file's content is a local file, -, a CID, a name, or a path of the grid."
)]
pub(crate) struct Grid {
    /// The promise to call under
    #[arg(long, short, default_value = "local")]
    promise: String,
    /// Call by the right of this token, or of the token in this file, and by no other; also GRID_CAP
    #[arg(long, value_name = "TOKEN")]
    cap: Option<String>,
    /// Show what the module promises instead of calling it
    #[arg(long, conflicts_with = "path")]
    show: bool,
    /// Print the canonical path of the call instead of making it
    #[arg(long)]
    path: bool,
    /// Print data as JSON
    #[arg(long)]
    json: bool,
    /// Name or CID of the module
    module: String,
    /// Its arguments, as `grid --show MODULE` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Grid {
    pub(crate) fn run(self) -> Result<()> {
        let globals = Globals { home: Home::from_environment()?, json: self.json };
        if self.show {
            return show(&globals, self.module);
        }
        let arguments = self.arguments.into_iter().map(word).collect::<Result<_>>()?;
        let capability = self.cap.or_else(token_of_environment).map(read_token).transpose()?;
        let spelled = Spelled { capability, promise: self.promise, module: self.module, arguments };
        if self.path {
            let Answer::Path(path) = globals.request(Request::Path(spelled))? else { return Err(unexpected()) };
            return print(globals.json, &path, |out| writeln!(out, "{path}"));
        }
        match globals.request(Request::Call(spelled))? {
            Answer::Done => Ok(()),
            Answer::Rows(rows) => print(globals.json, &rows, |out| write_rows(out, &rows)),
            _ => Err(unexpected()),
        }
    }
}

fn token_of_environment() -> Option<String> {
    std::env::var("GRID_CAP").ok().filter(|token| !token.is_empty())
}

/// An argument, and the local file of that name if there is one.
fn word(text: String) -> Result<Word> {
    let path = std::path::absolute(&text).ok().filter(|path| text != "-" && path.exists());
    Ok(Word { local: path, text })
}
