//! `gridfs module test`.

use std::io;
use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Args;

use super::build::build;
use super::new::here;
use crate::cli::output::print;
use crate::cli::{Globals, runtime};
use crate::error::{Code, Error, Result};
use crate::project::trial::{CaseRow, CaseVerdict, Trial};
use crate::project::{Project, cases};

#[derive(Args)]
#[command(after_help = "\
Examples:
  gridfs module test
  gridfs module test --bless ~/src/shout    take the results as they are for what is expected

Each directory of tests/ is a case: args has one argument on each line (files beside it, paths of the grid, texts), expected is
the result, or failure a part of the error message. Cases run in a node of their own, which has the built-in modules and this one
and is gone afterwards; your own node is not touched. Each runs three times, once with code that is not optimised and in
fresh memory, and must give the same bytes and burn the same fuel.
Exit status: 11 a case is not as expected, 16 runs of a case differ.")]
pub(crate) struct Test {
    /// Write down what the cases come to as what is expected
    #[arg(long)]
    bless: bool,
    /// The project; by default the one here
    directory: Option<PathBuf>,
}

impl Test {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        let project = Project::open(here(&self.directory))?;
        let cases = cases::read(&project.directory)?;
        let trial = Trial::new(&build(&project)?.wasm)?;
        let runtime = runtime()?;
        let rows = cases.iter().map(|case| runtime.block_on(trial.run(case, self.bless)));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        print(globals.json, &rows, |out| write_rows(out, &rows))?;
        verdict(&rows)
    }
}

fn write_rows(out: &mut dyn io::Write, rows: &[CaseRow]) -> io::Result<()> {
    let width = rows.iter().map(|row| row.case.chars().count()).max().unwrap_or(0).clamp(4, 40);
    writeln!(out, "{:width$}  {:<8}  {:>12}  {:>10}  {:>10}", "case", "", "fuel", "memory", "time")?;
    for row in rows {
        let verdict = match row.verdict {
            CaseVerdict::Ok => "ok",
            CaseVerdict::Blessed => "blessed",
            CaseVerdict::Differs => "differs",
            CaseVerdict::Diverges => "diverges",
        };
        let fuel = row.fuel.map_or("-".into(), |fuel| fuel.to_string());
        let memory = row.memory_bytes.map_or("-".into(), |bytes| ByteSize(bytes).to_string());
        let time = format!("{:.2} ms", row.wall_us as f64 / 1000.0);
        writeln!(out, "{:width$}  {verdict:<8}  {fuel:>12}  {memory:>10}  {time:>10}", row.case)?;
        row.why.lines().try_for_each(|line| writeln!(out, "    {line}"))?;
    }
    Ok(())
}

fn verdict(rows: &[CaseRow]) -> Result<()> {
    let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    let (differ, diverge) = (count(CaseVerdict::Differs), count(CaseVerdict::Diverges));
    match (differ, diverge) {
        (0, 0) => Ok(()),
        (_, 0) => Err(Error::new(Code::ModuleFailed, format!("{differ} of {} cases not as expected", rows.len()))),
        _ => Err(Error::new(Code::Diverged, format!("{diverge} of {} cases not the same each time", rows.len()))),
    }
}
