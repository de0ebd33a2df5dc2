//! Side views: plain lists of points.

/// Points of a side view: forward, up; in units, wheels on zero.
pub type Side = [[f32; 2]];

/// The side view of one kind of vehicle.
#[derive(Debug)]
pub struct Shape {
    /// What it is called in the truth.
    pub label: &'static str,
    /// Units.
    pub length: f32,
    /// Units.
    pub height: f32,
    /// The painted volume.
    pub body: &'static Side,
    /// How many points a curve has between two corners: 1 keeps corners sharp.
    pub rounding: usize,
    /// A second volume before the first: a truck's cab.
    pub cab: &'static Side,
    /// Glass.
    pub windows: &'static [&'static Side],
    /// Where wheels turn, forward of the middle.
    pub wheels: &'static [f32],
    /// Radius of a wheel.
    pub wheel: f32,
}

/// One kind of vehicle.
pub static CAR: Shape = Shape {
    label: "car",
    length: 1.12,
    height: 0.35,
    body: &[
        [-0.55, 0.10],
        [-0.56, 0.19],
        [-0.51, 0.235],
        [-0.38, 0.245],
        [-0.25, 0.325],
        [-0.08, 0.35],
        [0.06, 0.335],
        [0.22, 0.245],
        [0.44, 0.215],
        [0.54, 0.17],
        [0.56, 0.10],
        [0.40, 0.075],
        [0.0, 0.07],
        [-0.40, 0.075],
    ],
    rounding: 6,
    cab: &[],
    windows: &[
        &[[-0.31, 0.25], [-0.22, 0.315], [-0.09, 0.328], [-0.07, 0.25]],
        &[[-0.045, 0.25], [-0.06, 0.328], [0.05, 0.316], [0.16, 0.25]],
    ],
    wheels: &[-0.34, 0.34],
    wheel: 0.088,
};

/// One kind of vehicle.
pub static BUS: Shape = Shape {
    label: "bus",
    length: 1.60,
    height: 0.56,
    body: &[
        [-0.80, 0.09],
        [-0.80, 0.50],
        [-0.77, 0.55],
        [-0.70, 0.56],
        [0.70, 0.56],
        [0.77, 0.54],
        [0.80, 0.46],
        [0.80, 0.09],
    ],
    rounding: 1,
    cab: &[],
    windows: &[
        &[[-0.74, 0.31], [-0.74, 0.49], [-0.50, 0.49], [-0.50, 0.31]],
        &[[-0.47, 0.31], [-0.47, 0.49], [-0.23, 0.49], [-0.23, 0.31]],
        &[[-0.20, 0.31], [-0.20, 0.49], [0.04, 0.49], [0.04, 0.31]],
        &[[0.07, 0.31], [0.07, 0.49], [0.31, 0.49], [0.31, 0.31]],
        &[[0.34, 0.12], [0.34, 0.49], [0.50, 0.49], [0.50, 0.12]],
        &[
            [0.54, 0.30],
            [0.54, 0.50],
            [0.76, 0.50],
            [0.785, 0.44],
            [0.785, 0.30],
        ],
    ],
    wheels: &[-0.50, 0.62],
    wheel: 0.092,
};

/// One kind of vehicle.
pub static TRUCK: Shape = Shape {
    label: "truck",
    length: 1.62,
    height: 0.60,
    body: &[[-0.81, 0.15], [-0.81, 0.60], [0.36, 0.60], [0.36, 0.15]],
    rounding: 1,
    cab: &[
        [0.40, 0.10],
        [0.40, 0.47],
        [0.44, 0.50],
        [0.62, 0.49],
        [0.70, 0.46],
        [0.77, 0.30],
        [0.81, 0.27],
        [0.81, 0.10],
    ],
    windows: &[&[[0.49, 0.30], [0.49, 0.45], [0.64, 0.45], [0.715, 0.30]]],
    wheels: &[-0.60, -0.38, 0.60],
    wheel: 0.095,
};
