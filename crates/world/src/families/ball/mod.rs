//! Balls that fall and bounce: basketballs, rubber and steel balls, glass marbles.

mod motion;
mod paint;

use gallop_core::{ClipShape, FPS};
use rand::RngExt;
use rand::seq::SliceRandom;

use super::ambience;
use crate::WorldRng;
use crate::attributes::{Attributes, Colour, Direction, Size, pick};
use crate::family::{Family, Placed, Stage, StageEvent};
use crate::render::{Backdrop, Floor, Painter, Setting, room_for};
use crate::sound::{Cue, Score, Sound};
use motion::{Bounce, Contact, Lane};

/// Balls that fall and bounce.
#[derive(Clone, Copy, Debug)]
pub struct Ball;

impl Ball {
    /// Seconds that a ball of these attributes has touched the floor when it is seen to turn back: its sound begins with
    /// the touch, but what the eye can place is where its flights before and after meet.
    pub fn touch_to_turn(attributes: &Attributes) -> f64 {
        contact(attributes).turn()
    }
}

fn contact(a: &Attributes) -> Contact {
    Contact::of(&a.subject, a.floor.as_deref().unwrap_or("wood"))
}

/// The kinds of ball.
const SUBJECTS: &[&str] = &["basketball", "rubber_ball", "steel_ball", "marble"];
/// Floors, and the places that have them.
const FLOORS: &[(&str, &[&str])] = &[
    ("wood", &["court", "room"]),
    ("stone", &["hall", "garden"]),
    ("sand", &["beach"]),
    ("trampoline", &["court", "garden"]),
];
/// How far the floor under the ball is from the lower edge, in units.
const MARGIN: f32 = 0.14;
/// Speed of an impact of full strength, units a second.
const HARDEST: f64 = 2.4;

impl Family for Ball {
    fn name(&self) -> &'static str {
        "ball"
    }

    fn sample(&self, rng: &mut WorldRng, _seconds: f64) -> Attributes {
        let subject = pick(rng, SUBJECTS);
        let (floor, places) = pick(rng, FLOORS);
        let place = pick(rng, places);
        let outdoor = !Backdrop::from_key(place).indoor();
        let mut a = Attributes::sample(rng, "ball", subject, outdoor);
        a.count = *[1, 1, 1, 1, 1, 1, 2, 2, 3]
            .get(rng.random_range(0..9usize))
            .unwrap_or(&1);
        let mut colours = Colour::PAINTS.to_vec();
        colours.shuffle(rng);
        if a.count > 1 && rng.random_bool(0.3) {
            colours = vec![colours[0]; a.count];
        }
        if subject == "basketball" && rng.random_bool(0.25) {
            colours[0] = Colour::Orange;
        }
        colours.truncate(a.count);
        a.colours = colours;
        a.size = Some(pick(rng, Size::ALL));
        a.floor = Some(floor.to_owned());
        a.direction = Some(pick(rng, Direction::ALL));
        a.place = place.to_owned();
        a
    }

    fn stage(
        &self,
        attributes: &Attributes,
        shape: ClipShape,
        rng: &mut WorldRng,
    ) -> Box<dyn Stage> {
        Box::new(BallStage::new(attributes, shape, rng))
    }
}

/// One ball: what it looks like and how it moves.
struct One {
    radius: f64,
    z: f64,
    bounce: Bounce,
    lane: Lane,
    skin: paint::Skin,
    colour: Colour,
}

struct BallStage {
    setting: Setting,
    trampoline: bool,
    half_width: f64,
    balls: Vec<One>,
    attributes: Attributes,
}

impl BallStage {
    fn new(a: &Attributes, shape: ClipShape, rng: &mut WorldRng) -> Self {
        let floor = a.floor.as_deref().unwrap_or("wood");
        let trampoline = floor == "trampoline";
        let backdrop = Backdrop::from_key(&a.place);
        let ground = match (trampoline, a.place.as_str()) {
            (true, "garden") => Floor::Grass,
            _ => Floor::from_key(floor),
        };
        let mut setting =
            Setting::new(ground, backdrop, rng.random_range(0.46..0.62), rng.random());
        setting.margin = MARGIN;
        let seconds = shape.frames as f64 / FPS as f64;
        let (half_width, top) = room_for(a, shape, MARGIN);
        let plan = Plan {
            half_width,
            top,
            eye: f64::from(setting.eye),
            seconds,
        };
        let mut balls: Vec<One> = Vec::with_capacity(a.count);
        for index in 0..a.count {
            let ball = plan.ball(a, (index, balls.first()), rng);
            balls.push(ball);
        }
        // Far to near, which is the order of drawing.
        balls.sort_by(|a, b| b.z.total_cmp(&a.z));
        Self {
            setting,
            trampoline,
            half_width,
            balls,
            attributes: a.clone(),
        }
    }
}

/// The room and time that the balls of a clip have.
struct Plan {
    half_width: f64,
    top: f64,
    eye: f64,
    seconds: f64,
}

