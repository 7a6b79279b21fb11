//! The frames of the stream protocol, drawn in PROTOCOL.md.
//!
//! A frame is a head of eight bytes, a header in deterministic CBOR, and a body of the length that the header says. Headers
//! are refused in any other spelling, with unknown fields, and beyond [`MAX_HEADER_BYTES`], before anything is allocated.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use gridfs_store::cbor::{self, Bytes};
use gridfs_store::{Chunk, Cid, Hash};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Version of the protocol.
pub const VERSION: u8 = 1;
/// Longest header.
pub const MAX_HEADER_BYTES: usize = 64 << 10;
/// Chunks in one want-list.
pub const MAX_WANTED: usize = 1024;
/// Want-lists that may wait to be answered on a stream. All of them fit the 256 KiB that any transport takes unread.
pub const MAX_WANTS: usize = 6;
/// Longest parms of a call.
pub const MAX_PARMS_BYTES: usize = 32 << 10;
/// Longest token.
pub const MAX_TOKEN_BYTES: usize = 16 << 10;
/// Longest claim.
pub const MAX_CLAIM_BYTES: u64 = 1 << 20;
/// Claims in one answer.
pub const MAX_CLAIMS: u64 = 16;
/// Longest head of a symbol table.
pub const MAX_HEAD_BYTES: u64 = 1 << 10;
/// Longest table that goes with it.
pub const MAX_TABLE_BYTES: u64 = 2 << 20;
/// Longest words of a refusal.
pub const MAX_WORDS_BYTES: usize = 1024;
/// Directories and records travel whole in a listing; this is the longest.
pub const MAX_INLINE_BYTES: u64 = gridfs_store::MAX_TREE_BYTES;
/// Largest file that is listed with its content, if it is asked for by itself.
pub const MAX_WHOLE_BYTES: u64 = 16 << 10;
/// All that travel so in one listing.
pub const MAX_LISTING_BYTES: u64 = 256 << 20;
/// Objects in one listing.
pub const MAX_OBJECTS: usize = 1 << 20;
/// Chunks in one listing.
pub const MAX_CHUNKS: usize = 1 << 21;
/// Longest range asked for at once.
pub const MAX_RANGE_BYTES: u64 = 8 << 20;
/// A chunk in a listing: hash, length u32.
pub const CHUNK_BYTES: usize = 36;
const HEAD_BYTES: usize = 8;

/// A header: its number in the head of a frame.
pub trait Header: Serialize + DeserializeOwned {
    /// The number.
    const KIND: u8;

    /// Length of the body that follows.
    fn body_bytes(&self) -> u64 {
        0
    }
}

