//! What families draw with: the canvas, the camera and the light of one moment, and shapes.

use super::canvas::{Area, Canvas, Rgb, add, luma, mix, scale, smooth};
use super::light::{Dir, Light, Surface, normalised};
use super::view::{Spot, View};
use crate::attributes::Look;

/// The canvas of one moment.
pub struct Painter<'a> {
    /// What is drawn on.
    pub canvas: &'a mut Canvas,
    /// The camera.
    pub view: View,
    /// The light and the look.
    pub light: Light,
    /// How much the floor mirrors.
    pub mirror: f32,
}

/// A soft shadow on the floor.
#[derive(Clone, Copy, Debug)]
pub struct Shadow {
    /// X of the thing's middle.
    pub x: f32,
    /// Z of its middle.
    pub z: f32,
    /// How high its lowest point is above the floor.
    pub height: f32,
    /// Half its extent along X and along Z.
    pub half: [f32; 2],
    /// 0 none, 1 full.
    pub strength: f32,
}

/// An ellipse in the picture, in pixels.
#[derive(Clone, Copy, Debug)]
pub struct Ellipse {
    /// Column of the middle.
    pub x: f32,
    /// Row of the middle.
    pub y: f32,
    /// Half the width.
    pub rx: f32,
    /// Half the height.
    pub ry: f32,
}

/// A limb in the picture: a round bar whose ends may differ in thickness; pixels.
#[derive(Clone, Copy, Debug)]
pub struct Limb {
    /// One end.
    pub from: [f32; 2],
    /// The other end.
    pub to: [f32; 2],
    /// Radii of both.
    pub radius: [f32; 2],
}

