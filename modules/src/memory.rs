//! A guest's linear memory, seen from the host: every access is bounds-checked and fails with `EFAULT`.

use crate::wasi::Errno;

/// Borrowed linear memory. Pointers and lengths come from the guest and are hostile.
pub(crate) struct Memory<'a>(pub(crate) &'a mut [u8]);

/// One `(pointer, length)` pair of a scatter or gather list.
#[derive(Clone, Copy)]
pub(crate) struct Iovec {
    pub(crate) start: u32,
    pub(crate) len: u32,
}

/// Most entries of one scatter or gather list.
const MAX_IOVECS: u32 = 1024;
/// Longest path or symbolic link, in bytes: PATH_MAX less the terminator.
const MAX_PATH_BYTES: u32 = 4095;
/// Most bytes that one call reads, writes or fills: a host call can't be interrupted, so it must be short.
pub(crate) const MAX_TRANSFER_BYTES: u32 = 16 << 20;

impl Memory<'_> {
    pub(crate) fn bytes(&self, start: u32, len: u32) -> Result<&[u8], Errno> {
        let end = (start as usize).checked_add(len as usize).ok_or(Errno::Fault)?;
        self.0.get(start as usize..end).ok_or(Errno::Fault)
    }

    pub(crate) fn bytes_mut(&mut self, start: u32, len: u32) -> Result<&mut [u8], Errno> {
        let end = (start as usize).checked_add(len as usize).ok_or(Errno::Fault)?;
        self.0.get_mut(start as usize..end).ok_or(Errno::Fault)
    }

    pub(crate) fn write(&mut self, start: u32, bytes: &[u8]) -> Result<(), Errno> {
        let len = u32::try_from(bytes.len()).map_err(|_| Errno::Fault)?;
        self.bytes_mut(start, len)?.copy_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn write_u32(&mut self, start: u32, value: u32) -> Result<(), Errno> {
        self.write(start, &value.to_le_bytes())
    }

    pub(crate) fn write_u64(&mut self, start: u32, value: u64) -> Result<(), Errno> {
        self.write(start, &value.to_le_bytes())
    }

    pub(crate) fn read_u32(&self, start: u32) -> Result<u32, Errno> {
        let bytes = self.bytes(start, 4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub(crate) fn read_u64(&self, start: u32) -> Result<u64, Errno> {
        let bytes = self.bytes(start, 8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("8 bytes were asked for")))
    }

    /// A path or name, copied out: at most [`MAX_PATH_BYTES`], without NUL.
    pub(crate) fn path(&self, start: u32, len: u32) -> Result<Vec<u8>, Errno> {
        if len > MAX_PATH_BYTES {
            return Err(Errno::NameTooLong);
        }
        let bytes = self.bytes(start, len)?;
        if bytes.contains(&0) {
            return Err(Errno::Inval);
        }
        Ok(bytes.to_vec())
    }

    /// A scatter or gather list whose buffers all lie in memory, cut off after [`MAX_TRANSFER_BYTES`]: the guest sees
    /// a short read or write.
    pub(crate) fn iovecs(&self, start: u32, count: u32) -> Result<Vec<Iovec>, Errno> {
        if count > MAX_IOVECS {
            return Err(Errno::Inval);
        }
        let list = self.bytes(start, count * 8)?;
        let mut room = MAX_TRANSFER_BYTES;
        let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let entry = |pair: &[u8]| {
            let (start, len) = (word(&pair[..4]), word(&pair[4..]));
            self.bytes(start, len)?;
            let len = len.min(room);
            room -= len;
            Ok(Iovec { start, len })
        };
        list.chunks_exact(8).map(entry).collect()
    }
}
