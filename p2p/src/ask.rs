//! Requests to one peer. Dropping the future of any of them closes its stream, and the peer gives up what it does for it.

use std::time::Duration;

use futures::io::BufReader;
use futures::{AsyncReadExt, AsyncWriteExt};
use gridfs_store::Hash;
use gridfs_store::cbor::Bytes;
use libp2p::{PeerId, Stream};
use tokio::time::timeout;

use crate::error::{Blame, Code, Error, Refusal};
use crate::limits::Limits;
use crate::network::{CallAnswer, CallRequest, Head, Network};
use crate::wire::{
    self, Called, Claim, Claims, Frame, GetCall, GetClaims, GetHead, Headed, Header, Key, MAX_CLAIM_BYTES, MAX_CLAIMS,
    MAX_HEAD_BYTES, MAX_PARMS_BYTES, MAX_TABLE_BYTES, MAX_TOKEN_BYTES, MAX_WORDS_BYTES, Refused,
};

/// A stream to a peer that carries one request, and its limits.
pub struct Request {
    pub peer: PeerId,
    stream: BufReader<Stream>,
    limits: Limits,
}

impl Request {
    /// Opens a stream and sends the request.
    pub async fn send<H: Header>(network: &Network, peer: PeerId, header: &H) -> Result<Request, Error> {
        let stream = network.open(peer).await?;
        let mut request = Request { peer, stream: BufReader::new(stream), limits: network.shared.limits };
        request.write(header).await?;
        Ok(request)
    }

    /// Sends a frame without a body.
    pub async fn write<H: Header>(&mut self, header: &H) -> Result<(), Error> {
        let (peer, frame) = (self.peer, wire::encode(header));
        let write = async {
            self.stream.write_all(&frame).await?;
            self.stream.flush().await
        };
        let written = timeout(self.limits.patience, write).await.map_err(|_| Error::Slow { peer })?;
        written.map_err(Error::io(peer))
    }

    /// The next frame; a refusal is an error.
    pub async fn frame(&mut self) -> Result<Frame, Error> {
        self.frame_within(self.limits.patience).await
    }

    async fn frame_within(&mut self, patience: Duration) -> Result<Frame, Error> {
        let peer = self.peer;
        let frame = timeout(patience, wire::read(&mut self.stream)).await.map_err(|_| Error::Slow { peer })?;
        let frame = frame.map_err(Error::frame(peer))?;
        match frame.get::<Refused>().map_err(Error::frame(peer))? {
            Some(refused) if refused.words.len() <= MAX_WORDS_BYTES => {
                Err(Error::Refused { peer, refusal: Refusal::new(Code::of(refused.code), refused.words) })
            }
            Some(_) => Err(self.rubbish("a refusal of too many words")),
            None => Ok(frame),
        }
    }

    /// The next frame, which must be of this kind.
    pub async fn expect<H: Header>(&mut self) -> Result<H, Error> {
        self.frame().await?.expect().map_err(Error::frame(self.peer))
    }

    /// A body, which may not be longer than `max_bytes` and must come fast enough.
    pub async fn body(&mut self, len: u64, max_bytes: u64) -> Result<Vec<u8>, Error> {
        self.body_into(Vec::new(), len, max_bytes).await
    }

    /// As `body`, in the memory of `spare`.
    pub async fn body_into(&mut self, spare: Vec<u8>, len: u64, max_bytes: u64) -> Result<Vec<u8>, Error> {
        let peer = self.peer;
        if len > max_bytes {
            return Err(self.rubbish("a body is longer than it may be"));
        }
        let allowed = self.limits.patience + Duration::from_secs_f64(len as f64 / self.limits.min_bytes_per_s as f64);
        let read = timeout(allowed, wire::read_body(&mut self.stream, len, spare)).await;
        read.map_err(|_| Error::Slow { peer })?.map_err(Error::io(peer))
    }

    /// What the peer is to be blamed for.
    pub fn rubbish(&self, what: &'static str) -> Error {
        Error::Rubbish(Blame { peer: self.peer, what })
    }

    /// The peer has nothing more to say.
    pub async fn end(mut self) -> Result<(), Error> {
        let peer = self.peer;
        let mut more = [0];
        let read =
            timeout(self.limits.patience, self.stream.read(&mut more)).await.map_err(|_| Error::Slow { peer })?;
        match read {
            Ok(0) | Err(_) => Ok(()),
            Ok(_) => Err(self.rubbish("bytes follow the answer")),
        }
    }
}

