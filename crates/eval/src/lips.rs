//! Whether a mouth moves with the voice.
//!
//! Two small networks, taught by the world's truth, tell how far a mouth is open: one from the
//! pixels about the mouth of the head that was found, one from the sound. What is left of both
//! when their slow course is taken out is correlated: that a mouth moves while somebody speaks and
//! rests before and after says little, and any voice would go with it.

use gallop_core::{Audio, Clip, FPS, Frame, SAMPLE_RATE};
use realfft::RealFftPlanner;
use serde::{Deserialize, Serialize};

use crate::classifier::Scale;
use crate::net::{Adam, Layer, Map, Net, Noise};
use crate::tracks::{Path, Spot};

/// Farthest lag tried, in frames.
const FARTHEST: i64 = 6;
/// Frames before and after whose mean is the slow course: half a second in all.
const SLOW: usize = 6;
/// Shifts of the voice by fewer frames say nothing of chance: what is slow is still the same.
const APART: usize = 8;
/// Where the mouth's middle is below the head's, and half the square about it, in halves of the
/// head's height.
const MOUTH: (f32, f32) = (0.60, 0.42);
/// Side of that square, pixels.
const SIDE: usize = 12;
/// Frames before and after over which the head's place is averaged.
const STEADY: usize = 2;
/// Bands of the voice, even over the logarithm of frequency, and their lowest and highest edge in
/// Hertz.
const BANDS: usize = 16;
const RANGE: (f32, f32) = (80.0, 8000.0);
/// Samples of a window of the voice: 43 ms.
const WINDOW: usize = 2048;
/// Frames before and after whose sound tells of a frame's mouth.
const AROUND: usize = 2;
/// Numbers between what is seen or heard and the opening.
const HIDDEN: usize = 24;
/// Openings are taught in such parts of half the head's height: about 1 for a mouth wide open.
const OPEN: f32 = 0.25;

/// The network that looks, and the one that listens.
pub const LAYERS: [[Layer; 2]; 2] = [
    [
        Layer::conv(3 * SIDE * SIDE, HIDDEN, 1),
        Layer::conv(HIDDEN, 1, 1).linear(),
    ],
    [
        Layer::conv(BANDS * (2 * AROUND + 1), HIDDEN, 1),
        Layer::conv(HIDDEN, 1, 1).linear(),
    ],
];

/// How the mouth goes with the voice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lips {
    /// Pearson correlation of how far the mouth is seen open with how far it is heard open, at the
    /// same moment, slow course taken out. 0 where no mouth is seen to move.
    pub correlation: f64,
    /// The same with the voice shifted in time: what chance gives.
    #[serde(default)]
    pub chance: f64,
    /// How much the sound comes after the picture where they correlate best, in milliseconds.
    pub lag_ms: f64,
}

/// What is seen of a mouth and heard of a voice, a frame each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Talk {
    /// The square about the mouth: `3 x SIDE x SIDE` bytes.
    pub mouth: Vec<Vec<u8>>,
    /// Log energies of the bands, the clip's loudness taken out.
    pub voice: Vec<Vec<f32>>,
}

/// Tells how far a mouth is open, in arbitrary units.
#[derive(Clone, Debug, PartialEq)]
pub struct Reader {
    /// Bring what is seen and what is heard to a common scale.
    pub scales: [Scale; 2],
    /// Tell the opening from it.
    pub nets: [Net; 2],
}

/// Mouth and voice of a clip in which `head` is a path of the head; `None` for clips under half a
/// second, without sound or without a head.
pub fn talk(clip: &Clip, head: &Path) -> Option<Talk> {
    let frames = clip.frames.len();
    let audio = clip.audio.as_ref()?;
    if frames < FPS / 2 || head.is_empty() {
        return None;
    }
    let mouth = clip.frames.iter().enumerate();
    Some(Talk {
        mouth: mouth.map(|(i, f)| square(f, &steady(head, i))).collect(),
        voice: heard(audio, frames),
    })
}

