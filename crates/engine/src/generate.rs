//! One clip: the way of the data from a plan to frames and samples.

use std::borrow::Cow;

use candle_core::Tensor;
use gallop_core::{
    Audio, Cancel, Clip, Frame, PixelSize, Plan, Progress, SAMPLES_PER_FRAME, UserError, base_size,
};
use gallop_diffusion::{Guidance, Noise, gaussian, restarted};
use gallop_media::{ClipWriter, fit_image, surround_image};
use gallop_model::tokens::Task;
use gallop_model::upscaler::Upscaling;
use gallop_model::video_ae::{GROUP, VideoDecoder};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use crate::denoiser::{CANCELLED, Denoiser, Unseen, sequences};
use crate::detail::Detail;
use crate::error::{EngineError, Result};
use crate::foal::{Foal, Sampling};

/// Latent frames decoded at once: memory stays the same however long the clip.
const CHUNK: usize = 4;
/// Longest prompt in tokens; what is beyond is cut off with a note.
const MAX_TEXT: usize = 256;

/// Where a clip goes as it is decoded.
pub trait Sink {
    /// The next frame.
    ///
    /// # Errors
    /// A failed write.
    fn frame(&mut self, frame: &Frame) -> gallop_core::Result<()>;

    /// The whole sound; comes before the frames.
    ///
    /// # Errors
    /// A failed write.
    fn audio(&mut self, audio: &Audio) -> gallop_core::Result<()>;
}

impl Sink for ClipWriter {
    fn frame(&mut self, frame: &Frame) -> gallop_core::Result<()> {
        self.push_frame(frame)
    }

    fn audio(&mut self, audio: &Audio) -> gallop_core::Result<()> {
        self.push_audio(audio)
    }
}

/// Makes the clip of `plan`, beginning with the picture `first` if there is one, which must have the
/// clip's size.
///
/// # Errors
/// A cancelled run; a first picture of another size; what the sink says; no memory.
pub fn generate(
    model: &Foal,
    plan: &Plan,
    first: Option<&Frame>,
    sink: &mut dyn Sink,
    (progress, cancel): (&dyn Progress, &Cancel),
) -> Result<()> {
    let given = first.map_or(Given::Nothing, Given::First);
    let latents = sample(model, plan, given, (progress, cancel))?;
    if let Some(audio) = latents.get(1) {
        sink.audio(&decode_audio(model, plan, audio)?)?;
    }
    decode_video(model, plan, (&latents[0], first), sink, (progress, cancel))
}

/// Makes the sound of `plan` for a picture that is there: `frames`, of the size and as many as the clip's.
///
/// # Errors
/// As [`generate`]; a silent plan; frames of another size or number.
pub fn sound_for(
    model: &Foal,
    plan: &Plan,
    frames: &[Frame],
    (progress, cancel): (&dyn Progress, &Cancel),
) -> Result<Audio> {
    if !plan.request.audio {
        return Err(UserError::new("a silent clip has no sound to make", "ask for sound").into());
    }
    let latents = sample(model, plan, Given::Picture(frames), (progress, cancel))?;
    decode_audio(model, plan, &latents[1])
}

/// What of a clip's picture is there already.
#[derive(Clone, Copy)]
enum Given<'a> {
    Nothing,
    First(&'a Frame),
    Picture(&'a [Frame]),
}

impl Given<'_> {
    /// The frames that are there.
    fn frames(&self) -> &[Frame] {
        match self {
            Self::Nothing => &[],
            Self::First(frame) => std::slice::from_ref(frame),
            Self::Picture(frames) => frames,
        }
    }

    fn task(self) -> Task {
        match self {
            Self::Nothing => Task::TextToClip,
            Self::First(_) => Task::FirstFrames(1),
            Self::Picture(_) => Task::SoundForVideo,
        }
    }
}

