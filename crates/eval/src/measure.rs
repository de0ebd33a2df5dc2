//! All metrics of one clip.

use std::collections::BTreeMap;

use gallop_core::{Clip, FPS, Frame};
use gallop_world::{Ball, HeldoutPrompt, Struck};

use serde::{Deserialize, Serialize};

use crate::detectors::{ATTRIBUTES, Detectors, label};
use crate::features::Seen;
use crate::impacts::{gravity_fit, impacts};
use crate::kept::Kept;
use crate::lips::Lips;
use crate::onsets::onsets;
use crate::plane::ssim;

/// An onset this near to an impact, in seconds, is taken to be its sound.
const MATCH: f64 = 0.2;
/// And this near, in milliseconds, it is in step with it.
const CLOSE: f64 = 60.0;
/// Families of which it is seen whether sound and picture are in step: by impacts, by lips, by strokes.
pub const STEPS_SEEN: [&str; 3] = [BALL, FACE, INSTRUMENT];
const BALL: &str = "ball";
const FACE: &str = "face";
pub(crate) const INSTRUMENT: &str = "instrument";
/// Shifts of the sound that tell what chance alone would pair.
const SHIFTS: usize = 16;
/// Nothing is known of a turn so near to an end of the clip, in seconds.
const EDGE: f64 = 0.12;

/// What was asked for and what is seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Asked for.
    pub want: String,
    /// Detected.
    pub got: String,
}

/// Impacts and the sounds that go with them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sync {
    /// Impacts seen.
    pub impacts: usize,
    /// How many of them would have one if sound and picture had nothing to do with each other: the
    /// mean over shifts of the sound in time.
    #[serde(default)]
    pub chance: f64,
    /// How many of them have a sound within 60 ms.
    #[serde(default)]
    pub close: usize,
    /// How many of them would have one by chance, as `chance`.
    #[serde(default)]
    pub close_chance: f64,
    /// For each that has a sound: onset minus impact in milliseconds, positive when the sound is late.
    pub offsets_ms: Vec<f64>,
}

/// One clip's metrics; `None` where one does not apply.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// What was asked for.
    pub prompt: String,
    /// The file that was measured.
    pub file: String,
    /// Seconds it took to make.
    pub seconds: Option<f64>,
    /// The most memory that making it used, in MiB.
    #[serde(default)]
    pub peak_mib: Option<f64>,
    /// Attributes that the prompt speaks of.
    pub named: BTreeMap<String, Named>,
    /// Sync of picture and sound: where balls hit the floor.
    pub sync: Option<Sync>,
    /// The same where mallets strike.
    #[serde(default)]
    pub strokes: Option<Sync>,
    /// Mean R squared of the falls.
    pub gravity: Option<f64>,
    /// Similarity of the first frame to the picture it was to begin with.
    pub first_frame_ssim: Option<f64>,
    /// Mouth and voice.
    pub lips: Option<Lips>,
    /// How far the clip moves where latent frames meet, as a share of how far it moves beside those places.
    #[serde(default)]
    pub latent_seams: Option<f64>,
    /// The same where chunks of its decoder meet.
    #[serde(default)]
    pub chunk_seams: Option<f64>,
    /// The sound beside the one that it was coded from.
    #[serde(default)]
    pub sound: Option<Kept>,
}

/// Measures a decoded clip against its prompt; `first` is the picture that it was to begin with.
///
/// The clip must have a frame.
pub fn measure(
    clip: &Clip,
    prompt: &HeldoutPrompt,
    detectors: &Detectors,
    first: Option<&Frame>,
) -> Measures {
    let seen = detectors.see(clip);
    let family = prompt.attributes.family.as_str();
    let audio = clip.audio.as_ref();
    Measures {
        prompt: prompt.prompt.clone(),
        named: named(prompt, detectors, &seen),
        sync: audio.filter(|_| family == BALL).map(|audio| {
            // A soft ball sounds when it touches, and is seen to turn back later.
            let touch = Ball::touch_to_turn(&prompt.attributes);
            let turns = impacts(&seen.paths);
            let times: Vec<f64> = turns.iter().map(|turn| turn.time - touch).collect();
            sync(&times, &onsets(audio), clip.seconds())
        }),
        strokes: audio.filter(|_| family == INSTRUMENT).and_then(|audio| {
            let strokes = detectors.strokes(&seen, Struck::fall(&prompt.attributes))?;
            let times: Vec<f64> = strokes.iter().map(|stroke| stroke.time).collect();
            Some(sync(&times, &onsets(audio), clip.seconds()))
        }),
        gravity: (family == BALL).then(|| gravity_fit(&seen.paths)).flatten(),
        first_frame_ssim: first.map(|picture| ssim(picture, &clip.frames[0])),
        lips: audio
            .filter(|_| family == FACE && clip.frames.len() >= FPS / 2)
            .and_then(|_| detectors.lips(&seen)),
        ..Measures::default()
    }
}

