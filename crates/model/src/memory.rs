//! What this process holds of the machine's memory.

/// Bytes in use now, pages of mapped files included. 0 where the system does not say.
pub fn in_use() -> u64 {
    field("VmRSS:")
}

/// The most bytes that were in use at any time. 0 where the system does not say.
pub fn peak() -> u64 {
    field("VmHWM:")
}

/// Bytes of a line such as `VmRSS:   1234 kB`.
#[cfg(target_os = "linux")]
fn field(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| {
        line.trim()
            .trim_end_matches(" kB")
            .trim()
            .parse::<u64>()
            .ok()
    });
    kib.unwrap_or(0) << 10
}

#[cfg(not(target_os = "linux"))]
fn field(_: &str) -> u64 {
    0
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

    #[test]
    fn sizes_are_read_easily() {
        assert_eq!(readable(3 << 30), "3.0 GiB");
        assert_eq!(readable(5 << 20), "5 MiB");
    }
}
