//! The road: verge, kerb, lane marks.

use crate::attributes::Look;
use crate::render::{Backdrop, Floor, Light, Painter, Rgb, Surface, grain_at, light_of, scale};

/// The verge behind the road, the kerb, and the marks on the lanes.
pub fn road(painter: &mut Painter, backdrop: Backdrop) {
    let half = 9.0;
    let verge = match backdrop {
        Backdrop::City => light_of([150, 148, 146]),
        _ => Floor::Grass.colour(),
    };
    let far = (f64::from(backdrop.depth()) - 0.01).min(60.0);
    let strip = strip(painter, half, (1.35, far));
    let view = painter.view;
    painter.polygon(&strip, |light, x, y| {
        let depth = view.y * view.focal / (y - view.horizon).max(0.5);
        let (gx, gz) = (view.x + (x - view.centre) * depth / view.focal, depth);
        let rough = grain_at(gx * 90.0 + 4000.0, gz * 60.0 + 4000.0) - 0.5;
        let amount = match light.look {
            Look::Soft3d | Look::Pixel => 1.1,
            Look::Pencil => 0.5,
            _ => 0.0,
        };
        let lit = on_ground(
            light,
            scale(verge, 1.0 + amount * rough / (1.0 + 0.12 * depth)),
        );
        light.through_air(lit, depth)
    });
    let kerb = self::strip(painter, half, (1.30, 1.40));
    let stone = light_of([186, 184, 178]);
    painter.polygon(&kerb, |light, _, _| on_ground(light, stone));
    let white = light_of([226, 224, 214]);
    for dash in -9..=9 {
        // Marks stay where they are while the camera moves.
        let (x, z) = (f64::from(dash) * 0.9, 0.62);
        let corners = [(x, z), (x + 0.45, z), (x + 0.45, z + 0.055), (x, z + 0.055)];
        let points = corners.map(|(x, z)| {
            let spot = painter.project([x, 0.0, z]);
            [spot.x, spot.y]
        });
        painter.polygon(&points, |light, _, _| on_ground(light, scale(white, 0.85)));
    }
}

/// The light of flat ground.
fn on_ground(light: &Light, albedo: Rgb) -> Rgb {
    let c = light.shade(Surface::matt(albedo), [0.0, 1.0, 0.0]);
    if light.look == Look::Neon {
        scale(c, 0.4)
    } else {
        c
    }
}

/// A strip of floor between two depths, wider than any picture.
fn strip(painter: &Painter, half: f64, (near, far): (f64, f64)) -> Vec<[f32; 2]> {
    let x = f64::from(painter.view.x);
    let wide = half * (1.0 + far);
    [(-half, near), (half, near), (wide, far), (-wide, far)]
        .into_iter()
        .map(|(dx, z)| {
            let spot = painter.project([x + dx, 0.0, z]);
            [spot.x, spot.y]
        })
        .collect()
}
