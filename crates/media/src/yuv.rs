//! RGB to and from BT.709 limited-range 4:2:0, with chroma where H.264 and AV1 put it by default:
//! on the left of each pair of columns, between the two rows.

use gallop_core::{Frame, PixelSize};

/// Planes of 4:2:0, both sides even: `width x height` luma, a quarter of it for each chroma plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Yuv {
    pub width: usize,
    pub height: usize,
    pub y: Vec<u8>,
    pub u: Vec<u8>,
    pub v: Vec<u8>,
}

/// How the numbers of a picture stand for colours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Matrix {
    /// Share of red in luma.
    pub kr: f32,
    /// Share of blue in luma.
    pub kb: f32,
    /// Whether luma spans 0-255 instead of 16-235.
    pub full_range: bool,
}

impl Matrix {
    /// BT.709, limited range.
    pub const BT709: Self = Self::new(0.2126, 0.0722);
    /// BT.601, limited range.
    pub const BT601: Self = Self::new(0.299, 0.114);
    /// BT.2020 with non-constant luminance, limited range.
    pub const BT2020: Self = Self::new(0.2627, 0.0593);

    const fn new(kr: f32, kb: f32) -> Self {
        Self {
            kr,
            kb,
            full_range: false,
        }
    }

    /// The matrix that a `matrix_coefficients` code of H.273 names, if it is one of those in use.
    pub fn from_code(code: u8, full_range: bool) -> Option<Self> {
        let matrix = match code {
            1 => Self::BT709,
            4..=6 => Self::BT601,
            9 | 10 => Self::BT2020,
            _ => return None,
        };
        Some(Self {
            full_range,
            ..matrix
        })
    }
}

// BT.709 in 16.16 fixed point, scaled to 219/255 for luma and 224/255 for chroma; each chroma row sums to zero.
const Y: [i32; 3] = [11966, 40254, 4064];
const U: [i32; 3] = [-6596, -22189, 28785];
const V: [i32; 3] = [28785, -26145, -2640];

fn dot(weights: [i32; 3], rgb: [i32; 3]) -> i32 {
    weights[0] * rgb[0] + weights[1] * rgb[1] + weights[2] * rgb[2]
}

/// The coded size of a picture: both sides even, and no less than the 16 that encoders take.
pub(crate) fn coded_size(size: PixelSize) -> PixelSize {
    let side = |n: usize| n.next_multiple_of(2).max(16);
    PixelSize::new(side(size.width), side(size.height))
}

/// Converts a frame; columns and rows that [`coded_size`] adds repeat the last one.
pub(crate) fn from_rgb(frame: &Frame) -> Yuv {
    let PixelSize { width, height } = coded_size(frame.size);
    let mut yuv = Yuv {
        width,
        height,
        y: vec![0; width * height],
        u: vec![0; width * height / 4],
        v: vec![0; width * height / 4],
    };
    // The sum of two rows, with one more column on the left for the chroma filter.
    let mut sums = vec![[0i32; 3]; width + 1];
    for pair in 0..height / 2 {
        sums.fill([0; 3]);
        for row in [2 * pair, 2 * pair + 1] {
            let luma = &mut yuv.y[row * width..][..width];
            luma_row(frame, row, luma, &mut sums);
        }
        sums[0] = sums[1];
        let at = pair * (width / 2);
        for x in 0..width / 2 {
            // [1 2 1] over columns centres the sample on the left column of the pair.
            let (a, b, c) = (sums[2 * x], sums[2 * x + 1], sums[2 * x + 2]);
            let rgb = [0, 1, 2].map(|i| a[i] + 2 * b[i] + c[i]);
            yuv.u[at + x] = chroma(dot(U, rgb));
            yuv.v[at + x] = chroma(dot(V, rgb));
        }
    }
    yuv
}

