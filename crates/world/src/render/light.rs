//! Light: of the time of day, the weather and the place; and how a look turns it into colour.

use super::canvas::{Rgb, add, light_of, luma, mix, scale, tint};
use crate::attributes::{Attributes, Look, TimeOfDay, Weather};

/// A direction or normal: X right, Y up, Z away from the camera.
pub type Dir = [f32; 3];

/// The light of a scene, and the look it is drawn in.
#[derive(Clone, Copy, Debug)]
pub struct Light {
    /// Toward the sun, moon or main lamp; of length one.
    pub sun: Dir,
    /// Its light.
    pub key: Rgb,
    /// From above.
    pub sky: Rgb,
    /// From below.
    pub bounce: Rgb,
    /// How fast distance fades, per unit.
    pub fog: f32,
    /// Into what.
    pub fog_colour: Rgb,
    /// The top of the sky.
    pub zenith: Rgb,
    /// The sky at the horizon.
    pub horizon: Rgb,
    /// Whether there is a roof.
    pub indoor: bool,
    /// When.
    pub time: TimeOfDay,
    /// How it is drawn.
    pub look: Look,
}

/// Of what a surface is.
#[derive(Clone, Copy, Debug)]
pub struct Surface {
    /// Its own colour, as light.
    pub albedo: Rgb,
    /// How much it mirrors the lamp: 0 dull, 1 polished.
    pub gloss: f32,
}

impl Surface {
    /// A dull surface.
    pub fn matt(albedo: Rgb) -> Self {
        Self { albedo, gloss: 0.0 }
    }
}

/// `v` at length one.
#[inline(always)]
pub fn normalised(v: Dir) -> Dir {
    let k = 1.0 / (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]).sqrt().max(1e-9);
    [v[0] * k, v[1] * k, v[2] * k]
}

/// Inner product.
#[inline(always)]
pub fn dot(a: Dir, b: Dir) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// The direction in which a surface of that normal mirrors the camera's gaze (along +Z).
#[inline(always)]
pub fn mirrored(n: Dir) -> Dir {
    let k = -2.0 * n[2];
    [k * n[0], k * n[1], k * n[2] + 1.0]
}

impl Light {
    /// The light of a place under the open sky or a roof.
    pub fn new(attributes: &Attributes, indoor: bool) -> Self {
        let mut light = Self::of_time(attributes.time_of_day);
        light.indoor = indoor;
        light.look = attributes.look;
        if indoor {
            light.go_inside();
        } else {
            light.add_weather(attributes.weather);
        }
        if attributes.look == Look::Neon {
            light.go_neon();
        }
        light
    }

    fn of_time(time: TimeOfDay) -> Self {
        let c = light_of;
        let (sun, key, sky, zenith, horizon) = match time {
            TimeOfDay::Morning => (
                [0.66, 0.55, -0.5],
                [1.0, 0.86, 0.66],
                [0.34, 0.40, 0.52],
                c([96, 160, 226]),
                c([252, 226, 196]),
            ),
            TimeOfDay::Day => (
                [-0.36, 0.82, -0.45],
                [1.0, 0.97, 0.90],
                [0.42, 0.48, 0.58],
                c([58, 132, 224]),
                c([196, 226, 248]),
            ),
            TimeOfDay::Sunset => (
                [-0.72, 0.44, -0.5],
                [1.0, 0.60, 0.32],
                [0.36, 0.30, 0.42],
                c([86, 84, 160]),
                c([255, 162, 92]),
            ),
            TimeOfDay::Night => (
                [0.4, 0.78, -0.48],
                [0.30, 0.36, 0.56],
                [0.10, 0.13, 0.24],
                c([8, 12, 34]),
                c([38, 48, 92]),
            ),
        };
        Self {
            sun: normalised(sun),
            key,
            sky,
            bounce: scale(key, 0.16),
            fog: 0.0,
            fog_colour: horizon,
            zenith,
            horizon,
            indoor: false,
            time,
            look: Look::Soft3d,
        }
    }

