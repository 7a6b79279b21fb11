//! A CSV file as a table.

use std::fs::File;
use std::io::{BufRead, BufReader};

use csv::{ReaderBuilder, StringRecord};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

const BUFFER_BYTES: usize = 1 << 18;
/// The separators that the first line is looked through for, the most likely first.
const SEPARATORS: [u8; 3] = [b',', b';', b'\t'];

/// Reads the file at `path` into a new table. Its first line names the columns.
pub fn read(connection: &mut Connection, path: &str, table: &str) -> Result<(), String> {
    let unreadable = |error: csv::Error| format!("can't read {path} as CSV: {error}");
    let failed = |error: rusqlite::Error| format!("can't make a table of {path}: {error}");
    let file = File::open(path).map_err(|error| unreadable(error.into()))?;
    let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
    let separator = separator(file.fill_buf().map_err(|error| unreadable(error.into()))?);
    let mut reader = ReaderBuilder::new().delimiter(separator).from_reader(file);
    let header = reader.headers().map_err(unreadable)?.clone();
    if header.is_empty() {
        return Err(format!("can't read {path} as CSV: it is empty, and the first line has to name the columns"));
    }
    let columns: Vec<String> = header.iter().map(quote).collect();
    // Without types, a column takes each value as it comes. The table is temporary, since the main database may be
    // read-only.
    let create = format!("CREATE TEMP TABLE {table} ({})", columns.join(", "));
    let transaction = connection.transaction().map_err(failed)?;
    transaction.execute(&create, []).map_err(failed)?;
    let insert = format!("INSERT INTO {table} VALUES ({})", vec!["?"; columns.len()].join(", "));
    let mut insert = transaction.prepare(&insert).map_err(failed)?;
    let mut record = StringRecord::new();
    while reader.read_record(&mut record).map_err(unreadable)? {
        insert.execute(params_from_iter(record.iter().map(value))).map_err(failed)?;
    }
    drop(insert);
    transaction.commit().map_err(failed)
}

/// The separator that the first line has most of.
fn separator(start: &[u8]) -> u8 {
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let count = |separator: &u8| line.iter().filter(|byte| *byte == separator).count();
    // Of equals, max_by_key takes the last.
    SEPARATORS.into_iter().rev().max_by_key(count).unwrap_or(b',')
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A number if it is spelled as SQL would spell it, so that nothing like 007 loses a digit.
fn value(field: &str) -> Value {
    if let Some(number) = field.parse::<i64>().ok().filter(|number| number.to_string() == field) {
        return Value::Integer(number);
    }
    match field.parse::<f64>().ok().filter(|number| number.is_finite() && is_plain(field)) {
        Some(number) => Value::Real(number),
        None => Value::Text(field.into()),
    }
}

/// Digits with a point between them: 0.50, but neither 00.5 nor 1e5.
fn is_plain(field: &str) -> bool {
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = field.strip_prefix('-').unwrap_or(field);
    let Some((whole, fraction)) = unsigned.split_once('.') else { return false };
    all_digits(whole) && all_digits(fraction) && (whole.len() == 1 || !whole.starts_with('0'))
}
