//! What will be made: every number that follows from a checked request.

use gallop_core::{
    ClipShape, DURATIONS, LatentShape, PixelSize, Ratio, Resolution, Result, UserError,
    check_lines, check_range,
};
use gallop_diffusion::{Guidance, Scale};
use gallop_model::public::{
    Part,
    resample::MODEL_RATE,
    wan_vae::{SPACE_STRIDE, TIME_STRIDE},
};

use super::PUBLIC_FPS;
use crate::foal::Sampler;

/// Channels of an audio latent.
pub const AUDIO_CHANNELS: usize = 64;
/// Steps of refining, as the public code has them.
pub const REFINE_STEPS: usize = 5;
/// Samples of one audio latent, at the rate that the audio encoder is run at.
const SAMPLES_PER_LATENT: usize = MODEL_RATE / PUBLIC_FPS;
/// Pixels on a side of a token of the transformer: sides are multiples of it.
const TOKEN: usize = 2 * SPACE_STRIDE;
/// The short side of what the base model makes.
const BASE_SIDE: usize = 256;
/// Below this timestep the guidance of video is at most [`LATE_GUIDANCE`].
const LATE: i64 = 500;
const LATE_GUIDANCE: f64 = 2.0;
/// The first so many latent frames are refined with at most [`FIRST_GUIDANCE`].
const FIRST_FRAMES: usize = 13;
const FIRST_GUIDANCE: f64 = 2.0;

/// A second transformer, which makes the latents of a larger clip from those of a small one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Refine {
    /// Which one.
    pub part: Part,
    /// The size that it makes.
    pub size: PixelSize,
    /// Steps of UniPC.
    pub steps: usize,
    /// Guidance; 1 is none, as in the public examples, 3.5 what the public code has otherwise.
    pub guidance: f64,
}

/// Which video decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoder {
    /// TurboVAED.
    Fast,
    /// That of Wan2.2.
    Exact,
}

/// What a user asks of the full-size model, unchecked.
#[derive(Clone, Debug, PartialEq)]
pub struct PublicRequest {
    /// All parts of the prompt, as [`super::assemble`] gives them.
    pub prompt: String,
    /// Seconds. A given sound that is shorter makes the clip shorter.
    pub duration: f64,
    /// The size that the first transformer makes.
    pub base: PixelSize,
    /// Refining to a larger size.
    pub refine: Option<Refine>,
    /// [`Sampler::Renoise`] is for the distilled transformer, all others for the base one.
    pub sampler: Sampler,
    /// Sampling steps.
    pub steps: usize,
    /// Guidance; 1 is none. Only the public value of 5 is what the base model was tuned with.
    pub guidance: f64,
    /// The video decoder.
    pub decoder: Decoder,
    /// Whether the clip has sound.
    pub audio: bool,
    /// Equal seeds on the same kind of machine make equal clips.
    pub seed: u64,
}

/// What will be made.
#[derive(Clone, Debug, PartialEq)]
pub struct PublicPlan {
    /// The request, its prompt cleaned.
    pub request: PublicRequest,
    /// Latents of the first transformer.
    pub latents: LatentShape,
    /// Latents after refining.
    pub refined: Option<LatentShape>,
    /// The finished clip at [`PUBLIC_FPS`].
    pub clip: ClipShape,
}

impl PublicPlan {
    /// Checks a request. `sound` is the length of a given sound in seconds.
    ///
    /// # Errors
    /// Names the option that is out of range and what it may be.
    pub fn new(mut request: PublicRequest, sound: Option<f64>) -> Result<Self> {
        request.prompt = check_lines(&request.prompt)?;
        check_range("--duration", request.duration, DURATIONS, "seconds")?;
        check_range("--steps", request.steps as f64, 1.0..=1000.0, "steps")?;
        check_range("--guidance", request.guidance, 0.0..=30.0, "")?;
        if let Some(refine) = &request.refine {
            check_range("--refine-steps", refine.steps as f64, 1.0..=1000.0, "steps")?;
            check_range("--refine-guidance", refine.guidance, 0.0..=30.0, "")?;
        }
        let audio = match sound {
            None => (request.duration * PUBLIC_FPS as f64).round() as usize + 1,
            Some(seconds) => given_latents(seconds.min(request.duration))?,
        };
        let latents = latents(request.base, audio);
        let refined = request.refine.map(|refine| grid(latents, refine.size));
        let last = refined.unwrap_or(latents);
        let asked = (request.duration * PUBLIC_FPS as f64).round() as usize;
        let clip = ClipShape {
            frames: ((last.frames - 1) * TIME_STRIDE + 1).min(asked),
            size: PixelSize::new(last.width * SPACE_STRIDE, last.height * SPACE_STRIDE),
        };
        Ok(Self {
            request,
            latents,
            refined,
            clip,
        })
    }

