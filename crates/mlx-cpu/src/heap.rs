//! How memory that was given back is used again.

/// From now on blocks of up to 64 MiB stay with the process when they are freed, up to 1 GiB at a time. Training takes and
/// frees the same blocks in each step, and fresh ones are filled with zeros by the kernel first, page by page.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt changes nothing but where later allocations come from; it may be called at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
    }
}
