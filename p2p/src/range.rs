//! Reading a part of an object that is elsewhere: its groups only, verified alone (`gridfs_store::verify_groups`).

use std::ops::Range;
use std::sync::atomic::Ordering;

use gridfs_store::{Cid, GROUP_BYTES, Groups, verify_groups};
use libp2p::PeerId;

use crate::ask::Request;
use crate::error::Error;
use crate::network::Network;
use crate::wire::{GetRange, MAX_RANGE_BYTES, Ranged};

/// Pairs in a proof, beyond two for each group: the way down to both ends.
const MAX_WAY: u64 = 128;

/// A part of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Length of the whole object, which is verified as well.
    pub size_bytes: u64,
    /// Who gave it.
    pub peer: PeerId,
    /// Where the part begins.
    pub offset: u64,
    /// The bytes; fewer than asked for where the object ends.
    pub bytes: Vec<u8>,
}

impl Network {
    /// Reads a range of an object from the first of the providers that gives it. If `size_bytes` was verified before it is not
    /// verified again, which saves a request. Nothing is stored.
    pub async fn fetch_range(
        &self,
        cid: Cid,
        range: Range<u64>,
        size_bytes: Option<u64>,
        providers: &[PeerId],
    ) -> Result<Part, Error> {
        let mut failures = Vec::new();
        for peer in providers {
            let part = self.part(*peer, cid, range.clone(), size_bytes).await;
            self.note(*peer, &part);
            match part {
                Ok(part) => return Ok(part),
                Err(error) => failures.push((*peer, error)),
            }
        }
        Err(Error::NoProvider { cid, failures })
    }

    async fn part(&self, peer: PeerId, cid: Cid, range: Range<u64>, known: Option<u64>) -> Result<Part, Error> {
        let size_bytes = match known {
            Some(size_bytes) => size_bytes,
            // Only the last group shows how long an object is.
            None => self.groups(peer, cid, u64::MAX, 1, None).await?.0,
        };
        let end = range.end.min(size_bytes);
        let mut bytes = Vec::new();
        let mut at = range.start;
        while at < end {
            let upto = end.min(at + MAX_RANGE_BYTES);
            let (_, start, groups) = self.groups(peer, cid, at, upto - at, Some(size_bytes)).await?;
            bytes.extend_from_slice(&groups[(at - start) as usize..(upto - start) as usize]);
            at = upto;
        }
        Ok(Part { size_bytes, peer, offset: range.start, bytes })
    }

    /// The groups that hold a range, verified: the object's length, where they begin, and their bytes.
    async fn groups(
        &self,
        peer: PeerId,
        cid: Cid,
        offset: u64,
        length: u64,
        known: Option<u64>,
    ) -> Result<(u64, u64, Vec<u8>), Error> {
        let mut request = Request::send(self, peer, &GetRange { cid, length, offset }).await?;
        let ranged: Ranged = request.expect().await?;
        if known.is_some_and(|known| known != ranged.size) {
            return Err(request.rubbish("another length of the object than was verified"));
        }
        let start = offset.min(ranged.size.saturating_sub(1));
        let wanted = start..start.saturating_add(length);
        let covered = Groups::covering(ranged.size, wanted.clone());
        let covered_bytes = covered.end - covered.start;
        let max_proof_bytes = 64 * (2 * covered_bytes.div_ceil(GROUP_BYTES) + MAX_WAY);
        if ranged.bytes != covered_bytes || ranged.proof_bytes > max_proof_bytes {
            return Err(request.rubbish("a part of another length than was asked for"));
        }
        let proof = request.body(ranged.proof_bytes, max_proof_bytes).await?;
        let bytes = request.body(covered_bytes, covered_bytes).await?;
        self.shared.counters.received_bytes.fetch_add(covered_bytes, Ordering::Relaxed);
        verify_groups(&cid.hash, ranged.size, wanted, &proof, &bytes).map_err(|what| request.rubbish(what))?;
        request.end().await?;
        Ok((ranged.size, covered.start, bytes))
    }
}
