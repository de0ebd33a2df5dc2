//! From a stage to pictures: camera, light, floor, backdrop, shapes, looks, weather.

mod backdrop;
mod canvas;
mod ground;
mod land;
mod light;
mod looks;
mod noise;
mod painter;
mod rooms;
mod view;
mod weather;

pub use backdrop::Backdrop;
pub use canvas::{Area, Canvas, Rgb, add, light_of, luma, mix, scale, smooth, tint};
pub use ground::Floor;
pub use light::{Dir, Light, Surface, dot, mirrored, normalised};
pub use noise::{grain, grain_at, hash2, value_noise};
pub use painter::{Ellipse, Limb, Painter, Shadow, neon, smooth_outline};
pub use view::{Cameraman, Spot, View, room_for};

use gallop_core::{FPS, Frame, PixelSize};

use crate::attributes::Camera;
use crate::family::Stage;
use crate::world::Spec;
use backdrop::Plate;
use ground::Ground;
use looks::Finish;

/// What lies behind and beneath the subject.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// What one stands on.
    pub floor: Floor,
    /// What is behind.
    pub backdrop: Backdrop,
    /// Height of the camera above the floor, in units.
    pub eye: f32,
    /// How far the floor under the subject is from the picture's lower edge, in units.
    pub margin: f32,
    /// Varies walls, hills, clouds.
    pub seed: u32,
}

impl Setting {
    /// A place with the camera at `eye`, the subject's feet an eighth from the lower edge.
    pub fn new(floor: Floor, backdrop: Backdrop, eye: f32, seed: u32) -> Self {
        Self {
            floor,
            backdrop,
            eye,
            margin: 0.13,
            seed,
        }
    }
}

/// Every frame of a clip, in order.
pub fn frames(stage: &dyn Stage, cameraman: &Cameraman, spec: &Spec) -> Vec<Frame> {
    let mut renderer = Renderer::new(stage, cameraman, spec);
    (0..spec.shape.frames)
        .map(|frame| renderer.frame(frame as f64 / FPS as f64))
        .collect()
}

/// One frame of a clip, as [`frames`] would draw it.
pub fn still(stage: &dyn Stage, cameraman: &Cameraman, spec: &Spec, frame: usize) -> Frame {
    Renderer::new(stage, cameraman, spec).frame(frame as f64 / FPS as f64)
}

struct Renderer<'a> {
    stage: &'a dyn Stage,
    cameraman: &'a Cameraman,
    spec: &'a Spec,
    light: Light,
    plate: Plate,
    ground: Ground,
    canvas: Canvas,
    /// The last background, and the view it was drawn from: a camera at rest sees it again.
    behind: Option<(View, Canvas)>,
    finish: Finish,
    /// Real pixels a drawn pixel.
    block: usize,
}

impl<'a> Renderer<'a> {
    fn new(stage: &'a dyn Stage, cameraman: &'a Cameraman, spec: &'a Spec) -> Self {
        let setting = stage.setting();
        let attributes = &spec.attributes;
        let size = spec.shape.size;
        let block = looks::block(attributes.look, size);
        let drawn = PixelSize::new(size.width.div_ceil(block), size.height.div_ceil(block));
        let light = Light::new(attributes, setting.backdrop.indoor());
        let views: Vec<View> = (0..spec.shape.frames)
            .map(|frame| {
                let time = frame as f64 / FPS as f64;
                cameraman
                    .view(time, stage.camera_x(time))
                    .shrunk(block as f32)
            })
            .collect();
        let unit = views.first().map_or(1.0, View::unit);
        Self {
            stage,
            cameraman,
            spec,
            plate: Plate::new(setting.backdrop, &light, &views, setting.seed),
            ground: Ground::new(
                setting.floor,
                attributes.look,
                (unit, drawn.width),
                setting.seed,
            ),
            finish: Finish::new(attributes.look, (drawn.width, drawn.height), unit),
            behind: None,
            light,
            canvas: Canvas::new(drawn),
            block,
        }
    }

    fn frame(&mut self, time: f64) -> Frame {
        let follow = self.stage.camera_x(time);
        let view = self.cameraman.view(time, follow).shrunk(self.block as f32);
        self.draw_behind(&view);
        let mut painter = Painter {
            canvas: &mut self.canvas,
            view,
            light: self.light,
            mirror: self.ground.floor().mirror(),
        };
        self.stage.draw(time, &mut painter);
        let attributes = &self.spec.attributes;
        weather::draw(
            &mut self.canvas,
            attributes.weather,
            &view,
            (&self.light, time),
        );
        self.finish.apply(&mut self.canvas);
        let frame = self.canvas.develop();
        if self.block == 1 {
            return frame;
        }
        looks::enlarge(&frame, self.spec.shape.size, self.block)
    }

    /// Backdrop and floor.
    fn draw_behind(&mut self, view: &View) {
        match &self.behind {
            Some((seen, canvas)) if seen == view => {
                self.canvas.planes.clone_from(&canvas.planes);
            }
            _ => {
                let top = self.plate.draw(&mut self.canvas, view);
                self.ground.draw(&mut self.canvas, view, &self.light, top);
                let travels = self.stage.camera_x(0.0) != self.stage.camera_x(1.0);
                if self.spec.attributes.camera == Camera::Still && !travels {
                    self.behind = Some((*view, self.canvas.clone()));
                }
            }
        }
    }
}