/// Denoises: video latents [F, H, W, C] and, unless the clip is silent, audio latents [A, C].
fn sample(
    model: &Foal,
    plan: &Plan,
    given: Given,
    (progress, cancel): (&dyn Progress, &Cancel),
) -> Result<Vec<Tensor>> {
    let request = &plan.request;
    let mut shape = plan.latents;
    if !request.audio {
        shape.audio = 0;
    }
    let task = given.task();
    let given = encode_given(model, plan, given)?;
    let ids = encode_prompt(model, &request.prompt, progress)?;
    let (cond, both) = sequences(&model.dit, shape, &ids, task)?;

    let mut rng = Pcg64Mcg::seed_from_u64(request.seed);
    let config = model.dit.config();
    let grid = (
        shape.frames,
        shape.height,
        shape.width,
        config.video_channels,
    );
    let levels = &model.levels;
    let mut x = levels.split(&gaussian(&mut rng, grid, &model.device)?)?;
    let mut shifts = levels.shifts(shape.frames);
    let pictures = x.len();
    if shape.audio > 0 {
        x.push(gaussian(
            &mut rng,
            (shape.audio, config.audio_channels),
            &model.device,
        )?);
        shifts.push(levels.sound(shape.frames));
    }

    let sigmas = model.info.sampling.sigmas(request.steps);
    let mut guidance = Guidance::constant(request.guidance, x.len());
    if let Some(most) = model.info.sampling.audio_guidance {
        for scale in &mut guidance.scales[pictures..] {
            scale.scale = scale.scale.min(most);
        }
    }
    let picture_guidance = model.info.sampling.picture_guidance;
    let unseen = match picture_guidance != 0.0 && shape.audio > 0 {
        true => Some(Unseen {
            scale: picture_guidance,
            picture: levels.split(&gaussian(&mut rng, grid, &model.device)?)?,
        }),
        false => None,
    };
    let mut denoiser = Denoiser {
        dit: &model.dit,
        guidance,
        unseen,
        levels,
        shifts,
        pictures,
        sigmas: &sigmas,
        cond,
        both,
        ids,
        given,
        progress,
        cancel,
        steps_done: 0,
    };
    let Sampling {
        sampler, restart, ..
    } = &model.info.sampling;
    let restart = restart.unwrap_or_default();
    progress.stage("denoise", restart.steps(&sigmas) as u64);
    let noise = &mut |shape: &[usize]| gaussian(&mut rng, shape, &model.device);
    let run =
        &mut |field: &mut _, x, sigmas: &[f64], noise: Noise| sampler.run(field, x, sigmas, noise);
    let result = restarted(&restart, &mut denoiser, x, &sigmas, run, noise);
    let found = result.map_err(|error| {
        if cancel.is_cancelled() && error.to_string().contains(CANCELLED) {
            EngineError::Cancelled
        } else {
            error.into()
        }
    })?;
    let (video, audio) = found.split_at(pictures);
    Ok([&[levels.join(video)?], audio].concat())
}

fn encode_prompt(model: &Foal, prompt: &str, progress: &dyn Progress) -> Result<Tensor> {
    let mut ids = model.tokenizer.encode(prompt)?;
    if ids.len() > MAX_TEXT {
        progress.note("the prompt is longer than the model reads; its end is left out");
        ids.truncate(MAX_TEXT);
    }
    Ok(Tensor::new(ids, &model.device)?)
}

/// The latent frames [N, H, W, C] of what is given.
fn encode_given(model: &Foal, plan: &Plan, given: Given) -> Result<Option<Tensor>> {
    let (frames, want) = (given.frames(), plan.clip.size);
    if let Some(frame) = frames.iter().find(|frame| frame.size != want) {
        let (width, height) = (frame.size.width, frame.size.height);
        return Err(UserError::new(
            format!("the given picture is {width}x{height}"),
            format!("fit it to {}x{}", want.width, want.height),
        )
        .into());
    }
    match given {
        Given::Nothing => return Ok(None),
        Given::Picture(_) if frames.len() != plan.clip.frames => {
            return Err(UserError::new(
                format!("{} frames are given", frames.len()),
                format!("give the clip's {}", plan.clip.frames),
            )
            .into());
        }
        _ => {}
    }
    let frames = resized(frames, plan.base, surround_image);
    Ok(Some(model.video_ae.encode(&frames)?))
}