fn named(prompt: &HeldoutPrompt, detectors: &Detectors, seen: &Seen) -> BTreeMap<String, Named> {
    ATTRIBUTES
        .iter()
        .filter(|&&a| a == "subject" || prompt.mentions.iter().any(|m| m == a))
        .filter_map(|&attribute| {
            let want = label(&prompt.attributes, attribute)?;
            let got = detectors.name(attribute, &seen.features)?;
            Some((attribute.to_string(), Named { want, got }))
        })
        .collect()
}

/// Pairs impacts and onsets, and again with the onsets shifted round the clip.
fn sync(impacts: &[f64], onsets: &[f64], seconds: f64) -> Sync {
    let inside: Vec<f64> = impacts
        .iter()
        .copied()
        .filter(|t| (EDGE..seconds - EDGE).contains(t))
        .collect();
    // A shift that leaves a sound near its own impact says nothing of chance.
    let near = (MATCH + CLOSE / 1000.0).min(0.25 * seconds);
    let (mut chance, mut close_chance) = (0, 0);
    for part in 0..SHIFTS {
        let by = near + (part as f64 + 0.5) / SHIFTS as f64 * (seconds - 2.0 * near);
        let onsets: Vec<f64> = onsets.iter().map(|t| (t + by) % seconds).collect();
        let offsets = pair(&inside, &onsets, MATCH);
        chance += offsets.len();
        close_chance += close(&offsets);
    }
    let offsets_ms = pair(&inside, onsets, MATCH);
    Sync {
        impacts: inside.len(),
        chance: chance as f64 / SHIFTS as f64,
        close: close(&offsets_ms),
        close_chance: close_chance as f64 / SHIFTS as f64,
        offsets_ms,
    }
}

/// How many of the offsets (milliseconds) are in step.
fn close(offsets: &[f64]) -> usize {
    offsets.iter().filter(|o| o.abs() <= CLOSE).count()
}

/// Pairs times one to one, nearest first and none further apart than `within`; how much later the second of
/// each pair is, in milliseconds.
pub(crate) fn pair(first: &[f64], second: &[f64], within: f64) -> Vec<f64> {
    let mut candidates: Vec<(f64, usize, usize)> = Vec::new();
    for (i, one) in first.iter().enumerate() {
        for (j, other) in second.iter().enumerate() {
            let offset = other - one;
            if offset.abs() <= within {
                candidates.push((offset, i, j));
            }
        }
    }
    candidates.sort_by(|a, b| a.0.abs().total_cmp(&b.0.abs()));
    let (mut used_i, mut used_j) = (vec![false; first.len()], vec![false; second.len()]);
    candidates.retain(|&(_, i, j)| {
        let fresh = !used_i[i] && !used_j[j];
        used_i[i] |= fresh;
        used_j[j] |= fresh;
        fresh
    });
    candidates.into_iter().map(|c| c.0 * 1000.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impacts_and_onsets_pair_once_each() {
        let sync = sync(&[0.5, 1.0, 1.05, 1.99], &[0.52, 1.01, 1.7], 2.0);
        assert_eq!(sync.impacts, 3);
        let rounded: Vec<f64> = sync.offsets_ms.iter().map(|o| o.round()).collect();
        assert_eq!(rounded, [10.0, 20.0]);
        assert_eq!(sync.close, 2);
    }

    #[test]
    fn sounds_out_of_step_are_matched_but_not_close() {
        let impacts = [0.3, 0.9, 1.5];
        let late: Vec<f64> = impacts.iter().map(|t| t + 0.12).collect();
        let apart = sync(&impacts, &late, 2.0);
        assert_eq!((apart.offsets_ms.len(), apart.close), (3, 0));
        assert_eq!(sync(&impacts, &impacts, 2.0).close, 3);
        // Sounds everywhere: all are matched by chance, not all of them closely.
        let dense: Vec<f64> = (0..10).map(|i| f64::from(i) * 0.2).collect();
        let dense = sync(&impacts, &dense, 2.0);
        assert!(dense.chance == 3.0 && dense.close_chance < 2.0, "{dense:?}");
    }

    #[test]
    fn chance_is_high_where_sounds_are_everywhere() {
        let everywhere: Vec<f64> = (0..40).map(|i| f64::from(i) * 0.05).collect();
        let all = sync(&[0.5, 1.0, 1.5], &everywhere, 2.0);
        assert!(all.chance > 2.9 && all.offsets_ms.len() == 3);
        let one = sync(&[1.0], &[1.01], 2.0);
        assert!(one.chance == 0.0 && one.offsets_ms.len() == 1);
    }
}
