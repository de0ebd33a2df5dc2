//! 8-bit floats with 4 bits of exponent and 3 of mantissa (E4M3, without infinities).

pub use gallop_kernels::gemm::to_float8 as encode;

/// The greatest number.
pub const MAX: f32 = 448.0;

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
