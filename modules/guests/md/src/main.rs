//! Turns Markdown into a fragment of HTML: `md FILE`.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use pulldown_cmark::{Options, Parser, html};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file] = args.as_slice() else {
        eprintln!("md: usage: md FILE: {} arguments were given, not one", args.len());
        return ExitCode::from(2);
    };
    match run(file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("md: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &str) -> Result<(), String> {
    let bytes = std::fs::read(path).map_err(|error| format!("can't read {path}: {error}"))?;
    let text = str::from_utf8(&bytes).map_err(|error| format!("{path} is not Markdown in UTF-8: {error}"))?;
    // A byte order mark is no text; left in, it would hide a heading in the first line.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    write_html(text).map_err(|error| format!("can't write the result: {error}"))
}

fn write_html(text: &str) -> io::Result<()> {
    let options =
        Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_FOOTNOTES | Options::ENABLE_TASKLISTS;
    let mut out = BufWriter::new(io::stdout().lock());
    html::write_html_io(&mut out, Parser::new_ext(text, options))?;
    out.flush()
}