/// The mean of the path's places near `frame`, or the place nearest in time.
fn steady(path: &Path, frame: usize) -> Spot {
    let near = path.iter().filter(|(f, _)| f.abs_diff(frame) <= STEADY);
    let (mut sum, mut n) = ([0.0f32; 4], 0.0);
    for (_, s) in near {
        let [x, y] = s.seen;
        let values = [x, y, s.half[0], s.half[1]];
        sum.iter_mut().zip(values).for_each(|(s, v)| *s += v);
        n += 1.0;
    }
    let nearest = path.iter().min_by_key(|(f, _)| f.abs_diff(frame));
    let mut spot = nearest.map_or(path[0].1, |(_, spot)| *spot);
    if n > 0.0 {
        let [x, y, rx, ry] = sum.map(|s| s / n);
        (spot.seen, spot.half) = ([x, y], [rx, ry]);
    }
    spot
}

/// The square about the mouth of a head at `spot`.
fn square(frame: &Frame, spot: &Spot) -> Vec<u8> {
    let (w, h) = (frame.size.width, frame.size.height);
    let long = w.max(h) as f32;
    let tall = spot.half[1] * long;
    let middle = [
        0.5 * w as f32 + spot.seen[0] * long,
        0.5 * h as f32 + spot.seen[1] * long + MOUTH.0 * tall,
    ];
    let step = 2.0 * MOUTH.1 * tall / SIDE as f32;
    let at = |k: usize, i: usize| middle[k] + (i as f32 + 0.5 - 0.5 * SIDE as f32) * step - 0.5;
    let mut out = vec![0u8; 3 * SIDE * SIDE];
    for i in 0..SIDE * SIDE {
        let colour = crate::namer::between(frame, (at(0, i % SIDE), at(1, i / SIDE)), (w, h));
        for (c, v) in colour.into_iter().enumerate() {
            out[c * SIDE * SIDE + i] = v.round() as u8;
        }
    }
    out
}

/// Log energies of the bands about each frame's moment; the loudness of all of it taken out.
fn heard(audio: &Audio, frames: usize) -> Vec<Vec<f32>> {
    let mono = audio.mono();
    let power = mono.iter().map(|x| x * x).sum::<f32>() / mono.len().max(1) as f32;
    let gain = 1.0 / power.sqrt().max(1e-5);
    let fft = RealFftPlanner::<f32>::new().plan_fft_forward(WINDOW);
    let (mut input, mut output) = (fft.make_input_vec(), fft.make_output_vec());
    let bin = SAMPLE_RATE as f32 / WINDOW as f32;
    let edge = |band: usize| {
        (RANGE.0 * (RANGE.1 / RANGE.0).powf(band as f32 / BANDS as f32) / bin) as usize
    };
    let step = SAMPLE_RATE / FPS;
    (0..frames)
        .map(|frame| {
            for (i, x) in input.iter_mut().enumerate() {
                let hann = 0.5 - 0.5 * (std::f32::consts::TAU * i as f32 / WINDOW as f32).cos();
                let at = (frame * step + i).checked_sub(WINDOW / 2);
                let sample = at.and_then(|at| mono.get(at)).copied().unwrap_or(0.0);
                *x = gain * hann * sample;
            }
            // Lengths match by construction, the only thing that process can object to.
            let _ = fft.process(&mut input, &mut output);
            (0..BANDS)
                .map(|band| {
                    let part = &output[edge(band)..edge(band + 1).max(edge(band) + 1)];
                    let energy: f32 = part.iter().map(|c| c.norm_sqr()).sum();
                    (energy / part.len() as f32 + 0.1).ln()
                })
                .collect()
        })
        .collect()
}

/// What the networks see and hear: rows of numbers, a frame each.
fn rows(talk: &Talk) -> [Vec<Vec<f32>>; 2] {
    let looks = talk.mouth.iter();
    let looks = looks.map(|m| m.iter().map(|&b| f32::from(b) / 255.0).collect());
    let last = talk.voice.len().saturating_sub(1);
    let sounds = (0..talk.voice.len()).map(|i| {
        (0..=2 * AROUND)
            .flat_map(|k| &talk.voice[(i + k).saturating_sub(AROUND).min(last)])
            .copied()
            .collect()
    });
    [looks.collect(), sounds.collect()]
}

