//! The directory of a zip archive whose entries are stored, not compressed, as PyTorch writes it.

use std::{collections::HashMap, ops::Range};

use super::PickleError;

const END: &[u8] = b"PK\x05\x06";
const END64: &[u8] = b"PK\x06\x06";
const LOCATOR64: &[u8] = b"PK\x06\x07";
const DIRECTORY: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";
const END_SIZE: usize = 22;
const LOCATOR_SIZE: usize = 20;
/// An archive's closing comment has a 16-bit length.
const MAX_COMMENT: usize = u16::MAX as usize;

/// Where each entry's bytes lie in the archive, by name.
///
/// # Errors
/// When the bytes are no zip archive, are cut short, or an entry is compressed or overruns them.
pub(super) fn entries(bytes: &[u8]) -> Result<HashMap<String, Range<usize>>, PickleError> {
    let (mut at, count) = directory(bytes)?;
    let mut found = HashMap::new();
    for _ in 0..count {
        let (name, range, next) = entry(bytes, at)?;
        found.insert(name, range);
        at = next;
    }
    Ok(found)
}

/// The offset of the central directory, and how many entries it lists.
fn directory(bytes: &[u8]) -> Result<(usize, usize), PickleError> {
    let first = bytes.len().saturating_sub(END_SIZE + MAX_COMMENT);
    let last = bytes.len().checked_sub(END_SIZE);
    let end = last
        .and_then(|last| {
            (first..=last)
                .rev()
                .find(|&at| bytes[at..].starts_with(END))
        })
        .ok_or_else(|| no_end(bytes))?;
    let count = u16_at(bytes, end + 10)? as u64;
    let offset = u32_at(bytes, end + 16)? as u64;
    let (offset, count) = match locator(bytes, end) {
        Some(at) => {
            let at = to_usize(u64_at(bytes, at + 8)?)?;
            expect(bytes, at, END64)?;
            (u64_at(bytes, add(at, 48)?)?, u64_at(bytes, add(at, 32)?)?)
        }
        None => (offset, count),
    };
    Ok((to_usize(offset)?, to_usize(count)?))
}

fn locator(bytes: &[u8], end: usize) -> Option<usize> {
    let at = end.checked_sub(LOCATOR_SIZE)?;
    bytes[at..].starts_with(LOCATOR64).then_some(at)
}

fn no_end(bytes: &[u8]) -> PickleError {
    let what = if bytes.starts_with(LOCAL) {
        "the archive is cut short: fetch the file again"
    } else if bytes.starts_with(&[0x80]) {
        "a bare pickle, as PyTorch wrote before 1.6: load and save it with a newer PyTorch"
    } else {
        "not a zip archive"
    };
    PickleError::Archive(what.into())
}

/// The name and bytes of the directory's entry at `at`, and where the next one starts.
fn entry(bytes: &[u8], at: usize) -> Result<(String, Range<usize>, usize), PickleError> {
    expect(bytes, at, DIRECTORY)?;
    let method = u16_at(bytes, at + 10)?;
    let name_size = u16_at(bytes, at + 28)? as usize;
    let extra_size = u16_at(bytes, at + 30)? as usize;
    let comment_size = u16_at(bytes, at + 32)? as usize;
    let name_at = at + 46;
    let name = slice(bytes, name_at, name_size)?;
    let name = String::from_utf8_lossy(name).into_owned();
    if method != 0 {
        return Err(PickleError::Archive(format!(
            "entry {name} is compressed: PyTorch stores its entries plain"
        )));
    }
    let extra = slice(bytes, name_at + name_size, extra_size)?;
    let mut wide = Wide::new(extra);
    // The extra field holds, in this order, just the numbers that overflow 32 bits.
    let size = wide.or(u32_at(bytes, at + 24)?)?;
    let stored = wide.or(u32_at(bytes, at + 20)?)?;
    let local = wide.or(u32_at(bytes, at + 42)?)?;
    if size != stored {
        return Err(PickleError::Archive(format!("entry {name} has two sizes")));
    }
    let range = body(bytes, to_usize(local)?, to_usize(size)?)?;
    Ok((name, range, name_at + name_size + extra_size + comment_size))
}

fn body(bytes: &[u8], local: usize, size: usize) -> Result<Range<usize>, PickleError> {
    expect(bytes, local, LOCAL)?;
    let name_size = u16_at(bytes, local + 26)? as usize;
    let extra_size = u16_at(bytes, local + 28)? as usize;
    let start = local + 30 + name_size + extra_size;
    slice(bytes, start, size)?;
    Ok(start..start + size)
}

/// The zip64 extra field of one entry.
struct Wide<'a> {
    numbers: &'a [u8],
}

impl<'a> Wide<'a> {
    fn new(mut extra: &'a [u8]) -> Self {
        while let [id0, id1, size0, size1, rest @ ..] = extra {
            let size = usize::from(u16::from_le_bytes([*size0, *size1])).min(rest.len());
            if u16::from_le_bytes([*id0, *id1]) == 1 {
                return Self {
                    numbers: &rest[..size],
                };
            }
            extra = &rest[size..];
        }
        Self { numbers: &[] }
    }

    /// `narrow`, or the next wide number where `narrow` says that it overflowed.
    fn or(&mut self, narrow: u32) -> Result<u64, PickleError> {
        if narrow != u32::MAX {
            return Ok(u64::from(narrow));
        }
        let (number, rest) = self.numbers.split_first_chunk::<8>().ok_or_else(damaged)?;
        self.numbers = rest;
        Ok(u64::from_le_bytes(*number))
    }
}

fn damaged() -> PickleError {
    PickleError::Archive("the archive's directory is damaged or cut short".into())
}

fn expect(bytes: &[u8], at: usize, signature: &[u8]) -> Result<(), PickleError> {
    let found = slice(bytes, at, signature.len())?;
    (found == signature).then_some(()).ok_or_else(damaged)
}

fn slice(bytes: &[u8], at: usize, size: usize) -> Result<&[u8], PickleError> {
    let end = at.checked_add(size).ok_or_else(damaged)?;
    bytes.get(at..end).ok_or_else(damaged)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], PickleError> {
    slice(bytes, at, N)?.try_into().map_err(|_| damaged())
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, PickleError> {
    Ok(u16::from_le_bytes(array(bytes, at)?))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, PickleError> {
    Ok(u32::from_le_bytes(array(bytes, at)?))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, PickleError> {
    Ok(u64::from_le_bytes(array(bytes, at)?))
}

fn add(at: usize, size: usize) -> Result<usize, PickleError> {
    at.checked_add(size).ok_or_else(damaged)
}

fn to_usize(number: u64) -> Result<usize, PickleError> {
    // Half the range leaves room to add header sizes without overflow.
    usize::try_from(number)
        .ok()
        .filter(|&n| n < usize::MAX / 2)
        .ok_or_else(damaged)
}
