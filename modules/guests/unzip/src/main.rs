//! Unpacks a zip archive into `/out`: `unzip ARCHIVE`.
//!
//! What the central directory lists is unpacked, so what was deleted from the archive without rewriting it is not.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;
use std::process::ExitCode;

use archive::input::reason;
use archive::name::Name;
use archive::output::Output;
use zip::ZipArchive;
use zip::read::ZipFile;
use zip::result::ZipError;

const BUFFER_BYTES: usize = 1 << 16;
/// The longest target of a symbolic link below `/out`, and one more.
const TARGET_BYTES: u64 = 4096;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [archive] = args.as_slice() else {
        eprintln!("unzip: usage: unzip ARCHIVE: {} arguments were given, not one", args.len());
        return ExitCode::from(2);
    };
    match run(archive) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("unzip: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &str) -> Result<(), String> {
    let file = File::open(path).map_err(|error| format!("can't read {path}: {error}"))?;
    let file = BufReader::with_capacity(BUFFER_BYTES, file);
    let mut archive = ZipArchive::new(file).map_err(|error| format!("can't read a zip archive: {}", said(&error)))?;
    if archive.has_duplicate_names() {
        return Err("two entries have the same name".into());
    }
    let mut output = Output::new(Path::new("/out"));
    for index in 0..archive.len() {
        unpack(&mut archive, index, &mut output)?;
    }
    Ok(())
}

/// Makes what entry `index` describes.
fn unpack(archive: &mut ZipArchive<impl Read + Seek>, index: usize, output: &mut Output) -> Result<(), String> {
    let raw_name = archive.name_for_index(index).and_then(Result::ok).map(|name| name.into_owned());
    let raw_name = raw_name.ok_or_else(|| format!("the name of entry {} can't be read", index + 1))?;
    let name = Name::parse(raw_name.as_bytes())
        .map_err(|reason| format!("the name {raw_name:?} of entry {} is refused: {reason}", index + 1))?;
    let mut entry = archive.by_index(index).map_err(|error| format!("can't read {name}: {}", said(&error)))?;
    if entry.is_dir() {
        output.directory(&name)
    } else if entry.is_symlink() {
        output.symlink(&name, &target(&mut entry, &name)?)
    } else {
        let (size, executable) = (entry.size(), entry.unix_mode().is_some_and(|mode| mode & 0o111 != 0));
        output.file(&name, &mut entry, size, executable)
    }
}

fn target(entry: &mut ZipFile<'_, impl Read>, name: &Name) -> Result<Vec<u8>, String> {
    let mut target = Vec::new();
    entry
        .take(TARGET_BYTES)
        .read_to_end(&mut target)
        .map_err(|error| format!("can't read {name}: {}", reason(&error)))?;
    Ok(target)
}

/// What an error says, on one line and without the archive's control characters.
fn said(error: &ZipError) -> String {
    match error {
        ZipError::Io(error) => reason(error),
        error => error.to_string().replace(char::is_control, " "),
    }
}