impl Reader {
    /// Learns from talks and how far their mouths are truly open, each shown `rounds` times.
    ///
    /// # Panics
    /// If there is no talk.
    pub fn learn(talks: &[&(Talk, Vec<f32>)], rounds: usize) -> Self {
        let truth: Vec<f32> = talks
            .iter()
            .flat_map(|(_, open)| open.iter().map(|o| o / OPEN))
            .collect();
        let mut all = [Vec::new(), Vec::new()];
        for (talk, _) in talks {
            let [looks, sounds] = rows(talk);
            all[0].extend(looks);
            all[1].extend(sounds);
        }
        let scales = [Scale::of(&all[0]), Scale::of(&all[1])];
        let nets = [0, 1].map(|k| {
            let rows: Vec<Vec<f32>> = all[k].iter().map(|r| scales[k].apply(r)).collect();
            learnt(&LAYERS[k], (&rows, &truth), rounds)
        });
        Self { scales, nets }
    }

    /// How far the mouth is seen open and how far it is heard open, slow course taken out.
    pub fn read(&self, talk: &Talk) -> (Vec<f64>, Vec<f64>) {
        let rows = rows(talk);
        let [seen, heard] = [0, 1].map(|k| {
            let scaled = rows[k].iter().map(|r| self.scales[k].apply(r));
            let values: Vec<f32> = scaled
                .map(|row| self.nets[k].run(Map::column(row)).values[0])
                .collect();
            quick(&values)
        });
        (seen, heard)
    }

    /// How the mouth goes with the voice.
    pub fn lips(&self, talk: &Talk) -> Lips {
        let (mouth, voice) = self.read(talk);
        let best = (-FARTHEST..=FARTHEST)
            .max_by(|&a, &b| go(&mouth, &voice, a).total_cmp(&go(&mouth, &voice, b)))
            .unwrap_or(0);
        let n = voice.len();
        let shifts: Vec<usize> = (APART..n.saturating_sub(APART)).collect();
        let shifted = |by: &usize| {
            let turned: Vec<f64> = (0..n).map(|t| voice[(t + by) % n]).collect();
            go(&mouth, &turned, 0)
        };
        Lips {
            correlation: go(&mouth, &voice, 0),
            chance: shifts.iter().map(shifted).sum::<f64>() / shifts.len().max(1) as f64,
            lag_ms: best as f64 * 1000.0 / FPS as f64,
        }
    }
}

/// A network that tells `truth` from rows, both as long: least squares.
fn learnt(layers: &[Layer], (rows, truth): (&[Vec<f32>], &[f32]), rounds: usize) -> Net {
    const BATCH: usize = 128;
    let mut net = Net::new(layers, 41);
    let steps = (rows.len() * rounds).div_ceil(BATCH);
    let mut adam = Adam::new(net.weights().len(), 4e-3, 2e-2, steps);
    let mut noise = Noise::new(43);
    let width = rows[0].len();
    for _ in 0..steps {
        let mut map = Map::zeros(width, 1, BATCH);
        let mut want = [0.0f32; BATCH];
        for (k, want) in want.iter_mut().enumerate() {
            let i = noise.below(rows.len());
            *want = truth[i];
            for (c, v) in rows[i].iter().enumerate() {
                map.values[c * BATCH + k] = v + 0.1 * noise.gaussian();
            }
        }
        let trace = net.trace(map);
        let d = trace.out.values.iter().zip(want);
        let d = d.map(|(o, w)| 2.0 * (o - w) / BATCH as f32).collect();
        let mut gradients = vec![0.0; net.weights().len()];
        net.back(&trace, d, &mut gradients);
        adam.step(net.weights_mut(), &gradients);
    }
    net
}

/// Values without the mean of what is near in time.
fn quick(values: &[f32]) -> Vec<f64> {
    (0..values.len())
        .map(|i| {
            let near = &values[i.saturating_sub(SLOW)..(i + SLOW + 1).min(values.len())];
            f64::from(values[i] - near.iter().sum::<f32>() / near.len() as f32)
        })
        .collect()
}

