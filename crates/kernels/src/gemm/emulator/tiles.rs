//! The state of the tiles, and what instructions do to it.

use super::decode::Instruction;

/// Tiles of palette 1.
const TILES: usize = 8;
/// Rows of the largest tile.
const ROWS: usize = 16;
/// Bytes of the longest row.
const ROW: usize = 64;

/// Why a processor would refuse an instruction.
pub type Refused = &'static str;

/// The shape of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    rows: usize,
    /// Bytes a row.
    bytes: usize,
}

impl Shape {
    const NONE: Self = Self { rows: 0, bytes: 0 };
}

/// Rows of numbers of four bytes; those outside the shape are zero.
type Tile = [[u32; ROW / 4]; ROWS];

/// All tiles of a thread.
pub struct Tiles {
    configured: bool,
    shapes: [Shape; TILES],
    tiles: [Tile; TILES],
}

impl Tiles {
    /// As a thread begins: no configuration.
    pub const INIT: Self = Self {
        configured: false,
        shapes: [Shape::NONE; TILES],
        tiles: [[[0; ROW / 4]; ROWS]; TILES],
    };

    /// Carries out an instruction.
    ///
    /// # Safety
    /// The memory that it names must be there, as for the processor.
    pub unsafe fn run(&mut self, instruction: Instruction) -> Result<(), Refused> {
        // SAFETY: as the caller promises.
        unsafe {
            match instruction {
                Instruction::Configure(from) => self.configure(&*from.cast::<[u8; 64]>()),
                Instruction::Release => {
                    *self = Self::INIT;
                    Ok(())
                }
                Instruction::Zero(tile) => {
                    self.shape(tile)?;
                    self.tiles[tile] = [[0; ROW / 4]; ROWS];
                    Ok(())
                }
                Instruction::Load(tile, from, stride) => self.load(tile, from, stride),
                Instruction::Store(to, stride, tile) => self.store(to, stride, tile),
                Instruction::Multiply(tiles) => self.multiply(tiles),
            }
        }
    }

    fn configure(&mut self, bytes: &[u8; 64]) -> Result<(), Refused> {
        *self = Self::INIT;
        if bytes[0] == 0 {
            return Ok(());
        }
        let unused = bytes[2..16]
            .iter()
            .chain(&bytes[32..48])
            .chain(&bytes[56..]);
        if bytes[0] != 1 || bytes[1] != 0 || unused.into_iter().any(|b| *b != 0) {
            return Err("ldtilecfg: another palette than 1, a start row, or reserved bytes in use");
        }
        for (tile, shape) in self.shapes.iter_mut().enumerate() {
            let bytes_a_row = u16::from_le_bytes([bytes[16 + 2 * tile], bytes[17 + 2 * tile]]);
            *shape = Shape {
                rows: bytes[48 + tile].into(),
                bytes: bytes_a_row.into(),
            };
            if shape.rows > ROWS || shape.bytes > ROW || (shape.rows == 0) != (shape.bytes == 0) {
                return Err("ldtilecfg: a tile of more than 16 rows of 64 bytes, or half empty");
            }
        }
        self.configured = true;
        Ok(())
    }

    fn shape(&self, tile: usize) -> Result<Shape, Refused> {
        match self.shapes.get(tile) {
            Some(shape) if self.configured && *shape != Shape::NONE => Ok(*shape),
            _ => Err("a tile that is not configured"),
        }
    }

    unsafe fn load(&mut self, tile: usize, from: *const u8, stride: isize) -> Result<(), Refused> {
        let shape = self.shape(tile)?;
        self.tiles[tile] = [[0; ROW / 4]; ROWS];
        for (r, row) in self.tiles[tile].iter_mut().take(shape.rows).enumerate() {
            let from = from.wrapping_offset(r as isize * stride);
            // SAFETY: as the caller promises; a row has room for 64 bytes.
            unsafe { from.copy_to_nonoverlapping(row.as_mut_ptr().cast(), shape.bytes) };
        }
        Ok(())
    }

    unsafe fn store(&mut self, to: *mut u8, stride: isize, tile: usize) -> Result<(), Refused> {
        let shape = self.shape(tile)?;
        for (r, row) in self.tiles[tile].iter().take(shape.rows).enumerate() {
            let to = to.wrapping_offset(r as isize * stride);
            // SAFETY: as `load`.
            unsafe { to.copy_from_nonoverlapping(row.as_ptr().cast(), shape.bytes) };
        }
        Ok(())
    }

    fn multiply(&mut self, [c, a, b]: [usize; 3]) -> Result<(), Refused> {
        let [to, left, right] = [self.shape(c)?, self.shape(a)?, self.shape(b)?];
        let whole = [to, left, right].iter().all(|s| s.bytes.is_multiple_of(4));
        let fits = to.bytes == right.bytes && left.rows == to.rows && left.bytes / 4 == right.rows;
        if c == a || a == b || b == c || !whole || !fits {
            return Err("tdpbf16ps: tiles of shapes that do not fit, or one tile twice");
        }
        for m in 0..to.rows {
            let left_row = &self.tiles[a][m][..left.bytes / 4];
            let products = products(left_row, &self.tiles[b]);
            for (sum, pair) in self.tiles[c][m].iter_mut().zip(products).take(to.bytes / 4) {
                let both = f32::from_bits(flushed(pair[0] + pair[1]));
                *sum = flushed(f32::from_bits(flushed(f32::from_bits(*sum))) + both);
            }
        }
        Ok(())
    }
}