macro_rules! headers {
    ($($(#[$doc:meta])* $kind:literal $name:ident { $($field:ident: $type:ty),* $(,)? } $(body $body:expr)?;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $(#[allow(missing_docs)] pub $field: $type),* }

        impl Header for $name {
            const KIND: u8 = $kind;
            $(fn body_bytes(&self) -> u64 { let of: fn(&$name) -> u64 = $body; of(self) })?
        }
    )*};
}

// Fields in the order of deterministic CBOR: shorter names first, then bytewise.
headers! {
    /// Request 1: make a call. The stream stays open until the answer; closing it gives the call up.
    1 GetCall { parms: Bytes, token: Option<Bytes>, promise: Cid, deadline_ms: u64 };
    /// Request 2: the claims known under a memo key.
    2 GetClaims { key: Key };
    /// Request 3: an object with all that belongs to it: who has it lists the chunks.
    3 GetObject { cid: Cid };
    /// Request 4: chunks of an object and of all that belongs to it; want-lists follow.
    4 GetChunks { cid: Cid };
    /// Request 5: the head of the table of names that a node publishes, unless it is the one of this hash.
    5 GetHead { node: Bytes, known: Option<Key> };
    /// Request 6: a part of an object, with its proof. An offset beyond the end asks for the last byte.
    6 GetRange { cid: Cid, length: u64, offset: u64 };
    /// On a stream of chunks: hashes one after the other.
    32 Want { hashes: Bytes };
    /// The answer to any request that is not granted.
    64 Refused { code: u8, words: String };
    /// The answer to a call; the claim follows.
    65 Called { kind: Kind, size: u64, result: Cid, claim_bytes: u64 } body |called| called.claim_bytes;
    /// How many claims follow.
    66 Claims { count: u64 };
    /// One claim.
    67 Claim { bytes: u64 } body |claim| claim.bytes;
    /// One object of a listing. Of a file its chunks follow, of anything else its content.
    68 Listed { cid: Cid, kind: Kind, size: u64, count: u64 } body Listed::follows;
    /// The end of a listing.
    69 End {};
    /// A record of chunks as stores keep them.
    70 Record { bytes: u64 } body |record| record.bytes;
    /// The end of what answers a want-list; the hashes are of chunks that are not here.
    71 Done { missing: Bytes };
    /// A part of an object: its groups follow, after what proves them.
    72 Ranged { size: u64, bytes: u64, proof_bytes: u64 } body |part| part.bytes.saturating_add(part.proof_bytes);
    /// The head of a table of names: it follows, and then the table. Both are empty if it is the one that is known.
    73 Headed { head_bytes: u64, table_bytes: u64 } body |head| head.head_bytes.saturating_add(head.table_bytes);
}

impl Listed {
    fn follows(&self) -> u64 {
        match self.kind {
            Kind::File | Kind::Executable => self.count.saturating_mul(CHUNK_BYTES as u64),
            Kind::Directory | Kind::Record => self.size,
        }
    }
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file's content.
    File,
    /// The same, of a result to be run. Only calls give it.
    Executable,
    /// A directory.
    Directory,
    /// Deterministic CBOR that is no directory; in a listing also a small file that was asked for by itself.
    Record,
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*self as u8)
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
        let number = u8::deserialize(deserializer)?;
        let known = [Kind::File, Kind::Executable, Kind::Directory, Kind::Record];
        let found = known.into_iter().find(|kind| *kind as u8 == number);
        found.ok_or_else(|| serde::de::Error::custom(format_args!("unknown kind of object {number}")))
    }
}

/// A hash as a byte string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub Hash);

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key, D::Error> {
        let Bytes(bytes) = Bytes::deserialize(deserializer)?;
        let hash = bytes.try_into().map_err(|_| serde::de::Error::custom("a hash has 32 bytes"))?;
        Ok(Key(Hash(hash)))
    }
}

/// Why a frame could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream ended or broke.
    #[error("the stream broke")]
    Io(#[from] io::Error),
    /// What came is no frame of this protocol, or not the one that must come here.
    #[error("{0}")]
    Flaw(&'static str),
}

/// A frame without its body.
#[derive(Debug)]
pub struct Frame {
    kind: u8,
    header: Vec<u8>,
}

impl Frame {
    /// The header, if it is of this kind.
    pub fn get<H: Header>(&self) -> Result<Option<H>, FrameError> {
        if self.kind != H::KIND {
            return Ok(None);
        }
        cbor::from_slice(&self.header).map(Some).map_err(|_| FrameError::Flaw("a header is not of its kind's form"))
    }

    /// The header, which must be of this kind.
    pub fn expect<H: Header>(&self) -> Result<H, FrameError> {
        self.get()?.ok_or(FrameError::Flaw("a frame came that has no place here"))
    }
}

/// Head and header.
pub fn encode<H: Header>(header: &H) -> Vec<u8> {
    let header = cbor::to_vec(header);
    assert!(header.len() <= MAX_HEADER_BYTES, "what goes into a header is bounded before");
    let mut frame = Vec::with_capacity(HEAD_BYTES + header.len());
    frame.extend_from_slice(&(header.len() as u32).to_le_bytes());
    frame.extend_from_slice(&[VERSION, H::KIND, 0, 0]);
    frame.extend_from_slice(&header);
    frame
}

/// Writes a frame with its body.
pub async fn write<H: Header>(stream: &mut (impl AsyncWrite + Unpin), header: &H, body: &[u8]) -> io::Result<()> {
    assert_eq!(header.body_bytes(), body.len() as u64, "a header tells the length of its body");
    stream.write_all(&encode(header)).await?;
    stream.write_all(body).await
}

/// Reads a frame up to its body.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Frame, FrameError> {
    read_or_end(stream).await?.ok_or(FrameError::Io(io::ErrorKind::UnexpectedEof.into()))
}

