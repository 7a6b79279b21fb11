//! Makes a search index over the files of a tree: `index TREE`. The index is an SQLite database with FTS5.
//!
//! The table `files` has the paths. The full-text table `text`, under the same row numbers, indexes them and the words
//! in the files, and keeps no copy of either. Words are compared as the tokenizer `unicode61` does: in any case, without
//! diacritics.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use rusqlite::{Connection, Transaction, params};

const TABLES: &str = "
    CREATE TABLE files (id INTEGER PRIMARY KEY, path TEXT NOT NULL);
    CREATE VIRTUAL TABLE text USING fts5(path, body, content='');
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [tree] = args.as_slice() else {
        eprintln!("index: usage: index TREE: {} arguments were given, not one", args.len());
        return ExitCode::from(2);
    };
    match run(Path::new(tree)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("index: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(tree: &Path) -> Result<(), String> {
    // Databases of this VFS lie in memory in one piece, so they can be written out without a copy.
    let mut connection = Connection::open("file:/index?vfs=memdb").map_err(failed)?;
    connection.execute_batch(TABLES).map_err(failed)?;
    let transaction = connection.transaction().map_err(failed)?;
    directory(&transaction, tree, String::new())?;
    transaction.execute("INSERT INTO text(text) VALUES ('optimize')", []).map_err(failed)?;
    transaction.commit().map_err(failed)?;
    let bytes = connection.serialize("main").map_err(failed)?;
    let mut out = io::stdout().lock();
    out.write_all(&bytes).and_then(|()| out.flush()).map_err(|error| format!("can't write the result: {error}"))
}

fn failed(error: rusqlite::Error) -> String {
    format!("can't make the index: {error}")
}

/// Adds what is in `directory`, which is at `path` in the tree.
fn directory(transaction: &Transaction<'_>, directory: &Path, path: String) -> Result<(), String> {
    let unreadable = |error: io::Error| format!("can't read {}: {error}", directory.display());
    for entry in directory.read_dir().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let kind = entry.file_type().map_err(unreadable)?;
        let name = entry.file_name();
        let path = format!("{path}{}", name.to_string_lossy());
        if kind.is_dir() {
            self::directory(transaction, &entry.path(), format!("{path}/"))?;
        } else if kind.is_file() {
            let bytes = std::fs::read(entry.path()).map_err(unreadable)?;
            file(transaction, &path, &bytes).map_err(failed)?;
        }
    }
    Ok(())
}

/// Adds a file: one that is no text by its path alone.
fn file(transaction: &Transaction<'_>, path: &str, bytes: &[u8]) -> rusqlite::Result<()> {
    let text = str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).unwrap_or("");
    transaction.prepare_cached("INSERT INTO files(path) VALUES (?1)")?.execute([path])?;
    let id = transaction.last_insert_rowid();
    let mut insert = transaction.prepare_cached("INSERT INTO text(rowid, path, body) VALUES (?1, ?2, ?3)")?;
    insert.execute(params![id, path, text]).map(drop)
}