    /// Lamps and a window: the light falls steeply, and its colour keeps a little of the hour's.
    fn go_inside(&mut self) {
        let warm = [1.0, 0.93, 0.82];
        let lamp = if self.time == TimeOfDay::Night {
            0.75
        } else {
            0.9
        };
        self.key = scale(mix(warm, self.key, 0.35), lamp);
        self.sky = mix(self.sky, [0.36, 0.36, 0.38], 0.65);
        self.bounce = [0.17, 0.14, 0.11];
        self.sun = normalised([0.45 * self.sun[0], 0.9, -0.38]);
    }

    fn add_weather(&mut self, weather: Weather) {
        let (grey, fog): (f32, f32) = match weather {
            Weather::Clear => (0.0, 0.004),
            Weather::Rain => (0.7, 0.035),
            Weather::Snow => (0.6, 0.03),
            Weather::Fog => (0.85, 0.13),
        };
        let cloud = |c: Rgb| {
            let level = luma(c);
            mix(c, [level * 0.92, level * 0.97, level * 1.02], grey)
        };
        self.zenith = mix(cloud(self.zenith), cloud(self.horizon), 0.6 * grey);
        self.horizon = cloud(self.horizon);
        self.key = scale(cloud(self.key), 1.0 - 0.55 * grey);
        self.sky = scale(cloud(self.sky), 1.0 + 0.25 * grey);
        self.fog = fog;
        self.fog_colour = mix(self.horizon, self.zenith, 0.25);
    }

    fn go_neon(&mut self) {
        self.zenith = light_of([14, 6, 40]);
        self.horizon = light_of([120, 20, 110]);
        self.fog_colour = light_of([44, 10, 64]);
    }

    /// The colour of a surface with that normal, seen from the camera.
    #[inline(always)]
    pub fn shade(&self, surface: Surface, normal: Dir) -> Rgb {
        let facing = dot(normal, self.sun);
        match self.look {
            Look::Flat => {
                let tone = 0.62 + 0.38 * super::canvas::smooth(-0.05, 0.05, facing - 0.08);
                tint(scale(surface.albedo, tone), self.flat_tint())
            }
            Look::Neon => scale(surface.albedo, 0.07 + 0.08 * facing.max(0.0)),
            _ => self.lit(surface, normal, facing),
        }
    }

    #[inline(always)]
    fn lit(&self, surface: Surface, normal: Dir, facing: f32) -> Rgb {
        let up = 0.5 + 0.5 * normal[1];
        let ambient = mix(self.bounce, self.sky, up);
        let diffuse = (facing * 0.9 + 0.1).max(0.0);
        let body = tint(surface.albedo, add(ambient, scale(self.key, diffuse)));
        if surface.gloss <= 0.0 {
            return body;
        }
        let mirrored = mirrored(normal);
        let glint = dot(mirrored, self.sun).max(0.0);
        let (g2, g4) = (glint * glint, glint.powi(4));
        let sharp = g4 * g4 * g4 * g4 * g2;
        let shine = surface.gloss * (0.9 * sharp * g4 * g4 + 0.06 * g4);
        let rim = 1.0 + normal[2];
        let fresnel = surface.gloss * 0.35 * rim * rim * rim * up;
        add(body, add(scale(self.key, shine), scale(self.sky, fresnel)))
    }

    /// Posters keep a hint of the hour.
    #[inline(always)]
    pub fn flat_tint(&self) -> Rgb {
        match self.time {
            TimeOfDay::Morning => [1.0, 0.95, 0.86],
            TimeOfDay::Day => [1.0, 1.0, 1.0],
            TimeOfDay::Sunset => [1.0, 0.80, 0.66],
            TimeOfDay::Night => [0.46, 0.52, 0.74],
        }
    }

    /// `colour` seen through the air over `distance` units.
    #[inline(always)]
    pub fn through_air(&self, colour: Rgb, distance: f32) -> Rgb {
        if self.fog <= 0.0 {
            return colour;
        }
        mix(
            self.fog_colour,
            colour,
            (-self.fog * distance.max(0.0)).exp(),
        )
    }

    /// The sky's colour at `up` (0 horizon, 1 overhead).
    pub fn sky_at(&self, up: f32) -> Rgb {
        let t = up.clamp(0.0, 1.0).sqrt();
        mix(self.horizon, self.zenith, t)
    }
}