/// As `read`; `None` if the stream ends before the frame begins.
pub async fn read_or_end(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Frame>, FrameError> {
    let mut head = [0; HEAD_BYTES];
    if stream.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut head[1..]).await?;
    let len = u32::from_le_bytes(head[..4].try_into().expect("four of eight bytes")) as usize;
    if head[4] != VERSION || head[6..] != [0, 0] {
        return Err(FrameError::Flaw("a frame is of another version of the protocol"));
    }
    if len > MAX_HEADER_BYTES {
        return Err(FrameError::Flaw("a header is too long"));
    }
    let mut header = vec![0; len];
    stream.read_exact(&mut header).await?;
    Ok(Some(Frame { kind: head[5], header }))
}

/// Reads a body into `spare`, whatever that held. Its length must have been checked against what is allowed here.
pub async fn read_body(stream: &mut (impl AsyncRead + Unpin), len: u64, spare: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut body = spare;
    body.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
    stream.read_exact(&mut body).await?;
    Ok(body)
}

/// Hashes one after the other.
pub fn join_hashes(hashes: &[Hash]) -> Bytes {
    Bytes(hashes.iter().flat_map(|hash| hash.0).collect())
}

/// The hashes of a want-list, at most [`MAX_WANTED`].
pub fn split_hashes(bytes: &Bytes) -> Result<Vec<Hash>, FrameError> {
    let (hashes, rest) = bytes.0.as_chunks::<32>();
    match rest.is_empty() && hashes.len() <= MAX_WANTED {
        true => Ok(hashes.iter().map(|hash| Hash(*hash)).collect()),
        false => Err(FrameError::Flaw("a list of hashes has an impossible length")),
    }
}

/// The chunks of a file as they travel in a listing.
pub fn join_chunks(chunks: &[Chunk]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(chunks.len() * CHUNK_BYTES);
    for (hash, size_bytes) in chunks {
        bytes.extend_from_slice(&hash.0);
        bytes.extend_from_slice(&size_bytes.to_le_bytes());
    }
    bytes
}