    /// The first transformer's part.
    pub fn base_part(&self) -> Part {
        match self.request.sampler {
            Sampler::Renoise => Part::Distilled,
            _ => Part::Base,
        }
    }

    /// The parts that are needed, in the order of their use.
    pub fn parts(&self, picture: bool, sound: bool) -> Vec<Part> {
        let request = &self.request;
        let exact = request.decoder == Decoder::Exact;
        let needed = [
            (true, Part::TextEncoder),
            (picture || exact, Part::VideoAutoencoder),
            (request.audio || sound, Part::AudioAutoencoder),
            (true, self.base_part()),
            (!exact, Part::FastDecoder),
        ];
        let needed = needed.into_iter().filter(|(needed, _)| *needed);
        let mut parts: Vec<Part> = needed.map(|(_, part)| part).collect();
        parts.extend(request.refine.map(|refine| refine.part));
        parts
    }

    /// The guidance of the first transformer, for a state of so many modalities.
    pub fn guidance(&self, modalities: usize) -> Guidance {
        let scale = self.request.guidance;
        let video = Scale {
            late: (scale > LATE_GUIDANCE).then_some((LATE, LATE_GUIDANCE)),
            ..Scale::constant(scale)
        };
        let mut scales = vec![video, Scale::constant(scale)];
        scales.truncate(modalities);
        Guidance {
            scales,
            time_dim: 0,
        }
    }
}

impl Refine {
    /// The guidance of refining; the clip's beginning is pushed less.
    pub fn guidance(&self) -> Guidance {
        Guidance {
            scales: vec![Scale {
                first_frames: (self.guidance > FIRST_GUIDANCE)
                    .then_some((FIRST_FRAMES, FIRST_GUIDANCE)),
                ..Scale::constant(self.guidance)
            }],
            time_dim: 0,
        }
    }
}

/// The latents that the public code makes of `audio` audio latents.
fn latents(size: PixelSize, audio: usize) -> LatentShape {
    let whole = LatentShape {
        frames: (audio - 1) / TIME_STRIDE + 1,
        height: 0,
        width: 0,
        audio,
    };
    grid(whole, size)
}

/// The same clip at another size, cut down to whole tokens.
fn grid(latents: LatentShape, size: PixelSize) -> LatentShape {
    LatentShape {
        height: size.height / TOKEN * (TOKEN / SPACE_STRIDE),
        width: size.width / TOKEN * (TOKEN / SPACE_STRIDE),
        ..latents
    }
}

/// Audio latents of a given sound.
fn given_latents(seconds: f64) -> Result<usize> {
    let latents = samples(seconds) / SAMPLES_PER_LATENT;
    if latents == 0 {
        return Err(UserError::new(
            format!("--audio is {seconds:.2} seconds of sound"),
            "give one second or more",
        ));
    }
    Ok(latents)
}

/// Samples of a sound at the audio encoder's rate.
pub(super) fn samples(seconds: f64) -> usize {
    (seconds * MODEL_RATE as f64 + 1e-6) as usize
}

/// The sizes of both transformers for a wanted resolution: `256p` is the base model's, `540p` doubles its
/// sides, `1080p` has a short side of 1088; an exact size is made by the base model alone.
///
/// # Errors
/// A size that is too small for one token.
pub fn picture_sizes(
    resolution: Resolution,
    ratio: Ratio,
) -> Result<(PixelSize, Option<(Part, PixelSize)>)> {
    let base = base_size(ratio);
    let sizes = match resolution {
        Resolution::ShortSide(544) => {
            let double = PixelSize::new(2 * base.width, 2 * base.height);
            (base, Some((Part::Super540p, double)))
        }
        Resolution::ShortSide(1088) => (base, Some((Part::Super1080p, at_ratio(1088, ratio)))),
        Resolution::ShortSide(side) => (at_ratio(side / TOKEN * TOKEN, ratio), None),
        Resolution::Exact(size) => {
            let whole = |side| side / TOKEN * TOKEN;
            (PixelSize::new(whole(size.width), whole(size.height)), None)
        }
    };
    match sizes.0.width.min(sizes.0.height) {
        0 => Err(UserError::new(
            format!("--resolution {resolution} is too small"),
            "use 256p, 540p, 1080p, or a size of multiples of 32",
        )),
        _ => Ok(sizes),
    }
}

