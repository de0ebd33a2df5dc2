//! The camera: where a point of the scene falls in the picture, and how that moves.

use gallop_core::{ClipShape, FPS};
use rand::RngExt;

use super::Setting;
use crate::WorldRng;
use crate::attributes::{Attributes, Camera};

/// How far the camera stands from the subject, in units.
const DISTANCE: f32 = 3.2;
/// The height that stays where it is when the camera comes nearer, in units.
const FOCUS_HEIGHT: f32 = 0.34;
/// How far a pan goes: units a second, and units at most.
const PAN: (f32, f32) = (0.17, 0.62);
/// How much larger a push makes things: a second, and at most.
const PUSH: (f32, f32) = (0.11, 0.38);
/// How far a shaking camera strays, in units.
const SHAKE: f32 = 0.014;

/// The camera of one moment. It never turns about its axis: rows have constant depth on the floor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    /// Pixels.
    pub width: f32,
    /// Pixels.
    pub height: f32,
    /// Pixels per unit at depth one.
    pub focal: f32,
    /// X of the camera.
    pub x: f32,
    /// Height of the camera above the floor.
    pub y: f32,
    /// Z of the camera (negative: it stands before the subject).
    pub z: f32,
    /// Column of the vanishing point.
    pub centre: f32,
    /// Row of the horizon.
    pub horizon: f32,
}

/// A point of the picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spot {
    /// Column.
    pub x: f32,
    /// Row.
    pub y: f32,
    /// Pixels per unit at that depth.
    pub scale: f32,
}

impl View {
    /// Where a point of the scene falls.
    pub fn project(&self, [x, y, z]: [f64; 3]) -> Spot {
        let scale = self.focal / (z as f32 - self.z).max(0.05);
        Spot {
            x: self.centre + (x as f32 - self.x) * scale,
            y: self.horizon + (self.y - y as f32) * scale,
            scale,
        }
    }

    /// The row in which the floor at depth `z` is seen.
    pub fn floor_row(&self, z: f32) -> f32 {
        self.horizon + self.y * self.focal / (z - self.z).max(0.05)
    }

    /// The same view in a picture `by` times smaller.
    pub fn shrunk(&self, by: f32) -> View {
        let k = 1.0 / by;
        View {
            width: self.width * k,
            height: self.height * k,
            focal: self.focal * k,
            centre: self.centre * k,
            horizon: self.horizon * k,
            ..*self
        }
    }

    /// Pixels per unit at the subject's depth.
    pub fn unit(&self) -> f32 {
        self.focal / -self.z
    }
}

/// The rows that the scene is composed for.
#[derive(Clone, Copy, Debug)]
struct Composed {
    /// Pixels per unit at the subject's depth: the shorter side.
    unit: f32,
    /// Row of the upper edge.
    top: f32,
    /// Row of the lower edge.
    bottom: f32,
}

impl Composed {
    /// The whole picture; of an upright one that is to be centred the square in its middle, with more of the scene above
    /// and below.
    fn of(attributes: &Attributes, shape: ClipShape) -> Self {
        let (width, height) = (shape.size.width as f32, shape.size.height as f32);
        let around = if attributes.centred {
            0.5 * (height - width).max(0.0)
        } else {
            0.0
        };
        Self {
            unit: width.min(height),
            top: around,
            bottom: height - around,
        }
    }
}

/// The camera's path through one clip.
#[derive(Clone, Debug)]
pub struct Cameraman {
    camera: Camera,
    width: f32,
    height: f32,
    composed: Composed,
    eye: f32,
    margin: f32,
    seconds: f32,
    shake: [f32; 6],
}

