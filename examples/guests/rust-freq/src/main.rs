//! Prints the 20 most frequent words of standard input, each behind its count.
//!
//! A word is a run of letters and digits; upper case counts as lower case. Words of one count come in their own order.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{self, Write};
use std::process::ExitCode;

const SHOWN: usize = 20;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("freq: can't count standard input: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let text = io::read_to_string(io::stdin())?.to_lowercase();
    let mut counts: HashMap<&str, u64> = HashMap::new();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        *counts.entry(word).or_default() += 1;
    }
    let mut sorted: Vec<(&str, u64)> = counts.into_iter().collect();
    sorted.sort_by_key(|&(word, count)| (Reverse(count), word));
    let mut out = io::stdout().lock();
    for (word, count) in sorted.into_iter().take(SHOWN) {
        writeln!(out, "{count} {word}")?;
    }
    out.flush()
}