/// The size that the base model makes at a ratio: 448x256 at 16:9.
pub fn base_size(ratio: Ratio) -> PixelSize {
    at_ratio(BASE_SIDE, ratio)
}

fn at_ratio(short: usize, ratio: Ratio) -> PixelSize {
    let long =
        |a: usize, b: usize| ((short * a) as f64 / (b * TOKEN) as f64).round() as usize * TOKEN;
    match ratio.width >= ratio.height {
        true => PixelSize::new(long(ratio.width, ratio.height), short),
        false => PixelSize::new(short, long(ratio.height, ratio.width)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> PublicRequest {
        PublicRequest {
            prompt: "a\n b".into(),
            duration: 5.0,
            base: PixelSize::new(448, 256),
            refine: None,
            sampler: Sampler::Renoise,
            steps: 8,
            guidance: 1.0,
            decoder: Decoder::Fast,
            audio: true,
            seed: 1,
        }
    }

    #[test]
    fn counts_are_those_of_the_public_code() {
        // Seconds -> audio latents, latent frames, pictures.
        for (seconds, counts) in [
            (1.0, (26, 7, 25)),
            (2.0, (51, 13, 49)),
            (4.0, (101, 26, 100)),
            (5.0, (126, 32, 125)),
            (10.0, (251, 63, 249)),
        ] {
            let asked = PublicRequest {
                duration: seconds,
                ..request()
            };
            let plan = PublicPlan::new(asked, None).unwrap();
            let made = (plan.latents.audio, plan.latents.frames, plan.clip.frames);
            assert_eq!(made, counts, "{seconds} s");
            assert_eq!((plan.latents.height, plan.latents.width), (16, 28));
        }
    }

    #[test]
    fn a_given_sound_sets_the_length() {
        let plan = |sound| PublicPlan::new(request(), Some(sound));
        assert_eq!(plan(60.0).unwrap().latents.audio, 125);
        let short = plan(1.03).unwrap();
        assert_eq!((short.latents.audio, short.clip.frames), (25, 25));
        assert!(plan(0.01).unwrap_err().to_string().contains("--audio"));
    }

    #[test]
    fn sizes_are_those_of_the_public_examples() {
        let sizes = |r: &str, q: &str| {
            let (base, refined) = picture_sizes(r.parse().unwrap(), q.parse().unwrap()).unwrap();
            (base, refined.map(|(_, size)| size))
        };
        let small = PixelSize::new(448, 256);
        assert_eq!(sizes("256p", "16:9"), (small, None));
        assert_eq!(
            sizes("540p", "16:9"),
            (small, Some(PixelSize::new(896, 512)))
        );
        assert_eq!(
            sizes("1080p", "16:9"),
            (small, Some(PixelSize::new(1920, 1088)))
        );
        assert_eq!(sizes("256p", "9:16").0, PixelSize::new(256, 448));
        assert_eq!(sizes("80x112", "1:1").0, PixelSize::new(64, 96));
    }

    #[test]
    fn guidance_is_the_public_schedule() {
        let plan = |guidance| {
            PublicPlan::new(
                PublicRequest {
                    guidance,
                    ..request()
                },
                None,
            )
            .unwrap()
        };
        assert_eq!(plan(5.0).guidance(2), Guidance::public_base());
        assert_eq!(plan(5.0).guidance(1).scales.len(), 1);
        assert!(plan(1.0).guidance(2).is_off(0.9));
        assert!(plan(1.0).guidance(2).is_off(0.1));
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let refine = Refine {
            part: Part::Super540p,
            size: PixelSize::new(896, 512),
            steps: 0,
            guidance: 1.0,
        };
        for (asked, name) in [
            (
                PublicRequest {
                    duration: 0.0,
                    ..request()
                },
                "--duration",
            ),
            (
                PublicRequest {
                    steps: 0,
                    ..request()
                },
                "--steps",
            ),
            (
                PublicRequest {
                    guidance: -1.0,
                    ..request()
                },
                "--guidance",
            ),
            (
                PublicRequest {
                    prompt: "\n ".into(),
                    ..request()
                },
                "prompt",
            ),
            (
                PublicRequest {
                    refine: Some(refine),
                    ..request()
                },
                "--refine-steps",
            ),
        ] {
            let error = PublicPlan::new(asked, None).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