/// The chunks in some entries of a listing.
pub fn split_chunks(bytes: &[u8]) -> impl Iterator<Item = Chunk> {
    let chunk = |entry: &[u8; CHUNK_BYTES]| {
        let hash = Hash(entry[..32].try_into().expect("the first 32 of 36 bytes"));
        (hash, u32::from_le_bytes(entry[32..].try_into().expect("the last four of 36 bytes")))
    };
    bytes.as_chunks::<CHUNK_BYTES>().0.iter().map(chunk)
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use gridfs_store::Codec;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Of the one CID and key that the golden frames hold.
    const LINK: &str = "d82a58250001551e20af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    const HASH: &str = "5820af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    #[test]
    fn golden_frames() {
        let (cid, hash) = (Cid::of(Codec::Raw, b""), Hash::of(b""));
        let golden = |frame: Vec<u8>, kind: &str, header: String| {
            let len = (header.len() / 2) as u32;
            assert_eq!(hex(&frame), format!("{}01{kind}0000{header}", hex(&len.to_le_bytes())));
        };
        let call = GetCall { parms: Bytes(vec![0x80]), token: Some(Bytes(vec![1])), promise: cid, deadline_ms: 500 };
        let tail = format!("6770726f6d697365{LINK}6b646561646c696e655f6d731901f4");
        golden(encode(&call), "01", format!("a4657061726d73418065746f6b656e4101{tail}"));
        let call = GetCall { token: None, ..call };
        golden(encode(&call), "01", format!("a4657061726d73418065746f6b656ef6{tail}"));
        golden(encode(&GetClaims { key: Key(hash) }), "02", format!("a1636b6579{HASH}"));
        golden(encode(&GetObject { cid }), "03", format!("a163636964{LINK}"));
        golden(encode(&GetChunks { cid }), "04", format!("a163636964{LINK}"));
        let head = GetHead { node: Bytes(vec![7]), known: Some(Key(hash)) };
        golden(encode(&head), "05", format!("a2646e6f64654107656b6e6f776e{HASH}"));
        golden(encode(&GetHead { known: None, ..head }), "05", "a2646e6f64654107656b6e6f776ef6".into());
        let range = GetRange { cid, length: 1, offset: 24 };
        golden(encode(&range), "06", format!("a363636964{LINK}666c656e67746801666f66667365741818"));
        golden(encode(&Want { hashes: join_hashes(&[hash]) }), "20", format!("a166686173686573{HASH}"));
        let refused = Refused { code: 3, words: "no".into() };
        golden(encode(&refused), "40", "a264636f64650365776f726473626e6f".into());
        let called = Called { kind: Kind::Directory, size: 7, result: cid, claim_bytes: 2 };
        let header = format!("a4646b696e64026473697a650766726573756c74{LINK}6b636c61696d5f627974657302");
        golden(encode(&called), "41", header);
        golden(encode(&Claims { count: 2 }), "42", "a165636f756e7402".into());
        golden(encode(&Claim { bytes: 9 }), "43", "a165627974657309".into());
        let listed = Listed { cid, kind: Kind::File, size: 5, count: 1 };
        golden(encode(&listed), "44", format!("a463636964{LINK}646b696e64006473697a650565636f756e7401"));
        assert_eq!((listed.body_bytes(), Listed { kind: Kind::Record, ..listed }.body_bytes()), (36, 5));
        golden(encode(&End {}), "45", "a0".into());
        golden(encode(&Record { bytes: 300 }), "46", "a165627974657319012c".into());
        golden(encode(&Done { missing: Bytes(vec![]) }), "47", "a1676d697373696e6740".into());
        let ranged = Ranged { size: 3, bytes: 2, proof_bytes: 64 };
        golden(encode(&ranged), "48", "a36473697a65036562797465730 26b70726f6f665f62797465731840".replace(' ', ""));
        assert_eq!(ranged.body_bytes(), 66);
        let headed = Headed { head_bytes: 200, table_bytes: 3 };
        golden(encode(&headed), "49", "a26a686561645f627974657318c86b7461626c655f627974657303".into());
        assert_eq!(headed.body_bytes(), 203);
    }

    #[test]
    fn a_frame_is_read_as_it_was_written_and_in_no_other_form() {
        let header = Record { bytes: 3 };
        let mut bytes = Vec::new();
        block_on(write(&mut bytes, &header, b"abc")).unwrap();
        let mut stream = bytes.as_slice();
        let frame = block_on(read(&mut stream)).unwrap();
        assert_eq!(frame.expect::<Record>().unwrap(), header);
        assert!(frame.get::<Claim>().unwrap().is_none(), "of the same form, but another kind");
        assert!(frame.expect::<Claim>().is_err());
        assert_eq!(block_on(read_body(&mut stream, 3, Vec::new())).unwrap(), b"abc");
        assert!(block_on(read_or_end(&mut stream)).unwrap().is_none());
        let refused = |bytes: &[u8]| block_on(async { read(&mut &*bytes).await?.expect::<Record>() }).is_err();
        assert!(!refused(&bytes));
        for bit in 0..(bytes.len() - 3) * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let other = block_on(async { read(&mut flipped.as_slice()).await?.expect::<Record>() });
            // A number may become another number; everything else is refused.
            assert!(other.is_err() || other.unwrap().bytes != 3, "bit {bit}");
        }
        (0..bytes.len() - 3).for_each(|len| assert!(refused(&bytes[..len]), "cut at {len}"));
        let mut huge = bytes.clone();
        huge[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(block_on(read(&mut huge.as_slice())), Err(FrameError::Flaw("a header is too long"))));
    }

    #[test]
    fn lists_of_hashes_and_chunks_are_taken_apart_as_they_were_joined() {
        let hashes: Vec<Hash> = (0..MAX_WANTED as u32).map(|n| Hash::of(&n.to_le_bytes())).collect();
        assert_eq!(split_hashes(&join_hashes(&hashes)).unwrap(), hashes);
        assert!(encode(&Want { hashes: join_hashes(&hashes) }).len() * MAX_WANTS < 256 << 10);
        assert!(split_hashes(&Bytes(vec![0; 33])).is_err());
        assert!(split_hashes(&Bytes(vec![0; 32 * (MAX_WANTED + 1)])).is_err());
        let chunks: Vec<Chunk> = hashes.iter().map(|hash| (*hash, u32::MAX)).collect();
        assert_eq!(split_chunks(&join_chunks(&chunks)).collect::<Vec<_>>(), chunks);
    }
}