/// For each column: the sums over all pairs of depth of the products of first and of second numbers, fused.
fn products(left: &[u32], right: &Tile) -> [[f32; 2]; ROW / 4] {
    let mut sums = [[0.0f32; 2]; ROW / 4];
    for (pair, row) in left.iter().zip(right) {
        for (sum, other) in sums.iter_mut().zip(row) {
            for (half, sum) in sum.iter_mut().enumerate() {
                let (x, y) = (number(*pair, half), number(*other, half));
                // The product is exact in f64, and the sum is rounded as if it were not rounded twice: f64 has more
                // than twice the digits of f32 and two.
                let fused = (f64::from(x) * f64::from(y) + f64::from(*sum)) as f32;
                *sum = f32::from_bits(flushed(fused));
            }
        }
    }
    sums
}

/// One of the two bf16 numbers of a pair; denormal ones are zero.
fn number(pair: u32, half: usize) -> f32 {
    let bits = if half == 0 {
        pair << 16
    } else {
        pair & 0xffff_0000
    };
    f32::from_bits(flushed(f32::from_bits(bits)))
}

/// The bits of a number, of a zero of its sign if it is denormal.
fn flushed(x: f32) -> u32 {
    match x.is_subnormal() {
        true => x.to_bits() & 0x8000_0000,
        false => x.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: f32 = 1e-39;

    fn bf16(x: f32) -> u32 {
        assert_eq!(x.to_bits() & 0xffff, 0, "{x} is no bf16 number");
        x.to_bits() >> 16
    }

    fn configured(shapes: [(u8, u8); 3]) -> Tiles {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        for (tile, (rows, width)) in shapes.into_iter().enumerate() {
            (bytes[16 + 2 * tile], bytes[48 + tile]) = (width, rows);
        }
        let mut tiles = Tiles::INIT;
        tiles.configure(&bytes).unwrap();
        tiles
    }

    /// One number: `start` plus the pairs of `a` and `b`.
    fn dot(start: f32, a: &[[f32; 2]], b: &[[f32; 2]]) -> f32 {
        let pairs = a.len() as u8;
        let mut tiles = configured([(1, 4), (1, 4 * pairs), (pairs, 4)]);
        tiles.tiles[0][0][0] = start.to_bits();
        for (i, (x, y)) in a.iter().zip(b).enumerate() {
            tiles.tiles[1][0][i] = bf16(x[0]) | bf16(x[1]) << 16;
            tiles.tiles[2][i][0] = bf16(y[0]) | bf16(y[1]) << 16;
        }
        tiles.multiply([0, 1, 2]).unwrap();
        f32::from_bits(tiles.tiles[0][0][0])
    }

    #[test]
    fn pairs_are_summed_apart_and_then_together() {
        assert_eq!(
            dot(0.5, &[[1.0, 2.0], [3.0, 4.0]], &[[5.0, 6.0], [7.0, 8.0]]),
            70.5
        );
        // Firsts: 2^24, then + 1 twice, each lost by rounding to even. Seconds: 1 + 1 = 2 is not lost.
        let (large, one) = (4096.0, 1.0);
        let a = [[large, one], [one, one], [one, 0.0]];
        let b = [[large, one], [one, one], [one, 0.0]];
        assert_eq!(dot(0.0, &a, &b), 16_777_218.0);
    }

    #[test]
    fn ties_go_to_even() {
        let one_step = |start: f32| dot(start, &[[1.0, 0.0]], &[[1.0, 0.0]]);
        assert_eq!(one_step(16_777_216.0), 16_777_216.0);
        assert_eq!(one_step(16_777_218.0), 16_777_220.0);
    }

    #[test]
    fn denormal_numbers_are_zero_going_in_and_coming_out() {
        assert_eq!(dot(SMALL, &[[0.0, 0.0]], &[[0.0, 0.0]]), 0.0);
        let tiny = f32::from_bits(0x0001_0000);
        assert_eq!(dot(0.0, &[[tiny, 0.0]], &[[2f32.powi(100), 0.0]]), 0.0);
        // 2^-70 * 2^-70 is less than any number; 2^-63 * 2^-63 is the least normal one.
        let (a, b) = (2f32.powi(-70), 2f32.powi(-63));
        assert_eq!(dot(0.0, &[[a, 0.0]], &[[a, 0.0]]), 0.0);
        assert_eq!(dot(0.0, &[[b, 0.0]], &[[b, 0.0]]), f32::MIN_POSITIVE);
        // A product below the least number still counts before rounding, as in one fused operation.
        let odd = f32::from_bits(f32::MIN_POSITIVE.to_bits() + 1);
        assert_eq!(dot(odd, &[[0.0, 0.0]], &[[0.0, 0.0]]), odd);
    }

    #[test]
    fn what_a_processor_refuses_is_refused() {
        let mut tiles = configured([(1, 4), (1, 8), (2, 4)]);
        assert!(tiles.multiply([0, 2, 1]).is_err() && tiles.multiply([0, 1, 1]).is_err());
        assert!(tiles.multiply([0, 1, 2]).is_ok() && tiles.shape(3).is_err());
        assert!(Tiles::INIT.shape(0).is_err());
        for (at, byte) in [(0, 2), (1, 1), (5, 1), (16, 65), (48, 17), (60, 1)] {
            let mut bytes = [0; 64];
            (bytes[0], bytes[16], bytes[48]) = (1, 64, 16);
            bytes[at] = byte;
            let mut tiles = Tiles::INIT;
            assert!(tiles.configure(&bytes).is_err(), "byte {at}");
        }
    }
}