/// Frames brought to a size by `fit`; as they are where they have it.
fn resized(
    frames: &[Frame],
    size: PixelSize,
    fit: fn(&Frame, PixelSize) -> Frame,
) -> Cow<'_, [Frame]> {
    match frames.iter().all(|frame| frame.size == size) {
        true => frames.into(),
        false => frames.iter().map(|frame| fit(frame, size)).collect(),
    }
}

fn decode_audio(model: &Foal, plan: &Plan, latents: &Tensor) -> Result<Audio> {
    let mut audio = model.audio_ae.decode(latents)?;
    audio.left.truncate(plan.clip.frames * SAMPLES_PER_FRAME);
    audio.right.truncate(plan.clip.frames * SAMPLES_PER_FRAME);
    Ok(audio)
}

/// Latents to the pictures of a clip: decoded at the size that the transformer makes, and made larger where the clip is.
struct Pictures<'a> {
    decoder: VideoDecoder<'a>,
    upscaling: Option<Upscaling<'a>>,
    size: PixelSize,
}

impl<'a> Pictures<'a> {
    /// Before the first latent, which will be of pictures of the size `base`.
    fn new(model: &'a Foal, base: PixelSize, size: PixelSize) -> Self {
        let upscaler = model
            .upscaler
            .as_ref()
            .filter(|_| base.height < size.height);
        Self {
            decoder: VideoDecoder::new(&model.video_ae, base),
            upscaling: upscaler.map(Upscaling::new),
            size,
        }
    }

    /// The next latents `[F, H, W, C]` to their frames.
    fn push(&mut self, latents: &Tensor) -> Result<Vec<Frame>> {
        let mut frames = self.decoder.push(latents)?;
        if let Some(upscaling) = &mut self.upscaling {
            frames = upscaling.push(&frames)?;
        }
        let fitted = match resized(&frames, self.size, fit_image) {
            Cow::Owned(fitted) => Some(fitted),
            Cow::Borrowed(_) => None,
        };
        Ok(fitted.unwrap_or(frames))
    }
}

/// Decodes chunk by chunk, and gives the frames of each away while the next is decoded; `first` is the picture that the clip
/// was to begin with.
fn decode_video(
    model: &Foal,
    plan: &Plan,
    (latents, first): (&Tensor, Option<&Frame>),
    sink: &mut dyn Sink,
    (progress, cancel): (&dyn Progress, &Cancel),
) -> Result<()> {
    progress.stage("decode", plan.clip.frames as u64);
    let mut pictures = Pictures::new(model, plan.base, plan.clip.size);
    let (mut done, total) = (0, latents.dim(0)?);
    let mut detail = None;
    let mut give = |frames: Vec<Frame>| -> Result<()> {
        for mut frame in frames {
            if let Some(first) = first {
                detail
                    .get_or_insert_with(|| Detail::new(first, &frame))
                    .restore(&mut frame);
            }
            if done < plan.clip.frames {
                sink.frame(&frame)?;
                done += 1;
                progress.at(done as u64);
            }
        }
        Ok(())
    };
    let mut decoded = Vec::new();
    for start in (0..total).step_by(CHUNK) {
        if cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let chunk = latents.narrow(0, start, CHUNK.min(total - start))?;
        let mut next = Ok(Vec::new());
        rayon::in_place_scope(|scope| {
            scope.spawn(|_| next = pictures.push(&chunk));
            give(std::mem::take(&mut decoded))
        })?;
        decoded = next?;
    }
    give(decoded)
}

/// The first frames of every latent frame but the first, of a clip of so many frames.
pub fn latent_starts(frames: usize) -> impl Iterator<Item = usize> {
    (1..frames).step_by(GROUP)
}

/// Those that begin a chunk of the decoder.
pub fn chunk_starts(frames: usize) -> impl Iterator<Item = usize> {
    latent_starts(frames).skip(CHUNK - 1).step_by(CHUNK)
}

