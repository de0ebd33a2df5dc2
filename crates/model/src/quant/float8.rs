//! 8-bit floats with 4 bits of exponent and 3 of mantissa (E4M3, without infinities).

/// The greatest number.
pub const MAX: f32 = 448.0;
/// The smallest number with a full mantissa, 2^-6; below it numbers are multiples of 2^-9.
const SMALLEST_NORMAL: f32 = 1.0 / 64.0;

/// The nearest number, ties to even; what is beyond the greatest becomes the greatest.
pub fn encode(x: f32) -> u8 {
    let (sign, x) = ((x.to_bits() >> 24) as u8 & 0x80, x.abs().min(MAX));
    if x < SMALLEST_NORMAL {
        return sign | (x * 512.0).round_ties_even() as u8;
    }
    let bits = x.to_bits();
    let rounded = (bits + 0x7_ffff + (bits >> 20 & 1)) >> 20;
    // The exponent's bias is 127 there and 7 here.
    sign | (rounded - (120 << 3)) as u8
}

/// The number of a byte; not a number for two of them.
pub fn decode(byte: u8) -> f32 {
    let bits = u32::from(byte & 0x7f) << 20 | u32::from(byte & 0x80) << 24;
    match byte & 0x7f {
        0x7f => f32::NAN,
        _ => f32::from_bits(bits) * f32::from_bits((127 + 120) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};

    #[test]
    fn every_number_comes_back() {
        for byte in (0..=255u8).filter(|byte| byte & 0x7f != 0x7f) {
            assert_eq!(encode(decode(byte)), byte, "{byte:#x}");
        }
        assert_eq!((encode(1e9), encode(-1e9)), (0x7e, 0xfe));
    }

    #[test]
    fn it_rounds_as_the_tensor_library_does() {
        let numbers: Vec<f32> = (-4480..4480)
            .map(|i| i as f32 * 0.1 * 1.000_37)
            .flat_map(|x| [x.clamp(-MAX, MAX), x * 1e-3, x * 1e-5])
            .collect();
        let tensor = Tensor::new(&numbers[..], &Device::Cpu).unwrap();
        let small = tensor.to_dtype(DType::F8E4M3).unwrap();
        let small = small.to_dtype(DType::F32).unwrap();
        for (x, want) in numbers.iter().zip(small.to_vec1::<f32>().unwrap()) {
            assert_eq!(decode(encode(*x)), want, "{x}");
        }
    }
}
