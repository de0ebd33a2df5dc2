//! Fireworks: a climbing whistle, a burst of stars, and the boom as late as it is far.

mod shell;

use gallop_core::{ClipShape, FPS};
use rand::RngExt;
use rand::seq::SliceRandom;

use super::ambience;
use crate::WorldRng;
use crate::attributes::{Attributes, Colour, Size, TimeOfDay, Weather, pick};
use crate::family::{Family, Placed, Stage, StageEvent};
use crate::render::{Backdrop, Floor, Painter, Setting};
use crate::sound::{Cue, Firework, SPEED_OF_SOUND, Score, Sound};
use shell::{DEPTH, SHELLS, Shell};

/// Fireworks over a city, hills or the sea.
#[derive(Clone, Copy, Debug)]
pub struct Fireworks;

/// Colours that a burning star can have.
const COLOURS: &[Colour] = &[
    Colour::Red,
    Colour::Orange,
    Colour::Yellow,
    Colour::Green,
    Colour::Teal,
    Colour::Blue,
    Colour::Purple,
    Colour::Pink,
    Colour::White,
];

impl Family for Fireworks {
    fn name(&self) -> &'static str {
        "fireworks"
    }

    fn sample(&self, rng: &mut WorldRng, seconds: f64) -> Attributes {
        let shell = pick(rng, SHELLS);
        let mut a = Attributes::sample(rng, "fireworks", shell, true);
        a.time_of_day = TimeOfDay::Night;
        if a.weather != Weather::Snow {
            a.weather = Weather::Clear;
        }
        let most = if seconds < 1.5 { 1 } else { 4 };
        a.count = rng.random_range(1..=most).min(3);
        let mut colours = COLOURS.to_vec();
        colours.shuffle(rng);
        if rng.random_bool(0.3) {
            colours = vec![colours[0]; a.count];
        }
        colours.truncate(a.count);
        a.colours = colours;
        a.size = Some(pick(rng, Size::ALL));
        a.place = pick(rng, &["city", "hills", "beach"]).to_owned();
        let far = pick(rng, &["near", "far"]);
        a.details.insert("distance".into(), far.into());
        a.details.insert("boom".into(), far.into());
        a
    }

    fn stage(&self, a: &Attributes, shape: ClipShape, rng: &mut WorldRng) -> Box<dyn Stage> {
        Box::new(FireworksStage::new(a, shape, rng))
    }
}

struct FireworksStage {
    setting: Setting,
    attributes: Attributes,
    shells: Vec<Shell>,
    /// Metres to the listener.
    distance: f64,
    half_width: f64,
}

impl FireworksStage {
    fn new(a: &Attributes, shape: ClipShape, rng: &mut WorldRng) -> Self {
        let floor = if a.place == "beach" {
            Floor::Sand
        } else {
            Floor::Grass
        };
        let mut setting = Setting::new(floor, Backdrop::from_key(&a.place), 0.34, rng.random());
        setting.margin = 0.05;
        let far = a.details.get("distance").is_some_and(|d| d == "far");
        let distance = if far {
            rng.random_range(190.0..290.0)
        } else {
            rng.random_range(40.0..80.0)
        };
        let (half_width, top) = crate::render::room_for(a, shape, setting.margin);
        let scale = (3.2 + DEPTH) / 3.2;
        // What is farther has more room above the height of the eye only.
        let eye = f64::from(setting.eye);
        let room = (half_width * scale, eye + (top - eye) * scale);
        let seconds = shape.frames as f64 / FPS as f64;
        let late = distance / SPEED_OF_SOUND;
        let shells = (0..a.count)
            .map(|i| Shell::new(a, (i, seconds, late), room, rng))
            .collect();
        Self {
            setting,
            attributes: a.clone(),
            shells,
            distance,
            half_width: room.0,
        }
    }

    fn late(&self) -> f64 {
        self.distance / SPEED_OF_SOUND
    }
}

impl Stage for FireworksStage {
    fn setting(&self) -> Setting {
        self.setting
    }

    fn draw(&self, time: f64, painter: &mut Painter) {
        for shell in &self.shells {
            shell.draw(painter, time);
        }
    }

    fn events(&self) -> Vec<StageEvent> {
        let mut events = Vec::new();
        for (object, shell) in self.shells.iter().enumerate() {
            let event = |time: f64, kind, strength, at: [f64; 2]| StageEvent {
                time,
                heard: time + self.late(),
                kind,
                object,
                strength,
                at: [at[0], at[1], DEPTH],
            };
            events.push(event(shell.launch, "launch", 0.3, [shell.from, 0.0]));
            let strength = (0.6 + 0.6 * shell.radius).min(1.0) as f32;
            events.push(event(shell.burst, "burst", strength, shell.at));
        }
        events.sort_by(|a, b| a.time.total_cmp(&b.time));
        events
    }

    fn objects(&self, time: f64) -> Vec<Placed> {
        self.shells
            .iter()
            .enumerate()
            .map(|(index, shell)| {
                let (middle, half) = shell.extent(time);
                Placed {
                    label: "firework",
                    at: [middle[0], middle[1], DEPTH],
                    half: [half, half],
                    present: time >= shell.launch && time < shell.burst + shell.burn,
                    colour: Some(self.attributes.colour(index)),
                }
            })
            .collect()
    }

    fn score(&self) -> Score {
        let mut cues = ambience(&self.attributes, false);
        let near = (60.0 / self.distance).min(1.0).sqrt() as f32;
        for shell in &self.shells {
            let pan = (shell.at[0] / self.half_width).clamp(-1.0, 1.0) as f32;
            let mut cue = |time: f64, strength: f32, firework: Firework| {
                cues.push(Cue {
                    time: time + self.late(),
                    strength,
                    pan,
                    sound: Sound::Firework(firework),
                });
            };
            let climb = (shell.burst - shell.launch) as f32;
            cue(shell.launch, 0.25 * near, Firework::Launch);
            cue(
                shell.launch + 0.05,
                0.35 * near,
                Firework::Whistle(climb - 0.08),
            );
            let strength = 0.55 + 0.45 * near;
            cue(shell.burst, strength, Firework::Boom(self.distance as f32));
            if shell.kind == "willow" {
                cue(shell.burst + 0.5, 0.3 * near, Firework::Crackle(1.4));
            }
        }
        Score {
            room: "open".into(),
            cues,
        }
    }
}
