//! Numbered pictures: `name-%04d.png`, one `.png`, or a folder of `frame-0001.png` and so on.

use std::path::{Path, PathBuf};

use gallop_core::{Result, UserError};

use crate::fail::folder_of;

/// The names of the pictures of a clip; numbers start at 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameNames {
    folder: PathBuf,
    before: String,
    /// Digits of the number; `None` where the name has no number.
    digits: Option<usize>,
    after: String,
}

impl FrameNames {
    /// `frame-0001.png` and so on in `folder`.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self {
            folder: folder.to_path_buf(),
            before: "frame-".into(),
            digits: Some(4),
            after: ".png".into(),
        }
    }

    /// `%d` or `%0Nd` in the file's name is the number; a name without holds one picture.
    pub(crate) fn from_pattern(path: &Path) -> Result<Self> {
        let wrong = || {
            UserError::new(
                format!("the output `{}` has a wrong pattern", path.display()),
                "use one %d or %04d for the number of the picture",
            )
        };
        let name = path.file_name().ok_or_else(wrong)?;
        let name = name.to_str().ok_or_else(wrong)?;
        let folder = folder_of(path).to_path_buf();
        let Some((before, rest)) = name.split_once('%') else {
            return Ok(Self {
                folder,
                before: name.into(),
                digits: None,
                after: String::new(),
            });
        };
        let (digits, after) = rest.split_once('d').ok_or_else(wrong)?;
        let padded = digits.is_empty() || digits.starts_with('0');
        let digits = match digits {
            "" => 1,
            _ => digits.parse().map_err(|_| wrong())?,
        };
        if !padded || digits > 9 || after.contains('%') {
            return Err(wrong());
        }
        Ok(Self {
            folder,
            before: before.into(),
            digits: Some(digits),
            after: after.into(),
        })
    }

    /// The path of picture `number`, counted from 1.
    ///
    /// # Errors
    /// A second picture for a name without a number.
    pub(crate) fn path(&self, number: usize) -> Result<PathBuf> {
        let name = match self.digits {
            Some(digits) => format!("{}{number:0digits$}{}", self.before, self.after),
            None if number == 1 => self.before.clone(),
            None => {
                return Err(UserError::new(
                    format!("`{}` holds one picture only", self.before),
                    "use a pattern such as frame-%04d.png for a clip",
                ));
            }
        };
        Ok(self.folder.join(name))
    }

    /// The folder of the pictures.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of the pictures if it is there, else the one it would be made in.
    pub(crate) fn nearest_folder(&self) -> PathBuf {
        if self.folder.is_dir() {
            return self.folder.clone();
        }
        folder_of(&self.folder).to_path_buf()
    }

    /// The sound that goes with the pictures.
    pub(crate) fn sound(&self) -> PathBuf {
        match self.digits {
            Some(_) => self.folder.join("sound.wav"),
            None => self.folder.join(&self.before).with_extension("wav"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fill_the_pattern() {
        let names = FrameNames::from_pattern(Path::new("a/x-%03d.png")).unwrap();
        assert_eq!(names.path(7).unwrap(), Path::new("a/x-007.png"));
        assert_eq!(names.path(1234).unwrap(), Path::new("a/x-1234.png"));
        let names = FrameNames::from_pattern(Path::new("%d.png")).unwrap();
        assert_eq!(names.path(12).unwrap(), Path::new("./12.png"));
        let one = FrameNames::from_pattern(Path::new("a.png")).unwrap();
        assert!(one.path(1).is_ok());
        assert!(one.path(2).unwrap_err().to_string().contains("%04d"));
    }
}