impl Plan {
    /// A ball; where they travel, all follow the first.
    fn ball(
        &self,
        a: &Attributes,
        (index, leader): (usize, Option<&One>),
        rng: &mut WorldRng,
    ) -> One {
        let diameter = match a.size.unwrap_or(Size::Medium) {
            Size::Small => rng.random_range(0.15..0.18),
            Size::Medium => rng.random_range(0.22..0.26),
            Size::Large => rng.random_range(0.31..0.35),
        };
        let crowd = [1.0, 0.95, 0.82][(a.count - 1).min(2)];
        let radius = 0.5 * diameter * crowd;
        let z = depth(index);
        // Farther balls have more room in units, but only above the height of the eye.
        let far = farness(z);
        let half = (self.half_width * far - radius - 0.02).max(0.05);
        let top = self.eye + (self.top - self.eye) * far;
        let height = (top - 2.0 * radius - 0.03).max(0.1) * rng.random_range(0.72..1.0);
        let contact = contact(a);
        let fall = (2.0 * height / motion::GRAVITY).sqrt();
        let latest = (1.5 * fall).min((0.7 * self.seconds).max(0.08));
        let first = rng.random_range(0.04..latest.max(0.05));
        let bounce = Bounce::new(radius, height, first, contact);
        One {
            radius,
            z,
            lane: self.lane(a, (index, radius, half), leader, &bounce, rng),
            bounce,
            skin: paint::Skin::new(&a.subject, a.colour(index), rng),
            colour: a.colour(index),
        }
    }

    /// Where along X: on the spot, side by side, or across the picture, one behind the other, so that two are not taken for
    /// one.
    fn lane(
        &self,
        a: &Attributes,
        (index, radius, half): (usize, f64, f64),
        leader: Option<&One>,
        bounce: &Bounce,
        rng: &mut WorldRng,
    ) -> Lane {
        let sign = match a.direction.unwrap_or(Direction::InPlace) {
            Direction::Right => 1.0,
            Direction::Left => -1.0,
            Direction::InPlace => 0.0,
        };
        if sign == 0.0 {
            let slot = (index as f64 + 0.5) / a.count as f64 * 2.0 - 1.0;
            let loose = half * 0.8 / a.count as f64;
            let x = (slot * half + a.aside(rng.random_range(-loose..loose))).clamp(-half, half);
            return Lane::new(x, 0.0, bounce);
        }
        if let Some(leader) = leader {
            let (x, speed) = leader.lane.start();
            let behind = self.gap(a, leader.radius) * index as f64;
            let far = farness(depth(index));
            return Lane::new((x - sign * behind) * far, speed * far, bounce);
        }
        let queue = self.gap(a, radius) * (a.count - 1) as f64;
        let length = ((2.0 * half - queue) * rng.random_range(0.7..1.0)).min(0.95 * self.seconds);
        let middle = (half - 0.5 * (length + queue)).max(0.0);
        let last = rng.random_range(-middle..=middle) - sign * 0.5 * (length + queue);
        Lane::new(last + sign * queue, sign * length / self.seconds, bounce)
    }

    /// From a travelling ball of this radius to the one behind it, as seen; less where the picture is narrow.
    fn gap(&self, a: &Attributes, radius: f64) -> f64 {
        (2.5 * radius).min(self.half_width / a.count as f64)
    }
}

/// Depth of a ball.
fn depth(index: usize) -> f64 {
    0.42 * index as f64
}

/// How much farther a ball at depth `z` is than one at 0.
fn farness(z: f64) -> f64 {
    (3.2 + z) / 3.2
}

impl Stage for BallStage {
    fn setting(&self) -> Setting {
        self.setting
    }

    fn draw(&self, time: f64, painter: &mut Painter) {
        if self.trampoline {
            paint::trampoline(painter, self.half_width);
            // Cloth mirrors nothing.
            painter.mirror = 0.0;
        }
        for ball in &self.balls {
            paint::shadow(painter, ball, time, self.trampoline);
        }
        for ball in &self.balls {
            paint::ball(painter, ball, time);
        }
    }

    fn events(&self) -> Vec<StageEvent> {
        let mut events: Vec<StageEvent> = Vec::new();
        for (object, ball) in self.balls.iter().enumerate() {
            events.extend(ball.bounce.impacts().map(|(time, speed)| StageEvent {
                time,
                heard: time,
                kind: "impact",
                object,
                strength: (speed / HARDEST).min(1.0) as f32,
                at: [ball.lane.x(time), 0.0, ball.z],
            }));
        }
        events.sort_by(|a, b| a.time.total_cmp(&b.time));
        events
    }

    fn objects(&self, time: f64) -> Vec<Placed> {
        self.balls
            .iter()
            .map(|ball| {
                let pose = ball.bounce.pose(time);
                Placed {
                    label: "ball",
                    at: [ball.lane.x(time), pose.y, ball.z],
                    half: [pose.half_x, pose.half_y],
                    present: true,
                    colour: Some(ball.colour),
                }
            })
            .collect()
    }

    fn score(&self) -> Score {
        let a = &self.attributes;
        let mut cues = ambience(a, self.setting.backdrop.indoor());
        cues.extend(self.events().iter().map(|event| Cue {
            time: event.heard,
            strength: event.strength,
            pan: (event.at[0] / self.half_width).clamp(-1.0, 1.0) as f32,
            sound: Sound::Impact {
                subject: a.subject.clone(),
                floor: a.floor.clone().unwrap_or_default(),
                size: self.balls[event.object].radius as f32,
            },
        }));
        Score {
            room: a.place.clone(),
            cues,
        }
    }
}

#[cfg(test)]
mod tests;
