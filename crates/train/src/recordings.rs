//! Sound from recordings: words and strokes that a microphone heard, one after another.
//!
//! People give an autoencoder their own sounds; a recorded voice has the breath, the room and the noise that
//! the world's synthesis lacks.

use std::path::{Path, PathBuf};

use gallop_core::{Audio, SAMPLE_RATE};
use gallop_media::read_audio;
use rand::RngExt;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use crate::data::files_in;
use crate::error::{Result, TrainError};

/// Ends of names that are taken for sounds.
const ENDS: [&str; 6] = ["flac", "ogg", "wav", "mp3", "m4a", "aiff"];
/// Longest piece of a recording that is kept, in samples.
const LONGEST: usize = 8 * SAMPLE_RATE;
/// The highest sample of a recording as it is kept.
const PEAK: f32 = 0.7;
/// How much lower a clip's recordings lie at the most, as a factor.
const FAINTEST: f64 = 0.1;
/// Longest pause between two recordings, in seconds.
const PAUSE: f64 = 0.4;

/// Where recordings are, and how often they are heard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordingFolders {
    /// Those it learns from.
    pub train: PathBuf,
    /// Those it is validated on.
    pub held_out: PathBuf,
    /// The share of clips that are of recordings; the others are of the world.
    pub share: f64,
}

/// Recordings of a folder, each at the same height.
pub(crate) struct Recordings(Vec<Audio>);

impl Recordings {
    /// Reads all sounds of a folder, in the order of their names; silent ones are left out.
    ///
    /// # Errors
    /// If the folder or a sound cannot be read, or there is none.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let mut sounds = Vec::new();
        for path in files_in(folder, &ENDS, ("sound", "tools/recordings"))? {
            let mut audio = read_audio(&path)?;
            audio.left.truncate(LONGEST);
            audio.right.truncate(LONGEST);
            let samples = || audio.left.iter().chain(&audio.right);
            let peak = samples().fold(0f32, |peak, x| peak.max(x.abs()));
            if peak > 0.0 {
                sounds.push(louder(&audio, PEAK / peak));
            }
        }
        if sounds.is_empty() {
            let what = format!("{}: every sound here is silent", folder.display());
            return Err(TrainError::Data(what));
        }
        Ok(Self(sounds))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// `samples` of recordings drawn by chance, with pauses between them, each at a level of its own; the first may
    /// have begun before.
    pub(crate) fn clip(&self, samples: usize, rng: &mut Pcg64) -> Audio {
        let mut clip = Audio::silence(samples);
        let mut at = 0;
        while at < samples {
            let recording = &self.0[rng.random_range(0..self.len())];
            let skip = match at {
                0 => rng.random_range(0..recording.len()),
                _ => 0,
            };
            let gain = FAINTEST.powf(rng.random()) as f32;
            at += put(&mut clip, at, &louder(recording, gain), skip);
            at += (rng.random::<f64>() * PAUSE * SAMPLE_RATE as f64) as usize;
        }
        clip
    }

    /// `samples` of the recording `which` from its beginning, with silence behind it if it is shorter.
    pub(crate) fn clip_of(&self, which: usize, samples: usize) -> Audio {
        let mut clip = Audio::silence(samples);
        put(&mut clip, 0, &self.0[which % self.len()], 0);
        clip
    }
}

fn louder(audio: &Audio, gain: f32) -> Audio {
    let scaled = |samples: &[f32]| samples.iter().map(|x| x * gain).collect();
    Audio {
        left: scaled(&audio.left),
        right: scaled(&audio.right),
    }
}

/// Writes `recording` without its first `skip` samples to place `at`, as far as there is room; how many fit.
fn put(clip: &mut Audio, at: usize, recording: &Audio, skip: usize) -> usize {
    let count = (recording.len() - skip).min(clip.len() - at);
    for (to, from) in [
        (&mut clip.left, &recording.left),
        (&mut clip.right, &recording.right),
    ] {
        to[at..at + count].copy_from_slice(&from[skip..skip + count]);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn tone(seconds: f64, level: f32) -> Audio {
        let count = (seconds * SAMPLE_RATE as f64) as usize;
        let wave = |shift: f32| (0..count).map(move |i| level * (0.05 * i as f32 + shift).sin());
        Audio {
            left: wave(0.0).collect(),
            right: wave(1.0).collect(),
        }
    }

    #[test]
    fn recordings_are_read_at_one_height_and_silent_ones_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let files = [
            ("b.wav", tone(0.3, 0.05)),
            ("a.wav", tone(9.0, 0.9)),
            ("c.wav", tone(0.1, 0.0)),
        ];
        for (name, audio) in files {
            gallop_media::write_audio(&folder.path().join(name), &audio).unwrap();
        }
        std::fs::write(folder.path().join("notes.txt"), "not a sound").unwrap();
        let found = Recordings::read(folder.path()).unwrap();
        let lengths: Vec<usize> = found.0.iter().map(Audio::len).collect();
        assert_eq!(lengths, [LONGEST, 14_400]);
        for recording in &found.0 {
            let peak = recording.left.iter().chain(&recording.right);
            let peak = peak.fold(0f32, |peak, x| peak.max(x.abs()));
            assert!((peak - PEAK).abs() < 1e-3, "{peak}");
        }
        let first = found.clip_of(1, 20_000);
        assert_eq!(first.left[..14_400], found.0[1].left[..]);
        assert!(first.right[14_400..].iter().all(|x| *x == 0.0));
    }

    #[test]
    fn clips_are_filled_and_differ_in_level() {
        let recordings = Recordings(vec![tone(0.4, PEAK), tone(3.0, PEAK)]);
        let mut rng = Pcg64::seed_from_u64(8);
        let mut peaks = Vec::new();
        for samples in [1, 2_000, 48_000, 96_000] {
            for _ in 0..20 {
                let clip = recordings.clip(samples, &mut rng);
                assert_eq!([clip.left.len(), clip.right.len()], [samples; 2]);
                peaks.push(clip.left.iter().fold(0f32, |peak, x| peak.max(x.abs())));
                // No pause is longer than allowed: none of the clip is silent for longer.
                let pause = (PAUSE * SAMPLE_RATE as f64) as usize + 2;
                assert!(
                    clip.left
                        .windows(pause + 1)
                        .all(|w| w.iter().any(|x| *x != 0.0))
                );
            }
        }
        let [least, most] =
            [f32::min, f32::max].map(|f| peaks[20..].iter().copied().reduce(f).unwrap());
        assert!(least < 0.3 && most > 0.6 && most <= PEAK, "{least} {most}");
    }

    #[test]
    fn folders_without_sounds_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let refused = || Recordings::read(folder.path()).err().unwrap().to_string();
        let name = folder.path().to_str().unwrap();
        let missing = Recordings::read(&folder.path().join("b")).err().unwrap();
        assert!(
            missing.to_string().contains("tools/recordings"),
            "{missing}"
        );
        assert!(refused().contains(name) && refused().contains("no sound"));
        gallop_media::write_audio(&folder.path().join("a.wav"), &tone(0.1, 0.0)).unwrap();
        assert!(refused().contains(name) && refused().contains("silent"));
        std::fs::write(folder.path().join("b.ogg"), b"OggS but no more").unwrap();
        assert!(refused().contains("b.ogg"));
    }
}
