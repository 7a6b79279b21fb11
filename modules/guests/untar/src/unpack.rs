//! The entries of a tar stream, and what each becomes.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;

use archive::input::reason;
use archive::name::Name;
use archive::output::Output;
use tar::{Archive, Entry, EntryType};

/// Unpacks the tar stream `input` below `root`, to its very end, so that the checks of a compressed one are made.
pub fn unpack(input: impl Read, root: &Path) -> Result<(), String> {
    let ended = Rc::new(Cell::new(false));
    let mut archive = Archive::new(Watched { input, ended: Rc::clone(&ended) });
    let mut output = Output::new(root);
    let mut count = 0;
    for entry in archive.entries().map_err(|error| unreadable(count, error))? {
        let mut entry = entry.map_err(|error| unreadable(count, error))?;
        place(&mut entry, &mut output)?;
        count += 1;
    }
    // The tar crate takes the end of the input for the end of the archive.
    if ended.get() {
        return Err(format!("the archive is cut short: no end mark follows entry {count}"));
    }
    io::copy(&mut archive.into_inner(), &mut io::sink())
        .map_err(|error| format!("can't read what follows the last entry: {}", reason(&error)))?;
    Ok(())
}

fn unreadable(count: u64, error: io::Error) -> String {
    let reason = reason(&error);
    match count {
        0 => format!("can't read a tar archive (plain or in gzip, bzip2, xz or zstd): {reason}"),
        _ => format!("can't read what follows entry {count}: {reason}"),
    }
}

/// Makes what `entry` describes.
fn place<R: Read>(entry: &mut Entry<'_, R>, output: &mut Output) -> Result<(), String> {
    let kind = entry.header().entry_type();
    if kind.is_pax_global_extensions() {
        return Ok(());
    }
    let raw_name = entry.path_bytes().into_owned();
    let name = parse("name", &raw_name, &raw_name)?;
    match kind {
        EntryType::Directory => output.directory(&name),
        // Before ustar had a type for directories, a slash at the end marked them.
        EntryType::Regular if raw_name.ends_with(b"/") => output.directory(&name),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            refuse_pax_sparse(entry, &name)?;
            let (size, executable) = (entry.size(), is_executable(entry, &name)?);
            output.file(&name, entry, size, executable)
        }
        EntryType::Symlink => output.symlink(&name, &target(entry, &name)?),
        EntryType::Link => {
            let original = parse("link target", &target(entry, &name)?, &raw_name)?;
            output.hard_link(&name, &original)
        }
        EntryType::Block | EntryType::Char | EntryType::Fifo => {
            eprintln!("untar: {name} is a device or a fifo; it is left out");
            Ok(())
        }
        // A volume label of GNU tar.
        other if other.as_byte() == b'V' => Ok(()),
        other => Err(format!("{name} is of the unknown kind {:?}", char::from(other.as_byte()))),
    }
}

fn parse(what: &str, bytes: &[u8], entry_name: &[u8]) -> Result<Name, String> {
    Name::parse(bytes).map_err(|reason| {
        let (shown, entry_name) = (String::from_utf8_lossy(bytes), String::from_utf8_lossy(entry_name));
        format!("the {what} {shown:?} of the entry {entry_name:?} is refused: {reason}")
    })
}

fn target<R: Read>(entry: &Entry<'_, R>, name: &Name) -> Result<Vec<u8>, String> {
    match entry.link_name_bytes() {
        Some(target) if !target.is_empty() => Ok(target.into_owned()),
        _ => Err(format!("{name} is a link without a target")),
    }
}

fn is_executable<R: Read>(entry: &Entry<'_, R>, name: &Name) -> Result<bool, String> {
    let mode = entry.header().mode();
    let mode = mode.map_err(|error| format!("the permissions of {name} are unreadable: {}", reason(&error)))?;
    Ok(mode & 0o111 != 0)
}

/// GNU tar's sparse files in PAX archives carry their map in the data; the tar crate would give it out as content.
fn refuse_pax_sparse<R: Read>(entry: &mut Entry<'_, R>, name: &Name) -> Result<(), String> {
    let unreadable = |error: io::Error| format!("the PAX headers of {name} are damaged: {}", reason(&error));
    let Some(extensions) = entry.pax_extensions().map_err(unreadable)? else { return Ok(()) };
    for extension in extensions {
        if extension.map_err(unreadable)?.key_bytes().starts_with(b"GNU.sparse.") {
            return Err(format!(
                "{name} is a sparse file in PAX format, which is not supported; \
                 tar --format=gnu writes one that is"
            ));
        }
    }
    Ok(())
}

/// A reader that notes when its end was reached.
struct Watched<R> {
    input: R,
    ended: Rc<Cell<bool>>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(buffer)?;
        if length == 0 && !buffer.is_empty() {
            self.ended.set(true);
        }
        Ok(length)
    }
}