/// One row of luma; adds the row's colours to `sums`.
fn luma_row(frame: &Frame, row: usize, luma: &mut [u8], sums: &mut [[i32; 3]]) {
    let size = frame.size;
    let start = row.min(size.height - 1) * size.width * 3;
    let pixels = &frame.rgb[start..][..size.width * 3];
    let last = &pixels[(size.width - 1) * 3..];
    let padded = pixels.chunks_exact(3).chain(std::iter::repeat(last));
    for ((y, sum), pixel) in luma.iter_mut().zip(&mut sums[1..]).zip(padded) {
        let rgb = [pixel[0], pixel[1], pixel[2]].map(i32::from);
        *y = ((dot(Y, rgb) + (16 << 16) + (1 << 15)) >> 16) as u8;
        for (total, value) in sum.iter_mut().zip(rgb) {
            *total += value;
        }
    }
}

/// Chroma from a dot product over eight pixels' weight.
fn chroma(sum: i32) -> u8 {
    ((sum + (128 << 19) + (1 << 18)) >> 19) as u8
}

/// Planes as a decoder hands them out, with their strides.
#[derive(Clone, Copy)]
pub(crate) struct Planes<'a> {
    pub size: PixelSize,
    /// Luma, two chroma planes.
    pub data: [&'a [u8]; 3],
    /// Bytes a row: luma, chroma.
    pub stride: [usize; 2],
}

/// Converts decoded planes to RGB, chroma interpolated linearly; `None` where planes are too short.
pub(crate) fn to_rgb(planes: &Planes, matrix: Matrix) -> Option<Frame> {
    let PixelSize { width, height } = planes.size;
    let [half_width, half_height] = [width.div_ceil(2), height.div_ceil(2)];
    let enough = |plane: &[u8], stride: usize, w: usize, h: usize| {
        w > 0 && h > 0 && w <= stride && plane.len() >= (h - 1) * stride + w
    };
    let ok = enough(planes.data[0], planes.stride[0], width, height)
        && enough(planes.data[1], planes.stride[1], half_width, half_height)
        && enough(planes.data[2], planes.stride[1], half_width, half_height);
    if !ok {
        return None;
    }
    let mut frame = Frame::black(planes.size);
    let table = Inverse::new(matrix);
    let mut rows = [vec![0i32; half_width], vec![0i32; half_width]];
    for (row, rgb) in frame.rgb.chunks_exact_mut(width * 3).enumerate() {
        for (plane, line) in planes.data[1..].iter().zip(&mut rows) {
            chroma_row(plane, planes.stride[1], row, half_height, line);
        }
        let luma = &planes.data[0][row * planes.stride[0]..][..width];
        for (x, pixel) in rgb.chunks_exact_mut(3).enumerate() {
            let at = |line: &[i32]| {
                let left = line[x / 2];
                // Even columns lie on a sample, odd ones between two.
                match x % 2 {
                    0 => 2 * left,
                    _ => left + line[(x / 2 + 1).min(half_width - 1)],
                }
            };
            table.pixel(luma[x], at(&rows[0]), at(&rows[1]), pixel);
        }
    }
    Some(frame)
}

/// One row of chroma at luma height, times four: rows lie a quarter above and below a sample.
fn chroma_row(plane: &[u8], stride: usize, row: usize, rows: usize, line: &mut [i32]) {
    let near = row / 2;
    let far = match row % 2 {
        0 => near.saturating_sub(1),
        _ => (near + 1).min(rows - 1),
    };
    let near = &plane[near * stride..][..line.len()];
    let far = &plane[far * stride..][..line.len()];
    for ((out, &a), &b) in line.iter_mut().zip(near).zip(far) {
        *out = 3 * i32::from(a) + i32::from(b);
    }
}

/// The way back from luma and chroma, in 16.16 fixed point.
struct Inverse {
    luma: i32,
    black: i32,
    red: i32,
    green: [i32; 2],
    blue: i32,
}

