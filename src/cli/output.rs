//! What a command prints: data on standard output, notes and progress on standard error.

use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::time::Duration;

use gridfs_store::Progress as Rebuild;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::client::Listener;
use crate::error::{Code, Error, Result};
use crate::service::{Event, Progress, Row};

/// Standard output, and a progress bar on standard error if that is a terminal.
pub(crate) struct Output {
    data: BufWriter<io::Stdout>,
    bar: Option<ProgressBar>,
}

impl Output {
    pub(crate) fn new() -> Output {
        Output { data: BufWriter::new(io::stdout()), bar: None }
    }

    pub(crate) fn finish(&mut self) -> Result<()> {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.data.flush().map_err(cannot_print)
    }

    fn bar(&mut self, template: &str) -> Option<&ProgressBar> {
        if self.bar.is_none() && io::stderr().is_terminal() {
            let style = ProgressStyle::with_template(template).expect("the templates are valid");
            let bar = ProgressBar::new(0).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(100));
            self.bar = Some(bar);
        }
        self.bar.as_ref()
    }

    fn progress(&mut self, progress: Progress) {
        if let Some(bar) = self.bar("{spinner} {msg}  {binary_bytes}  {binary_bytes_per_sec}  {elapsed}") {
            bar.set_message(format!("{} files", progress.files));
            bar.set_position(progress.bytes);
        }
    }

    pub(crate) fn checking(&mut self, done_bytes: u64, total_bytes: u64) {
        if let Some(bar) = self.bar("checking {wide_bar} {binary_bytes}/{binary_total_bytes}  {eta}") {
            bar.set_length(total_bytes);
            bar.set_position(done_bytes);
        }
    }
}

impl Listener for Output {
    fn event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Data(data) => self.data.write_all(&data).map_err(cannot_print)?,
            Event::Progress(progress) => self.progress(progress),
            Event::Collecting(text) => {
                if let Some(bar) = self.bar("{spinner} collecting garbage: {msg}  {elapsed}") {
                    bar.set_message(text);
                }
            }
            Event::Checking { done_bytes, total_bytes } => self.checking(done_bytes, total_bytes),
            Event::Fetching { done_bytes, total_bytes } => {
                if let Some(bar) =
                    self.bar("fetching {wide_bar} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta}")
                {
                    bar.set_length(total_bytes);
                    bar.set_position(done_bytes);
                }
            }
            Event::Note(note) => match &self.bar {
                Some(bar) => bar.suspend(|| eprintln!("{note}")),
                None => eprintln!("{note}"),
            },
            Event::Done(_) | Event::Failed { .. } => {}
        }
        Ok(())
    }

    fn rebuild(&mut self, progress: Rebuild) {
        let template = "rebuilding the index {wide_bar} {binary_bytes}/{binary_total_bytes}  {eta}";
        if let Some(bar) = self.bar(template) {
            bar.set_length(progress.total_bytes);
            bar.set_position(progress.done_bytes);
            if progress.done_bytes == progress.total_bytes {
                bar.finish_and_clear();
                self.bar = None;
            }
        }
    }
}

/// Prints data: as JSON, or as `text` says.
pub(crate) fn print<T: Serialize>(
    json: bool,
    data: &T,
    text: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> Result<()> {
    let mut out = BufWriter::new(io::stdout());
    let printed = if json {
        serde_json::to_writer_pretty(&mut out, data).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        text(&mut out)
    };
    printed.and_then(|()| out.flush()).map_err(cannot_print)
}

/// A reader that went away, like `head`, ends the command quietly.
pub(crate) fn cannot_print(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Error::new(Code::Interrupted, "nobody reads the output any more"),
        _ => Error::caused(Code::General, "can't write to standard output", error),
    }
}

/// A table of names.
pub(crate) fn write_rows(out: &mut dyn io::Write, rows: &[Row]) -> io::Result<()> {
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).min(40);
    for row in rows {
        let size = row.size_bytes.map(|size| size.to_string()).unwrap_or_default();
        let cid = row.cid.as_deref().unwrap_or("-");
        let published = if row.published { "  published" } else { "" };
        writeln!(out, "{:width$}  {:<10} {size:>12}  {cid}{published}", row.name, row.kind)?;
    }
    Ok(())
}