impl Painter<'_> {
    /// Where a point of the scene falls.
    pub fn project(&self, at: [f64; 3]) -> Spot {
        self.view.project(at)
    }

    /// Width of outlines in pixels; zero where the look has none.
    pub fn outline_width(&self) -> f32 {
        let unit = self.view.unit();
        match self.light.look {
            Look::Pencil => (unit * 0.009).max(0.8),
            Look::Neon => (unit * 0.016).max(1.0),
            Look::Flat | Look::Soft3d | Look::Pixel => 0.0,
        }
    }

    /// The colour of an outline around something of that colour.
    pub fn outline_colour(&self, albedo: Rgb) -> Rgb {
        match self.light.look {
            Look::Neon => neon(albedo),
            _ => mix([0.03, 0.03, 0.035], albedo, 0.2),
        }
    }

    /// A shadow: dark and sharp where the thing touches, wide and faint from above.
    pub fn shadow(&mut self, shadow: Shadow) {
        let light = &self.light;
        let lift = shadow.height.max(0.0);
        let [sx, sy, sz] = light.sun;
        let (x, z) = (shadow.x - sx / sy * lift, shadow.z - sz / sy * lift);
        // Cast by the sun: the penumbra grows with height.
        let soft = (0.25 + 1.1 * lift).min(1.6);
        let level = shadow.strength * (0.62 - 0.30 * lift).max(0.12);
        self.blot([x, z], shadow.half, soft, level);
        // And the open sky kept off where it is close.
        let close = (1.0 - lift / (1.6 * shadow.half[0]).max(1e-3)).max(0.0);
        if close > 0.0 {
            let near = [shadow.half[0] * 0.92, shadow.half[1] * 0.92];
            self.blot(
                [shadow.x, shadow.z],
                near,
                1.1,
                0.55 * close * close * shadow.strength,
            );
        }
    }

    /// Darkens an ellipse on the floor; `soft` is its blur as a fraction of its extent.
    fn blot(&mut self, [x, z]: [f32; 2], [half_x, half_z]: [f32; 2], soft: f32, level: f32) {
        let level = match self.light.look {
            Look::Neon => level * 0.8,
            Look::Flat => level * 0.55,
            _ => level,
        };
        let soft = if self.light.look == Look::Flat {
            0.06
        } else {
            soft
        };
        let reach = 1.0 + 0.5 * soft;
        let view = self.view;
        let near = (z - reach * half_z).max(view.z + 0.2);
        let (top, bottom) = (view.floor_row(z + reach * half_z), view.floor_row(near));
        let y0 = top.floor().clamp(0.0, view.height) as usize;
        let y1 = bottom.ceil().clamp(0.0, view.height) as usize;
        let keep = mix(self.light.sky, [0.25, 0.25, 0.3], 0.5);
        let tone = scale(keep, 0.35 / luma(keep).max(0.05));
        for row in y0..y1 {
            let below = row as f32 + 0.5 - view.horizon;
            if below < 0.25 {
                continue;
            }
            let depth = view.y * view.focal / below;
            let across = (view.z + depth - z) / half_z;
            let reach_x = (reach * reach - across * across).max(0.0).sqrt() * half_x;
            let pixels = view.focal / depth;
            let middle = view.centre + (x - view.x) * pixels;
            let area = self.canvas.area(middle, 0.0, reach_x * pixels, 1.0);
            for column in area.x0..area.x1 {
                let along = (column as f32 + 0.5 - middle) / (pixels * half_x);
                let away = (along * along + across * across).sqrt();
                let cover = 1.0 - smooth(1.0 - 0.5 * soft, reach, away);
                let dark = level * cover;
                let by = mix([1.0; 3], tone, dark * 0.75);
                self.canvas
                    .darken(column, row, scale(by, 1.0 - 0.35 * dark));
            }
        }
    }

    /// Lays `shade(x, y, normal)` over an ellipse as over a ball; with outline if the look has one.
    ///
    /// The normal has length one: X right, Y up, Z away from the camera (so it is negative).
    #[inline]
    pub fn ball(&mut self, e: Ellipse, albedo: Rgb, shade: impl Fn(&Light, Dir) -> Rgb) {
        let width = self.outline_width();
        let ink = self.outline_colour(albedo);
        let light = self.light;
        let area = self
            .canvas
            .area(e.x, e.y, e.rx + width + 1.0, e.ry + width + 1.0);
        let small = e.rx.min(e.ry).max(0.1);
        let (inverse_x, inverse_y) = (1.0 / e.rx.max(0.1), 1.0 / e.ry.max(0.1));
        self.canvas.paint(area, |x, y| {
            let (nx, ny) = ((x - e.x) * inverse_x, (e.y - y) * inverse_y);
            let r2 = nx * nx + ny * ny;
            let distance = (r2.sqrt() - 1.0) * small;
            if distance > 0.5 + 0.5 * width {
                return None;
            }
            let cover = (0.5 - distance).clamp(0.0, 1.0);
            let line = line_cover(distance, width);
            let k = if r2 > 1.0 { 1.0 / r2.sqrt() } else { 1.0 };
            let nz = -(1.0 - r2).max(0.0).sqrt();
            let body = if cover > 0.0 {
                shade(&light, [nx * k, ny * k, nz])
            } else {
                ink
            };
            Some((mix(body, ink, line), cover.max(line)))
        });
    }

    /// A plain ball of one surface.
    pub fn ellipsoid(&mut self, e: Ellipse, surface: Surface) {
        self.ball(e, surface.albedo, |light, normal| {
            light.shade(surface, normal)
        });
    }

    /// A round limb.
    pub fn limb(&mut self, limb: Limb, surface: Surface) {
        let light = self.light;
        let width = self.outline_width();
        let ink = self.outline_colour(surface.albedo);
        let ([ax, ay], [bx, by], [ra, rb]) = (limb.from, limb.to, limb.radius);
        let most = ra.max(rb) + width + 1.0;
        let (cx, cy) = (0.5 * (ax + bx), 0.5 * (ay + by));
        let area = self.canvas.area(
            cx,
            cy,
            0.5 * (ax - bx).abs() + most,
            0.5 * (ay - by).abs() + most,
        );
        let (dx, dy) = (bx - ax, by - ay);
        let inverse = 1.0 / (dx * dx + dy * dy).max(1e-6);
        self.canvas.paint(area, |x, y| {
            let along = (((x - ax) * dx + (y - ay) * dy) * inverse).clamp(0.0, 1.0);
            let (px, py) = (x - ax - along * dx, y - ay - along * dy);
            let radius = ra + (rb - ra) * along;
            let away = (px * px + py * py).sqrt();
            let distance = away - radius;
            if distance > 0.5 + 0.5 * width {
                return None;
            }
            let cover = (0.5 - distance).clamp(0.0, 1.0);
            let line = line_cover(distance, width);
            let (nx, ny) = (px / radius.max(0.3), -py / radius.max(0.3));
            let nz = -(1.0 - nx * nx - ny * ny).max(0.0).sqrt();
            let body = light.shade(surface, normalised([nx, ny, nz - 0.02]));
            Some((mix(body, ink, line), cover.max(line)))
        });
    }

    /// A polygon (closed by itself, even-odd) filled by `fill(light, x, y)`.
    pub fn polygon(&mut self, points: &[[f32; 2]], fill: impl Fn(&Light, f32, f32) -> Rgb) {
        let Some(area) = self.bounds(points) else {
            return;
        };
        let light = self.light;
        let columns = area.x1 - area.x0;
        let mut cover = vec![0.0f32; columns];
        for y in area.y0..area.y1 {
            cover.fill(0.0);
            row_cover(points, y as f32, area.x0 as f32, &mut cover);
            for (i, &c) in cover.iter().enumerate() {
                if c > 0.004 {
                    let x = area.x0 + i;
                    let colour = fill(&light, x as f32 + 0.5, y as f32 + 0.5);
                    self.canvas.blend(x, y, colour, c.min(1.0));
                }
            }
        }
    }

    /// A polygon of one surface, facing `normal`, outlined where the look has outlines.
    pub fn panel(&mut self, points: &[[f32; 2]], surface: Surface, normal: Dir) {
        let colour = self.light.shade(surface, normalised(normal));
        self.polygon(points, |_, _, _| colour);
        self.outline(points, surface.albedo);
    }

    /// The outline of a polygon, where the look has outlines.
    pub fn outline(&mut self, points: &[[f32; 2]], albedo: Rgb) {
        let width = self.outline_width();
        if width <= 0.0 {
            return;
        }
        let ink = self.outline_colour(albedo);
        for i in 0..points.len() {
            self.line(
                [points[i], points[(i + 1) % points.len()]],
                0.5 * width,
                ink,
            );
        }
    }

    /// A straight line of `half` pixels half width.
    pub fn line(&mut self, [a, b]: [[f32; 2]; 2], half: f32, colour: Rgb) {
        let most = half + 1.0;
        let (cx, cy) = (0.5 * (a[0] + b[0]), 0.5 * (a[1] + b[1]));
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        let area = self
            .canvas
            .area(cx, cy, 0.5 * dx.abs() + most, 0.5 * dy.abs() + most);
        let inverse = 1.0 / (dx * dx + dy * dy).max(1e-6);
        // Thinner than a pixel: fainter instead.
        let (half, fade) = (half.max(0.5), (half * 2.0).min(1.0));
        self.canvas.paint(area, |x, y| {
            let along = (((x - a[0]) * dx + (y - a[1]) * dy) * inverse).clamp(0.0, 1.0);
            let (px, py) = (x - a[0] - along * dx, y - a[1] - along * dy);
            let cover = (0.5 + half - (px * px + py * py).sqrt()).clamp(0.0, 1.0);
            (cover > 0.0).then_some((colour, cover * fade))
        });
    }

    /// A flat disc or ellipse of one colour, unlit.
    pub fn disc(&mut self, e: Ellipse, colour: Rgb, opacity: f32) {
        let area = self.canvas.area(e.x, e.y, e.rx + 1.0, e.ry + 1.0);
        let small = e.rx.min(e.ry).max(0.1);
        self.canvas.paint(area, |x, y| {
            let (nx, ny) = ((x - e.x) / e.rx.max(0.1), (y - e.y) / e.ry.max(0.1));
            let cover = (0.5 - ((nx * nx + ny * ny).sqrt() - 1.0) * small).clamp(0.0, 1.0);
            (cover > 0.0).then_some((colour, cover * opacity))
        });
    }

    fn bounds(&self, points: &[[f32; 2]]) -> Option<Area> {
        let first = points.first()?;
        let (mut low, mut high) = (*first, *first);
        for p in points {
            for axis in 0..2 {
                low[axis] = low[axis].min(p[axis]);
                high[axis] = high[axis].max(p[axis]);
            }
        }
        let (cx, cy) = (0.5 * (low[0] + high[0]), 0.5 * (low[1] + high[1]));
        Some(self.canvas.area(
            cx,
            cy,
            0.5 * (high[0] - low[0]) + 1.0,
            0.5 * (high[1] - low[1]) + 1.0,
        ))
    }
}