/// A clip through both autoencoders and back, and through the upscaler where there is one: the best that the model could do.
///
/// # Errors
/// A clip without frames; no memory.
pub fn reconstruct(model: &Foal, clip: &Clip) -> Result<Clip> {
    let size = clip.frames[0].size;
    let base = base_size(size, &model.info.base_sizes);
    let frames = resized(&clip.frames, base, surround_image);
    let latents = model.video_ae.encode(&frames)?;
    let mut pictures = Pictures::new(model, base, size);
    let (mut frames, total) = (Vec::with_capacity(clip.frames.len() + 3), latents.dim(0)?);
    for start in (0..total).step_by(CHUNK) {
        frames.extend(pictures.push(&latents.narrow(0, start, CHUNK.min(total - start))?)?);
    }
    let decode = |audio| {
        let latents = model.audio_ae.encode(audio)?;
        model.audio_ae.decode(&latents)
    };
    let audio = clip.audio.as_ref().map(decode).transpose()?;
    let mut made = Clip { frames, audio };
    made.truncate(clip.frames.len());
    Ok(made)
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use super::*;
    use candle_core::Device;
    use gallop_core::{PixelSize, Ratio, Request, Silent};
    use gallop_diffusion::Restart;

    fn small_plan(model: &Foal) -> Plan {
        let request = Request {
            prompt: "a red ball".into(),
            duration: 1.0,
            ratio: Ratio::ALL[0],
            resolution: "64x64".parse().unwrap(),
            seed: 1,
            steps: 2,
            guidance: 2.0,
            audio: true,
        };
        model.info.plan(request).unwrap()
    }

    /// Else an untrained model, which evaluation compares with, would hold every step of the sampler.
    #[test]
    fn nothing_is_remembered_for_gradients() {
        let model = Foal::embedded(&Device::Cpu).unwrap();
        let plan = small_plan(&model);
        for model in [
            Foal::embedded(&Device::Cpu).unwrap(),
            model.untrained(1).unwrap(),
        ] {
            let latents =
                sample(&model, &plan, Given::Nothing, (&Silent, &Cancel::default())).unwrap();
            assert!(latents.iter().all(|x| !x.track_op()));
        }
    }

    #[test]
    fn channels_and_frames_may_have_noise_levels_of_their_own() {
        let mut model = Foal::embedded(&Device::Cpu).unwrap();
        let plan = small_plan(&model);
        let channels = model.dit.config().video_channels;
        let first = Frame::black(plan.clip.size);
        let mut made = |shifts: Vec<f64>, lead| {
            (model.levels.video, model.levels.lead) = (shifts, lead);
            let silent = (&Silent as _, &Cancel::default());
            let latents = sample(&model, &plan, Given::First(&first), silent).unwrap();
            let given = encode_given(&model, &plan, Given::First(&first))
                .unwrap()
                .unwrap();
            let begins = latents[0].narrow(0, 0, 1).unwrap();
            let numbers = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(numbers(&begins), numbers(&given));
            assert_eq!(latents.len(), 2);
            numbers(&latents[0])
        };
        let together = made(Vec::new(), 0.0);
        assert_eq!(together, made(vec![1.0; channels], 0.0));
        assert_ne!(together, made(Vec::new(), 0.5));
        let mut later = vec![1.0; channels];
        later[channels - 1] = 4.0;
        assert_ne!(together, made(later, 0.5));
    }

    #[test]
    fn the_sound_has_guidance_of_its_own() {
        let mut model = Foal::embedded(&Device::Cpu).unwrap();
        let mut plan = small_plan(&model);
        let mut sound = |most: Option<f64>, picture: f64, guidance: f64| {
            (
                model.info.sampling.audio_guidance,
                model.info.sampling.picture_guidance,
            ) = (most, picture);
            plan.request.guidance = guidance;
            let latents =
                sample(&model, &plan, Given::Nothing, (&Silent, &Cancel::default())).unwrap();
            latents[1].flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let plain = sound(None, 0.0, 2.0);
        assert_eq!(plain, sound(Some(2.0), 0.0, 2.0));
        assert_eq!(plain, sound(Some(9.0), 0.0, 2.0));
        assert_ne!(plain, sound(Some(1.5), 0.0, 2.0));
        assert_ne!(plain, sound(None, 1.0, 2.0));
        // Whoever wants no guidance gets none.
        assert_eq!(sound(None, 0.0, 1.0), sound(Some(1.5), 1.0, 1.0));
    }

    #[test]
    fn steps_may_be_taken_again() {
        let mut model = Foal::embedded(&Device::Cpu).unwrap();
        let mut plan = small_plan(&model);
        plan.request.steps = 6;
        let mut made = |restart| {
            model.info.sampling.restart = restart;
            let silent = (&Silent as _, &Cancel::default());
            let latents = sample(&model, &plan, Given::Nothing, silent).unwrap();
            latents[0].flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let restart = |low, high, times| Some(Restart { low, high, times });
        let plain = made(None);
        assert_eq!(plain, made(restart(0.3, 0.7, 0)));
        assert_eq!(plain, made(restart(0.7, 0.3, 2)));
        let again = made(restart(0.3, 0.7, 2));
        assert_ne!(plain, again);
        assert_eq!(again, made(restart(0.3, 0.7, 2)));
    }

    #[test]
    fn a_sound_is_made_for_a_picture_that_is_there() {
        let model = Foal::embedded(&Device::Cpu).unwrap();
        let mut plan = small_plan(&model);
        let never = Cancel::default();
        let quiet = || (&Silent as _, &never);
        let frames = vec![Frame::black(plan.clip.size); plan.clip.frames];
        let latents = sample(&model, &plan, Given::Picture(&frames), quiet()).unwrap();
        let numbers = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let small = vec![Frame::black(plan.base); plan.clip.frames];
        let encoded = model.video_ae.encode(&small).unwrap();
        assert_eq!(numbers(&latents[0]), numbers(&encoded));
        let free = sample(&model, &plan, Given::Nothing, quiet()).unwrap();
        assert_ne!(numbers(&latents[1]), numbers(&free[1]));
        let sound = sound_for(&model, &plan, &frames, quiet()).unwrap();
        assert_eq!(sound.left.len(), plan.clip.frames * SAMPLES_PER_FRAME);
        assert!(sound_for(&model, &plan, &frames[1..], quiet()).is_err());
        let mut other = frames.clone();
        let (width, height) = (32, 32);
        other[3] = Frame::black(PixelSize { width, height });
        assert!(sound_for(&model, &plan, &other, quiet()).is_err());
        plan.request.audio = false;
        assert!(sound_for(&model, &plan, &frames, quiet()).is_err());
    }

    /// The transformer's part is what it would be for a small clip; the clip has the size asked for, and begins with the
    /// picture given.
    #[test]
    fn large_clips_are_made_small_first() {
        struct Frames(Vec<Frame>);
        impl Sink for Frames {
            fn frame(&mut self, frame: &Frame) -> gallop_core::Result<()> {
                self.0.push(frame.clone());
                Ok(())
            }
            fn audio(&mut self, _: &Audio) -> gallop_core::Result<()> {
                Ok(())
            }
        }
        let model = Foal::embedded(&Device::Cpu).unwrap();
        let mut request = small_plan(&model).request;
        request.resolution = "320x192".parse().unwrap();
        // Wider than the clip, which is cut out of the middle.
        let makes = [PixelSize::new(88, 48)];
        let plan = Plan::new(request, model.info.strides(), &makes).unwrap();
        assert_eq!(plan.base, makes[0]);
        let mut first = Frame::black(plan.clip.size);
        first
            .rgb
            .iter_mut()
            .enumerate()
            .for_each(|(i, c)| *c = (i / 960) as u8);
        let mut made = Frames(Vec::new());
        let silent = (&Silent as _, &Cancel::default());
        generate(&model, &plan, Some(&first), &mut made, silent).unwrap();
        assert_eq!(made.0.len(), plan.clip.frames);
        assert!(made.0.iter().all(|frame| frame.size == plan.clip.size));
        assert_eq!(made.0[0], first);
        let silent = (&Silent as _, &Cancel::default());
        assert!(sound_for(&model, &plan, &made.0, silent).is_ok());
    }

    #[test]
    fn chunks_begin_where_the_decoder_begins_them() {
        assert_eq!(latent_starts(10).collect::<Vec<_>>(), [1, 5, 9]);
        assert_eq!(chunk_starts(48).collect::<Vec<_>>(), [13, 29, 45]);
        assert_eq!(chunk_starts(13).count(), 0);
    }
}
