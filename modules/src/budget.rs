//! The memory that one call may use: linear memory, tables, and its files in memory.

use crate::guest::Guest;

/// What an element of a table counts as memory.
const TABLE_ELEMENT_BYTES: u64 = 8;

/// What is left of the limit.
#[derive(Default)]
pub(crate) struct Budget {
    left_bytes: u64,
    /// The least that was ever left.
    least_bytes: u64,
    denied: bool,
    last_growth_bytes: u64,
}

impl Budget {
    pub(crate) fn new(limit_bytes: u64) -> Budget {
        Budget { left_bytes: limit_bytes, least_bytes: limit_bytes, ..Budget::default() }
    }

    /// The least that was left at any time.
    pub(crate) fn least_bytes(&self) -> u64 {
        self.least_bytes
    }

    /// Whether something was refused for lack of memory.
    pub(crate) fn denied(&self) -> bool {
        self.denied
    }

    /// Takes as much, or nothing if there is less.
    pub(crate) fn take(&mut self, bytes: u64) -> bool {
        let left = self.left_bytes.checked_sub(bytes);
        self.left_bytes = left.unwrap_or(self.left_bytes);
        self.least_bytes = self.least_bytes.min(self.left_bytes);
        self.denied |= left.is_none();
        left.is_some()
    }

    pub(crate) fn give_back(&mut self, bytes: u64) {
        self.left_bytes += bytes;
    }

    /// Counts a growth if it is allowed. One beyond the module's own maximum fails without being a denial of ours.
    fn grow(&mut self, bytes: u64, within_maximum: bool) -> bool {
        let granted = within_maximum && self.take(bytes);
        self.last_growth_bytes = if granted { bytes } else { 0 };
        granted
    }

    /// Uncounts a growth that was allowed and yet failed; the engine tells of it before the next is asked for.
    fn take_back_growth(&mut self) {
        let bytes = std::mem::take(&mut self.last_growth_bytes);
        self.give_back(bytes);
    }
}

impl wasmtime::ResourceLimiter for Guest {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.budget.grow((desired - current) as u64, maximum.is_none_or(|maximum| desired <= maximum)))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.budget.take_back_growth();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = TABLE_ELEMENT_BYTES * (desired - current) as u64;
        Ok(self.budget.grow(bytes, maximum.is_none_or(|maximum| desired <= maximum)))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.budget.take_back_growth();
        Ok(())
    }
}
