//! Reading zstd (RFC 8878): every frame of the input in turn, with the checksums compared.
//!
//! ruzstd decodes one frame, and leaves the frames behind it, the skippable ones and the comparison to its caller.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// How much is decoded ahead of the reader.
const AHEAD_BYTES: usize = 1 << 18;

/// The decoded bytes of all frames of `R`.
pub struct ZstdReader<R> {
    input: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> ZstdReader<R> {
    /// Reads nothing yet.
    pub fn new(input: R) -> ZstdReader<R> {
        ZstdReader { input, decoder: FrameDecoder::new(), in_frame: false }
    }

    /// Begins the next frame that holds data; false at the end of the input.
    fn begin_frame(&mut self) -> io::Result<bool> {
        while !self.input.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.input) {
                Ok(()) => {
                    self.in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    self.skip(u64::from(length))?
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.input.by_ref().take(length), &mut io::sink())?;
        if skipped < length {
            return Err(io::Error::other("the zstd data ends inside a skippable frame"));
        }
        Ok(())
    }

    /// Called when a frame has given all its bytes, since ruzstd hashes them as it gives them.
    fn check_frame(&self) -> io::Result<()> {
        let written = self.decoder.get_checksum_from_data();
        if written.is_some() && written != self.decoder.get_calculated_checksum() {
            return Err(io::Error::other("the zstd data is damaged: its checksum does not match"));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.in_frame || self.begin_frame()? {
            if self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let strategy = BlockDecodingStrategy::UptoBytes(AHEAD_BYTES);
                self.decoder.decode_blocks(&mut self.input, strategy).map_err(io::Error::other)?;
            }
            let length = self.decoder.read(buffer)?;
            if length > 0 {
                return Ok(length);
            }
            if self.decoder.is_finished() {
                self.check_frame()?;
                self.in_frame = false;
            }
        }
        Ok(0)
    }
}
