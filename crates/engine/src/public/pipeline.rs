//! The stages, each with its weights, and their order.

use candle_core::{DType, Device, Tensor};
use gallop_core::{Audio, Frame, LatentShape, PixelSize};
use gallop_diffusion::{Guidance, Scale, flow_sigmas, gaussian, unipc, zero_snr_table};
use gallop_kernels::Precision;
use gallop_model::ModelError;
use gallop_model::public::oobleck::encode_wave;
use gallop_model::public::refine::{enlarge, renoise, renoise_audio};
use gallop_model::public::t5gemma::{MAX_TEXT_TOKENS, Text, pad_features};
use gallop_model::public::wan_vae::{LATENT_CHANNELS, SPACE_STRIDE, TIME_STRIDE};
use gallop_model::public::{Part, PartState, Picture, PublicError, PublicModel};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use super::estimate::{Asked, Estimate};
use super::field::{Given, Velocity, longest};
use super::plan::{AUDIO_CHANNELS, Decoder, PublicPlan, Refine};
use super::prompt::NEGATIVE_PROMPT;
use super::sound::{sound_for_encoder, wave_to_audio};
use super::transformer::{LoadTransformer, check_shapes};
use super::watch::Watch;
use crate::error::{EngineError, Result};
use crate::generate::Sink;

/// Shift of the sigma schedule, of the base, distilled and refining transformers alike.
const SHIFT: f64 = 5.0;
/// Where in the table of signal levels refining begins.
const REFINE_LEVEL: usize = 220;

/// Gives standard normal noise of a shape: video `[F, H, W, C]`, audio `[A, C]`.
///
/// It is asked, in this order, for the noise that a given sound's latents are drawn with; the noise that audio
/// and then video begin as; where the sampler wants it, fresh noise of video and then audio at each step; and
/// for refining, that of video and then audio.
pub type Noise<'a> = dyn FnMut(&[usize]) -> candle_core::Result<Tensor> + 'a;

/// The noise of a seed.
pub fn gaussian_noise(seed: u64) -> impl FnMut(&[usize]) -> candle_core::Result<Tensor> {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    move |shape| gaussian(&mut rng, shape, &Device::Cpu)
}

/// What a clip is made from beside its prompt.
#[derive(Clone, Copy, Default)]
pub struct Inputs<'a> {
    /// A picture of any size to begin with.
    pub picture: Option<&'a Frame>,
    /// A sound that drives the clip.
    pub sound: Option<&'a Audio>,
}

/// The latents of a clip.
#[derive(Clone)]
pub struct Latents {
    /// `[F, H, W, C]`, normalised.
    pub video: Tensor,
    /// `[A, C]`.
    pub audio: Tensor,
}

/// The full-size model's stages. Each method loads what it needs and lets it go.
pub struct PublicPipeline<'a> {
    /// The model's folder.
    pub model: &'a PublicModel,
    /// How transformers are loaded.
    pub transformers: &'a dyn LoadTransformer,
    /// Of the products in text encoder and video autoencoders; sound is always made in f32, as in the public
    /// code.
    pub precision: Precision,
}

