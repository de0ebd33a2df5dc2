//! Whether a mouth moves with the voice.

use gallop_core::{Audio, FPS};
use serde::{Deserialize, Serialize};

use crate::motion::Moving;
use crate::onsets::envelope;
use crate::plane::luma;

/// Farthest lag tried, in frames.
const FARTHEST: i64 = 6;
/// Share of the picture's pixels that count as the mouth: those that change most.
const MOUTH: f32 = 0.03;

/// How the mouth goes with the voice.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lips {
    /// Pearson correlation of mouth opening and loudness at the best lag.
    pub correlation: f64,
    /// How much the sound comes after the picture at that lag, in milliseconds.
    pub lag_ms: f64,
}

/// Correlates the first principal component of what changes most in the picture with the voice's
/// loudness. `None` for clips under half a second or without any change.
pub fn lips(moving: &Moving, audio: &Audio) -> Option<Lips> {
    let frames = moving.rgb.len();
    if frames < FPS / 2 {
        return None;
    }
    let mouth = standard(&opening(moving)?)?;
    let voice = standard(&envelope(audio, frames))?;
    (-FARTHEST..=FARTHEST)
        .map(|lag| {
            let pairs: Vec<(f64, f64)> = (0..frames as i64)
                .filter(|t| (0..frames as i64).contains(&(t + lag)))
                .map(|t| (mouth[t as usize], voice[(t + lag) as usize]))
                .collect();
            // The component's sign means nothing: a mouth may be darker or brighter than its skin.
            let correlation = pearson(&pairs).abs();
            Lips {
                correlation,
                lag_ms: lag as f64 * 1000.0 / FPS as f64,
            }
        })
        .max_by(|a, b| a.correlation.total_cmp(&b.correlation))
}

/// The first principal component over time of the pixels that vary most.
fn opening(moving: &Moving) -> Option<Vec<f32>> {
    let grey: Vec<Vec<f32>> = moving.rgb.iter().map(|rgb| luma(rgb).values).collect();
    let (frames, pixels) = (grey.len(), grey[0].len());
    let mean: Vec<f32> = (0..pixels)
        .map(|i| grey.iter().map(|g| g[i]).sum::<f32>() / frames as f32)
        .collect();
    let variance: Vec<f32> = (0..pixels)
        .map(|i| grey.iter().map(|g| (g[i] - mean[i]).powi(2)).sum::<f32>())
        .collect();
    let mut order: Vec<usize> = (0..pixels).collect();
    order.sort_by(|&a, &b| variance[b].total_cmp(&variance[a]));
    order.truncate(((pixels as f32 * MOUTH) as usize).max(4));
    if variance[order[0]] < 1e-4 {
        return None;
    }
    let centred: Vec<Vec<f32>> = grey
        .iter()
        .map(|g| order.iter().map(|&i| g[i] - mean[i]).collect())
        .collect();
    // Power iteration on the frames' Gram matrix, from the loudest pixel's own course.
    let mut component: Vec<f32> = centred.iter().map(|row| row[0]).collect();
    for _ in 0..30 {
        let mut weights = vec![0.0f32; order.len()];
        for (row, c) in centred.iter().zip(&component) {
            weights.iter_mut().zip(row).for_each(|(w, v)| *w += v * c);
        }
        component = centred
            .iter()
            .map(|row| row.iter().zip(&weights).map(|(v, w)| v * w).sum())
            .collect();
        let norm = component
            .iter()
            .map(|c| c * c)
            .sum::<f32>()
            .sqrt()
            .max(1e-12);
        component.iter_mut().for_each(|c| *c /= norm);
    }
    Some(component)
}

fn standard(values: &[f32]) -> Option<Vec<f64>> {
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = values
        .iter()
        .map(|&v| (f64::from(v) - mean).powi(2))
        .sum::<f64>()
        / n;
    (variance > 1e-14).then(|| {
        values
            .iter()
            .map(|&v| (f64::from(v) - mean) / variance.sqrt())
            .collect()
    })
}

fn pearson(pairs: &[(f64, f64)]) -> f64 {
    let n = pairs.len() as f64;
    let (mx, my) = pairs
        .iter()
        .fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
    let (mut xx, mut yy, mut xy) = (1e-12, 1e-12, 0.0);
    for (x, y) in pairs {
        xx += (x - mx).powi(2);
        yy += (y - my).powi(2);
        xy += (x - mx) * (y - my);
    }
    xy / (xx * yy).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gallop_core::{Clip, Frame, PixelSize, SAMPLES_PER_FRAME};

    /// A dark mouth that opens as `open` says, and a voice `late` frames after it.
    fn talking(open: impl Fn(f32) -> f32, late: usize) -> Clip {
        let size = PixelSize::new(112, 64);
        let n = 48;
        let frames = (0..n)
            .map(|f| {
                let mut frame = Frame::black(size);
                frame.rgb.fill(180);
                let half = (open(f as f32) * 10.0) as usize;
                for y in 40 - half.min(10)..40 + half.min(10) {
                    for x in 45..65 {
                        frame.rgb[(y * size.width + x) * 3..][..3].fill(20);
                    }
                }
                frame
            })
            .collect();
        let wave: Vec<f32> = (0..n * SAMPLES_PER_FRAME)
            .map(|i| {
                let t = i as f32 / SAMPLES_PER_FRAME as f32 - late as f32;
                open(t.max(0.0)) * (i as f32 * 0.05).sin()
            })
            .collect();
        let audio = Some(Audio {
            left: wave.clone(),
            right: wave,
        });
        Clip { frames, audio }
    }

    #[test]
    fn the_lag_of_the_voice_is_found() {
        let open = |t: f32| (0.5 + 0.3 * (t * 0.55).sin() + 0.2 * (t * 1.3).sin()).clamp(0.0, 1.0);
        for late in [0, 3] {
            let clip = talking(open, late);
            let found = lips(&Moving::new(&clip), clip.audio.as_ref().unwrap()).unwrap();
            assert!(found.correlation > 0.9, "{found:?}");
            assert!(
                (found.lag_ms - late as f64 * 1000.0 / 24.0).abs() < 45.0,
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_still_face_says_nothing() {
        let clip = talking(|_| 0.5, 0);
        assert!(lips(&Moving::new(&clip), clip.audio.as_ref().unwrap()).is_none());
    }
}
