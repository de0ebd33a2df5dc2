//! Curves of a log as a picture: one panel a metric, training and validation in two colours.

use std::collections::BTreeMap;
use std::path::Path;

use gallop_core::{Frame, PixelSize};

use crate::error::Result;
use crate::font;
use crate::metrics::Line;

/// Size of one panel.
const PANEL: PixelSize = PixelSize::new(320, 180);
/// Panels side by side.
const COLUMNS: usize = 3;
/// Room for words around a curve.
const MARGIN: usize = 16;
const PAPER: [u8; 3] = [250, 250, 247];
const INK: [u8; 3] = [60, 60, 60];
const COLOURS: [(&str, [u8; 3]); 2] = [("train", [40, 90, 200]), ("validation", [220, 90, 30])];

/// Points of one metric by kind of line.
type Panel<'a> = BTreeMap<&'a str, Vec<(f64, f64)>>;

/// Draws every metric of the log.
///
/// # Errors
/// If the picture cannot be written.
pub fn draw(lines: &[Line], path: &Path) -> Result<()> {
    let mut panels: BTreeMap<&str, Panel> = BTreeMap::new();
    for line in lines {
        for (name, value) in &line.metrics {
            let points = panels
                .entry(name)
                .or_default()
                .entry(&line.kind)
                .or_default();
            points.push((line.step as f64, *value));
        }
    }
    let rows = panels.len().div_ceil(COLUMNS).max(1);
    let mut picture = Frame::black(PixelSize::new(PANEL.width * COLUMNS, PANEL.height * rows));
    picture
        .rgb
        .chunks_exact_mut(3)
        .for_each(|p| p.copy_from_slice(&PAPER));
    for (i, (name, panel)) in panels.iter().enumerate() {
        let corner = [i % COLUMNS * PANEL.width, i / COLUMNS * PANEL.height];
        draw_panel(&mut picture, corner, name, panel);
    }
    Ok(gallop_media::write_image(path, &picture)?)
}

fn draw_panel(picture: &mut Frame, [x, y]: [usize; 2], name: &str, panel: &Panel) {
    let points = || panel.values().flatten().filter(|p| p.1.is_finite());
    let last_step = points().map(|p| p.0).fold(1.0, f64::max);
    let least = points().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let most = points().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let span = (most - least).max(1e-12);
    let place = |(step, value): (f64, f64)| {
        let across = step / last_step * (PANEL.width - 2 * MARGIN) as f64;
        let up = (value - least) / span * (PANEL.height - 2 * MARGIN - 8) as f64;
        [
            (x + MARGIN) as f64 + across,
            (y + PANEL.height - MARGIN) as f64 - up,
        ]
    };
    for (kind, colour) in COLOURS {
        let points: Vec<[f64; 2]> = (panel.get(kind).into_iter().flatten())
            .filter(|p| p.1.is_finite())
            .map(|p| place(*p))
            .collect();
        for pair in points.windows(2) {
            draw_line(picture, pair[0], pair[1], colour);
        }
        if let [only] = points[..] {
            draw_line(picture, only, [only[0] + 2.0, only[1]], colour);
        }
    }
    let title = format!("{name} {least:.4}..{most:.4} to {last_step}");
    font::write(picture, [x + MARGIN, y + 4], &title, INK);
}

fn draw_line(picture: &mut Frame, from: [f64; 2], to: [f64; 2], colour: [u8; 3]) {
    let [dx, dy] = [to[0] - from[0], to[1] - from[1]];
    let steps = dx.abs().max(dy.abs()).ceil().max(1.0) as usize;
    for i in 0..=steps {
        let t = i as f64 / steps as f64;
        let [x, y] = [from[0] + t * dx, from[1] + t * dy].map(|v| v.round().max(0.0) as usize);
        font::dot(picture, [x, y], colour);
    }
}
