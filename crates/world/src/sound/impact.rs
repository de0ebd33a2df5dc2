//! What falls, and what it falls on.

use super::modal::{Mode, ring};
use super::noise::{Burst, Noise};

/// Hertz, seconds to -60 dB, gain: one mode of a table.
type Row = (f32, f32, f32);

/// How a thing sounds when it is hit.
struct Body {
    modes: &'static [Row],
    /// Hertz above which even the hardest hit moves little.
    bright: f32,
    /// How much it makes the floor sound.
    weight: f32,
    /// The slap of its surface: lower edge, upper edge, decay, gain.
    slap: [f32; 4],
}

/// How a floor answers.
struct Floor {
    modes: &'static [Row],
    /// How much of the body's ringing it leaves.
    leaves: f32,
    /// How short the contact is, 1 for stone.
    hard: f32,
    /// The noise it makes itself: lower edge, upper edge, decay, gain.
    rustle: [f32; 4],
}

const BASKETBALL: Body = Body {
    modes: &[
        (88.0, 0.16, 0.55),
        (176.0, 0.12, 0.35),
        (262.0, 0.10, 0.18),
        (430.0, 0.09, 0.16),
        (765.0, 0.07, 0.11),
        (1120.0, 0.06, 0.07),
        (1690.0, 0.04, 0.04),
    ],
    bright: 3000.0,
    weight: 1.0,
    slap: [250.0, 2600.0, 0.035, 0.30],
};
const RUBBER: Body = Body {
    modes: &[
        (265.0, 0.10, 0.45),
        (540.0, 0.08, 0.35),
        (910.0, 0.06, 0.18),
        (1480.0, 0.04, 0.09),
    ],
    bright: 3800.0,
    weight: 0.55,
    slap: [500.0, 3200.0, 0.02, 0.22],
};
const STEEL: Body = Body {
    modes: &[
        (2350.0, 0.45, 0.22),
        (3810.0, 0.38, 0.20),
        (5240.0, 0.30, 0.16),
        (6930.0, 0.24, 0.12),
        (8650.0, 0.18, 0.08),
        (10400.0, 0.12, 0.05),
    ],
    bright: 14000.0,
    weight: 1.1,
    slap: [900.0, 9000.0, 0.008, 0.35],
};
const GLASS: Body = Body {
    modes: &[
        (5150.0, 0.090, 0.30),
        (7480.0, 0.075, 0.24),
        (9620.0, 0.060, 0.18),
        (12900.0, 0.040, 0.10),
    ],
    bright: 20000.0,
    weight: 0.22,
    slap: [2500.0, 14000.0, 0.004, 0.30],
};

const WOOD: Floor = Floor {
    modes: &[
        (74.0, 0.16, 0.30),
        (128.0, 0.14, 0.28),
        (212.0, 0.11, 0.22),
        (345.0, 0.08, 0.16),
        (590.0, 0.06, 0.10),
        (980.0, 0.035, 0.06),
    ],
    leaves: 0.8,
    hard: 0.8,
    rustle: [200.0, 1800.0, 0.03, 0.08],
};
const STONE: Floor = Floor {
    modes: &[
        (640.0, 0.020, 0.12),
        (1480.0, 0.016, 0.12),
        (2750.0, 0.012, 0.10),
        (4300.0, 0.009, 0.07),
    ],
    leaves: 1.0,
    hard: 1.0,
    rustle: [800.0, 6000.0, 0.012, 0.10],
};
const SAND: Floor = Floor {
    modes: &[(62.0, 0.08, 0.30)],
    leaves: 0.05,
    hard: 0.12,
    rustle: [300.0, 3200.0, 0.14, 0.40],
};
const TRAMPOLINE: Floor = Floor {
    modes: &[
        (52.0, 0.55, 0.50),
        (81.0, 0.42, 0.32),
        (122.0, 0.30, 0.20),
        (187.0, 0.22, 0.10),
        (1430.0, 0.30, 0.020),
        (2210.0, 0.26, 0.018),
        (3170.0, 0.20, 0.012),
    ],
    leaves: 0.12,
    hard: 0.2,
    rustle: [150.0, 1100.0, 0.07, 0.16],
};

fn body(key: &str) -> &'static Body {
    match key {
        "rubber_ball" => &RUBBER,
        "steel_ball" => &STEEL,
        "marble" => &GLASS,
        _ => &BASKETBALL,
    }
}

fn floor(key: &str) -> &'static Floor {
    match key {
        "stone" | "asphalt" => &STONE,
        "sand" | "snow" | "grass" => &SAND,
        "trampoline" => &TRAMPOLINE,
        _ => &WOOD,
    }
}

