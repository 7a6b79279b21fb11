//! The archive's bytes, decoded as its first bytes say.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use crate::zstd::ZstdReader;

const BUFFER_BYTES: usize = 1 << 18;
/// The longest magic number looked for.
const MAGIC_BYTES: u64 = 6;
/// Memory for an xz dictionary. The strongest preset of xz needs 64 MiB.
const XZ_MEMORY_KIB: u32 = 512 * 1024;

/// The tar stream in `file`: its bytes themselves unless they start like a compressed file.
pub fn decoded(mut file: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    let mut magic = Vec::new();
    file.by_ref().take(MAGIC_BYTES).read_to_end(&mut magic)?;
    let whole = Cursor::new(magic.clone()).chain(file);
    let input = BufReader::with_capacity(BUFFER_BYTES, whole);
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => xz(input),
        // The second is a skippable frame, which parallel compressors write first.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Box::new(ZstdReader::new(input)),
        _ => Box::new(input),
    })
}

fn xz(input: impl BufRead + 'static) -> Box<dyn Read> {
    let every_stream = true;
    Box::new(lzma_rust2::XzReader::new_mem_limit(input, every_stream, XZ_MEMORY_KIB))
}

/// What an error says, on one line and without the archive's control characters, which the tar crate quotes.
pub fn reason(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "the archive is cut short".into();
    }
    error.to_string().replace(char::is_control, " ")
}
