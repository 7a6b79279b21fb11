//! What glibc does with memory that was freed. Other allocators are left alone.

/// Has the process keep what it frees, up to 8 MiB in each of glibc's arenas: buffers of records come and go thousands of times
/// a second, and what the system takes back it clears anew for the next. For a program's `main`: a library leaves it alone.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: they may be set at any time. What is refused stays as it was.
    unsafe {
        // Whoever sets one has to set both: glibc then no longer adapts either.
        libc::mallopt(libc::M_TRIM_THRESHOLD, 8 << 20);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 4 << 20);
    }
}

/// Gives back what is kept: some hundreds of megabytes after a put of a million chunks.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
