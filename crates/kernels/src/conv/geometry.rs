//! Sizes of a convolution, and the tables that say which input each output sees.

use candle_core::{Result, Shape, bail};

use super::{ConvSpec, Padding};
#[cfg(target_arch = "x86_64")]
use crate::gemm::shifted::{self, Shift};
use crate::gemm::source::{Data, Rows, Source};
use crate::gemm::windows::{Axis, DIMS, Windows};

/// One spatial dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dim {
    /// Input positions.
    pub input: usize,
    /// Output positions.
    pub output: usize,
    /// Kernel size.
    pub taps: usize,
    /// Input positions between outputs.
    pub stride: usize,
    /// Input positions between taps.
    pub dilation: usize,
    /// Positions added before and after.
    pub padding: (usize, usize),
}

impl Dim {
    const ONE: Dim = Dim {
        input: 1,
        output: 1,
        taps: 1,
        stride: 1,
        dilation: 1,
        padding: (0, 0),
    };

    /// Input positions with the padding.
    pub fn padded(&self) -> usize {
        self.input + self.padding.0 + self.padding.1
    }
}

/// A convolution with all its sizes.
#[derive(Clone, Debug)]
pub struct Geometry {
    /// Images.
    pub batch: usize,
    /// Spatial dimensions; missing ones in front have size 1.
    pub dims: [Dim; DIMS],
    /// The number of spatial dimensions of the tensors.
    spatial: usize,
    /// Input channels.
    pub input: usize,
    /// Output channels.
    pub output: usize,
    /// Groups of channels.
    pub groups: usize,
    /// What lies outside.
    pub mode: Padding,
}

impl Geometry {
    pub fn new(x: &[usize], w: &[usize], spec: &ConvSpec) -> Result<Self> {
        let n = x.len().wrapping_sub(2);
        if !(1..=DIMS).contains(&n) || w.len() != x.len() {
            bail!(
                "conv: x {x:?} and w {w:?}: expected [B, 1 to 3 sizes, C] and [Cout, as many taps, C / groups]"
            );
        }
        let (sizes, taps) = (&x[1..=n], &w[1..=n]);
        let outputs = spec.output_sizes(sizes, taps)?;
        let (input, output, groups) = (x[n + 1], w[0], spec.groups);
        if w[n + 1] * groups != input || output % groups != 0 {
            bail!("conv: x {x:?}, w {w:?} and {groups} groups do not agree");
        }
        let mut dims = [Dim::ONE; DIMS];
        for d in 0..n {
            dims[DIMS - n + d] = Dim {
                input: sizes[d],
                output: outputs[d],
                taps: taps[d],
                stride: spec.stride[d],
                dilation: spec.dilation[d],
                padding: spec.padding[d],
            };
        }
        Ok(Self {
            batch: x[0],
            dims,
            spatial: n,
            input,
            output,
            groups,
            mode: spec.mode,
        })
    }

    pub fn depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.input && self.groups == self.output
    }

    pub fn taps(&self) -> usize {
        self.dims.iter().map(|d| d.taps).product()
    }

    pub fn input_width(&self) -> usize {
        self.input / self.groups
    }

    pub fn output_width(&self) -> usize {
        self.output / self.groups
    }

    pub fn input_sizes(&self) -> [usize; DIMS] {
        self.dims.map(|d| d.input)
    }

    pub fn output_sizes(&self) -> [usize; DIMS] {
        self.dims.map(|d| d.output)
    }

    pub fn input_rows(&self) -> usize {
        self.batch * self.input_sizes().iter().product::<usize>()
    }

    pub fn output_rows(&self) -> usize {
        self.batch * self.output_sizes().iter().product::<usize>()
    }

    pub fn output_shape(&self) -> Shape {
        let mut shape = vec![self.batch];
        shape.extend(&self.output_sizes()[DIMS - self.spatial..]);
        shape.push(self.output);
        shape.into()
    }

    /// The same as a convolution whose outputs are adjacent, if they are, over all channels.
    #[cfg(target_arch = "x86_64")]
    pub fn shift(&self) -> Option<Shift> {
        let adjacent = self.groups == 1 && self.dims.iter().all(|d| d.stride == 1);
        adjacent.then(|| Shift {
            batch: self.batch,
            axes: self.dims.map(|d| shifted::Axis {
                input: d.input,
                before: d.padding.0,
                taps: d.taps,
                dilation: d.dilation,
                output: d.output,
            }),
            channels: [self.input, self.output],
            replicate: self.mode == Padding::Replicate,
        })
    }

    /// The convolution of the output's gradient, its taps in the other order, that gives the gradient of the positions
    /// `extent` of the padded input.
    #[cfg(target_arch = "x86_64")]
    pub fn shift_back(&self, extent: [(usize, usize); DIMS]) -> Option<Shift> {
        let forward = self.shift()?;
        let mut axes = forward.axes;
        for ((axis, d), (from, to)) in axes.iter_mut().zip(&self.dims).zip(extent) {
            axis.before = ((d.taps - 1) * d.dilation).checked_sub(from)?;
            (axis.input, axis.output) = (d.output, to - from);
        }
        Some(Shift {
            axes,
            channels: [self.output, self.input],
            replicate: false,
            ..forward
        })
    }

    /// For each output position, the input under each tap.
    pub fn windows(&self) -> Windows {
        let axes = self.dims.map(|d| {
            Axis::new(d.output, d.taps, |o, k| {
                let at = (o * d.stride + k * d.dilation) as isize - d.padding.0 as isize;
                let last = d.input as isize - 1;
                match self.mode {
                    Padding::Replicate => Some(at.clamp(0, last) as usize),
                    Padding::Zero => (0..=last).contains(&at).then_some(at as usize),
                }
            })
        });
        Windows::new(axes, self.input_sizes(), self.input)
    }

    /// The channels of `group` of all windows, one row an output position.
    pub fn window_source<'a>(&self, x: Data<'a>, windows: &'a Windows, group: usize) -> Source<'a> {
        Source {
            data: x,
            rows: Rows::Windows {
                windows,
                start: group * self.input_width(),
                whole: self.groups == 1,
            },
            count: self.output_rows(),
            taps: self.taps(),
            width: self.input_width(),
        }
    }
}
