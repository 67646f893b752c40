//! What the process keeps of the memory that it freed.
//!
//! glibc gives threads arenas of their own, up to eight for each core, and learns from what is
//! freed: once a block of 30 MiB was, each arena may keep 60 MiB of free memory, and blocks as large
//! lie among small ones. A node that had learned four million users had 0.3 GiB in use and 0.8 GiB
//! of its own.
//!
//! Here beside the disk because it is a call to the system like those. Called once by who has
//! `main`, before there are threads: an engine that is embedded leaves its host's heap alone.

/// Blocks from this size on are mappings of their own, and go when they are freed. Larger than
/// nearly all that is made for a batch, since a fresh mapping costs a fault for each page.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: libc::c_int = 1 << 20;
/// What an arena keeps free at its end.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: libc::c_int = 4 << 20;
/// Fewer arenas leave fewer holes; with fewer than two, all threads wait for one lock.
#[cfg(target_env = "gnu")]
const ARENAS_MIN: usize = 2;

/// Bounds what the process keeps of freed memory, where the allocator can be told: an arena for
/// each core, 4 MiB of free memory at the end of each, and blocks of 1 MiB or more given back at
/// once. Whether it took all of it.
pub fn bound_heap() -> bool {
    #[cfg(target_env = "gnu")]
    {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let arenas = i32::try_from(cores.max(ARENAS_MIN)).unwrap_or(i32::MAX);
        // One that is set is not learned any more.
        set(libc::M_MMAP_THRESHOLD, MAPPED_BYTES)
            & set(libc::M_TRIM_THRESHOLD, KEPT_BYTES)
            & set(libc::M_ARENA_MAX, arenas)
    }
    #[cfg(not(target_env = "gnu"))]
    false
}

#[cfg(target_env = "gnu")]
fn set(parameter: libc::c_int, value: libc::c_int) -> bool {
    // SAFETY: `mallopt` takes any two numbers, and follows no pointer of ours. A thread that
    // allocates meanwhile goes by the old number or the new one.
    unsafe { libc::mallopt(parameter, value) == 1 }
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_env = "gnu")]
    fn the_allocator_takes_its_bounds() {
        assert!(super::bound_heap());
    }
}
