//! Rain and snow before the picture.

use super::canvas::{Canvas, Rgb, add, scale};
use super::light::Light;
use super::noise::hash2;
use super::view::View;
use crate::attributes::Weather;

/// Draws what falls, at `time` seconds.
pub fn draw(canvas: &mut Canvas, weather: Weather, view: &View, (light, time): (&Light, f64)) {
    if light.indoor {
        return;
    }
    match weather {
        Weather::Rain => rain(canvas, view, light, time as f32),
        Weather::Snow => snow(canvas, view, light, time as f32),
        Weather::Clear | Weather::Fog => {}
    }
}

fn bright(light: &Light) -> Rgb {
    add(scale(light.horizon, 0.6), [0.22, 0.24, 0.27])
}

/// Streaks that fall two and a half picture heights a second, slightly aslant.
fn rain(canvas: &mut Canvas, view: &View, light: &Light, time: f32) {
    let (w, h, unit) = (view.width, view.height, view.width.min(view.height));
    let colour = bright(light);
    let count = (90.0 * (w * h) / (unit * unit) / 1.75) as i32;
    for drop in 0..count {
        let near = 0.45 + 0.55 * hash2(drop, 1);
        let length = 0.10 * unit * near;
        let fall = (hash2(drop, 2) + time * 2.5 * unit * near / h).fract();
        let turn = (hash2(drop, 2) + time * 2.5 * unit * near / h) as i32;
        let y = fall * (h + length) - length;
        let x = hash2(drop * 7 + turn, 3) * (w + 0.1 * unit) - 0.12 * (y / h) * 0.3 * unit;
        streak(
            canvas,
            (x, y),
            (length, -0.10 * length),
            scale(colour, 0.42 * near),
        );
    }
}

/// A thin additive line downwards, soft at its sides and ends.
fn streak(canvas: &mut Canvas, (x, y): (f32, f32), (length, slant): (f32, f32), colour: Rgb) {
    let rows = length.ceil().max(1.0) as i32;
    for i in 0..rows {
        let t = (i as f32 + 0.5) / rows as f32;
        let py = (y + t * length).floor();
        let px = x + t * slant - 0.5;
        if py < 0.0 || py as usize >= canvas.height || px < 0.0 {
            continue;
        }
        let (column, part) = (px as usize, px - px.floor());
        let level = 1.0 - (2.0 * t - 1.0).abs();
        for (dx, share) in [(0, 1.0 - part), (1, part)] {
            if column + dx < canvas.width {
                let at = py as usize * canvas.width + column + dx;
                for (plane, value) in canvas.planes.iter_mut().zip(colour) {
                    plane[at] += value * level * share;
                }
            }
        }
    }
}

/// Flakes that drift.
fn snow(canvas: &mut Canvas, view: &View, light: &Light, time: f32) {
    let (w, h, unit) = (view.width, view.height, view.width.min(view.height));
    let colour = add(bright(light), [0.25, 0.25, 0.25]);
    let count = (110.0 * (w * h) / (unit * unit) / 1.75) as i32;
    for flake in 0..count {
        let near = 0.3 + 0.7 * hash2(flake, 11);
        let travel = hash2(flake, 12) + time * 0.26 * near * unit / h;
        let y = travel.fract() * 1.1 * h - 0.05 * h;
        let sway = (time * (0.8 + hash2(flake, 13)) + 6.0 * hash2(flake, 14)).sin();
        let start = hash2(flake * 3 + travel as i32, 15) * w;
        let x = start + 0.025 * unit * sway * near;
        canvas.glow(
            x,
            y,
            (0.011 * unit * near).max(0.9) * 1.5,
            scale(colour, 0.75),
        );
    }
}
