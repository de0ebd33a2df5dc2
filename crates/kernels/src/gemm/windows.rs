//! The geometry of a convolution: for each output position and tap, where its input lies.

/// Number of spatial dimensions that are kept; shorter shapes are padded in front with ones.
pub const DIMS: usize = 3;

/// For one dimension: the input index of each (output position, tap), or `NONE`.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Output positions.
    pub positions: usize,
    /// Taps.
    pub taps: usize,
    /// `positions x taps` indices into the input, `NONE` where the input is zero.
    pub index: Vec<isize>,
}

/// The input lies outside: a zero.
pub const NONE: isize = -1;

impl Axis {
    /// An axis from a function of (position, tap).
    pub fn new(
        positions: usize,
        taps: usize,
        index: impl Fn(usize, usize) -> Option<usize>,
    ) -> Self {
        let index = (0..positions * taps)
            .map(|i| index(i / taps, i % taps).map_or(NONE, |v| v as isize))
            .collect();
        Self {
            positions,
            taps,
            index,
        }
    }
}

/// Windows of a batch of channels-last images, one for each output position.
#[derive(Clone, Debug)]
pub struct Windows {
    axes: [Axis; DIMS],
    /// Numbers from one image of the batch to the next.
    image: usize,
    /// The offset of each tap's three indices into the axes' rows.
    taps: Vec<[u32; DIMS]>,
    /// For each position of the last dimension: whether its taps are adjacent in memory.
    adjacent: Vec<bool>,
}

/// The place of one output position: where its image starts, and its row of each axis.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    image: usize,
    rows: [usize; DIMS],
    last: usize,
}

impl Windows {
    /// `axes` hold input indices; `sizes` is the input's extent and `channels` its last dimension.
    pub fn new(axes: [Axis; DIMS], sizes: [usize; DIMS], channels: usize) -> Self {
        let strides = [
            sizes[1] * sizes[2] * channels,
            sizes[2] * channels,
            channels,
        ];
        let image = sizes[0] * strides[0];
        let [k0, k1, k2] = [axes[0].taps, axes[1].taps, axes[2].taps];
        let taps = (0..k0 * k1 * k2)
            .map(|t| {
                [
                    (t / (k1 * k2)) as u32,
                    (t / k2 % k1) as u32,
                    (t % k2) as u32,
                ]
            })
            .collect();
        let follows = |pair: &[isize]| pair[0] != NONE && pair[1] == pair[0] + 1;
        let adjacent = axes[2]
            .index
            .chunks(k2.max(1))
            .map(|row| row[0] != NONE && row.windows(2).all(follows))
            .collect();
        let mut axes = axes;
        for (axis, stride) in axes.iter_mut().zip(strides) {
            axis.index
                .iter_mut()
                .filter(|i| **i != NONE)
                .for_each(|i| *i *= stride as isize);
        }
        Self {
            axes,
            image,
            taps,
            adjacent,
        }
    }

    /// Output positions an image.
    pub fn positions(&self) -> usize {
        self.axes.iter().map(|a| a.positions).product()
    }

    /// Taps of a window.
    pub fn taps(&self) -> usize {
        self.taps.len()
    }

    /// The place of output position `row`, counted through the whole batch.
    #[inline]
    pub fn locate(&self, row: usize) -> Place {
        let [n0, n1, n2] = [0, 1, 2].map(|d| self.axes[d].positions as u32);
        let row = u32::try_from(row).expect("at most 2^32 output positions");
        let (rest, o2) = (row / n2, row % n2);
        let (rest, o1) = (rest / n1, rest % n1);
        let (batch, o0) = (rest / n0, rest % n0);
        let [o0, o1, o2] = [o0, o1, o2].map(|o| o as usize);
        let rows = [
            o0 * self.axes[0].taps,
            o1 * self.axes[1].taps,
            o2 * self.axes[2].taps,
        ];
        Place {
            image: batch as usize * self.image,
            rows,
            last: o2,
        }
    }

    /// The place of the next output position.
    #[inline]
    pub fn step(&self, place: &mut Place) {
        let [a0, a1, a2] = &self.axes;
        place.last += 1;
        place.rows[2] += a2.taps;
        if place.last < a2.positions {
            return;
        }
        (place.last, place.rows[2]) = (0, 0);
        place.rows[1] += a1.taps;
        if place.rows[1] < a1.positions * a1.taps {
            return;
        }
        place.rows[1] = 0;
        place.rows[0] += a0.taps;
        if place.rows[0] == a0.positions * a0.taps {
            place.rows[0] = 0;
            place.image += self.image;
        }
    }

    /// Taps that lie one after the other in memory at this place: all of the last dimension, or one.
    #[inline]
    pub fn run(&self, place: &Place) -> usize {
        if self.adjacent[place.last] {
            self.axes[2].taps
        } else {
            1
        }
    }

    /// Where the input of `tap` starts, or `None` if it is outside the image.
    #[inline]
    pub fn offset(&self, place: &Place, tap: usize) -> Option<usize> {
        let taps = &self.taps[tap];
        let mut sum = 0;
        for (d, axis) in self.axes.iter().enumerate() {
            let index = axis.index[place.rows[d] + taps[d] as usize];
            if index == NONE {
                return None;
            }
            sum += index as usize;
        }
        Some(place.image + sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stepping_is_locating() {
        let axis = |n| Axis::new(n, 2, move |p, t| (p + t < n).then_some(p + t));
        let windows = Windows::new([axis(2), axis(3), axis(4)], [2, 3, 4], 5);
        let mut place = windows.locate(0);
        for row in 1..48 {
            windows.step(&mut place);
            let expected = windows.locate(row);
            let all = |p: &Place| {
                (0..windows.taps())
                    .map(|t| windows.offset(p, t))
                    .collect::<Vec<_>>()
            };
            assert_eq!(
                (all(&place), windows.run(&place)),
                (all(&expected), windows.run(&expected)),
                "row {row}"
            );
        }
    }
}
