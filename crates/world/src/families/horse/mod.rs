//! A horse that walks, trots or gallops through a landscape; the camera goes with it.

mod body;
mod gait;
mod head;

use gallop_core::{ClipShape, FPS};
use rand::RngExt;

use super::ambience;
use crate::WorldRng;
use crate::attributes::{Attributes, Colour, Direction, Weather, pick};
use crate::family::{Family, Placed, Stage, StageEvent};
use crate::render::{Backdrop, Floor, Painter, Setting};
use crate::sound::{Cue, Score, Sound};
use gait::Gait;

/// A horse on its way.
#[derive(Clone, Copy, Debug)]
pub struct Horse;

/// Grounds, and the places that have them.
const GROUNDS: &[(&str, &str)] = &[
    ("grass", "meadow"),
    ("sand", "beach"),
    ("stone", "town"),
    ("snow", "meadow"),
];
/// Where the horse's middle line is, in Z.
const LANE: f64 = 0.15;

impl Family for Horse {
    fn name(&self) -> &'static str {
        "horse"
    }

    fn sample(&self, rng: &mut WorldRng, _seconds: f64) -> Attributes {
        let (floor, place) = pick(rng, GROUNDS);
        let mut a = Attributes::sample(rng, "horse", "horse", true);
        a.colours = vec![pick(
            rng,
            &[Colour::Brown, Colour::Black, Colour::White, Colour::Grey],
        )];
        a.floor = Some(floor.to_owned());
        a.details.insert("sound".into(), floor.to_owned());
        a.place = place.to_owned();
        let gait = pick(rng, &["walk", "trot", "gallop"]);
        a.action = Some(gait.to_owned());
        a.details.insert("doing".into(), gait.to_owned());
        a.direction = Some(pick(rng, &[Direction::Right, Direction::Left]));
        if floor == "snow" && a.weather == Weather::Rain {
            a.weather = Weather::Snow;
        }
        a
    }

    fn stage(&self, a: &Attributes, shape: ClipShape, rng: &mut WorldRng) -> Box<dyn Stage> {
        Box::new(HorseStage::new(a, shape, rng))
    }
}

struct HorseStage {
    setting: Setting,
    attributes: Attributes,
    gait: Gait,
    sign: f64,
    seconds: f64,
    coat: body::Coat,
    /// How the horse drifts before the camera, which does not keep up exactly.
    sway: f64,
}

impl HorseStage {
    fn new(a: &Attributes, shape: ClipShape, rng: &mut WorldRng) -> Self {
        let floor = Floor::from_key(a.floor.as_deref().unwrap_or("grass"));
        let backdrop = match a.place.as_str() {
            "beach" => Backdrop::Beach,
            "town" => Backdrop::City,
            _ => Backdrop::Hills,
        };
        let mut setting = Setting::new(floor, backdrop, rng.random_range(0.40..0.50), rng.random());
        setting.margin = 0.15;
        let left = a.direction == Some(Direction::Left);
        Self {
            setting,
            attributes: a.clone(),
            gait: Gait::of(
                a.action.as_deref().unwrap_or("walk"),
                rng.random_range(0.0..1.0),
            ),
            sign: if left { -1.0 } else { 1.0 },
            seconds: shape.frames as f64 / FPS as f64,
            coat: body::Coat::new(a.colour(0), rng),
            sway: rng.random_range(0.0..6.0),
        }
    }

    fn x(&self, time: f64) -> f64 {
        self.sign * self.gait.speed * time
    }
}

impl Stage for HorseStage {
    fn setting(&self) -> Setting {
        self.setting
    }

    fn draw(&self, time: f64, painter: &mut Painter) {
        let pose = body::Pose {
            x: self.x(time),
            z: LANE,
            sign: self.sign,
            time,
        };
        body::draw(painter, &pose, &self.gait, &self.coat);
    }

    fn events(&self) -> Vec<StageEvent> {
        self.gait
            .hoofbeats(self.seconds)
            .into_iter()
            .map(|beat| StageEvent {
                time: beat.time,
                heard: beat.time,
                kind: "hoof",
                object: 0,
                strength: beat.strength,
                at: [
                    self.x(beat.time) + self.sign * beat.forward,
                    0.0,
                    LANE + beat.side,
                ],
            })
            .collect()
    }

    fn objects(&self, time: f64) -> Vec<Placed> {
        let half = 0.5 * body::HEIGHT;
        vec![Placed {
            label: "horse",
            at: [
                self.x(time) + self.sign * 0.04,
                half + self.gait.bob(time),
                LANE,
            ],
            half: [0.5 * body::LENGTH, half],
            present: true,
            colour: self.attributes.colours.first().copied(),
        }]
    }

    fn score(&self) -> Score {
        let mut cues = ambience(&self.attributes, false);
        let ground = self.attributes.floor.clone().unwrap_or_default();
        cues.extend(self.events().iter().map(|event| Cue {
            time: event.time,
            strength: event.strength,
            // The camera goes along: the horse stays about the middle.
            pan: (0.5 * (event.at[0] - self.camera_x(event.time))) as f32,
            sound: Sound::Hoof {
                ground: ground.clone(),
            },
        }));
        let room = if self.attributes.place == "town" {
            "street"
        } else {
            "open"
        };
        Score {
            room: room.into(),
            cues,
        }
    }

    fn camera_x(&self, time: f64) -> f64 {
        self.x(time) + 0.07 * (0.9 * time + self.sway).sin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feet_on_the_ground_do_not_slide_and_land_when_heard() {
        for name in ["walk", "trot", "gallop"] {
            let gait = Gait::of(name, 0.3);
            for beat in gait.hoofbeats(3.0) {
                let at = |time: f64| {
                    let foot = gait.foot(beat.leg, time);
                    (gait.speed * time + foot.forward, foot.up)
                };
                let (x, up) = at(beat.time + 1e-6);
                assert!(up.abs() < 1e-3, "{name}: {up}");
                let (later, still_down) = at(beat.time + 0.08);
                assert!((later - x).abs() < 1e-3 && still_down.abs() < 1e-9);
                assert!(at(beat.time - 0.02).1 > 1e-4);
            }
        }
    }

    #[test]
    fn footfalls_come_in_the_order_of_the_gait() {
        use gait::Leg::{LeftFore, LeftHind, RightFore, RightHind};
        let order = |name: &str| -> Vec<gait::Leg> {
            let beats = Gait::of(name, 0.0).hoofbeats(4.0);
            let first = beats
                .iter()
                .position(|b| b.leg == LeftHind)
                .expect("it steps");
            beats[first..first + 4].iter().map(|b| b.leg).collect()
        };
        assert_eq!(order("walk"), [LeftHind, LeftFore, RightHind, RightFore]);
        assert_eq!(order("gallop"), [LeftHind, RightHind, LeftFore, RightFore]);
        let trot = Gait::of("trot", 0.0).hoofbeats(2.0);
        let pairs: Vec<_> = trot
            .chunks(2)
            .map(|p| (p[1].time - p[0].time).abs())
            .collect();
        assert!(pairs.iter().all(|gap| *gap < 0.03), "{pairs:?}");
    }
}