/// Adds the sound of `subject` falling on `ground`; `size` 1 is the usual size of such a thing.
pub(super) fn impact(
    out: &mut [f32],
    (subject, ground): (&str, &str),
    strength: f32,
    size: f32,
    noise: &mut Noise,
) {
    let (body, floor) = (body(subject), floor(ground));
    let level = strength.clamp(0.0, 1.0).powf(0.9);
    let pitch = size.clamp(0.3, 3.0).powf(-0.6);
    // A faster contact is a shorter one, and a shorter one shakes higher modes.
    let cutoff = body.bright * floor.hard * (0.35 + 0.65 * strength);
    let soften = |hz: f32| (-(hz / cutoff).powi(2)).exp().max(0.03);
    let mut modes = Vec::with_capacity(body.modes.len() + floor.modes.len());
    for &(hz, decay, gain) in body.modes {
        modes.push(Mode {
            hz: hz * pitch,
            decay: decay * (0.3 + 0.7 * floor.leaves),
            gain: gain * floor.leaves * level * soften(hz) * noise.about_one(0.2),
        });
    }
    for &(hz, decay, gain) in floor.modes {
        let drive = body.weight * size.clamp(0.5, 2.0).sqrt();
        modes.push(Mode {
            hz,
            decay,
            gain: gain * drive * level * noise.about_one(0.2),
        });
    }
    ring(&modes, None, out);
    let edge = 0.4 + 0.6 * strength;
    burst(out, body.slap, level * floor.hard.sqrt(), edge, noise);
    burst(out, floor.rustle, level * body.weight.sqrt(), edge, noise);
}

/// A burst that starts at once; `edge` moves its upper end.
fn burst(out: &mut [f32], shape: [f32; 4], level: f32, edge: f32, noise: &mut Noise) {
    let [low, high, decay, gain] = shape;
    Burst {
        low,
        high: (high * edge).max(1.5 * low),
        attack: 0.0003,
        decay: 2.5 * decay,
        gain: gain * level,
    }
    .add(out, noise);
}

/// How a ground answers a hoof.
struct Ground {
    modes: &'static [Row],
    rustle: [f32; 4],
    click: [f32; 4],
}

const PAVED: Ground = Ground {
    modes: &[
        (690.0, 0.050, 0.30),
        (1120.0, 0.045, 0.40),
        (1730.0, 0.032, 0.26),
        (2480.0, 0.022, 0.14),
        (110.0, 0.06, 0.18),
    ],
    rustle: [600.0, 5000.0, 0.012, 0.16],
    click: [1500.0, 9000.0, 0.005, 0.25],
};
const PLANKS: Ground = Ground {
    modes: &[
        (105.0, 0.16, 0.42),
        (178.0, 0.14, 0.40),
        (305.0, 0.10, 0.28),
        (520.0, 0.06, 0.16),
        (890.0, 0.04, 0.10),
    ],
    rustle: [200.0, 2500.0, 0.03, 0.12],
    click: [900.0, 5000.0, 0.006, 0.16],
};
const LOOSE: Ground = Ground {
    modes: &[(68.0, 0.09, 0.40), (115.0, 0.07, 0.18)],
    rustle: [250.0, 2400.0, 0.09, 0.32],
    click: [300.0, 1500.0, 0.02, 0.08],
};
const SNOW: Ground = Ground {
    modes: &[(74.0, 0.08, 0.30)],
    rustle: [1200.0, 7000.0, 0.10, 0.34],
    click: [2000.0, 9000.0, 0.02, 0.12],
};
const WATER: Ground = Ground {
    modes: &[(90.0, 0.07, 0.2), (430.0, 0.09, 0.08), (620.0, 0.07, 0.07)],
    rustle: [500.0, 6500.0, 0.22, 0.42],
    click: [700.0, 4000.0, 0.02, 0.15],
};
const EARTH: Ground = Ground {
    modes: &[(72.0, 0.12, 0.55), (118.0, 0.10, 0.32), (210.0, 0.06, 0.14)],
    rustle: [180.0, 1500.0, 0.06, 0.24],
    click: [500.0, 2600.0, 0.010, 0.10],
};

fn ground(key: &str) -> &'static Ground {
    match key {
        "stone" | "asphalt" | "road" => &PAVED,
        "wood" => &PLANKS,
        "sand" => &LOOSE,
        "snow" => &SNOW,
        "water" => &WATER,
        _ => &EARTH,
    }
}

/// Adds a hoof set down on the ground of that name (`grass`, `dirt`, `stone`, `sand`, ...).
pub(super) fn hoof(out: &mut [f32], key: &str, strength: f32, noise: &mut Noise) {
    let ground = ground(key);
    let level = strength.clamp(0.0, 1.0).powf(0.9);
    let pitch = noise.about_one(0.06);
    let modes: Vec<Mode> = ground
        .modes
        .iter()
        .map(|&(hz, decay, gain)| Mode {
            hz: hz * pitch,
            decay: 1.6 * decay,
            gain: gain * level * noise.about_one(0.25),
        })
        .collect();
    ring(&modes, None, out);
    let edge = 0.6 + 0.4 * strength;
    burst(out, ground.click, level, edge, noise);
    burst(out, ground.rustle, level, edge, noise);
}
