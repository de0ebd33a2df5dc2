//! Fireworks: a climbing whistle, a burst of stars, and the boom as late as it is far.

use gallop_core::{ClipShape, FPS};
use rand::RngExt;
use rand::seq::SliceRandom;

use super::ambience;
use crate::WorldRng;
use crate::attributes::{Attributes, Colour, Look, Size, TimeOfDay, Weather, pick};
use crate::family::{Family, Placed, Stage, StageEvent};
use crate::render::{Backdrop, Floor, Painter, Rgb, Setting, add, light_of, mix, scale, smooth};
use crate::sound::{Cue, Firework, SPEED_OF_SOUND, Score, Sound};

/// Fireworks over a city, hills or the sea.
#[derive(Clone, Copy, Debug)]
pub struct Fireworks;

/// How stars fly, by kind of shell.
const SHELLS: &[&str] = &["peony", "ring", "willow"];
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
/// Where shells are fired, in Z; the sky is painted behind it.
const DEPTH: f64 = 2.0;
/// Air drag of a star, a second.
const DRAG: f64 = 1.7;
/// Gravity on burning stars, units a second squared.
const FALL: f64 = 0.22;

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

/// One shell from launch to ash.
struct Shell {
    launch: f64,
    burst: f64,
    /// Where it is fired and where it bursts: X, Y.
    from: f64,
    at: [f64; 2],
    /// How far its stars fly.
    radius: f64,
    /// Seconds that stars burn.
    burn: f64,
    kind: &'static str,
    colour: Colour,
    /// Directions of the stars, scaled by their speed.
    stars: Vec<[f64; 2]>,
    seed: f64,
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

impl Shell {
    fn new(
        a: &Attributes,
        (index, seconds, late): (usize, f64, f64),
        (half, top): (f64, f64),
        rng: &mut WorldRng,
    ) -> Self {
        let radius = match a.size.unwrap_or(Size::Medium) {
            Size::Small => rng.random_range(0.26..0.32),
            Size::Medium => rng.random_range(0.38..0.46),
            Size::Large => rng.random_range(0.54..0.64),
        };
        let kind = SHELLS
            .iter()
            .copied()
            .find(|s| *s == a.subject)
            .unwrap_or("peony");
        // Bursts follow each other; a boom that comes too late for the clip is no use.
        let last = (seconds - late - 0.15).max(0.25 * seconds);
        let slot = last / a.count as f64;
        let burst = if seconds < 0.5 {
            rng.random_range(-0.9..seconds)
        } else {
            let early = if index == 0 {
                0.3f64.min(0.4 * slot)
            } else {
                0.0
            };
            slot * index as f64 + rng.random_range(early..(0.85 * slot).max(early + 0.01))
        };
        let lane = (index as f64 + 0.5) / a.count as f64 * 2.0 - 1.0;
        let x = lane * (half - 0.3 * radius).max(0.0) * rng.random_range(0.5..0.9);
        let high = top - radius * rng.random_range(0.95..1.15);
        let climb = rng.random_range(0.9..1.2);
        Self {
            launch: burst - climb,
            burst,
            from: x + rng.random_range(-0.12..0.12),
            at: [x, high.max(0.45 * top)],
            radius,
            burn: if kind == "willow" { 2.4 } else { 1.6 },
            kind,
            colour: a.colour(index),
            stars: stars(kind, rng),
            seed: rng.random_range(0.0..100.0),
        }
    }

    /// Where the shell is while it climbs: fast first, slow at the top.
    fn climbing(&self, time: f64) -> [f64; 2] {
        let t = ((time - self.launch) / (self.burst - self.launch)).clamp(0.0, 1.0);
        let up = 1.0 - (1.0 - t) * (1.0 - t);
        [self.from + (self.at[0] - self.from) * t, self.at[1] * up]
    }

    /// How far a star of speed one has flown `age` seconds after the burst.
    fn reach(age: f64) -> f64 {
        1.0 - (-DRAG * 1.6 * age).exp()
    }

    /// How far every star has fallen by then.
    fn fallen(&self, age: f64) -> f64 {
        let heavy = if self.kind == "willow" { 1.7 } else { 1.0 };
        heavy * FALL / DRAG * (age - (1.0 - (-DRAG * age).exp()) / DRAG)
    }

    fn star(&self, direction: [f64; 2], age: f64) -> [f64; 2] {
        let reach = self.radius * Self::reach(age);
        [
            self.at[0] + direction[0] * reach,
            self.at[1] + direction[1] * reach - self.fallen(age),
        ]
    }

    fn draw(&self, painter: &mut Painter, time: f64) {
        if time < self.launch {
            return;
        }
        if time < self.burst {
            self.draw_climb(painter, time);
            return;
        }
        let age = time - self.burst;
        if age < self.burn {
            self.draw_flash(painter, age);
            for (i, &direction) in self.stars.iter().enumerate() {
                self.draw_star(painter, direction, (i, age));
            }
        }
    }

