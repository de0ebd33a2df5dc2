//! Boxes of untrusted MP4 files, and bytes in them: every offset is checked before it is used.

/// Why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// Ends before its boxes do.
    CutShort,
    /// Boxes that contradict each other.
    Damaged,
    /// No MP4 at all.
    NotMp4,
    /// Pieces with an index each.
    Fragmented,
    /// A codec other than H.264 or AAC.
    Codec(String),
}

/// What was read, or why it cannot be.
pub(crate) type Read<T> = Result<T, Wrong>;

/// Bytes read by offset, each read checked.
#[derive(Clone, Copy)]
pub(crate) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// `count` bytes.
    pub fn get(&self, at: usize, count: usize) -> Read<&'a [u8]> {
        let end = at.checked_add(count).ok_or(Wrong::Damaged)?;
        self.0.get(at..end).ok_or(Wrong::Damaged)
    }

    /// All bytes from an offset on.
    pub fn from(&self, at: usize) -> Read<&'a [u8]> {
        self.0.get(at..).ok_or(Wrong::Damaged)
    }

    /// One byte.
    pub fn u8(&self, at: usize) -> Read<u8> {
        Ok(self.get(at, 1)?[0])
    }

    /// Two bytes, big end first.
    pub fn u16(&self, at: usize) -> Read<u16> {
        let bytes = self.get(at, 2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Four bytes, big end first.
    pub fn u32(&self, at: usize) -> Read<u32> {
        let high = u32::from(self.u16(at)?);
        Ok(high << 16 | u32::from(self.u16(at + 2)?))
    }

    /// Eight bytes, big end first.
    pub fn u64(&self, at: usize) -> Read<u64> {
        let high = u64::from(self.u32(at)?);
        Ok(high << 32 | u64::from(self.u32(at + 4)?))
    }

    /// The number of entries of a table, of `size` bytes each, that its box holds.
    pub fn count(&self, size: usize) -> Read<usize> {
        let count = self.u32(4)? as usize;
        match count <= self.0.len().saturating_sub(8) / size {
            true => Ok(count),
            false => Err(Wrong::Damaged),
        }
    }
}

/// A box's kind and body.
pub(crate) type Part<'a> = (&'a [u8; 4], &'a [u8]);

/// The boxes that follow each other in `data`.
pub(crate) fn boxes(mut data: &[u8]) -> impl Iterator<Item = Read<Part<'_>>> {
    std::iter::from_fn(move || {
        // A few zero bytes may close a list.
        if data.len() < 8 {
            return None;
        }
        let part = first_box(data);
        data = match &part {
            Ok((_, end)) => &data[*end..],
            Err(_) => &[],
        };
        Some(part.map(|(part, _)| part))
    })
}

/// The first box and where it ends.
fn first_box(data: &[u8]) -> Read<(Part<'_>, usize)> {
    let bytes = Bytes(data);
    let (size, header) = match bytes.u32(0)? {
        0 => (data.len(), 8),
        1 => {
            let size = usize::try_from(bytes.u64(8)?).map_err(|_| Wrong::Damaged)?;
            (size, 16)
        }
        size => (size as usize, 8),
    };
    if size < header {
        return Err(Wrong::Damaged);
    }
    let body = data.get(header..size).ok_or(Wrong::CutShort)?;
    let kind = data[4..8].try_into().map_err(|_| Wrong::Damaged)?;
    Ok(((kind, body), size))
}

/// The body of the first box of a kind.
pub(crate) fn child<'a>(data: &'a [u8], kind: &[u8; 4]) -> Read<Option<&'a [u8]>> {
    for part in boxes(data) {
        let (found, body) = part?;
        if found == kind {
            return Ok(Some(body));
        }
    }
    Ok(None)
}
