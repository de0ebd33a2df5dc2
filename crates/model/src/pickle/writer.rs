//! Writes tensors as PyTorch does, so that random models have the public files' form.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use super::{PickleError, value::Element};

/// A tensor to write.
#[derive(Clone, Debug)]
pub struct PickleTensor {
    /// Its name.
    pub name: String,
    /// Its number format.
    pub element: Element,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl PickleTensor {
    fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Writes a dictionary of tensors; with `key`, inside another dictionary under that key. `numbers` gives
/// the bytes, row-major and little-endian, of the tensor of an index.
///
/// # Errors
/// When the file cannot be written, or would exceed the 4 GiB of a plain zip archive.
pub fn write_pickle(
    path: &Path,
    key: Option<&str>,
    tensors: &[PickleTensor],
    mut numbers: impl FnMut(usize) -> Vec<u8>,
) -> Result<(), PickleError> {
    let mut zip = ZipWriter {
        file: BufWriter::new(File::create(path)?),
        at: 0,
        directory: Vec::new(),
        entries: 0,
    };
    zip.add("archive/data.pkl", &program(key, tensors)?)?;
    zip.add("archive/byteorder", b"little")?;
    for index in 0..tensors.len() {
        zip.add(&format!("archive/data/{index}"), &numbers(index))?;
    }
    zip.add("archive/version", b"3\n")?;
    zip.finish()
}

fn too_large() -> PickleError {
    PickleError::Archive("too large for a plain archive".into())
}

/// The pickle that builds the dictionary.
fn program(key: Option<&str>, tensors: &[PickleTensor]) -> Result<Vec<u8>, PickleError> {
    let mut out = b"\x80\x02}".to_vec();
    if let Some(key) = key {
        text(&mut out, key)?;
        out.push(b'}');
    }
    out.push(b'(');
    for (index, tensor) in tensors.iter().enumerate() {
        text(&mut out, &tensor.name)?;
        rebuild(&mut out, index, tensor)?;
    }
    out.push(b'u');
    if key.is_some() {
        out.push(b's');
    }
    out.push(b'.');
    Ok(out)
}

fn rebuild(out: &mut Vec<u8>, index: usize, tensor: &PickleTensor) -> Result<(), PickleError> {
    let kind = match tensor.element {
        Element::F32 => "Float",
        Element::F64 => "Double",
        Element::F16 => "Half",
        Element::BF16 => "BFloat16",
        Element::I64 => "Long",
        Element::I32 => "Int",
        Element::I16 => "Short",
        Element::I8 => "Char",
        Element::U8 => "Byte",
        Element::Bool => "Bool",
    };
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(out, "storage")?;
    out.extend(format!("ctorch\n{kind}Storage\n").as_bytes());
    text(out, &index.to_string())?;
    text(out, "cpu")?;
    integer(out, tensor.count());
    out.extend(b"tQK\x00(");
    tensor.shape.iter().for_each(|&size| integer(out, size));
    out.extend(b"t(");
    for dim in 0..tensor.shape.len() {
        integer(out, tensor.shape[dim + 1..].iter().product());
    }
    out.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
    Ok(())
}

fn text(out: &mut Vec<u8>, text: &str) -> Result<(), PickleError> {
    let size = u32::try_from(text.len()).map_err(|_| too_large())?;
    out.push(b'X');
    out.extend(size.to_le_bytes().iter().chain(text.as_bytes()));
    Ok(())
}

fn integer(out: &mut Vec<u8>, number: usize) {
    out.extend(b"\x8a\x08");
    out.extend((number as u64).to_le_bytes());
}

struct ZipWriter {
    file: BufWriter<File>,
    at: u64,
    directory: Vec<u8>,
    entries: u16,
}

impl ZipWriter {
    fn add(&mut self, name: &str, data: &[u8]) -> Result<(), PickleError> {
        let narrow = |number: u64| u32::try_from(number).map_err(|_| too_large());
        let at = narrow(self.at)?;
        let size = narrow(data.len() as u64)?;
        let mut shared = Vec::new();
        // Version 2.0, no flags, stored, no date.
        shared.extend([20, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        shared.extend(crc32(data).to_le_bytes());
        shared.extend(size.to_le_bytes().iter().chain(&size.to_le_bytes()));
        shared.extend((name.len() as u16).to_le_bytes());
        let header = [b"PK\x03\x04", &shared[..], &[0, 0], name.as_bytes()].concat();
        self.file.write_all(&header)?;
        self.file.write_all(data)?;
        self.at += (header.len() + data.len()) as u64;
        self.directory.extend(b"PK\x01\x02\x14\x00");
        self.directory.extend(shared.iter().chain(&[0; 12]));
        self.directory
            .extend(at.to_le_bytes().iter().chain(name.as_bytes()));
        self.entries = self.entries.checked_add(1).ok_or_else(too_large)?;
        Ok(())
    }

    fn finish(mut self) -> Result<(), PickleError> {
        let at = u32::try_from(self.at).map_err(|_| too_large())?;
        let size = u32::try_from(self.directory.len()).map_err(|_| too_large())?;
        let entries = self.entries.to_le_bytes();
        self.file.write_all(&self.directory)?;
        self.file.write_all(b"PK\x05\x06\x00\x00\x00\x00")?;
        self.file.write_all(&[entries, entries].concat())?;
        self.file
            .write_all(&[size.to_le_bytes(), at.to_le_bytes()].concat())?;
        self.file.write_all(&[0, 0])?;
        Ok(self.file.flush()?)
    }
}

/// The checksum of zip entries.
fn crc32(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    !data.iter().fold(!0, |crc: u32, &byte| {
        (crc >> 8) ^ TABLE[((crc ^ u32::from(byte)) & 0xff) as usize]
    })
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
}