impl Network {
    /// Has a peer answer a call, within the request's deadline. Its result is a claim: whether to believe it is for the caller to
    /// say, by the promise. Dropping the future gives the call up, there as well.
    pub async fn call(&self, peer: PeerId, request: CallRequest) -> Result<CallAnswer, Error> {
        let answered = self.call_unnoted(peer, request).await;
        self.note(peer, &answered);
        answered
    }

    async fn call_unnoted(&self, peer: PeerId, request: CallRequest) -> Result<CallAnswer, Error> {
        let token_bytes = request.token.as_ref().map_or(0, Vec::len);
        if request.parms.len() > MAX_PARMS_BYTES || token_bytes > MAX_TOKEN_BYTES {
            let words = format!(
                "the parms of a call to a peer have {MAX_PARMS_BYTES} bytes at most, a token {MAX_TOKEN_BYTES}"
            );
            return Err(Error::Refused { peer, refusal: Refusal::new(Code::TooLarge, words) });
        }
        let deadline_ms = u64::try_from(request.deadline.as_millis()).unwrap_or(u64::MAX);
        let token = request.token.map(Bytes);
        let header = GetCall { parms: Bytes(request.parms), token, promise: request.promise, deadline_ms };
        let mut asked = Request::send(self, peer, &header).await?;
        let patience = request.deadline.min(self.shared.limits.call) + self.shared.limits.patience;
        let called: Called = asked.frame_within(patience).await?.expect().map_err(Error::frame(peer))?;
        let claim = asked.body(called.claim_bytes, MAX_CLAIM_BYTES).await?;
        asked.end().await?;
        Ok(CallAnswer { result: called.result, kind: called.kind, size_bytes: called.size, claim })
    }

    /// The claims that a peer knows under a memo key, at most 16 of 1 MiB each. Nothing about them is checked.
    pub async fn claims(&self, peer: PeerId, key: Hash) -> Result<Vec<Vec<u8>>, Error> {
        let claims = self.claims_unnoted(peer, key).await;
        self.note(peer, &claims);
        claims
    }

    async fn claims_unnoted(&self, peer: PeerId, key: Hash) -> Result<Vec<Vec<u8>>, Error> {
        let mut asked = Request::send(self, peer, &GetClaims { key: Key(key) }).await?;
        let Claims { count } = asked.expect().await?;
        if count > MAX_CLAIMS {
            return Err(asked.rubbish("more claims than there may be"));
        }
        let mut claims = Vec::new();
        for _ in 0..count {
            let Claim { bytes } = asked.expect().await?;
            claims.push(asked.body(bytes, MAX_CLAIM_BYTES).await?);
        }
        asked.end().await?;
        Ok(claims)
    }

    /// The names that a node publishes, as this peer knows them: the node itself, or one that follows it. `None` if they are those of
    /// the head with the hash `known`. Nothing about them is checked.
    pub async fn head(&self, peer: PeerId, node: [u8; 32], known: Option<Hash>) -> Result<Option<Head>, Error> {
        let head = self.head_unnoted(peer, node, known).await;
        self.note(peer, &head);
        head
    }

    async fn head_unnoted(&self, peer: PeerId, node: [u8; 32], known: Option<Hash>) -> Result<Option<Head>, Error> {
        let header = GetHead { node: Bytes(node.to_vec()), known: known.map(Key) };
        let mut asked = Request::send(self, peer, &header).await?;
        let Headed { head_bytes, table_bytes } = asked.expect().await?;
        if head_bytes > MAX_HEAD_BYTES || table_bytes > MAX_TABLE_BYTES {
            return Err(asked.rubbish("a head or a table that is longer than it may be"));
        }
        if head_bytes == 0 && (known.is_none() || table_bytes > 0) {
            return Err(asked.rubbish("no head, as if it were known"));
        }
        let signed = asked.body(head_bytes, MAX_HEAD_BYTES).await?;
        let table = asked.body(table_bytes, MAX_TABLE_BYTES).await?;
        asked.end().await?;
        Ok((!signed.is_empty()).then_some(Head { signed, table }))
    }
}
