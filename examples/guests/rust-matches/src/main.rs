//! Counts the lines of a text that match a pattern: `wc -l` of what `grep` gives, both called.
//!
//! Neither the text nor the lines pass through this program: it names them, and the node passes them on.

use std::io::{self, Write};

use grid::{Argument, Call, Error, Kind, Manifest};

grid::manifest!(Manifest {
    name: "matches",
    version: "1.0.0",
    promise: "Prints how many lines of a text match a regular expression, as `grep` finds them and `wc -l` counts them.",
    args: &[Argument::required("pattern", Kind::Text), Argument::required("text", Kind::Blob)],
    ..Manifest::EMPTY
});

fn main() -> Result<(), Error> {
    let lines = Call::new("local", "grep").text(&grid::text(1)?).input(2);
    let count = Call::new("local", "wc").call(&lines).option("-l").read()?;
    io::stdout().write_all(&count).map_err(Error::output)
}
