//! Building blocks of MP4 (ISO/IEC 14496-12): boxes with their length before them.

/// A buffer that boxes are nested into.
#[derive(Debug, Default)]
pub(crate) struct Boxes(pub Vec<u8>);

impl Boxes {
    /// A box of `kind` with what `fill` writes.
    pub fn nest(&mut self, kind: &[u8; 4], fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.0.len();
        self.u32(0).bytes(kind);
        fill(self);
        let size = (self.0.len() - start) as u32;
        self.0[start..start + 4].copy_from_slice(&size.to_be_bytes());
        self
    }

    /// A box that begins with a version and flags.
    pub fn full(
        &mut self,
        kind: &[u8; 4],
        version: u8,
        flags: u32,
        fill: impl FnOnce(&mut Self),
    ) -> &mut Self {
        self.nest(kind, |b| {
            b.u32(u32::from(version) << 24 | flags);
            fill(b);
        })
    }

    /// Raw bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// `count` zero bytes.
    pub fn zeros(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    /// Two bytes, big end first.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Four bytes, big end first.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Eight bytes, big end first.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// An MPEG-4 descriptor (ISO/IEC 14496-1) of up to 2^14 bytes.
    pub fn descriptor(&mut self, tag: u8, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::default();
        fill(&mut inner);
        let size = inner.0.len();
        self.u8(tag);
        self.u8(0x80 | (size >> 7) as u8).u8((size & 127) as u8);
        self.bytes(&inner.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_cover_what_is_inside() {
        let mut boxes = Boxes::default();
        boxes.nest(b"moov", |b| {
            b.full(b"mvhd", 1, 3, |b| {
                b.u16(7);
            });
        });
        assert_eq!(
            boxes.0,
            [
                0, 0, 0, 22, b'm', b'o', b'o', b'v', 0, 0, 0, 14, b'm', b'v', b'h', b'd', 1, 0, 0,
                3, 0, 7
            ]
        );
    }
}
