//! Sound worked out from what happens: timed cues, rendered to stereo at 48 kHz.
//!
//! Every cue begins on the sample of its time, and its attack takes less than a millisecond:
//! what is seen and what is heard are one event.

mod bed;
mod engine;
mod firework;
mod impact;
mod instrument;
mod master;
mod modal;
pub(crate) mod noise;
mod room;
mod space;

use std::sync::Arc;

use gallop_core::{Audio, SAMPLE_RATE};

pub use bed::Bed;
pub use engine::Engine;
pub use firework::Firework;
pub use instrument::Instrument;
pub use space::{Path, SPEED_OF_SOUND};

use noise::Noise;
use room::Room;
use space::Passing;

/// What sounds in a clip, and in what room.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// The place that echoes: `court`, `hall`, `room`, `stage`, `tunnel`, `street`; any other
    /// name is the open air.
    pub room: String,
    /// What sounds when.
    pub cues: Vec<Cue>,
}

/// One sound at one time.
#[derive(Clone, Debug)]
pub struct Cue {
    /// Seconds from the start of the clip; may be negative.
    pub time: f64,
    /// 0 to 1.
    pub strength: f32,
    /// -1 left to 1 right.
    pub pan: f32,
    /// What it is.
    pub sound: Sound,
}

/// The kinds of sound.
#[derive(Clone, Debug)]
pub enum Sound {
    /// Something falls on a floor.
    Impact {
        /// `basketball`, `rubber_ball`, `steel_ball`, `marble`.
        subject: String,
        /// `wood`, `stone`, `sand`, `trampoline`.
        floor: String,
        /// Radius in units of the shorter side of the picture.
        size: f32,
    },
    /// A hoof is set down.
    Hoof {
        /// `grass`, `dirt`, `sand`, `stone`, `asphalt`, `snow`, `wood`, `water`.
        ground: String,
    },
    /// An instrument is struck.
    Strike {
        /// Which.
        instrument: Instrument,
        /// Hertz; see [`Instrument`] for what it means.
        hz: f32,
    },
    /// Something drives along a path for the whole clip; `time` and `pan` of the cue are unused.
    Drive {
        /// What.
        engine: Engine,
        /// Where; its first point is at the start of the clip.
        path: Path,
    },
    /// A stage of a firework.
    Firework(Firework),
    /// A background from the cue's time to the end of the clip, all around.
    Bed(Bed),
    /// Sound made elsewhere, such as speech; samples at 48 kHz.
    Samples(Arc<[f32]>),
}

/// The radius that [`Sound::Impact`] takes for usual.
const USUAL_RADIUS: f32 = 0.12;

impl Score {
    /// `samples` samples of stereo sound, none beyond [-1, 1]; equal seeds give equal samples.
    pub fn render(&self, samples: usize, seed: u64) -> Audio {
        let mut audio = Audio::silence(samples);
        for (i, cue) in self.cues.iter().enumerate() {
            let noise = Noise::new(seed.wrapping_add((i as u64 + 1).wrapping_mul(0x51_7C_C1_B7)));
            cue.add(&mut audio, noise);
        }
        if let Some(room) = Room::from_key(&self.room) {
            room.add(&mut audio.left, &mut audio.right);
        }
        master::master(&mut audio.left, &mut audio.right);
        audio
    }
}

impl Cue {
    fn add(&self, audio: &mut Audio, mut noise: Noise) {
        let stereo = [&mut audio.left[..], &mut audio.right[..]];
        match &self.sound {
            Sound::Drive { engine, path } => drive(stereo, (*engine, path), self.strength, noise),
            Sound::Bed(bed) => {
                let at = (self.time.max(0.0) * SAMPLE_RATE as f64) as usize;
                for channel in stereo {
                    if let Some(rest) = channel.get_mut(at..) {
                        bed.add(rest, self.strength, &mut noise);
                    }
                }
            }
            _ => {
                let at = (self.time * SAMPLE_RATE as f64).round() as i64;
                let left = audio.left.len() as i64 - at;
                let length = left.min((self.seconds() * SAMPLE_RATE as f32) as i64);
                if length > 0 && at > -(SAMPLE_RATE as i64) * 60 {
                    let mut sound = vec![0.0; length as usize];
                    self.synthesise(&mut sound, &mut noise);
                    let stereo = [&mut audio.left[..], &mut audio.right[..]];
                    space::place(stereo, &sound, at, self.pan);
                }
            }
        }
    }

    /// Seconds after which the cue is silent for certain.
    fn seconds(&self) -> f32 {
        match &self.sound {
            Sound::Impact { .. } => 1.2,
            Sound::Hoof { .. } => 0.8,
            Sound::Strike { .. } => 8.0,
            Sound::Firework(firework) => firework.seconds(),
            Sound::Samples(samples) => samples.len() as f32 / SAMPLE_RATE as f32 + 0.001,
            Sound::Drive { .. } | Sound::Bed(_) => 0.0,
        }
    }

    fn synthesise(&self, out: &mut [f32], noise: &mut Noise) {
        let strength = self.strength.clamp(0.0, 1.0);
        match &self.sound {
            Sound::Impact {
                subject,
                floor,
                size,
            } => impact::impact(out, (subject, floor), strength, size / USUAL_RADIUS, noise),
            Sound::Hoof { ground } => impact::hoof(out, ground, strength, noise),
            Sound::Strike { instrument, hz } => {
                instrument::strike(out, *instrument, *hz, strength, noise);
            }
            Sound::Firework(firework) => firework.add(out, strength, noise),
            Sound::Samples(samples) => {
                for (y, x) in out.iter_mut().zip(samples.iter()) {
                    *y += strength * x;
                }
            }
            Sound::Drive { .. } | Sound::Bed(_) => {}
        }
    }
}

/// Adds a source that moves: synthesised as it is given off, then read as it is heard.
fn drive(
    stereo: [&mut [f32]; 2],
    (engine, path): (Engine, &Path),
    strength: f32,
    mut noise: Noise,
) {
    if path.points.is_empty() || stereo[0].is_empty() {
        return;
    }
    let passing = Passing::new(path, stereo[0].len());
    let (from, to) = passing.span();
    // One sample before and two after, for reading between samples.
    let from = from - 2.0 / SAMPLE_RATE as f64;
    let length = ((to - from) * SAMPLE_RATE as f64) as usize + 8;
    let mut source = vec![0.0; length.min(SAMPLE_RATE * 120)];
    engine.emit(&mut source, path.speed(), &mut noise);
    let level = strength / (1.0 + 0.02 * passing.nearest() as f32);
    source.iter_mut().for_each(|x| *x *= level);
    passing.add(stereo, &source, from);
}

#[cfg(test)]
mod tests;
