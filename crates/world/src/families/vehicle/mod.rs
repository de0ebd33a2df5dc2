//! Cars, trucks and buses that pass, with Doppler, turning wheels and lights at night.

mod body;
mod road;
mod shapes;

use gallop_core::{ClipShape, FPS};
use rand::RngExt;

use super::ambience;
use crate::WorldRng;
use crate::attributes::{Attributes, Camera, Colour, Direction, TimeOfDay, Weather, pick};
use crate::family::{Family, Placed, Stage, StageEvent};
use crate::render::{Backdrop, Floor, Painter, Setting, room_for};
use crate::sound::{Cue, Engine, Path, Score, Sound};
use body::Model;

/// Cars, trucks and buses that pass.
#[derive(Clone, Copy, Debug)]
pub struct Vehicle;

/// Roads, and the places that have them.
const ROADS: &[(&str, &str)] = &[
    ("asphalt", "city"),
    ("asphalt", "hills"),
    ("sand", "beach"),
    ("snow", "hills"),
];
/// Where the vehicle's near side is, in Z.
const LANE: f64 = 0.25;
/// How many metres a unit is to the ear: roads are wider than pictures of them.
const METRES: f64 = 11.0;
/// How far the listener stands from the lane, in metres.
const LISTENER: f64 = 7.0;

impl Family for Vehicle {
    fn name(&self) -> &'static str {
        "vehicle"
    }

    fn sample(&self, rng: &mut WorldRng, _seconds: f64) -> Attributes {
        let subject = pick(rng, &["car", "truck", "bus"]);
        let (floor, place) = pick(rng, ROADS);
        let mut a = Attributes::sample(rng, "vehicle", subject, true);
        a.colours = vec![pick(rng, Colour::PAINTS)];
        a.floor = Some(floor.to_owned());
        a.place = place.to_owned();
        a.direction = Some(pick(rng, &[Direction::Right, Direction::Left]));
        if floor == "snow" && a.weather == Weather::Rain {
            a.weather = Weather::Snow;
        }
        if a.time_of_day == TimeOfDay::Night {
            a.details.insert("lights".into(), "on".into());
        }
        a
    }

    fn stage(&self, a: &Attributes, shape: ClipShape, rng: &mut WorldRng) -> Box<dyn Stage> {
        Box::new(VehicleStage::new(a, shape, rng))
    }
}

struct VehicleStage {
    setting: Setting,
    attributes: Attributes,
    model: Model,
    /// When it passes the middle of the picture, seconds.
    middle: f64,
    /// Units a second, negative to the left.
    speed: f64,
    seconds: f64,
    bump: f64,
}

impl VehicleStage {
    fn new(a: &Attributes, shape: ClipShape, rng: &mut WorldRng) -> Self {
        let floor = Floor::from_key(a.floor.as_deref().unwrap_or("asphalt"));
        let backdrop = Backdrop::from_key(&a.place);
        let mut setting = Setting::new(floor, backdrop, rng.random_range(0.42..0.52), rng.random());
        setting.margin = 0.16;
        let seconds = shape.frames as f64 / FPS as f64;
        let model = Model::new(&a.subject, a.colour(0), rng);
        let (half_width, _) = room_for(a, shape, setting.margin);
        // It enters, passes and leaves; in a short clip it is about the middle.
        let way = 2.0 * (half_width + 0.5 * model.length());
        let pace = (way / seconds.max(0.1)).clamp(0.75, 2.1) * rng.random_range(0.85..1.1);
        let sign = if a.direction == Some(Direction::Left) {
            -1.0
        } else {
            1.0
        };
        // Pans go with the vehicle's clip, not with the vehicle: keep it near the middle then.
        let loose = if a.camera == Camera::Still {
            0.12
        } else {
            0.06
        };
        Self {
            setting,
            attributes: a.clone(),
            model,
            middle: seconds * rng.random_range(0.5 - loose..0.5 + loose),
            speed: sign * pace,
            seconds,
            bump: rng.random_range(0.0..6.0),
        }
    }

    fn x(&self, time: f64) -> f64 {
        self.speed * (time - self.middle)
    }
}

impl Stage for VehicleStage {
    fn setting(&self) -> Setting {
        self.setting
    }

    fn draw(&self, time: f64, painter: &mut Painter) {
        if self.setting.floor == Floor::Asphalt {
            road::road(painter, self.setting.backdrop);
        }
        // Springs: a little rocking.
        let rock = 0.003 * (time * 9.0 + self.bump).sin();
        let place = body::Pose {
            x: self.x(time),
            lift: rock,
            z: LANE,
            sign: self.speed.signum(),
            night: self.attributes.time_of_day == TimeOfDay::Night,
        };
        self.model.draw(painter, &place);
    }

    fn events(&self) -> Vec<StageEvent> {
        vec![StageEvent {
            time: self.middle,
            heard: self.middle,
            kind: "pass",
            object: 0,
            strength: 1.0,
            at: [0.0, 0.5 * self.model.height(), LANE],
        }]
    }

    fn objects(&self, time: f64) -> Vec<Placed> {
        vec![Placed {
            label: self.model.label(),
            at: [self.x(time), 0.5 * self.model.height(), LANE],
            half: [0.5 * self.model.length(), 0.5 * self.model.height()],
            present: true,
            colour: self.attributes.colours.first().copied(),
        }]
    }

    fn score(&self) -> Score {
        let engine = match self.attributes.subject.as_str() {
            "car" => Engine::Car,
            _ => Engine::Truck,
        };
        let path = Path::pass_by(self.middle, self.speed * METRES, LISTENER, self.seconds);
        let mut cues = ambience(&self.attributes, false);
        cues.push(Cue {
            time: 0.0,
            strength: 0.9,
            pan: 0.0,
            sound: Sound::Drive { engine, path },
        });
        Score {
            room: "street".into(),
            cues,
        }
    }
}
