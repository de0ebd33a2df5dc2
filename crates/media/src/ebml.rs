//! Building blocks of WebM (RFC 8794, RFC 9559): elements with their length before them.

/// A buffer that elements are nested into.
#[derive(Debug, Default)]
pub(crate) struct Ebml(pub Vec<u8>);

impl Ebml {
    /// An element's name, whose own first bits say how long it is.
    fn id(&mut self, id: u32) -> &mut Self {
        let bytes = id.to_be_bytes();
        let zeros = bytes.iter().take_while(|&&b| b == 0).count();
        self.0.extend_from_slice(&bytes[zeros..]);
        self
    }

    /// An element's name and the length of what follows, in eight bytes.
    pub fn open(&mut self, id: u32, size: u64) -> &mut Self {
        self.id(id);
        self.0.extend((size | 1 << 56).to_be_bytes());
        self
    }

    /// An element that holds what `fill` writes.
    pub fn nest(&mut self, id: u32, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::default();
        fill(&mut inner);
        self.open(id, inner.0.len() as u64);
        self.0.append(&mut inner.0);
        self
    }

    /// An unsigned number, always in eight bytes, so that sizes do not depend on values.
    pub fn number(&mut self, id: u32, value: u64) -> &mut Self {
        self.bytes(id, &value.to_be_bytes())
    }

    /// A signed number, in eight bytes.
    pub fn signed(&mut self, id: u32, value: i64) -> &mut Self {
        self.bytes(id, &value.to_be_bytes())
    }

    /// A 64-bit float.
    pub fn float(&mut self, id: u32, value: f64) -> &mut Self {
        self.bytes(id, &value.to_be_bytes())
    }

    /// Text.
    pub fn text(&mut self, id: u32, text: &str) -> &mut Self {
        self.bytes(id, text.as_bytes())
    }

    /// Raw bytes, their length in as few bytes as it takes.
    pub fn bytes(&mut self, id: u32, bytes: &[u8]) -> &mut Self {
        self.id(id);
        let size = bytes.len() as u64;
        let width = (1..8u32).find(|&w| size < (1 << (7 * w)) - 1).unwrap_or(8);
        let marked = size | 1 << (7 * width);
        self.0.extend(&marked.to_be_bytes()[8 - width as usize..]);
        self.0.extend_from_slice(bytes);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_lengths_are_marked() {
        let mut ebml = Ebml::default();
        ebml.bytes(0xa3, b"ab").text(0x4282, "webm");
        assert_eq!(ebml.0, b"\xa3\x82ab\x42\x82\x84webm");
        let mut ebml = Ebml::default();
        ebml.bytes(0xec, &[0; 127]);
        assert_eq!(ebml.0[..3], [0xec, 0x40, 127]);
        let mut ebml = Ebml::default();
        ebml.nest(0x1a45_dfa3, |e| {
            e.bytes(0xec, &[]);
        });
        assert_eq!(ebml.0, b"\x1a\x45\xdf\xa3\x01\0\0\0\0\0\0\x02\xec\x80");
    }
}