impl PublicPipeline<'_> {
    /// Makes the clip of `plan`, and says how many frames it has.
    ///
    /// # Errors
    /// A part that is missing or broken; a cancelled run; what the sink says; no memory.
    pub fn generate(
        &self,
        plan: &PublicPlan,
        inputs: Inputs,
        sink: &mut dyn Sink,
        watch: Watch,
    ) -> Result<usize> {
        let parts = plan.parts(inputs.picture.is_some(), inputs.sound.is_some());
        check_parts(self.model, &parts)?;
        let mut noise = gaussian_noise(plan.request.seed);
        let latents = self.latents(plan, inputs, &mut noise, watch)?;
        if plan.request.audio {
            sink.audio(&self.decode_sound(&latents.audio, watch)?)?;
        }
        self.decode_video(plan, &latents.video, sink, watch)
    }

    /// All that comes before decoding.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn latents(
        &self,
        plan: &PublicPlan,
        inputs: Inputs,
        noise: &mut Noise,
        watch: Watch,
    ) -> Result<Latents> {
        let device = self.model.device();
        let noise = &mut |shape: &[usize]| noise(shape)?.to_device(device);
        let text = self.encode_text(plan, watch)?;
        let mut sizes = vec![plan.latents];
        sizes.extend(plan.refined);
        let first = match inputs.picture {
            Some(picture) => self.encode_picture(picture, &sizes, watch)?,
            None => Vec::new(),
        };
        let sound = match inputs.sound {
            Some(sound) => Some(self.encode_sound(plan, sound, noise, watch)?),
            None => None,
        };
        let given = |i: usize| Given {
            first: first.get(i).cloned(),
            audio: sound.clone(),
        };
        let latents = self.denoise(plan, &text, given(0), noise, watch)?;
        let (Some(refine), Some(shape)) = (&plan.request.refine, plan.refined) else {
            return Ok(latents);
        };
        let video = self.refine((refine, shape), &latents, &text, (given(1), noise), watch)?;
        Ok(Latents { video, ..latents })
    }

    /// What the clip of `plan` will cost, and whether every stage fits into the memory that is allowed.
    ///
    /// # Errors
    /// A part that is missing or broken; memory in which a stage cannot run, and what would be enough.
    pub fn estimate(&self, plan: &PublicPlan, inputs: Inputs) -> Result<Estimate> {
        let text = self.model.text();
        let text = text.map_err(|error| of_part(Part::TextEncoder, error))?;
        let count = |prompt: &str| -> Result<usize> {
            let ids = text.tokenizer().encode(prompt)?;
            Ok(ids.len().min(MAX_TEXT_TOKENS))
        };
        let asked = Asked {
            texts: [count(&plan.request.prompt)?, count(NEGATIVE_PROMPT)?],
            picture: inputs.picture.is_some(),
            sound: inputs.sound.is_some(),
        };
        drop(text);
        Estimate::new(plan, self.model, self.transformers, asked)
    }

    /// The features `[L, D]` of the prompt and, where any stage is guided, of the negative prompt.
    ///
    /// # Errors
    /// When the text encoder is missing or broken.
    pub fn encode_text(&self, plan: &PublicPlan, watch: Watch) -> Result<Vec<Tensor>> {
        watch.stage("encode text", 1)?;
        let damaged = |error| of_part(Part::TextEncoder, error);
        let stage = self.model.text().map_err(damaged)?;
        let ids = stage.tokenizer().encode(&plan.request.prompt)?;
        if ids.len() > MAX_TEXT_TOKENS {
            let note = "the prompt is longer than the 640 tokens that the model reads; its end is left out";
            watch.progress.note(note);
        }
        let mut texts = vec![Text::new(ids)];
        let refined = plan.request.refine.map_or(1.0, |refine| refine.guidance);
        if plan.request.guidance != 1.0 || refined != 1.0 {
            texts.push(Text::new(stage.tokenizer().encode(NEGATIVE_PROMPT)?));
        }
        let encoder = stage.encoder(self.precision).map_err(damaged)?;
        let features = encoder.encode(&texts).map_err(damaged)?;
        watch.progress.at(1);
        let cut = |features: &Tensor| {
            let (features, counted) = pad_features(features, MAX_TEXT_TOKENS)?;
            Ok(features.narrow(0, 0, counted)?)
        };
        features.iter().map(cut).collect()
    }

    /// The latent frame `[1, H, W, C]` of a first picture at each of `sizes`: cropped about its centre and
    /// resized as the public code does it.
    ///
    /// # Errors
    /// When the video encoder is missing or broken.
    pub fn encode_picture(
        &self,
        picture: &Frame,
        sizes: &[LatentShape],
        watch: Watch,
    ) -> Result<Vec<Tensor>> {
        watch.stage("encode picture", sizes.len())?;
        let encoder = self.model.video_encoder(self.precision);
        let encoder = encoder.map_err(|error| of_part(Part::VideoAutoencoder, error))?;
        let from = picture.size;
        let picture = Picture::new(from.width, from.height, picture.rgb.clone())?;
        let encode = |size: &LatentShape| {
            let fitted = picture.fit(size.width * SPACE_STRIDE, size.height * SPACE_STRIDE);
            let pixels = fitted.to_tensor()?.to_device(self.model.device())?;
            let latents = encoder.encode(&pixels)?;
            Ok(latents.permute((1, 2, 3, 0))?.contiguous()?)
        };
        sizes.iter().map(encode).collect()
    }

    /// The latents `[A, C]` of a given sound.
    ///
    /// # Errors
    /// When the audio encoder is missing or broken, or the sound shorter than one latent.
    pub fn encode_sound(
        &self,
        plan: &PublicPlan,
        sound: &Audio,
        noise: &mut Noise,
        watch: Watch,
    ) -> Result<Tensor> {
        watch.stage("encode sound", 1)?;
        let encoder = self.model.audio_encoder(Precision::F32);
        let encoder = encoder.map_err(|error| of_part(Part::AudioAutoencoder, error))?;
        let wave = sound_for_encoder(sound, plan.request.duration)?;
        let wave = wave.to_device(self.model.device())?;
        Ok(encode_wave(&encoder, &wave, &mut |shape| {
            Ok(noise(shape)?)
        })?)
    }

    /// Denoises with the first transformer.
    fn denoise(
        &self,
        plan: &PublicPlan,
        text: &[Tensor],
        given: Given,
        noise: &mut Noise,
        watch: Watch,
    ) -> Result<Latents> {
        let mut shape = plan.latents;
        let mut x = Vec::with_capacity(2);
        match &given.audio {
            Some(audio) => {
                shape.audio = audio.dim(0)?;
                shape.frames = (shape.audio - 1) / TIME_STRIDE + 1;
                x.push(noise(&video(shape))?);
            }
            None => {
                let audio = noise(&[shape.audio, AUDIO_CHANNELS])?;
                x.extend([noise(&video(shape))?, audio]);
            }
        }
        let request = &plan.request;
        let guidance = plan.guidance(x.len());
        let sigmas = flow_sigmas(request.steps, SHIFT);
        let mut made = self.run(
            plan.base_part(),
            ("denoise", shape, text),
            (guidance, given.clone()),
            &mut |field| request.sampler.run(field, x.clone(), &sigmas, noise),
            (request.steps, watch),
        )?;
        let audio = match given.audio {
            Some(audio) => audio,
            None => made.swap_remove(1),
        };
        Ok(Latents {
            video: made.swap_remove(0),
            audio,
        })
    }

    /// Latents of a clip at a larger size: enlarged, made noisy again, and denoised by a refining transformer,
    /// which is shown a noisy form of the sound.
    fn refine(
        &self,
        (to, shape): (&Refine, LatentShape),
        latents: &Latents,
        text: &[Tensor],
        (given, noise): (Given, &mut Noise),
        watch: Watch,
    ) -> Result<Tensor> {
        let shape = LatentShape {
            frames: latents.video.dim(0)?,
            audio: latents.audio.dim(0)?,
            ..shape
        };
        // Enlarging wants the channels first.
        let small = latents.video.permute((3, 0, 1, 2))?.contiguous()?;
        let large = enlarge(&small, shape.height, shape.width)?;
        let large = large.permute((1, 2, 3, 0))?.contiguous()?;
        let signal = f64::from(zero_snr_table()[REFINE_LEVEL] as f32);
        let x = vec![renoise(&large, &noise(&video(shape))?, signal)?];
        let sound = renoise_audio(&latents.audio, &noise(latents.audio.dims())?)?;
        let given = Given {
            audio: Some(sound),
            ..given
        };
        let sigmas = flow_sigmas(to.steps, SHIFT);
        let mut made = self.run(
            to.part,
            ("refine", shape, text),
            (to.guidance(), given),
            &mut |field| unipc(field, x.clone(), &sigmas),
            (to.steps, watch),
        )?;
        Ok(made.swap_remove(0))
    }

    /// Loads a transformer, samples with it, and lets it go.
    fn run(
        &self,
        part: Part,
        (stage, shape, text): (&str, LatentShape, &[Tensor]),
        (guidance, given): (Guidance, Given),
        sample: &mut dyn FnMut(&mut Velocity) -> candle_core::Result<Vec<Tensor>>,
        (steps, watch): (usize, Watch),
    ) -> Result<Vec<Tensor>> {
        watch.stage("load", 1)?;
        // A guidance of 1 has its late and first parts at 1 too.
        let none = Scale::constant(1.0);
        let text = match guidance.scales.iter().all(|s| *s == none) {
            true => &text[..1],
            false => text,
        };
        let lengths = text.iter().map(|text| text.dim(0));
        let lengths = lengths.collect::<candle_core::Result<Vec<_>>>()?;
        let tokens = longest(shape, &lengths);
        let transformer = (self.transformers).load(self.model, part, tokens, watch.progress);
        let mut transformer = transformer.map_err(|error| of_part(part, error))?;
        let width = transformer.config().text.channels;
        if text.iter().any(|text| text.dims().last() != Some(&width)) {
            let what = format!(
                "{} reads text of {width} numbers a token, {} writes {}: use parts of one model",
                part.folder(),
                Part::TextEncoder.folder(),
                text[0].dim(1)?
            );
            return Err(PublicError::Input(what).into());
        }
        watch.stage(stage, steps * transformer.config().layers.len())?;
        let mut field = Velocity::new(transformer.as_mut(), shape, text, (guidance, given), watch)?;
        let made = match sample(&mut field) {
            Ok(made) => made,
            Err(error) => {
                return Err(match field.failed.take() {
                    Some(why) => of_part(part, watch.or_cancelled(why)),
                    None => watch.or_cancelled(error),
                });
            }
        };
        for x in &made {
            // A sum is finite only if all its terms are.
            if !x.abs()?.sum_all()?.to_scalar::<f32>()?.is_finite() {
                let what = format!("{}: the transformer gave no numbers", part.folder());
                return Err(PublicError::Input(what).into());
            }
        }
        Ok(made)
    }

    /// The sound of audio latents `[A, C]`.
    ///
    /// # Errors
    /// When the audio decoder is missing or broken.
    pub fn decode_sound(&self, latents: &Tensor, watch: Watch) -> Result<Audio> {
        watch.stage("decode sound", 1)?;
        wave_to_audio(&self.decode_wave(latents)?)
    }

    /// The wave `[T, 2]` of audio latents `[A, C]`, at the decoder's own rate of 51.2 kHz.
    ///
    /// # Errors
    /// When the audio decoder is missing or broken.
    pub fn decode_wave(&self, latents: &Tensor) -> Result<Tensor> {
        let decoder = self.model.audio_decoder(Precision::F32);
        let decoder = decoder.map_err(|error| of_part(Part::AudioAutoencoder, error))?;
        Ok(decoder.decode(latents)?)
    }

    /// Gives the pictures of video latents `[F, H, W, C]` away as they are decoded, and says how many.
    ///
    /// # Errors
    /// When the decoder is missing or broken, what the sink says, and a cancelled run.
    pub fn decode_video(
        &self,
        plan: &PublicPlan,
        latents: &Tensor,
        sink: &mut dyn Sink,
        watch: Watch,
    ) -> Result<usize> {
        let frames = ((latents.dim(0)? - 1) * TIME_STRIDE + 1).min(plan.clip.frames);
        watch.stage("decode", frames)?;
        let mut done = 0;
        let mut refused = None;
        let decoded = self.decode_each(plan.request.decoder, latents, &mut |pictures| {
            for picture in to_frames(&pictures)?.iter().take(frames - done) {
                if let Err(error) = sink.frame(picture) {
                    refused = Some(error);
                    return Err(PublicError::Input("the frame was refused".into()));
                }
                done += 1;
                watch.progress.at(done as u64);
            }
            match watch.cancel.is_cancelled() {
                true => Err(PublicError::Input("cancelled".into())),
                false => Ok(()),
            }
        });
        match (refused, decoded) {
            (Some(error), _) => Err(error.into()),
            (None, Err(error)) => {
                let part = match plan.request.decoder {
                    Decoder::Fast => Part::FastDecoder,
                    Decoder::Exact => Part::VideoAutoencoder,
                };
                Err(of_part(part, watch.or_cancelled(error)))
            }
            (None, Ok(())) => Ok(done),
        }
    }

    /// Decodes video latents `[F, H, W, C]`; `sink` takes runs of pictures `[t, H, W, 3]`, about -1 to 1, in
    /// order.
    ///
    /// # Errors
    /// When the decoder is missing or broken, and what `sink` returns.
    pub fn decode_each(
        &self,
        decoder: Decoder,
        latents: &Tensor,
        sink: &mut dyn FnMut(Tensor) -> gallop_model::public::Result<()>,
    ) -> gallop_model::public::Result<()> {
        let latents = latents.permute((3, 0, 1, 2))?.contiguous()?;
        match decoder {
            Decoder::Fast => {
                let decoder = self.model.fast_video_decoder(self.precision)?;
                decoder.decode_each(&latents, sink)
            }
            Decoder::Exact => {
                let decoder = self.model.video_decoder(self.precision)?;
                decoder.decode_each(&latents, sink)
            }
        }
    }
}

