//! What struck sounds are like: bands of the spectrum at their attacks and as they fade.

use gallop_core::{Audio, SAMPLE_RATE};
use realfft::RealFftPlanner;

use crate::onsets::onsets;

/// Bands, evenly spread over the logarithm of frequency.
pub(crate) const BANDS: usize = 26;
/// Edges of the lowest and the highest band, Hertz.
const RANGE: (f32, f32) = (60.0, 18_000.0);
/// Samples of a window: 21 ms.
const WINDOW: usize = 1024;
/// Where windows begin, in milliseconds from the onset: before, at the attack, and as it fades.
const MOMENTS: [f64; 5] = [-26.0, -2.0, 22.0, 60.0, 130.0];
/// Onsets that are listened to, from the first.
const MOST: usize = 8;
/// How many numbers describe a clip's sound.
pub const LENGTH: usize = BANDS * MOMENTS.len() + 2;

/// Log energies of the bands in each moment after an onset, the mean over the onsets, the level
/// taken out; then the level and how many onsets there are. All zero without sound.
pub fn timbre(audio: Option<&Audio>) -> Vec<f32> {
    let mut out = vec![0.0; LENGTH];
    let Some(audio) = audio else {
        return out;
    };
    let onsets = onsets(audio);
    if onsets.is_empty() {
        return out;
    }
    let mono = audio.mono();
    let listened = &onsets[..onsets.len().min(MOST)];
    for onset in listened {
        for (moment, after) in MOMENTS.iter().enumerate() {
            let from = ((onset + after / 1000.0) * SAMPLE_RATE as f64) as isize;
            for (band, energy) in bands(&mono, from).into_iter().enumerate() {
                out[moment * BANDS + band] += (energy + 1e-9).ln() / listened.len() as f32;
            }
        }
    }
    // Loudness says how hard, not what: levels are told from the attack's mean.
    let level = out[BANDS..2 * BANDS].iter().sum::<f32>() / BANDS as f32;
    out[..BANDS * MOMENTS.len()]
        .iter_mut()
        .for_each(|v| *v -= level);
    out[LENGTH - 2] = level;
    out[LENGTH - 1] = onsets.len() as f32 / audio.seconds().max(0.1) as f32;
    out
}

/// Mean energy in each band of the window that begins at sample `from`; outside is silence.
pub(crate) fn bands(mono: &[f32], from: isize) -> Vec<f32> {
    let fft = RealFftPlanner::<f32>::new().plan_fft_forward(WINDOW);
    let (mut input, mut output) = (fft.make_input_vec(), fft.make_output_vec());
    for (i, x) in input.iter_mut().enumerate() {
        let hann = 0.5 - 0.5 * (std::f32::consts::TAU * (i as f32 + 0.5) / WINDOW as f32).cos();
        let at = usize::try_from(from + i as isize).ok();
        *x = hann * at.and_then(|at| mono.get(at)).copied().unwrap_or(0.0);
    }
    // Lengths match by construction, the only thing that process can object to.
    let _ = fft.process(&mut input, &mut output);
    let bin = SAMPLE_RATE as f32 / WINDOW as f32;
    let edge = |band: usize| RANGE.0 * (RANGE.1 / RANGE.0).powf(band as f32 / BANDS as f32) / bin;
    (0..BANDS)
        .map(|band| {
            let first = edge(band) as usize;
            let last = (edge(band + 1) as usize).max(first + 1).min(output.len());
            let energy: f32 = output[first..last].iter().map(|c| c.norm_sqr()).sum();
            energy / (last - first) as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn struck(hz: f32, fade: f32, gain: f32) -> Vec<f32> {
        let wave: Vec<f32> = (0..SAMPLE_RATE)
            .map(|i| {
                let t = i as f32 / SAMPLE_RATE as f32 - 0.3;
                let tone = (t * hz * std::f32::consts::TAU).sin() * (-t * fade).exp();
                if t < 0.0 { 0.0 } else { gain * tone }
            })
            .collect();
        timbre(Some(&Audio {
            left: wave.clone(),
            right: wave,
        }))
    }

    #[test]
    fn pitch_and_fading_show_and_loudness_does_not() {
        let loudest = |timbre: &[f32], moment: usize| {
            (0..BANDS)
                .max_by(|&a, &b| timbre[moment * BANDS + a].total_cmp(&timbre[moment * BANDS + b]))
                .unwrap()
        };
        let (low, high) = (struck(200.0, 8.0, 0.5), struck(4000.0, 8.0, 0.5));
        assert!(loudest(&low, 1) + 8 < loudest(&high, 1));
        let short = struck(4000.0, 60.0, 0.5);
        let band = loudest(&high, 1);
        assert!(high[4 * BANDS + band] > short[4 * BANDS + band] + 4.0);
        let soft = struck(4000.0, 8.0, 0.1);
        assert!((soft[2 * BANDS + band] - high[2 * BANDS + band]).abs() < 0.7);
        assert!(timbre(None).iter().all(|&v| v == 0.0));
    }
}
