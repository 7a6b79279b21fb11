//! Searches an index that the module `index` made: `search QUERY INDEX [LIMIT]`. Prints paths, the best match first.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use rusqlite::{Connection, OpenFlags, params};

const USAGE: &str = "search: usage: search QUERY INDEX [LIMIT]";

const LIMIT: u32 = 100;

/// A word in a path counts as four in the text.
const QUERY: &str = "
    SELECT files.path FROM text JOIN files ON files.id = text.rowid
    WHERE text MATCH ?1 ORDER BY bm25(text, 4.0, 1.0), files.path LIMIT ?2
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let ([query, index, limit @ ..], 2..=3) = (args.as_slice(), args.len()) else {
        eprintln!("{USAGE}: a query and an index are needed, {} arguments were given", args.len());
        return ExitCode::from(2);
    };
    let Ok(limit) = limit.first().map_or(Ok(LIMIT), |limit| limit.parse()) else {
        eprintln!("{USAGE}: {:?} is not a number of paths", args[2]);
        return ExitCode::from(2);
    };
    match run(query, index, limit) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("search: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(query: &str, index: &str, limit: u32) -> Result<(), String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let no_index = |error| format!("{index} is not an index that the module index made: {error}");
    let failed = |error| format!("the query {query:?} failed: {error}");
    // It never changes, so SQLite need not lock it or look for a journal.
    let connection = Connection::open_with_flags(format!("file:{index}?immutable=1"), flags).map_err(no_index)?;
    let mut statement = connection.prepare(QUERY).map_err(no_index)?;
    let mut rows = statement.query(params![query, limit]).map_err(failed)?;
    let mut out = BufWriter::new(io::stdout().lock());
    while let Some(row) = rows.next().map_err(failed)? {
        let path: String = row.get(0).map_err(failed)?;
        writeln!(out, "{path}").map_err(|error| format!("can't write the result: {error}"))?;
    }
    out.flush().map_err(|error| format!("can't write the result: {error}"))
}
