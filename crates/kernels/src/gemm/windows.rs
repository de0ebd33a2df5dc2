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
}

/// The place of one output position: where its image starts, and its row of each axis.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    image: usize,
    rows: [usize; DIMS],
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
        let mut axes = axes;
        for (axis, stride) in axes.iter_mut().zip(strides) {
            axis.index
                .iter_mut()
                .filter(|i| **i != NONE)
                .for_each(|i| *i *= stride as isize);
        }
        Self { axes, image, taps }
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
        let [_, h, w] = [
            self.axes[0].positions,
            self.axes[1].positions,
            self.axes[2].positions,
        ];
        let (rest, o2) = (row / w, row % w);
        let (rest, o1) = (rest / h, rest % h);
        let (batch, o0) = (rest / self.axes[0].positions, rest % self.axes[0].positions);
        let rows = [
            o0 * self.axes[0].taps,
            o1 * self.axes[1].taps,
            o2 * self.axes[2].taps,
        ];
        Place {
            image: batch * self.image,
            rows,
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
