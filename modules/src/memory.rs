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

impl Memory<'_> {
    pub(crate) fn bytes(&self, start: u32, len: u32) -> Result<&[u8], Errno> {
        let start = start as usize;
        self.0.get(start..start + len as usize).ok_or(Errno::Fault)
    }

    pub(crate) fn bytes_mut(&mut self, start: u32, len: u32) -> Result<&mut [u8], Errno> {
        let start = start as usize;
        self.0.get_mut(start..start + len as usize).ok_or(Errno::Fault)
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
        let low = u64::from(self.read_u32(start)?);
        let high = u64::from(self.read_u32(start.checked_add(4).ok_or(Errno::Fault)?)?);
        Ok(low | high << 32)
    }

    /// A path or name, copied out: at most 4,095 bytes, without NUL.
    pub(crate) fn path(&self, start: u32, len: u32) -> Result<Vec<u8>, Errno> {
        if len > 4095 {
            return Err(Errno::NameTooLong);
        }
        let bytes = self.bytes(start, len)?;
        if bytes.contains(&0) {
            return Err(Errno::Inval);
        }
        Ok(bytes.to_vec())
    }

    pub(crate) fn iovecs(&self, start: u32, count: u32) -> Result<Vec<Iovec>, Errno> {
        if count > MAX_IOVECS {
            return Err(Errno::Inval);
        }
        (0..count)
            .map(|i| {
                let at = start.checked_add(i * 8).ok_or(Errno::Fault)?;
                Ok(Iovec { start: self.read_u32(at)?, len: self.read_u32(at.checked_add(4).ok_or(Errno::Fault)?)? })
            })
            .collect()
    }
}
