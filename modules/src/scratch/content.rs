//! The bytes of a file in memory: blocks of 4 KiB, and nothing where nothing was written.

use std::collections::BTreeMap;

use crate::budget::Budget;
use crate::wasi::Errno;

const BLOCK_BYTES: u64 = 4096;
/// Largest size: an offset of `fd_seek` reaches it.
const MAX_SIZE_BYTES: u64 = i64::MAX as u64;

#[derive(Default)]
pub(crate) struct Content {
    blocks: BTreeMap<u64, Box<[u8]>>,
    size_bytes: u64,
}

impl Content {
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Fills `buffer` with what begins at `position`; how much that was.
    pub(crate) fn read_at(&self, position: u64, buffer: &mut [u8]) -> usize {
        let len = self.size_bytes.saturating_sub(position).min(buffer.len() as u64);
        let buffer = &mut buffer[..len as usize];
        buffer.fill(0);
        if len > 0 {
            for (number, block) in self.blocks.range(position / BLOCK_BYTES..=(position + len - 1) / BLOCK_BYTES) {
                let (from, to) = overlap(*number, position, len);
                buffer[to.clone()].copy_from_slice(&block[from..from + to.len()]);
            }
        }
        buffer.len()
    }

    /// Writes all of `bytes`, or nothing: `ENOSPC` when the budget has not enough, `EFBIG` beyond the largest size.
    pub(crate) fn write_at(&mut self, budget: &mut Budget, position: u64, bytes: &[u8]) -> Result<(), Errno> {
        let len = bytes.len() as u64;
        let end = position.checked_add(len).filter(|&end| end <= MAX_SIZE_BYTES).ok_or(Errno::FBig)?;
        if len == 0 {
            return Ok(());
        }
        let numbers = position / BLOCK_BYTES..=(end - 1) / BLOCK_BYTES;
        let new =
            (end - 1) / BLOCK_BYTES - position / BLOCK_BYTES + 1 - self.blocks.range(numbers.clone()).count() as u64;
        if !budget.take(new * BLOCK_BYTES) {
            return Err(Errno::NoSpc);
        }
        for number in numbers {
            let (at, from) = overlap(number, position, len);
            let block = self.blocks.entry(number).or_insert_with(|| vec![0; BLOCK_BYTES as usize].into());
            block[at..at + from.len()].copy_from_slice(&bytes[from]);
        }
        self.size_bytes = self.size_bytes.max(end);
        Ok(())
    }

    pub(crate) fn set_size(&mut self, budget: &mut Budget, size_bytes: u64) -> Result<(), Errno> {
        if size_bytes > MAX_SIZE_BYTES {
            return Err(Errno::FBig);
        }
        let cut = self.blocks.split_off(&size_bytes.div_ceil(BLOCK_BYTES));
        budget.give_back(cut.len() as u64 * BLOCK_BYTES);
        // What lies behind the end reads as zeros when the file grows again.
        if let Some(last) = self.blocks.get_mut(&(size_bytes / BLOCK_BYTES)) {
            last[(size_bytes % BLOCK_BYTES) as usize..].fill(0);
        }
        self.size_bytes = size_bytes;
        Ok(())
    }
}

/// Where block `number` meets the `len` bytes at `position`: the first place in the block, the places in the bytes.
fn overlap(number: u64, position: u64, len: u64) -> (usize, std::ops::Range<usize>) {
    let start = (number * BLOCK_BYTES).max(position);
    let end = (number * BLOCK_BYTES + BLOCK_BYTES).min(position + len);
    ((start % BLOCK_BYTES) as usize, (start - position) as usize..(end - position) as usize)
}
