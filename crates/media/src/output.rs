//! Where a clip goes: the format by the name, checked before any work is done; written aside, then renamed.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use gallop_core::{Result, UserError};
use tempfile::{Builder, NamedTempFile};

use crate::fail::{cannot_write, folder_of};
use crate::frames::FrameNames;

/// What a path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.mp4`: H.264 and AAC.
    Mp4,
    /// `.webm`: AV1 and Vorbis.
    Webm,
    /// `.wav`: the sound alone, 16-bit.
    Wav,
    /// `.png`, `name-%04d.png`, or a folder: pictures, and `sound.wav` beside them.
    Png(FrameNames),
}

const KNOWN: &str =
    "end it in .mp4, .webm, .wav or .png, or name a folder for numbered pictures (`frames/`)";

impl Format {
    /// The format that the name of `path` asks for: by its ending, or an existing folder, or a trailing `/`.
    ///
    /// # Errors
    /// An unknown ending.
    pub fn of(path: &Path) -> Result<Self> {
        let ends_in_slash = path.to_string_lossy().ends_with(['/', '\\']);
        if ends_in_slash || path.is_dir() {
            return Ok(Self::Png(FrameNames::in_folder(path)));
        }
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        match ending.as_deref() {
            Some("mp4" | "m4v") => Ok(Self::Mp4),
            Some("webm") => Ok(Self::Webm),
            Some("wav") => Ok(Self::Wav),
            Some("png") => FrameNames::from_pattern(path).map(Self::Png),
            _ => Err(UserError::new(
                format!("the output `{}` has no known format", path.display()),
                KNOWN,
            )),
        }
    }
}

/// Checks, before a long piece of work, that `path` can be written: its ending, its folder, the right to write there.
///
/// # Errors
/// Names the path, what is wrong with it, and the mend.
pub fn check_output(path: &Path) -> Result<Format> {
    let format = Format::of(path)?;
    let folder = match &format {
        Format::Png(names) => names.nearest_folder(),
        _ => folder_of(path).to_path_buf(),
    };
    if !folder.is_dir() {
        return Err(cannot_write(path, &Error::from(ErrorKind::NotFound)));
    }
    PartFile::create_in(&folder, path)?;
    Ok(format)
}

/// A file written aside as `.name….part` in the same folder; gone unless committed.
#[derive(Debug)]
pub(crate) struct PartFile {
    part: NamedTempFile,
    path: PathBuf,
}

impl PartFile {
    /// A part file beside `path`.
    pub fn create(path: &Path) -> Result<Self> {
        Self::create_in(folder_of(path), path)
    }

    /// A part file in `folder`, which must be on the disk of `path`.
    pub fn create_in(folder: &Path, path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut builder = Builder::new();
        let prefix = format!(".{name}.");
        builder.prefix(&prefix).suffix(".part");
        // Temporary files are private; a finished clip has the rights of any new file.
        #[cfg(unix)]
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        #[cfg(unix)]
        builder.permissions(permissions);
        let part = builder
            .tempfile_in(folder)
            .map_err(|error| cannot_write(path, &error))?;
        Ok(Self {
            part,
            path: path.to_path_buf(),
        })
    }

    /// The file to write to.
    pub fn file(&mut self) -> &mut File {
        self.part.as_file_mut()
    }

    /// Closes the file but keeps it aside, so that many can wait without holding descriptors.
    pub fn close(self) -> ClosedPart {
        ClosedPart {
            part: self.part.into_temp_path(),
            path: self.path,
        }
    }

    /// Puts the file in its place, over an older one.
    pub fn commit(self) -> Result<()> {
        self.close().commit()
    }

    /// The error of a failed write to this file.
    pub fn error(&self, error: &Error) -> UserError {
        cannot_write(&self.path, error)
    }
}

/// A complete part file that waits for its place.
#[derive(Debug)]
pub(crate) struct ClosedPart {
    part: tempfile::TempPath,
    path: PathBuf,
}

impl ClosedPart {
    /// Puts the file in its place, over an older one.
    pub fn commit(self) -> Result<()> {
        let Self { part, path } = self;
        part.persist(&path)
            .map_err(|failed| cannot_write(&path, &failed.error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_follow_from_names() {
        let of = |name: &str| Format::of(Path::new(name));
        assert_eq!(of("a/clip.MP4").unwrap(), Format::Mp4);
        assert_eq!(of("clip.webm").unwrap(), Format::Webm);
        assert_eq!(of("clip.wav").unwrap(), Format::Wav);
        for name in ["a.png", "a-%03d.png", "no-such-folder/"] {
            assert!(matches!(of(name).unwrap(), Format::Png(_)), "{name}");
        }
        for name in [
            "clip",
            "",
            "clip.avi",
            "clip.mp4.txt",
            "a%d%d.png",
            "a%s.png",
        ] {
            let said = of(name).unwrap_err().to_string();
            assert!(said.contains(name), "{said}");
        }
    }

    #[test]
    fn checking_leaves_nothing_and_finds_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["clip.mp4", "x.webm", "x.wav", "x-%d.png", "frames/"] {
            check_output(&folder.path().join(name)).unwrap();
        }
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        for name in ["none/clip.mp4", "none/x/%d.png", "none/x/"] {
            let said = check_output(&folder.path().join(name)).unwrap_err();
            assert!(said.to_string().contains("make the folder"), "{said}");
        }
        std::fs::write(folder.path().join("file"), b"").unwrap();
        let said = check_output(&folder.path().join("file/clip.mp4")).unwrap_err();
        assert!(said.to_string().contains("clip.mp4"), "{said}");
    }

    #[test]
    fn a_dropped_part_is_gone_and_a_committed_one_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        let mut part = PartFile::create(&path).unwrap();
        std::io::Write::write_all(part.file(), b"half").unwrap();
        drop(part);
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        let mut part = PartFile::create(&path).unwrap();
        std::io::Write::write_all(part.file(), b"whole").unwrap();
        part.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }
}
