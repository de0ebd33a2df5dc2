//! What goes wrong with files, said so that a user can mend it.

use std::io::{Error, ErrorKind};
use std::path::Path;

use gallop_core::UserError;

/// A failed write to `path`, with the mend that fits the cause.
pub(crate) fn cannot_write(path: &Path, error: &Error) -> UserError {
    let mend = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "free some space, or write to another disk".to_string()
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "choose a folder that you may write to".to_string()
        }
        ErrorKind::NotFound | ErrorKind::NotADirectory => match folder_of(path) {
            folder if folder.is_dir() => "choose another name".to_string(),
            folder => format!("make the folder `{}` first", folder.display()),
        },
        _ => "choose another place to write to".to_string(),
    };
    UserError::new(
        format!("cannot write `{}` ({})", path.display(), reason(error)),
        mend,
    )
}

/// A failed read of `path`, with the mend that fits the cause.
pub(crate) fn cannot_read(path: &Path, error: &Error) -> UserError {
    let mend = match error.kind() {
        ErrorKind::NotFound => "check the name",
        ErrorKind::PermissionDenied => "allow reading it, or use a copy",
        ErrorKind::IsADirectory => "name a file, not a folder",
        _ => "use another file",
    };
    UserError::new(
        format!("cannot read `{}` ({})", path.display(), reason(error)),
        mend,
    )
}

/// A file whose content cannot be used: what is wrong with it, and what to use instead.
pub(crate) fn bad_file(path: &Path, wrong: impl std::fmt::Display, mend: &str) -> UserError {
    UserError::new(format!("`{}` {wrong}", path.display()), mend)
}

/// The folder that holds `path`; `.` for a bare name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The system's words without its error number.
fn reason(error: &Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.split(" at path").next().unwrap_or(text).to_lowercase()
}

/// Runs a decoder of somebody else's making; a panic in it is a damaged file, not our crash.
pub(crate) fn guarded<T>(
    path: &Path,
    decode: impl FnOnce() -> Result<T, UserError>,
) -> Result<T, UserError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode)).unwrap_or_else(|_| {
        Err(bad_file(
            path,
            "is damaged",
            "use a file that other programs open",
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_have_their_mend() {
        let path = Path::new("no/such/clip.mp4");
        for (kind, mend) in [
            (ErrorKind::StorageFull, "free some space"),
            (ErrorKind::PermissionDenied, "you may write to"),
            (ErrorKind::NotFound, "make the folder `no/such` first"),
        ] {
            let said = cannot_write(path, &Error::from(kind)).to_string();
            assert!(said.contains("no/such/clip.mp4"), "{said}");
            assert!(said.contains(mend), "{said}");
        }
        let full = Error::from_raw_os_error(28);
        assert!(!cannot_write(path, &full).to_string().contains("os error"));
    }

    #[test]
    fn a_panic_is_a_damaged_file() {
        let said = guarded::<()>(Path::new("x.png"), || panic!("inner")).unwrap_err();
        assert!(said.to_string().contains("x.png"));
    }
}