/// A bright, saturated version of a colour, for lines of light.
pub fn neon(albedo: Rgb) -> Rgb {
    let most = albedo[0].max(albedo[1]).max(albedo[2]).max(0.02);
    let full = scale(albedo, 1.0 / most);
    // Nearly black things glow faintly white-blue: a light cannot be black.
    let strength = smooth(0.01, 0.12, most);
    let colour = mix([0.35, 0.38, 0.5], scale(full, 1.25), strength);
    add(colour, [0.03, 0.03, 0.05])
}

/// How much a line of `width` pixels centred at distance zero covers at `distance`.
#[inline(always)]
fn line_cover(distance: f32, width: f32) -> f32 {
    if width <= 0.0 {
        return 0.0;
    }
    (0.5 + 0.5 * width - distance.abs()).clamp(0.0, 1.0)
}

/// Adds the coverage of one pixel row of a polygon: four scan lines, exact along the row.
fn row_cover(points: &[[f32; 2]], y: f32, x0: f32, cover: &mut [f32]) {
    const LINES: usize = 4;
    let mut crossings: Vec<f32> = Vec::with_capacity(8);
    for line in 0..LINES {
        let at = y + (line as f32 + 0.5) / LINES as f32;
        crossings.clear();
        for i in 0..points.len() {
            let (a, b) = (points[i], points[(i + 1) % points.len()]);
            if (a[1] <= at) != (b[1] <= at) {
                crossings.push(a[0] + (at - a[1]) / (b[1] - a[1]) * (b[0] - a[0]) - x0);
            }
        }
        crossings.sort_by(f32::total_cmp);
        for pair in crossings.chunks_exact(2) {
            add_span(cover, pair[0], pair[1], 1.0 / LINES as f32);
        }
    }
}