/// The correlation of a mouth with the voice `lag` frames later; 0 where either is still.
pub(crate) fn go(mouth: &[f64], voice: &[f64], lag: i64) -> f64 {
    let n = mouth.len().min(voice.len()) as i64;
    let pairs: Vec<(f64, f64)> = (0..n)
        .filter(|t| (0..n).contains(&(t + lag)))
        .map(|t| (mouth[t as usize], voice[(t + lag) as usize]))
        .collect();
    pearson(&pairs)
}

fn pearson(pairs: &[(f64, f64)]) -> f64 {
    let n = pairs.len() as f64;
    let (mx, my) = pairs
        .iter()
        .fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
    // What moves by less than this in all is still.
    let (mut xx, mut yy, mut xy) = (1e-6, 1e-6, 0.0);
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
    use crate::detectors::Detectors;
    use crate::features::Seen;
    use gallop_core::PixelSize;
    use gallop_world::{Look, Only, Split, WorldConfig};

    /// Held-out clips of faces, none of which the shipped detectors were fitted on.
    fn faces(n: u64) -> Vec<Clip> {
        let world = WorldConfig {
            families: vec!["face".into()],
            looks: vec![Look::Soft3d, Look::Flat],
            only: Only([("weather".to_string(), vec!["clear".to_string()])].into()),
            sizes: vec![PixelSize::new(160, 96)],
            frames: vec![49],
            split: Split::Heldout,
            ..WorldConfig::default()
        };
        (0..n)
            .map(|i| world.render(9_100_000_000 + i).unwrap().clip)
            .collect()
    }

    #[test]
    fn rendered_lips_go_with_their_voice_and_with_no_other() {
        let detectors = Detectors::embedded().unwrap();
        let reader = detectors.lips.as_ref().unwrap();
        let clips = faces(16);
        let talks: Vec<Talk> = clips
            .iter()
            .map(|clip| Seen::new(clip, &detectors.finder).talk.unwrap())
            .collect();
        let all: Vec<Lips> = talks.iter().map(|t| reader.lips(t)).collect();
        let mean = |of: &dyn Fn(&Lips) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
        let own = mean(&|l| l.correlation);
        assert!(own >= 0.65, "{own}");
        let chance = mean(&|l| l.chance);
        assert!(chance.abs() < 0.1, "{chance}");
        let mut lags: Vec<f64> = all.iter().map(|l| l.lag_ms.abs()).collect();
        lags.sort_by(f64::total_cmp);
        assert!(lags[lags.len() / 2] < 1.0, "{lags:?}");
        let n = talks.len();
        let foreign: f64 = (0..n)
            .flat_map(|i| (1..n).map(move |k| (i, (i + k) % n)))
            .map(|(i, k)| {
                let swapped = Talk {
                    mouth: talks[i].mouth.clone(),
                    voice: talks[k].voice.clone(),
                };
                reader.lips(&swapped).correlation
            })
            .sum();
        let foreign = foreign / (n * (n - 1)) as f64;
        assert!(foreign.abs() < 0.12, "{foreign}");
    }

    #[test]
    fn a_late_voice_is_found_late_and_a_still_mouth_says_nothing() {
        let detectors = Detectors::embedded().unwrap();
        let reader = detectors.lips.as_ref().unwrap();
        let late = 4;
        let (mut found, mut before, mut after) = (0, 0.0, 0.0);
        for clip in faces(6) {
            let mut talk = Seen::new(&clip, &detectors.finder).talk.unwrap();
            let own = reader.lips(&talk);
            talk.voice.rotate_right(late);
            let lips = reader.lips(&talk);
            let want = late as f64 * 1000.0 / FPS as f64;
            found += usize::from((lips.lag_ms - want).abs() < 1.0);
            (before, after) = (before + own.correlation, after + lips.correlation);
            let first = talk.mouth[0].clone();
            talk.mouth.fill(first);
            assert!(reader.lips(&talk).correlation.abs() < 1e-3);
        }
        assert!(found >= 5, "{found}");
        assert!(after < 0.5 * before, "{after} {before}");
    }
}
