//! Frames on the daemon's socket: a length of 4 bytes, big-endian, then that many bytes of CBOR.
//!
//! The command sends a [`Request`](super::Request), then its input as [`Input`] frames; the daemon sends
//! [`Event`](super::Event)s and ends with `Done` or `Failed`. Closing the connection cancels the request.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::error::{Code, Error, Result};

/// Longest frame, in bytes.
pub const MAX_FRAME_BYTES: usize = 8 << 20;
/// Bytes of data in one frame.
pub const DATA_BYTES: usize = 256 << 10;
/// Deepest nesting of a frame's CBOR.
const RECURSION: usize = 32;

/// A piece of what is streamed to the daemon; an empty piece is the end.
#[derive(Serialize, Deserialize)]
pub struct Input(#[serde(with = "super::request::bytes")] pub Vec<u8>);

/// Writes one frame.
pub async fn send<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), message: &T) -> Result<()> {
    let mut frame = vec![0; 4];
    ciborium::into_writer(message, &mut frame).map_err(|e| Error::new(Code::General, format!("can't encode: {e}")))?;
    let length = frame.len() - 4;
    if length > MAX_FRAME_BYTES {
        return Err(Error::new(Code::General, format!("a message of {length} bytes is longer than {MAX_FRAME_BYTES}")));
    }
    frame[..4].copy_from_slice(&(length as u32).to_be_bytes());
    to.write_all(&frame).await.map_err(closed)
}

/// Reads one frame; `None` at the end of the stream.
pub async fn receive<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(closed(e)),
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(Error::new(Code::General, format!("a frame of {length} bytes is longer than {MAX_FRAME_BYTES}")));
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame).await.map_err(closed)?;
    let message = ciborium::de::from_reader_with_recursion_limit(frame.as_slice(), RECURSION);
    message.map(Some).map_err(|e| Error::new(Code::General, format!("a frame is not what it should be: {e}")))
}

fn closed(error: std::io::Error) -> Error {
    Error::caused(Code::General, "the connection between command and daemon broke", error)
}

#[cfg(test)]
mod tests {
    use super::super::request::{Event, Progress};
    use super::*;

    #[tokio::test]
    async fn frames_round_trip_and_end() {
        let (mut ours, mut theirs) = tokio::io::duplex(1 << 20);
        send(&mut ours, &Event::Data(vec![1, 2, 3])).await.unwrap();
        send(&mut ours, &Event::Progress(Progress { files: 1, bytes: 2 })).await.unwrap();
        drop(ours);
        assert!(matches!(receive(&mut theirs).await.unwrap(), Some(Event::Data(data)) if data == [1, 2, 3]));
        assert!(matches!(receive(&mut theirs).await.unwrap(), Some(Event::Progress(p)) if p.bytes == 2));
        assert!(receive::<Event>(&mut theirs).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn hostile_frames_are_refused() {
        for (bytes, why) in [
            (&[0xff, 0xff, 0xff, 0xff][..], "longer than"),
            (&[0, 0, 0, 2, 0x9f, 0xff][..], "not what it should be"),
            (&[0, 0, 0, 9, 1][..], "broke"),
        ] {
            let error = receive::<Event>(&mut &bytes[..]).await.unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
