//! When and what is struck, and how a mallet moves between strokes.

use rand::RngExt;

use crate::WorldRng;
use crate::attributes::{Attributes, pick};

/// One stroke.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stroke {
    /// Seconds.
    pub time: f64,
    /// The instrument, or the bar of a xylophone.
    pub target: usize,
    /// 0 to 1.
    pub strength: f32,
}

/// Rhythms and the seconds between their strokes.
const RHYTHMS: &[(&str, f64)] = &[("slow", 0.95), ("steady", 0.6), ("fast", 0.34)];
/// Seconds before the first stroke, at the least, so that the swing is seen.
const LEAD: f64 = 0.25;
/// Seconds that a mallet takes to fall.
const FALL: f64 = 0.17;
/// Seconds that it takes to rise.
const RISE: f64 = 0.20;

/// Seconds between strokes of a rhythm.
pub fn period(rhythm: &str) -> f64 {
    RHYTHMS
        .iter()
        .find(|(name, _)| *name == rhythm)
        .map_or(0.6, |(_, seconds)| *seconds)
}

/// Draws the rhythm, the number of strokes and the melody.
pub fn sample(a: &mut Attributes, rng: &mut WorldRng, seconds: f64) {
    let rhythm = pick(rng, RHYTHMS).0;
    let fit = ((seconds - LEAD - 0.2) / period(rhythm)).floor() as i64 + 1;
    let most = fit.clamp(1, 6);
    // Rather more than fewer: a clip should not end in a long silence.
    let strokes = rng.random_range((most + 1) / 2..=most);
    a.action = Some(rhythm.to_owned());
    a.details.insert("strokes".to_owned(), strokes.to_string());
    if a.subject == "xylophone" && strokes > 1 {
        let melody = pick(rng, &["up", "down", "mixed"]);
        a.details.insert("melody".to_owned(), melody.to_owned());
    }
}

/// The strokes of a clip of `seconds` on `targets` things.
pub fn plan(a: &Attributes, (seconds, targets): (f64, usize), rng: &mut WorldRng) -> Vec<Stroke> {
    let count: usize = a
        .details
        .get("strokes")
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    let period = period(a.action.as_deref().unwrap_or("steady"));
    let span = period * (count.max(1) - 1) as f64;
    let latest = (seconds - 0.2 - span).max(LEAD + 0.01);
    // A clip too short for a whole stroke shows any moment of one.
    let first = if seconds < 0.6 {
        rng.random_range(-0.25..0.35)
    } else {
        rng.random_range(LEAD..latest.clamp(LEAD + 0.02, LEAD + 0.6))
    };
    let melody = melody(a, (count, targets), rng);
    (0..count)
        .map(|i| Stroke {
            time: first + period * i as f64 * 0.999 + rng.random_range(-0.008..0.008),
            target: melody[i],
            strength: rng.random_range(0.65..1.0),
        })
        .collect()
}

/// What each stroke hits.
fn melody(a: &Attributes, (count, targets): (usize, usize), rng: &mut WorldRng) -> Vec<usize> {
    let direction = a.details.get("melody").map(String::as_str);
    match direction {
        Some("up" | "down") => {
            let start = rng.random_range(0..=targets.saturating_sub(count));
            let mut notes: Vec<usize> = (start..start + count).map(|n| n % targets).collect();
            if direction == Some("down") {
                notes.reverse();
            }
            notes
        }
        Some(_) => {
            let mut note = rng.random_range(0..targets);
            (0..count)
                .map(|_| {
                    // Never the same bar twice running.
                    note = (note + rng.random_range(1..targets.max(2))) % targets;
                    note
                })
                .collect()
        }
        // Several instruments take turns, from either side.
        None => {
            let start = rng.random_range(0..targets);
            (0..count).map(|i| (start + i) % targets).collect()
        }
    }
}

/// The height of a mallet, 0 at a stroke and 1 when raised, by the time since the last stroke
/// and until the next. It falls ever faster and springs back at once.
pub fn lift(since: Option<f64>, until: Option<f64>) -> f64 {
    let quarter = |t: f64, length: f64| (0.5 * std::f64::consts::PI * (t / length).min(1.0)).sin();
    let risen = since.map_or(0.85, |t| quarter(t, RISE));
    let high = until.map_or(0.85, |t| quarter(t, FALL));
    risen.min(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mallet_touches_at_the_stroke_only() {
        assert_eq!(lift(Some(0.0), Some(0.5)), 0.0);
        assert!(lift(Some(0.03), None) > 0.2);
        assert!(lift(None, Some(0.03)) > 0.2);
        assert!(lift(None, Some(0.001)) < 0.02);
    }
}
