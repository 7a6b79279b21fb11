//! Sorts the lines of a file: `sort FILE [-r] [-n] [-u]`.
//!
//! The output is that of GNU sort in the C locale: bytewise order, and by the whole line where two numbers are equal.

use std::cmp::Ordering;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

const BUFFER_BYTES: usize = 1 << 20;

const USAGE: &str = "sort: usage: sort FILE [-r] [-n] [-u]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((file, options)) = args.split_first() else {
        eprintln!("{USAGE}: no file was given");
        return ExitCode::from(2);
    };
    let options = match Options::parse(options) {
        Ok(options) => options,
        Err(option) => {
            eprintln!("{USAGE}: {option:?} is not an option of it");
            return ExitCode::from(2);
        }
    };
    match run(file, options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("sort: {message}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Options {
    reverse: bool,
    numeric: bool,
    unique: bool,
}

impl Options {
    /// Reads options like `-r` and `-rn`. The error is the option that isn't one.
    fn parse(options: &[String]) -> Result<Options, &str> {
        let mut parsed = Options::default();
        for option in options {
            let letters = option.strip_prefix('-').filter(|letters| !letters.is_empty());
            for letter in letters.ok_or(option.as_str())?.chars() {
                match letter {
                    'r' => parsed.reverse = true,
                    'n' => parsed.numeric = true,
                    'u' => parsed.unique = true,
                    _ => return Err(option),
                }
            }
        }
        Ok(parsed)
    }

    /// What -u takes for equal.
    fn key_order(self, a: &[u8], b: &[u8]) -> Ordering {
        let order = if self.numeric { Number::parse(a).cmp(&Number::parse(b)) } else { a.cmp(b) };
        if self.reverse { order.reverse() } else { order }
    }

    /// The order of the output. With -u the first of equal lines is kept, so the sort must leave them as they come.
    fn order(self, a: &[u8], b: &[u8]) -> Ordering {
        let by_line = || if self.reverse { b.cmp(a) } else { a.cmp(b) };
        let order = self.key_order(a, b);
        if self.unique { order } else { order.then_with(by_line) }
    }
}

fn run(path: &str, options: Options) -> Result<(), String> {
    let text = std::fs::read(path).map_err(|error| format!("can't read {path}: {error}"))?;
    let mut lines: Vec<&[u8]> = text.strip_suffix(b"\n").unwrap_or(&text).split(|&byte| byte == b'\n').collect();
    if text.is_empty() {
        lines.clear();
    }
    lines.sort_by(|a, b| options.order(a, b));
    if options.unique {
        lines.dedup_by(|a, b| options.key_order(a, b).is_eq());
    }
    write(&lines).map_err(|error| format!("can't write the result: {error}"))
}

fn write(lines: &[&[u8]]) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
    for line in lines {
        out.write_all(line)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// The decimal number at the start of a line, of any length; 0 if there is none.
#[derive(Eq, PartialEq)]
struct Number<'a> {
    negative: bool,
    /// Without leading zeros.
    whole: &'a [u8],
    /// Behind the point, without zeros at the end.
    fraction: &'a [u8],
}

impl<'a> Number<'a> {
    fn parse(line: &'a [u8]) -> Number<'a> {
        let blanks = line.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let signed = &line[blanks..];
        let unsigned = signed.strip_prefix(b"-").unwrap_or(signed);
        let (whole, rest) = digits(unsigned);
        let fraction = rest.strip_prefix(b".").map_or(&[][..], |rest| digits(rest).0);
        let leading = whole.iter().take_while(|digit| **digit == b'0').count();
        let trailing = fraction.iter().rev().take_while(|digit| **digit == b'0').count();
        let (whole, fraction) = (&whole[leading..], &fraction[..fraction.len() - trailing]);
        let zero = whole.is_empty() && fraction.is_empty();
        Number { negative: signed.len() > unsigned.len() && !zero, whole, fraction }
    }
}

fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().take_while(|byte| byte.is_ascii_digit()).count())
}

impl Ord for Number<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_size = |a: &Self, b: &Self| {
            let whole = a.whole.len().cmp(&b.whole.len()).then_with(|| a.whole.cmp(b.whole));
            whole.then_with(|| a.fraction.cmp(b.fraction))
        };
        match (self.negative, other.negative) {
            (false, false) => by_size(self, other),
            (true, true) => by_size(other, self),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

impl PartialOrd for Number<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