/// Says of the parts what can be seen without reading them through: whether all files are there, whole,
/// and hold weights of the right shapes.
///
/// # Errors
/// The first part that cannot be used, and where to get it.
pub fn check_parts(model: &PublicModel, parts: &[Part]) -> Result<()> {
    let states = model.inventory();
    for &part in parts {
        let state = states.iter().find(|(of, _)| *of == part);
        let again = format!("get it from {} on Hugging Face", part.origin());
        match state {
            Some((_, PartState::Present(_))) => {}
            Some((_, PartState::Missing(path))) => {
                let what = format!("{} ({}) is missing: {again}", path.display(), part.title());
                return Err(PublicError::Input(what).into());
            }
            Some((_, PartState::Broken(why))) => {
                let what = format!("{}: {why}: {again}", part.title());
                return Err(PublicError::Input(what).into());
            }
            None => {}
        }
        check_part(model, part).map_err(|error| of_part(part, error))?;
    }
    Ok(())
}

/// An error about files of a part says whose they are and where to get them.
pub(super) fn of_part(part: Part, error: impl Into<EngineError>) -> EngineError {
    use ModelError::{Config, Format, Missing, Shape, Tokenizer};
    let error = error.into();
    let model = match &error {
        EngineError::Model(error) | EngineError::Public(PublicError::Model(error)) => Some(error),
        EngineError::Public(PublicError::NotFinite { .. } | PublicError::Pickle(_)) => None,
        _ => return error,
    };
    let of_files = |error: &ModelError| {
        matches!(
            error,
            Config(_) | Format { .. } | Missing(_) | Shape { .. } | Tokenizer(_)
        )
    };
    let said = error.to_string();
    if model.is_some_and(|error| !of_files(error)) || said.contains(part.origin()) {
        return error;
    }
    let (folder, title, origin) = (part.folder(), part.title(), part.origin());
    PublicError::Input(format!(
        "{folder} ({title}): {said}: get it from {origin} on Hugging Face"
    ))
    .into()
}

fn check_part(model: &PublicModel, part: Part) -> gallop_model::public::Result<()> {
    if !part.is_transformer() {
        return model.check_shapes(part);
    }
    let files = model.transformer(part)?;
    let config = model.transformer_config(part, &files)?;
    Ok(check_shapes(&files, &config)?)
}

fn video(shape: LatentShape) -> [usize; 4] {
    [shape.frames, shape.height, shape.width, LATENT_CHANNELS]
}

/// Pictures `[t, H, W, 3]` of about -1 to 1 in 8 bits, cut off as in the public code. They become bytes where they are:
/// the way out of a GPU is long.
pub(super) fn to_frames(pictures: &Tensor) -> gallop_model::public::Result<Vec<Frame>> {
    let (count, height, width, _) = pictures.dims4()?;
    let size = PixelSize::new(width, height);
    let shares = pictures.affine(0.5, 0.5)?.clamp(0f32, 1f32)?;
    let bytes = shares.affine(255.0, 0.0)?.to_dtype(DType::U8)?;
    let frame = |i| {
        let rgb = bytes.get(i)?.flatten_all()?.to_vec1()?;
        Ok(Frame { size, rgb })
    };
    (0..count).map(frame).collect()
}