impl Inverse {
    fn new(matrix: Matrix) -> Self {
        let Matrix { kr, kb, full_range } = matrix;
        let kg = 1.0 - kr - kb;
        let (y, c) = match full_range {
            true => (1.0, 1.0),
            false => (255.0 / 219.0, 255.0 / 224.0),
        };
        let fixed = |value: f32| (value * 65536.0).round() as i32;
        Self {
            luma: fixed(y),
            black: if full_range { 0 } else { 16 },
            red: fixed(2.0 * (1.0 - kr) * c),
            green: [
                fixed(-2.0 * (1.0 - kb) * kb / kg * c),
                fixed(-2.0 * (1.0 - kr) * kr / kg * c),
            ],
            blue: fixed(2.0 * (1.0 - kb) * c),
        }
    }

    /// `u` and `v` are eight times their value.
    fn pixel(&self, y: u8, u: i32, v: i32, rgb: &mut [u8]) {
        let (u, v) = (i64::from(u - 1024), i64::from(v - 1024));
        let luma = i64::from((i32::from(y) - self.black) * self.luma) * 8;
        let byte = |colour: i64| ((luma + colour + (1 << 18)) >> 19).clamp(0, 255) as u8;
        rgb[0] = byte(i64::from(self.red) * v);
        rgb[1] = byte(i64::from(self.green[0]) * u + i64::from(self.green[1]) * v);
        rgb[2] = byte(i64::from(self.blue) * u);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(size: PixelSize, colour: [u8; 3]) -> Frame {
        Frame {
            size,
            rgb: colour.repeat(size.width * size.height),
        }
    }

    fn back(yuv: &Yuv) -> Frame {
        let planes = Planes {
            size: PixelSize::new(yuv.width, yuv.height),
            data: [&yuv.y, &yuv.u, &yuv.v],
            stride: [yuv.width, yuv.width / 2],
        };
        to_rgb(&planes, Matrix::BT709).unwrap()
    }

    #[test]
    fn primaries_have_their_standard_numbers() {
        // ITU-R BT.709-6, 8 bit.
        for (rgb, yuv) in [
            ([0, 0, 0], [16, 128, 128]),
            ([255, 255, 255], [235, 128, 128]),
            ([255, 0, 0], [63, 102, 240]),
            ([0, 255, 0], [173, 42, 26]),
            ([0, 0, 255], [32, 240, 118]),
        ] {
            let got = from_rgb(&flat(PixelSize::new(16, 16), rgb));
            assert_eq!([got.y[0], got.u[9], got.v[9]], yuv, "{rgb:?}");
        }
    }

    #[test]
    fn flat_colours_survive_both_ways() {
        for colour in [[255, 0, 0], [12, 200, 99], [128, 128, 128], [250, 240, 3]] {
            let frame = flat(PixelSize::new(18, 16), colour);
            for (got, want) in back(&from_rgb(&frame)).rgb.iter().zip(&frame.rgb) {
                assert!(got.abs_diff(*want) <= 2, "{colour:?}: {got} for {want}");
            }
        }
    }

    #[test]
    fn a_slow_gradient_survives_with_chroma_in_its_place() {
        let size = PixelSize::new(64, 32);
        let mut frame = Frame::black(size);
        for (i, pixel) in frame.rgb.chunks_exact_mut(3).enumerate() {
            let (x, y) = (i % 64, i / 64);
            pixel.copy_from_slice(&[(x * 4) as u8, (255 - x * 4) as u8, (y * 8) as u8]);
        }
        let got = back(&from_rgb(&frame));
        for y in 2..30 {
            for x in 2..62 {
                for c in 0..3 {
                    let (a, b) = (got.pixel(x, y)[c], frame.pixel(x, y)[c]);
                    assert!(a.abs_diff(b) <= 3, "{x},{y},{c}: {a} for {b}");
                }
            }
        }
    }

    #[test]
    fn odd_sizes_are_padded_with_their_edge() {
        let yuv = from_rgb(&flat(PixelSize::new(17, 33), [9, 8, 7]));
        assert_eq!((yuv.width, yuv.height), (18, 34));
        assert!(yuv.y.iter().all(|&y| y == yuv.y[0]));
        assert_eq!(coded_size(PixelSize::new(1, 1)), PixelSize::new(16, 16));
    }
}