fn add_span(cover: &mut [f32], from: f32, to: f32, weight: f32) {
    let (from, to) = (from.max(0.0), to.min(cover.len() as f32));
    if to <= from {
        return;
    }
    let (first, last) = (from as usize, (to as usize).min(cover.len() - 1));
    if first == last {
        cover[first] += (to - from) * weight;
        return;
    }
    cover[first] += (first as f32 + 1.0 - from) * weight;
    for c in &mut cover[first + 1..last] {
        *c += weight;
    }
    cover[last] += (to - last as f32) * weight;
}

/// A closed smooth curve through `points` (Catmull-Rom), `steps` points between each pair.
pub fn smooth_outline(points: &[[f32; 2]], steps: usize) -> Vec<[f32; 2]> {
    let n = points.len();
    let mut out = Vec::with_capacity(n * steps);
    for i in 0..n {
        let [p0, p1, p2, p3] = [n - 1, 0, 1, 2].map(|k| points[(i + k) % n]);
        for s in 0..steps {
            let t = s as f32 / steps as f32;
            out.push(std::array::from_fn(|axis| {
                let (a, b, c, d) = (p0[axis], p1[axis], p2[axis], p3[axis]);
                0.5 * (2.0 * b
                    + (c - a) * t
                    + (2.0 * a - 5.0 * b + 4.0 * c - d) * t * t
                    + (3.0 * b - a - 3.0 * c + d) * t * t * t)
            }));
        }
    }
    out
}
