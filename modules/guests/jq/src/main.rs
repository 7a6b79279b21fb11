//! Filters JSON with the language of jq: `jq FILTER FILE [-r] [-c] [-s] [-n] [-S]`.

mod filter;

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use jaq_json::write::Pp;
use jaq_json::{Val, read, write};
use jaq_std::input::RcIter;

use filter::Filter;

const BUFFER_BYTES: usize = 1 << 20;

const USAGE: &str = "jq: usage: jq FILTER FILE [-r] [-c] [-s] [-n] [-S]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [filter, file, options @ ..] = args.as_slice() else {
        eprintln!("{USAGE}: a filter and a file are needed, {} arguments were given", args.len());
        return ExitCode::from(2);
    };
    let options = match Options::parse(options) {
        Ok(options) => options,
        Err(option) => {
            eprintln!("{USAGE}: {option:?} is not an option of it");
            return ExitCode::from(2);
        }
    };
    let filter = match filter::compile(filter) {
        Ok(filter) => filter,
        Err(reason) => {
            eprintln!("jq: the filter {filter:?} can't be compiled: {reason}");
            return ExitCode::from(2);
        }
    };
    match run(file, &filter, options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("jq: {message}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Options {
    raw: bool,
    compact: bool,
    slurp: bool,
    null_input: bool,
    sort_keys: bool,
}

impl Options {
    /// Reads options like `-r` and `-rc`. The error is the option that isn't one.
    fn parse(options: &[String]) -> Result<Options, &str> {
        let mut parsed = Options::default();
        for option in options {
            let letters = option.strip_prefix('-').filter(|letters| !letters.is_empty());
            for letter in letters.ok_or(option.as_str())?.chars() {
                match letter {
                    'r' => parsed.raw = true,
                    'c' => parsed.compact = true,
                    's' => parsed.slurp = true,
                    'n' => parsed.null_input = true,
                    'S' => parsed.sort_keys = true,
                    _ => return Err(option),
                }
            }
        }
        Ok(parsed)
    }

    fn style(self) -> Pp {
        let indented = !self.compact;
        Pp { indent: indented.then(|| "  ".into()), sep_space: indented, sort_keys: self.sort_keys, ..Pp::default() }
    }
}

/// Writes what the filter gives for each value in the file, or fails at the first that is no JSON.
fn run(path: &str, filter: &Filter, options: Options) -> Result<(), String> {
    let bytes = std::fs::read(path).map_err(|error| format!("can't read {path}: {error}"))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let values = read::parse_many(bytes).map(|value| value.map_err(|error| format!("{path} is not JSON: {error}")));
    let out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
    let mut printer = Printer { out, raw: options.raw, style: options.style() };
    let values: Box<dyn Iterator<Item = Result<Val, String>>> = match options.slurp {
        true => Box::new(std::iter::once(values.collect())),
        false => Box::new(values),
    };
    let values = RcIter::new(values);
    if options.null_input {
        filter.run(Val::Null, &values, |result| printer.print(&result))?;
    } else {
        for value in &values {
            filter.run(value?, &values, |result| printer.print(&result))?;
        }
    }
    printer.out.flush().map_err(unwritable)
}

/// Writes results as jq does: indented, each with a line feed.
struct Printer<W> {
    out: W,
    raw: bool,
    style: Pp,
}

impl<W: Write> Printer<W> {
    fn print(&mut self, value: &Val) -> Result<(), String> {
        let out = &mut self.out;
        let written = match value {
            Val::TStr(text) | Val::BStr(text) if self.raw => out.write_all(text),
            value => write::write(out, &self.style, 0, value),
        };
        written.and_then(|()| out.write_all(b"\n")).map_err(unwritable)
    }
}

fn unwritable(error: io::Error) -> String {
    format!("can't write the result: {error}")
}