impl Cameraman {
    /// A camera for a clip of `shape` that moves as `attributes` say.
    pub fn new(
        setting: &Setting,
        attributes: &Attributes,
        shape: ClipShape,
        rng: &mut WorldRng,
    ) -> Self {
        let (width, height) = (shape.size.width as f32, shape.size.height as f32);
        Self {
            camera: attributes.camera,
            width,
            height,
            composed: Composed::of(attributes, shape),
            eye: setting.eye,
            margin: setting.margin,
            seconds: (shape.frames as f32 / FPS as f32).max(1.0),
            shake: std::array::from_fn(|_| rng.random_range(0.0..std::f32::consts::TAU)),
        }
    }

    /// The camera at `time` seconds, standing at `follow` along X.
    pub fn view(&self, time: f64, follow: f64) -> View {
        let progress = time as f32 / self.seconds;
        let unit = self.composed.unit;
        let floor = self.composed.bottom - self.margin * unit;
        let mut view = View {
            width: self.width,
            height: self.height,
            focal: unit * DISTANCE,
            x: follow as f32,
            y: self.eye,
            z: -DISTANCE,
            centre: 0.5 * self.width,
            horizon: floor - self.eye * unit,
        };
        match self.camera {
            Camera::Still => {}
            Camera::PanLeft => pan(&mut view, -pan_length(self.seconds) * (progress - 0.5)),
            Camera::PanRight => pan(&mut view, pan_length(self.seconds) * (progress - 0.5)),
            Camera::PushIn => push(&mut view, 1.0 + push_gain(self.seconds) * progress),
            Camera::PullOut => push(&mut view, 1.0 + push_gain(self.seconds) * (1.0 - progress)),
            Camera::Shake => self.shake(&mut view, time as f32),
        }
        view
    }

    fn shake(&self, view: &mut View, time: f32) {
        let p = &self.shake;
        let x = (time * 17.0 + p[0]).sin() + 0.6 * (time * 29.0 + p[1]).sin();
        let y = (time * 21.0 + p[2]).sin() + 0.6 * (time * 34.0 + p[3]).sin();
        let drift = 1.5 * (time * 2.1 + p[4]).sin();
        view.centre += SHAKE * (x + drift) * self.composed.unit;
        view.horizon += SHAKE * (y + (time * 1.7 + p[5]).sin()) * self.composed.unit;
    }
}

/// How much room a subject has, whatever the camera does meanwhile: half the width, and the
/// height above the floor, in units at the subject's depth.
pub fn room_for(attributes: &Attributes, shape: ClipShape, margin: f32) -> (f64, f64) {
    let Composed { unit, top, bottom } = Composed::of(attributes, shape);
    let seconds = (shape.frames as f32 / FPS as f32).max(1.0);
    let half = 0.5 * shape.size.width as f32 / unit;
    let top = (bottom - top) / unit - margin;
    let (half, top) = match attributes.camera {
        Camera::PanLeft | Camera::PanRight => (half - 0.5 * pan_length(seconds), top),
        Camera::PushIn | Camera::PullOut => {
            let gain = 1.0 + push_gain(seconds);
            (half / gain, FOCUS_HEIGHT + (top - FOCUS_HEIGHT) / gain)
        }
        Camera::Shake => (half - 3.0 * SHAKE, top - 3.0 * SHAKE),
        Camera::Still => (half, top),
    };
    (f64::from(half), f64::from(top))
}

fn pan_length(seconds: f32) -> f32 {
    (PAN.0 * seconds).min(PAN.1)
}

fn push_gain(seconds: f32) -> f32 {
    (PUSH.0 * seconds).min(PUSH.1)
}

/// Half a walk, half a turn: near things move more than far ones, and far ones move too.
fn pan(view: &mut View, length: f32) {
    view.x += 0.5 * length;
    view.centre -= 0.5 * length * view.unit();
}

fn push(view: &mut View, gain: f32) {
    let focus = view.project([0.0, f64::from(FOCUS_HEIGHT), 0.0]).y;
    view.z /= gain;
    view.horizon += focus - view.project([0.0, f64::from(FOCUS_HEIGHT), 0.0]).y;
}
