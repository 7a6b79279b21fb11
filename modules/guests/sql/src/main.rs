//! Runs one SQL statement over CSV files and SQLite databases: `sql QUERY FILE...`. Gives CSV with a header.

mod csv_table;

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::process::ExitCode;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

const BUFFER_BYTES: usize = 1 << 20;

/// How every SQLite database begins.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((query, files @ [_, ..])) = args.split_first() else {
        eprintln!("sql: usage: sql QUERY FILE...: a query and a file are needed, {} arguments were given", args.len());
        return ExitCode::from(2);
    };
    match open(files).and_then(|database| run(&database, query)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("sql: {message}");
            ExitCode::FAILURE
        }
    }
}

/// All files in one connection. The first is the main database if it is one; a further one is attached.
fn open(files: &[String]) -> Result<Connection, String> {
    let mut is_database = Vec::new();
    for path in files {
        is_database.push(starts_with_magic(path).map_err(|error| format!("can't read {path}: {error}"))?);
    }
    let flags = OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match is_database[0] {
        true => Connection::open_with_flags(uri(&files[0]), flags | OpenFlags::SQLITE_OPEN_READ_ONLY),
        false => Connection::open_in_memory(),
    };
    let mut connection = connection.map_err(|error| format!("can't open {}: {error}", files[0]))?;
    for (index, (path, is_database)) in files.iter().zip(is_database).enumerate() {
        // The first is t, further ones t2, t3; databases db2, db3.
        let number = if index == 0 { String::new() } else { (index + 1).to_string() };
        match is_database {
            true if index == 0 => {}
            true => attach(&connection, path, &format!("db{number}"))?,
            false => csv_table::read(&mut connection, path, &format!("t{number}"))?,
        }
    }
    Ok(connection)
}

fn starts_with_magic(path: &str) -> io::Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(MAGIC.len() as u64).read_to_end(&mut start)?;
    Ok(start == MAGIC)
}

/// It never changes, so SQLite need not lock it or look for a journal.
fn uri(path: &str) -> String {
    format!("file:{path}?immutable=1")
}

fn attach(connection: &Connection, path: &str, name: &str) -> Result<(), String> {
    let attached = connection.execute(&format!("ATTACH ?1 AS {name}"), [uri(path)]);
    attached.map(drop).map_err(|error| format!("can't open {path}: {error}"))
}

fn run(connection: &Connection, query: &str) -> Result<(), String> {
    let failed = |error: rusqlite::Error| format!("the query failed: {error}");
    let mut statement = connection.prepare(query).map_err(failed)?;
    let columns = statement.column_count();
    let out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
    let mut out = csv::Writer::from_writer(out);
    if columns > 0 {
        out.write_record(statement.column_names()).map_err(unwritable)?;
    }
    let mut rows = statement.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        for column in 0..columns {
            out.write_field(text(row.get_ref(column).map_err(failed)?)).map_err(unwritable)?;
        }
        out.write_record(None::<&[u8]>).map_err(unwritable)?;
    }
    let mut out = out.into_inner().map_err(|error| unwritable(error.into_error()))?;
    out.flush().map_err(unwritable)
}

fn unwritable(error: impl std::fmt::Display) -> String {
    format!("can't write the result: {error}")
}

/// A value as CSV has it: NULL is empty, and a blob its bytes.
fn text(value: ValueRef<'_>) -> Vec<u8> {
    match value {
        ValueRef::Null => Vec::new(),
        ValueRef::Integer(number) => number.to_string().into(),
        ValueRef::Real(number) => format!("{number:?}").into(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.into(),
    }
}