    fn draw_climb(&self, painter: &mut Painter, time: f64) {
        for step in 0..9 {
            let then = time - 0.022 * f64::from(step);
            if then < self.launch {
                break;
            }
            let [x, y] = self.climbing(then);
            let wobble = 0.004 * (then * 60.0 + self.seed).sin();
            let spot = painter.project([x + wobble, y, DEPTH]);
            let size = spot.scale * (0.030 - 0.002 * step as f32);
            let fade = 1.0 / (1.0 + 0.6 * step as f32);
            painter.canvas.glow(
                spot.x,
                spot.y,
                size.max(1.2),
                scale([1.0, 0.72, 0.36], 1.3 * fade),
            );
        }
    }

    /// The sky lights up for a moment, and the ground with it.
    fn draw_flash(&self, painter: &mut Painter, age: f64) {
        let spot = painter.project([self.at[0], self.at[1], DEPTH]);
        let colour = burning(self.colour, painter.light.look);
        let flash = (-13.0 * age).exp() as f32;
        let glow = (-1.8 * age).exp() as f32;
        let reach = self.radius as f32 * spot.scale;
        let veil = if painter.light.look == Look::Flat {
            0.3
        } else {
            1.0
        };
        painter.canvas.glow(
            spot.x,
            spot.y,
            2.4 * reach,
            scale(colour, veil * (0.11 * glow + 0.22 * flash)),
        );
        painter.canvas.glow(
            spot.x,
            spot.y,
            0.45 * reach,
            scale([1.0, 0.97, 0.9], 1.1 * flash),
        );
        let foot = painter.project([self.at[0], 0.0, DEPTH]);
        painter.canvas.glow(
            foot.x,
            foot.y,
            2.0 * reach,
            scale(colour, veil * 0.06 * glow),
        );
    }

    fn draw_star(&self, painter: &mut Painter, direction: [f64; 2], (index, age): (usize, f64)) {
        let trail: u32 = if self.kind == "willow" { 9 } else { 5 };
        let own = self.burn * (0.75 + 0.25 * (index as f64 * 2.4 + self.seed).sin().abs());
        let life = (age / own) as f32;
        if life >= 1.0 {
            return;
        }
        // White hot first, then its colour, then out, flickering.
        let colour = burning(self.colour, painter.light.look);
        let hot = mix([1.2, 1.15, 1.0], colour, smooth(0.0, 0.14, life));
        let flicker = 0.8 + 0.2 * (age * 47.0 + index as f64 * 5.1).sin() as f32;
        let level = (1.0 - smooth(0.55, 1.0, life)) * if life > 0.6 { flicker } else { 1.0 };
        for step in 0..trail {
            let then = age - 0.035 * f64::from(step);
            if then < 0.0 {
                break;
            }
            let [x, y] = self.star(direction, then);
            let spot = painter.project([x, y.max(0.0), DEPTH]);
            let fade = level / (1.0 + 0.9 * step as f32);
            let size = (spot.scale * (0.026 - 0.0018 * step as f32)).max(1.1);
            painter
                .canvas
                .glow(spot.x, spot.y, size, scale(hot, 1.25 * fade));
        }
    }

    /// Its middle and its half extent at `time`.
    fn extent(&self, time: f64) -> ([f64; 2], f64) {
        if time < self.burst {
            return (self.climbing(time), 0.02);
        }
        let age = time - self.burst;
        let middle = [self.at[0], self.at[1] - self.fallen(age)];
        (middle, (self.radius * Self::reach(age)).max(0.02))
    }
}

/// The light of a star: brighter than paint of that colour.
fn burning(colour: Colour, look: Look) -> Rgb {
    let c = light_of(colour.srgb());
    let most = c[0].max(c[1]).max(c[2]).max(0.05);
    let full = scale(c, 1.0 / most);
    let lift = if look == Look::Flat { 0.02 } else { 0.05 };
    add(full, [lift; 3])
}

/// Where stars fly: a ball seen from outside, or a ring.
fn stars(kind: &str, rng: &mut WorldRng) -> Vec<[f64; 2]> {
    let tilt: f64 = rng.random_range(0.35..0.9);
    let turn: f64 = rng.random_range(-0.6..0.6);
    let count = match kind {
        "ring" => 34,
        "willow" => 46,
        _ => 84,
    };
    (0..count)
        .map(|i| {
            let angle =
                (i as f64 + rng.random_range(0.0..0.4)) / count as f64 * std::f64::consts::TAU;
            if kind == "ring" {
                let (x, y) = (angle.cos(), tilt * angle.sin());
                return [
                    x * turn.cos() - y * turn.sin(),
                    x * turn.sin() + y * turn.cos(),
                ];
            }
            // Evenly over the sphere, by the golden angle.
            let z = 1.0 - 2.0 * (i as f64 + 0.5) / count as f64;
            let round = (1.0 - z * z).sqrt();
            let golden = i as f64 * 2.399_963 + angle * 0.02;
            let speed = rng.random_range(0.92..1.04);
            [round * golden.cos() * speed, z * speed]
        })
        .collect()
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
            .map(|shell| {
                let (middle, half) = shell.extent(time);
                Placed {
                    label: "firework",
                    at: [middle[0], middle[1], DEPTH],
                    half: [half, half],
                    present: time >= shell.launch && time < shell.burst + shell.burn,
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
