//! Closed forms: free fall, impacts at exact times, a short contact, again.

/// Units a second squared. A unit is the picture's shorter side.
pub const GRAVITY: f64 = 3.4;
/// A rebound slower than this lets the ball rest, units a second.
const REST: f64 = 0.16;
/// Impacts at most.
const MOST: usize = 48;

/// What happens between ball and floor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contact {
    /// Rebound speed over impact speed.
    pub restitution: f64,
    /// Seconds that ball and floor touch.
    pub seconds: f64,
    /// Whether the floor yields instead of the ball.
    pub floor_yields: bool,
    /// Part of the speed along the floor that is left after an impact.
    pub grip: f64,
}

impl Contact {
    /// How `subject` meets `floor`.
    pub fn of(subject: &str, floor: &str) -> Self {
        let (ball, seconds) = match subject {
            "basketball" => (0.80, 0.045),
            "rubber_ball" => (0.86, 0.065),
            "steel_ball" => (0.68, 0.012),
            _ => (0.74, 0.010),
        };
        match floor {
            "stone" => Self::hard(ball * 1.03, seconds * 0.9),
            "sand" => Self {
                restitution: ball * 0.42,
                seconds: 0.05,
                floor_yields: false,
                grip: 0.55,
            },
            "trampoline" => Self {
                restitution: 0.96,
                seconds: 0.20,
                floor_yields: true,
                grip: 1.0,
            },
            _ => Self::hard(ball, seconds),
        }
    }

    /// Seconds from the touch to where the flights before and after would meet, were there no contact: the one goes on at
    /// the impact's speed, the other comes back to it at the rebound's from the contact's end.
    pub fn turn(&self) -> f64 {
        self.seconds * self.restitution / (1.0 + self.restitution)
    }

    fn hard(restitution: f64, seconds: f64) -> Self {
        Self {
            restitution,
            seconds,
            floor_yields: false,
            grip: 1.0,
        }
    }
}

/// A ball's shape and height at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pose {
    /// Height of its middle above the floor.
    pub y: f64,
    /// Half its width.
    pub half_x: f64,
    /// Half its height.
    pub half_y: f64,
}

/// The up and down of one ball.
#[derive(Clone, Debug)]
pub struct Bounce {
    radius: f64,
    contact: Contact,
    /// Time and speed of every impact.
    impacts: Vec<(f64, f64)>,
}

impl Bounce {
    /// A ball whose lowest point falls from `height` and hits the floor first at `first` seconds.
    pub fn new(radius: f64, height: f64, first: f64, contact: Contact) -> Self {
        let mut impacts = Vec::new();
        let (mut time, mut speed) = (first, (2.0 * GRAVITY * height).sqrt());
        while impacts.len() < MOST {
            impacts.push((time, speed));
            speed *= contact.restitution;
            if speed < REST {
                break;
            }
            time += contact.seconds + 2.0 * speed / GRAVITY;
        }
        Self {
            radius,
            contact,
            impacts,
        }
    }

    /// Time (seconds) and speed (units a second) of every impact, in order.
    pub fn impacts(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.impacts.iter().copied()
    }

    /// Height and shape at `time`.
    pub fn pose(&self, time: f64) -> Pose {
        let passed = self.impacts.partition_point(|i| i.0 <= time);
        if passed == 0 {
            let (first, speed) = self.impacts[0];
            let before = first - time;
            return self.round(speed * before - 0.5 * GRAVITY * before * before);
        }
        let (at, speed) = self.impacts[passed - 1];
        let since = time - at;
        if since < self.contact.seconds {
            return self.touching(speed, since);
        }
        if passed == self.impacts.len() {
            return self.round(0.0);
        }
        let up = since - self.contact.seconds;
        let rebound = speed * self.contact.restitution;
        self.round((rebound * up - 0.5 * GRAVITY * up * up).max(0.0))
    }

    fn round(&self, height: f64) -> Pose {
        Pose {
            y: self.radius + height,
            half_x: self.radius,
            half_y: self.radius,
        }
    }

    /// Half a swing: in at the impact's speed, out again.
    fn touching(&self, speed: f64, since: f64) -> Pose {
        let phase = std::f64::consts::PI * since / self.contact.seconds;
        let deepest = speed * self.contact.seconds / std::f64::consts::PI;
        let r = self.radius;
        if self.contact.floor_yields {
            return self.round(-deepest.min(0.13) * phase.sin());
        }
        let half_y = r - deepest.min(0.3 * r) * phase.sin();
        Pose {
            y: half_y,
            half_x: r * (r / half_y).sqrt(),
            half_y,
        }
    }
}

/// The way along X: straight, slowed by every impact on soft ground.
#[derive(Clone, Debug)]
pub struct Lane {
    /// From when, where, how fast.
    legs: Vec<(f64, f64, f64)>,
}

impl Lane {
    /// From `x` at time zero with `speed` units a second.
    pub fn new(x: f64, speed: f64, bounce: &Bounce) -> Self {
        let mut legs = vec![(0.0, x, speed)];
        let grip = bounce.contact.grip;
        if grip < 1.0 {
            let (mut at, mut x, mut speed) = (0.0, x, speed);
            for (time, _) in bounce.impacts() {
                x += speed * (time - at);
                at = time;
                speed *= grip;
                legs.push((at, x, speed));
            }
            // A ball that rests in sand stays there.
            let last = legs.last_mut().expect("a lane has its first leg");
            last.2 = 0.0;
        }
        Self { legs }
    }

    /// Where and how fast it begins.
    pub fn start(&self) -> (f64, f64) {
        let (_, x, speed) = self.legs[0];
        (x, speed)
    }

    /// Where at `time`.
    pub fn x(&self, time: f64) -> f64 {
        let passed = self.legs.partition_point(|leg| leg.0 <= time).max(1);
        let (at, x, speed) = self.legs[passed - 1];
        x + speed * (time - at)
    }
}
