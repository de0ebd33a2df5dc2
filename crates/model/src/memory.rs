//! What this process holds of the machine's memory.

use std::fs;
use std::path::Path;

/// Bytes in use now, pages of mapped files included. 0 where the system does not say.
pub fn in_use() -> u64 {
    field("VmRSS:")
}

/// The most bytes that were in use at any time. 0 where the system does not say.
pub fn peak() -> u64 {
    field("VmHWM:")
}

/// Gives memory that was freed back to the system, so that what is in use is what is needed. Where the allocator
/// cannot be told, nothing happens.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the call may be made at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has every large buffer given back to the system as soon as it is freed, for programs that are to keep within a
/// number of bytes: by itself the allocator keeps what it thinks will be wanted again. For the start of a program.
pub fn keep_nothing() {
    /// Smaller buffers are kept for others of their size.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    const LARGE: libc::c_int = 1 << 20;
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the calls set parameters of the allocator and may be made at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
    }
}

/// Bytes that the kernels hold at their most beside inputs and outputs: a packed operand, and blocks a thread.
pub fn kernel_bytes() -> u64 {
    /// Counting packed operands by their sizes was tried: plans came out up to 6% short.
    const PACKED: u64 = 64 << 20;
    const PACKED_PER_THREAD: u64 = 8 << 20;
    PACKED + PACKED_PER_THREAD * rayon::current_num_threads() as u64
}

/// Bytes that this process may still take: what the machine has free or can free at once, and no more than what is
/// left of the limit of its container. `None` where the system does not say.
pub fn available() -> Option<u64> {
    let machine = line(Path::new("/proc/meminfo"), "MemAvailable:")?;
    Some(container().map_or(machine, |left| left.min(machine)))
}

/// What is left of the limit of a container; its cached files can be dropped.
fn container() -> Option<u64> {
    let folder = Path::new("/sys/fs/cgroup");
    let number = |name: &str| {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    // Without a limit the file says `max`.
    let (limit, used) = (number("memory.max")?, number("memory.current")?);
    let stat = fs::read_to_string(folder.join("memory.stat")).ok()?;
    let cached = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().parse::<u64>().ok())
    };
    let cached = cached("inactive_file ").unwrap_or(0) + cached("active_file ").unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

fn field(name: &str) -> u64 {
    line(Path::new("/proc/self/status"), name).unwrap_or(0)
}

/// Bytes of a line such as `VmRSS:   1234 kB`.
fn line(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().ok()?;
    Some(kib << 10)
}

/// Bytes in GiB with one decimal, or in MiB below one.
pub fn readable(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1 << 30);
    if gib >= 1.0 {
        format!("{gib:.1} GiB")
    } else {
        format!("{:.0} MiB", gib * 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_allocated_is_seen() {
        let before = in_use();
        let held = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(in_use() >= before + held.len() as u64 / 2);
        assert!(peak() >= in_use() / 2 && before > 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn some_memory_is_free_and_never_more_than_the_machine_has() {
        let all = line(Path::new("/proc/meminfo"), "MemTotal:").unwrap();
        let free = available().unwrap();
        assert!(free > 0 && free <= all, "{free} of {all}");
    }

    #[test]
    fn sizes_are_read_easily() {
        assert_eq!(readable(3 << 30), "3.0 GiB");
        assert_eq!(readable(5 << 20), "5 MiB");
    }
}
