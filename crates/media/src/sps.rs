//! The colours that an H.264 sequence parameter set announces (ITU-T H.264, 7.3.2.1.1 and annex E).

use crate::yuv::Matrix;

/// The matrix of the stream whose `sps` this is; `None` where it does not say or cannot be read.
pub(crate) fn matrix(sps: &[u8]) -> Option<Matrix> {
    let mut bits = Bits::new(sps.get(1..)?);
    let profile = bits.take(8)?;
    bits.skip(16)?;
    bits.golomb()?;
    if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128) {
        high_profile(&mut bits)?;
    }
    bits.golomb()?;
    picture_order(&mut bits)?;
    bits.golomb()?;
    bits.skip(1)?;
    bits.golomb()?;
    bits.golomb()?;
    // Frames only, or fields too.
    if bits.take(1)? == 0 {
        bits.skip(1)?;
    }
    bits.skip(1)?;
    if bits.take(1)? == 1 {
        for _ in 0..4 {
            bits.golomb()?;
        }
    }
    match bits.take(1)? {
        1 => usability(&mut bits),
        _ => None,
    }
}

fn picture_order(bits: &mut Bits) -> Option<()> {
    match bits.golomb()? {
        0 => {
            bits.golomb()?;
        }
        1 => {
            bits.skip(1)?;
            bits.golomb()?;
            bits.golomb()?;
            for _ in 0..bits.golomb()?.min(255) {
                bits.golomb()?;
            }
        }
        _ => {}
    }
    Some(())
}

fn high_profile(bits: &mut Bits) -> Option<()> {
    let chroma = bits.golomb()?;
    if chroma == 3 {
        bits.skip(1)?;
    }
    bits.golomb()?;
    bits.golomb()?;
    bits.skip(1)?;
    if bits.take(1)? == 1 {
        for list in 0..if chroma == 3 { 12 } else { 8 } {
            if bits.take(1)? == 1 {
                scaling_list(bits, if list < 6 { 16 } else { 64 })?;
            }
        }
    }
    Some(())
}

fn scaling_list(bits: &mut Bits, size: usize) -> Option<()> {
    let (mut last, mut next) = (8i64, 8i64);
    for _ in 0..size {
        if next != 0 {
            let code = i64::from(bits.golomb()?);
            let delta = if code % 2 == 0 {
                -code / 2
            } else {
                (code + 1) / 2
            };
            next = (last + delta).rem_euclid(256);
        }
        last = if next == 0 { last } else { next };
    }
    Some(())
}

fn usability(bits: &mut Bits) -> Option<Matrix> {
    if bits.take(1)? == 1 && bits.take(8)? == 255 {
        bits.skip(32)?;
    }
    if bits.take(1)? == 1 {
        bits.skip(1)?;
    }
    if bits.take(1)? == 0 {
        return None;
    }
    bits.skip(3)?;
    let full_range = bits.take(1)? == 1;
    let mut code = 2;
    if bits.take(1)? == 1 {
        bits.skip(16)?;
        code = bits.take(8)?;
    }
    // A stream that says its range but not its matrix has the one that players assume.
    Matrix::from_code(code as u8, full_range).or(Some(Matrix {
        full_range,
        ..Matrix::BT601
    }))
}

/// Bits from the top, the bytes that prevent start codes left out.
struct Bits {
    data: Vec<u8>,
    at: usize,
}

impl Bits {
    fn new(escaped: &[u8]) -> Self {
        let mut data = Vec::with_capacity(escaped.len());
        let mut zeros = 0;
        for &byte in escaped {
            if zeros >= 2 && byte == 3 {
                zeros = 0;
                continue;
            }
            zeros = if byte == 0 { zeros + 1 } else { 0 };
            data.push(byte);
        }
        Self { data, at: 0 }
    }

    fn take(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.data.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at += count;
        (self.at <= self.data.len() * 8).then_some(())
    }

    /// An unsigned Exp-Golomb number.
    fn golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.take(1)? == 0 {
            zeros += 1;
        }
        match zeros {
            0..=31 => Some((1u32 << zeros) - 1 + self.take(zeros)?),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h264::Encoder;
    use crate::yuv::from_rgb;
    use gallop_core::{Frame, PixelSize};
    use proptest::prelude::*;

    #[test]
    fn our_own_streams_say_bt709() {
        for (w, h) in [(64, 48), (450, 258), (1920, 1088)] {
            let frame = Frame::black(PixelSize::new(w, h));
            let mut encoder = Encoder::new(frame.size, 24).unwrap();
            encoder.encode(&from_rgb(&frame)).unwrap();
            assert_eq!(matrix(&encoder.sps), Some(Matrix::BT709));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = matrix(&bytes);
        }
    }
}
