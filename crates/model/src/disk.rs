//! Room on disks.

use std::path::Path;

/// Bytes that may still be written where `path` lies; `None` where the system does not say.
#[cfg(unix)]
pub fn free(path: &Path) -> Option<u64> {
    use std::{ffi::CString, mem::MaybeUninit, os::unix::ffi::OsStrExt};
    let existing = path.ancestors().find(|path| path.exists());
    let existing = existing.unwrap_or(Path::new("."));
    let name = CString::new(existing.as_os_str().as_bytes()).ok()?;
    let mut about = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the name ends with a zero, and the structure is the call's to fill.
    let done = unsafe { libc::statvfs(name.as_ptr(), about.as_mut_ptr()) } == 0;
    // SAFETY: filled, since the call succeeded.
    let about = done.then(|| unsafe { about.assume_init() })?;
    Some(about.f_bavail as u64 * about.f_frsize as u64)
}

/// The system is not asked.
#[cfg(not(unix))]
pub fn free(_: &Path) -> Option<u64> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    #[test]
    fn a_folder_to_be_made_is_on_the_disk_of_its_parent() {
        let folder = tempfile::tempdir().unwrap();
        assert!(super::free(&folder.path().join("a/b")).is_some_and(|bytes| bytes > 0));
    }
}
