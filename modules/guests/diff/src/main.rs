//! Compares two files line by line: `diff OLD NEW`. Files that are the same give an empty result.

use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::process::ExitCode;

use imara_diff::{Algorithm, Diff, Hunk, InternedInput, Token};

/// Unchanged lines shown around a change.
const CONTEXT: u32 = 3;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [old, new] = args.as_slice() else {
        eprintln!("diff: usage: diff OLD NEW: {} arguments were given, not two", args.len());
        return ExitCode::from(2);
    };
    match run(old, new) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("diff: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(old: &str, new: &str) -> Result<(), String> {
    let read = |path: &str| std::fs::read(path).map_err(|error| format!("can't read {path}: {error}"));
    let (old, new) = (read(old)?, read(new)?);
    let lines = InternedInput::new(old.as_slice(), new.as_slice());
    let mut diff = Diff::compute(Algorithm::Myers, &lines);
    // Without a heuristic, a change stands as far down as it can, as in GNU diff.
    diff.postprocess_no_heuristic(&lines);
    Unified { lines, out: BufWriter::new(io::stdout().lock()) }
        .write(diff.hunks())
        .map_err(|error| format!("can't write the result: {error}"))
}

/// Writes changes in the unified format of POSIX.
struct Unified<'a, W> {
    lines: InternedInput<&'a [u8]>,
    out: W,
}

impl<W: Write> Unified<'_, W> {
    fn write(&mut self, hunks: impl Iterator<Item = Hunk>) -> io::Result<()> {
        let mut group: Vec<Hunk> = Vec::new();
        for hunk in hunks {
            match group.last() {
                None => self.out.write_all(b"--- a\n+++ b\n")?,
                Some(last) if hunk.before.start - last.before.end > 2 * CONTEXT => {
                    self.group(&std::mem::take(&mut group))?;
                }
                Some(_) => {}
            }
            group.push(hunk);
        }
        self.group(&group)?;
        self.out.flush()
    }

    /// Writes changes whose context touches, with it.
    fn group(&mut self, hunks: &[Hunk]) -> io::Result<()> {
        let (Some(first), Some(last)) = (hunks.first(), hunks.last()) else { return Ok(()) };
        let lead = CONTEXT.min(first.before.start);
        let trail = CONTEXT.min(self.lines.before.len() as u32 - last.before.end);
        let before = first.before.start - lead..last.before.end + trail;
        let after = first.after.start - lead..last.after.end + trail;
        writeln!(self.out, "@@ -{} +{} @@", range(&before), range(&after))?;
        let mut at = before.start;
        for hunk in hunks {
            self.old(b' ', at..hunk.before.start)?;
            self.old(b'-', hunk.before.clone())?;
            for index in hunk.after.clone() {
                self.line(b'+', self.lines.after[index as usize])?;
            }
            at = hunk.before.end;
        }
        self.old(b' ', at..before.end)
    }

    fn old(&mut self, mark: u8, lines: Range<u32>) -> io::Result<()> {
        for index in lines {
            self.line(mark, self.lines.before[index as usize])?;
        }
        Ok(())
    }

    fn line(&mut self, mark: u8, token: Token) -> io::Result<()> {
        let line = self.lines.interner[token];
        self.out.write_all(&[mark])?;
        self.out.write_all(line)?;
        match line.ends_with(b"\n") {
            true => Ok(()),
            false => self.out.write_all(b"\n\\ No newline at end of file\n"),
        }
    }
}

/// First line and number of lines; an empty range is told by the line before it, and one line without its number.
fn range(lines: &Range<u32>) -> String {
    match lines.len() {
        0 => format!("{},0", lines.start),
        1 => format!("{}", lines.start + 1),
        length => format!("{},{length}", lines.start + 1),
    }
}
