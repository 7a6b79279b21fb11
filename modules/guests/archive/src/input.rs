//! A file's bytes, decoded as its first bytes say.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use crate::zstd::ZstdReader;

const BUFFER_BYTES: usize = 1 << 18;
/// The longest magic number looked for.
const MAGIC_BYTES: u64 = 6;
/// Memory for an xz dictionary. The strongest preset of xz needs 64 MiB.
const XZ_MEMORY_KIB: u32 = 512 * 1024;

/// How a file is compressed.
#[derive(Clone, Copy)]
pub enum Format {
    /// RFC 1952.
    Gzip,
    /// As bzip2 writes it.
    Bzip2,
    /// The .xz file format.
    Xz,
    /// RFC 8878.
    Zstd,
}

/// A file, and how it is compressed.
pub struct Input<R> {
    /// None if it starts like no compressed file known here.
    pub format: Option<Format>,
    bytes: BufReader<Chain<Cursor<Vec<u8>>, R>>,
}

impl<R: Read + 'static> Input<R> {
    /// Reads the first bytes of `file`.
    pub fn new(mut file: R) -> io::Result<Input<R>> {
        let mut magic = Vec::new();
        file.by_ref().take(MAGIC_BYTES).read_to_end(&mut magic)?;
        let format = format(&magic);
        Ok(Input { format, bytes: BufReader::with_capacity(BUFFER_BYTES, Cursor::new(magic).chain(file)) })
    }

    /// The decoded bytes, or the file's own if it is not compressed.
    pub fn decoded(self) -> Box<dyn Read> {
        match self.format {
            Some(Format::Gzip) => Box::new(flate2::bufread::MultiGzDecoder::new(self.bytes)),
            Some(Format::Bzip2) => Box::new(bzip2::bufread::MultiBzDecoder::new(self.bytes)),
            Some(Format::Xz) => xz(self.bytes),
            Some(Format::Zstd) => Box::new(ZstdReader::new(self.bytes)),
            None => Box::new(self.bytes),
        }
    }
}

fn format(magic: &[u8]) -> Option<Format> {
    match magic {
        [0x1f, 0x8b, ..] => Some(Format::Gzip),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Format::Bzip2),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Some(Format::Xz),
        // The second is a skippable frame, which parallel compressors write first.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Format::Zstd),
        _ => None,
    }
}

fn xz(input: impl BufRead + 'static) -> Box<dyn Read> {
    let every_stream = true;
    Box::new(lzma_rust2::XzReader::new_mem_limit(input, every_stream, XZ_MEMORY_KIB))
}

/// What an error says, on one line and without the archive's control characters, which the tar crate quotes.
pub fn reason(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "the file is cut short".into();
    }
    error.to_string().replace(char::is_control, " ")
}
