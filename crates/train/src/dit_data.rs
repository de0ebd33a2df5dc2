//! Batches for the transformer: clips rendered, autoencoded, noised and packed by worker threads.
//!
//! Rendering and encoding a clip costs about as much as a step on it, so a clip is used several times,
//! with new noise and another caption: batch `i` draws its clips from a window of clip numbers that
//! moves on with `i`. Which clips it draws depends on `i` only; the memory of clips already encoded
//! is a saving, not a state.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use gallop_core::{Frame, LatentShape};
use gallop_diffusion::{Levels, add_noise_by_part, gaussian, shifted, velocity_target};
use gallop_model::TextTokenizer;
use gallop_model::audio_ae::AudioAe;
use gallop_model::dit::DitConfig;
use gallop_model::tokens::{Modality, SampleSpec, Task, TokenSequence};
use gallop_model::video_ae::VideoAe;
use gallop_world::{Caption, Rendered, Split};
use rand::RngExt;
use rand_pcg::Pcg64;
use rayon::ThreadPool;
use serde::{Deserialize, Serialize};

use crate::data::{ClipOf, choose_by, pixel_size};
use crate::dit::DitRecipe;
use crate::error::Result;
use crate::motion::{motion, moving};
use crate::rng::{Purpose, stream};
use crate::strange::with_strange_words;
use crate::teacher::distil::Unguided;
use crate::teacher::transfer::Before;
use crate::teacher::{Beside, TeacherRecipe};

/// Shifts of the noise levels of clips whose picture is nearly clear: of the picture's own, and of the sound's, even in
/// (0, 1) otherwise.
const CLEAR: f64 = 1.0 / 16.0;
const NOISY: f64 = 3.0;

/// Clips that a GPU encodes at a time: one alone keeps it waiting for its many small launches.
const TOGETHER: usize = 16;

/// One shape of clips.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DitView {
    /// How often it is chosen, relative to the others of its stage.
    pub weight: f64,
    /// Width and height.
    pub size: [usize; 2],
    /// Frames, `4k + 1`; a single one is a picture, without sound.
    pub frames: usize,
    /// Clips of a batch.
    pub clips: usize,
}

/// A clip as the transformer sees it, in the processor's memory.
pub(crate) struct EncodedClip {
    /// `[F, H, W, C]`.
    pub video: Tensor,
    /// `[A, C]`; none for a picture.
    pub audio: Option<Tensor>,
    /// How much each place moves, `[F, H, W, 1]`: see [`motion`].
    pub motion: Tensor,
    /// The same pictures and sound in the latents that a teacher knows.
    pub before: Option<(Tensor, Option<Tensor>)>,
    pub captions: Vec<Caption>,
    pub frames: Vec<Frame>,
}

impl EncodedClip {
    /// Its latent grid.
    pub(crate) fn shape(&self) -> Result<LatentShape> {
        let (frames, height, width, _) = self.video.dims4()?;
        Ok(LatentShape {
            frames,
            height,
            width,
            audio: self.audio.as_ref().map_or(Ok(0), |a| a.dim(0))?,
        })
    }
}

/// The noise levels of a clip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sigmas {
    /// Of the picture, in its middle and before its channels' shifts.
    pub video: f64,
    pub audio: f64,
    /// As in [`Levels`].
    pub lead: f64,
}

impl From<[f64; 2]> for Sigmas {
    /// Picture and sound, all frames alike.
    fn from([video, audio]: [f64; 2]) -> Self {
        let lead = 0.0;
        Self { video, audio, lead }
    }
}

/// Numbers of a packed batch, and what the network should say of them.
pub struct DitBatch {
    pub(crate) sequence: TokenSequence,
    pub(crate) video: Option<Tensor>,
    pub(crate) video_target: Option<Tensor>,
    pub(crate) audio: Option<Tensor>,
    pub(crate) audio_target: Option<Tensor>,
    pub(crate) ids: Option<Tensor>,
    /// What video tokens count for moving, `[Lv]`.
    pub(crate) motion: Tensor,
    /// Noise levels, clip by clip.
    pub(crate) sigmas: Vec<Sigmas>,
    /// For its teacher, if there is one.
    pub(crate) beside: Option<Beside>,
}

/// One sample before packing.
struct Piece {
    spec: SampleSpec,
    ids: Vec<u32>,
    /// Noisy latents and velocity, of video and of audio.
    video: [Tensor; 2],
    audio: Option<[Tensor; 2]>,
    /// `[F, H, W, 1]`.
    motion: Tensor,
    /// The same in the latents that a teacher knows, under the same noise.
    before: Option<([Tensor; 2], Option<[Tensor; 2]>)>,
}

/// Which clip: size, length, number.
type Key = ([usize; 2], usize, u64);

/// Makes batches; shared by the worker threads.
pub(crate) struct Source {
    pub recipe: DitRecipe,
    pub config: DitConfig,
    pub video_ae: VideoAe,
    pub audio_ae: AudioAe,
    /// Those that a teacher of other latents knows.
    pub before: Option<(VideoAe, AudioAe)>,
    /// Where the autoencoders are and batches go.
    pub device: Device,
    pub tokenizer: TextTokenizer,
    pub levels: Levels,
    pub pool: ThreadPool,
    pub ready: Mutex<HashMap<Key, Arc<EncodedClip>>>,
}

impl Source {
    /// Batch `index`.
    pub(crate) fn batch(&self, index: u64) -> Result<DitBatch> {
        let mut rng = stream(self.recipe.run.seed, Purpose::Data, index);
        let view = self.view(index, &mut rng)?;
        let clips = self.draw(view, index, &mut rng)?;
        let mut noise = stream(self.recipe.run.seed, Purpose::Noise, index);
        let drawn = self.recipe.sigma.stratified(clips.len(), &mut noise);
        let sigmas = (clips.iter().zip(drawn))
            .map(|(clip, sigma)| Ok(self.sigmas(sigma, clip.video.dim(0)?, &mut noise)))
            .collect::<Result<Vec<_>>>()?;
        let pieces = (clips.iter().zip(&sigmas))
            .map(|(clip, &sigma)| self.piece(clip, sigma, &mut noise))
            .collect::<Result<Vec<_>>>()?;
        self.pack(pieces, sigmas, &mut noise)
    }

    /// The noise levels of a clip of so many latent frames, from the level `sigma` that was drawn.
    fn sigmas(&self, sigma: f64, frames: usize, rng: &mut Pcg64) -> Sigmas {
        let DitRecipe { apart, lead, .. } = self.recipe;
        if apart > 0.0 && rng.random::<f64>() < apart {
            return [shifted(sigma, CLEAR), shifted(rng.random(), NOISY)].into();
        }
        let lead = match lead > 0.0 {
            true => lead * rng.random::<f64>(),
            false => 0.0,
        };
        Sigmas {
            video: sigma,
            audio: shifted(sigma, self.led(lead).sound(frames)),
            lead,
        }
    }

    /// The levels of a clip whose frames have that lead.
    fn led(&self, lead: f64) -> Levels {
        Levels {
            lead,
            ..self.levels.clone()
        }
    }

    fn view(&self, index: u64, rng: &mut Pcg64) -> Result<&DitView> {
        let done = index as f64 / self.recipe.run.steps.max(1) as f64;
        let stages = &self.recipe.stages;
        let stage = stages.iter().find(|stage| done < stage.until);
        let views = &stage
            .or(stages.last())
            .map_or(&[][..], |stage| &stage.views);
        choose_by(views, |view| view.weight, rng)
    }

    /// The clips of batch `index`; those that are not ready are rendered and encoded.
    fn draw(&self, view: &DitView, index: u64, rng: &mut Pcg64) -> Result<Vec<Arc<EncodedClip>>> {
        let window = self.recipe.window.max(1);
        let first = (index as f64 * view.clips as f64 / self.recipe.reuse.max(1.0)) as u64;
        let numbers: Vec<u64> = (0..view.clips)
            .map(|_| first + rng.random_range(0..window))
            .collect();
        let key = |number| (view.size, view.frames, number);
        let mut found: HashMap<u64, Arc<EncodedClip>> = {
            let ready = self.lock();
            let ready = numbers.iter().map(|&n| (n, ready.get(&key(n)).cloned()));
            ready.filter_map(|(n, clip)| Some((n, clip?))).collect()
        };
        let missing = numbers.iter().filter(|n| !found.contains_key(n));
        let missing: Vec<u64> = missing
            .copied()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let together = if self.device.is_cpu() { 1 } else { TOGETHER };
        for numbers in missing.chunks(together) {
            let render = |&number: &u64| {
                let seed = stream(self.recipe.run.seed, Purpose::Clips, number).random();
                self.render(view, seed, Split::Train)
            };
            let rendered = numbers.iter().map(render).collect::<Result<Vec<_>>>()?;
            for (&number, mut clip) in numbers.iter().zip(self.encode(rendered)?) {
                clip.frames.clear();
                found.insert(number, Arc::new(clip));
            }
        }
        let mut ready = self.lock();
        let gone = |(size, frames, number): &Key| {
            *size == view.size && *frames == view.frames && *number < first
        };
        ready.retain(|key, _| !gone(key));
        ready.extend(missing.iter().map(|&n| (key(n), found[&n].clone())));
        Ok(numbers.iter().map(|n| found[n].clone()).collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<EncodedClip>>> {
        // Another thread's panic cannot leave the map half changed.
        self.ready.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Renders a clip.
    fn render(&self, view: &DitView, seed: u64, split: Split) -> Result<Rendered> {
        let what = ClipOf {
            seed,
            size: pixel_size(view.size),
            frames: view.frames,
            audio: view.frames > 1,
        };
        self.recipe.world.render(what, split)
    }

    /// A clip that is not for training.
    pub(crate) fn held_out(&self, view: &DitView, seed: u64) -> Result<EncodedClip> {
        let rendered = self.render(view, seed, Split::Heldout)?;
        Ok(self.encode(vec![rendered])?.remove(0))
    }

    /// Encodes clips of one view together.
    fn encode(&self, rendered: Vec<Rendered>) -> Result<Vec<EncodedClip>> {
        let frames: Vec<&[Frame]> = rendered.iter().map(|r| &r.clip.frames[..]).collect();
        let sounds: Vec<_> = (rendered.iter())
            .filter_map(|r| r.clip.audio.as_ref())
            .collect();
        let each = |x: Tensor| -> Result<Vec<Tensor>> {
            let x = x.detach().to_device(&Device::Cpu)?;
            let apart = (0..x.dim(0)?).map(|i| x.narrow(0, i, 1)?.squeeze(0)?.copy());
            Ok(apart.collect::<candle_core::Result<_>>()?)
        };
        let by = |video_ae: &VideoAe, audio_ae: &AudioAe| -> Result<_> {
            let videos = each(video_ae.encode_clips(&frames)?)?;
            let audios = match sounds.is_empty() {
                true => Vec::new(),
                false => each(audio_ae.encode_clips(&sounds)?)?,
            };
            Ok((videos, audios))
        };
        let ((videos, audios), before) = self.pool.install(|| -> Result<_> {
            let before = self.before.as_ref().map(|(video, audio)| by(video, audio));
            Ok((by(&self.video_ae, &self.audio_ae)?, before.transpose()?))
        })?;
        let mut before = before.map(|(videos, audios)| {
            let mut audios = audios.into_iter();
            (videos.into_iter()).map(move |video| (video, audios.next()))
        });
        let languages = &self.recipe.languages;
        let known = |caption: &Caption| languages.contains_key(&caption.lang);
        let mut audios = audios.into_iter();
        (rendered.into_iter().zip(videos))
            .map(|(rendered, video)| {
                Ok(EncodedClip {
                    motion: motion(&video)?,
                    video,
                    audio: audios.next(),
                    before: before.as_mut().and_then(Iterator::next),
                    captions: rendered.captions.into_iter().filter(known).collect(),
                    frames: rendered.clip.frames,
                })
            })
            .collect()
    }

    /// The ids of one of a clip's captions; none now and then, for guidance.
    fn caption(&self, clip: &EncodedClip, rng: &mut Pcg64) -> Result<Vec<u32>> {
        if rng.random::<f64>() < self.recipe.caption_dropout {
            return Ok(Vec::new());
        }
        let weight = |caption: &Caption| self.recipe.languages.get(&caption.lang).copied();
        let caption = choose_by(&clip.captions, |c| weight(c).unwrap_or(0.0), rng)?;
        let strange = self.recipe.strange_words;
        let text = match strange > 0.0 && rng.random_bool(strange.min(1.0)) {
            true => with_strange_words(&caption.text, rng),
            false => caption.text.clone(),
        };
        Ok(self.tokenizer.encode(&text)?)
    }

    fn task(&self, shape: LatentShape, rng: &mut Pcg64) -> Task {
        let [first, describe] = [self.recipe.first_frame, self.recipe.describe];
        match rng.random::<f64>() {
            u if u < describe => Task::Describe,
            u if u < describe + first && shape.frames > 1 => Task::FirstFrames(1),
            _ => Task::TextToClip,
        }
    }

    fn piece(&self, clip: &EncodedClip, sigma: Sigmas, rng: &mut Pcg64) -> Result<Piece> {
        let shape = clip.shape()?;
        let task = self.task(shape, rng);
        let ids = self.caption(clip, rng)?;
        self.noised(clip, task, ids, (sigma, rng))
    }

    /// A clip at its noise levels, its given latents as they are.
    fn noised(
        &self,
        clip: &EncodedClip,
        task: Task,
        ids: Vec<u32>,
        (sigma, rng): (Sigmas, &mut Pcg64),
    ) -> Result<Piece> {
        let spec = SampleSpec::new(task, clip.shape()?, ids.len());
        type Given<'a> = &'a dyn Fn(usize) -> bool;
        type Noisy = [Tensor; 2];
        let mix = |x0: &Tensor, noise: &Tensor, sigmas: &Tensor, given: Given| -> Result<Noisy> {
            let noisy = add_noise_by_part(x0, noise, sigmas)?;
            let steps = (0..x0.dim(0)?)
                .map(|t| (if given(t) { x0 } else { &noisy }).narrow(0, t, 1))
                .collect::<candle_core::Result<Vec<_>>>()?;
            Ok([Tensor::cat(&steps, 0)?, velocity_target(x0, noise)?])
        };
        let levels = self.led(sigma.lead);
        let sigmas = levels.of(&clip.video, sigma.video)?;
        let noise = gaussian(rng, clip.video.shape(), clip.video.device())?;
        let video = |x0: &Tensor| mix(x0, &noise, &sigmas, &|t| spec.is_frame_given(t));
        let sound_noise = (clip.audio.as_ref())
            .map(|audio| gaussian(rng, audio.shape(), audio.device()))
            .transpose()?;
        let audio = |x0: Option<&Tensor>| -> Result<Option<Noisy>> {
            let (Some(x0), Some(noise)) = (x0, &sound_noise) else {
                return Ok(None);
            };
            let sigmas = Tensor::new(&[[sigma.audio as f32]], x0.device())?;
            mix(x0, noise, &sigmas, &|t| spec.is_audio_given(t)).map(Some)
        };
        let before = (clip.before.as_ref())
            .map(|(v, a)| Ok::<_, crate::TrainError>((video(v)?, audio(a.as_ref())?)))
            .transpose()?;
        let frames = levels.frames(spec.latents.frames).into_iter();
        let frames: Vec<f64> = frames.map(|shift| shifted(sigma.video, shift)).collect();
        Ok(Piece {
            motion: moving(&clip.motion, self.recipe.motion, &frames)?,
            audio: audio(clip.audio.as_ref())?,
            video: video(&clip.video)?,
            before,
            ids,
            spec,
        })
    }

    /// Clips under their first caption, each at fixed noise levels of picture and sound, for validation; of a part that
    /// is `late` the second half comes before the first.
    pub(crate) fn fixed(
        &self,
        clips: &[EncodedClip],
        sigmas: Vec<Sigmas>,
        late: Option<Modality>,
    ) -> Result<DitBatch> {
        let mut rng = stream(self.recipe.run.seed, Purpose::Validation, u64::MAX);
        // The first latent frame, coded alone, stays the first.
        let turned = |x: &Tensor, part, first: usize| -> Result<Tensor> {
            if late != Some(part) {
                return Ok(x.clone());
            }
            let all = x.dim(0)?;
            let half = first + (all - first) / 2;
            let parts = [
                x.narrow(0, 0, first)?,
                x.narrow(0, half, all - half)?,
                x.narrow(0, first, half - first)?,
            ];
            Ok(Tensor::cat(&parts, 0)?)
        };
        let turn = |clip: &EncodedClip| -> Result<EncodedClip> {
            let video = |video: &Tensor| turned(video, Modality::Video, 1);
            let audio = |audio: &Option<Tensor>| {
                let audio = audio
                    .as_ref()
                    .map(|audio| turned(audio, Modality::Audio, 0));
                audio.transpose()
            };
            Ok(EncodedClip {
                audio: audio(&clip.audio)?,
                video: video(&clip.video)?,
                before: (clip.before.as_ref())
                    .map(|(v, a)| Ok::<_, crate::TrainError>((video(v)?, audio(a)?)))
                    .transpose()?,
                motion: clip.motion.clone(),
                captions: clip.captions.clone(),
                frames: Vec::new(),
            })
        };
        let clips = clips.iter().map(turn).collect::<Result<Vec<_>>>()?;
        let pieces = (clips.iter().zip(&sigmas))
            .map(|(clip, &sigma)| {
                let ids = self.prompt(clip)?;
                self.noised(clip, Task::TextToClip, ids, (sigma, &mut rng))
            })
            .collect::<Result<Vec<_>>>()?;
        self.pack(pieces, sigmas, &mut rng)
    }

    /// The ids of a clip's first caption.
    pub(crate) fn prompt(&self, clip: &EncodedClip) -> Result<Vec<u32>> {
        let text = clip.captions.first().map_or("", |caption| &caption.text);
        Ok(self.tokenizer.encode(text)?)
    }

    /// What a teacher sees besides: the clips without text, and noise in place of the pictures where there is a sound.
    fn unguided(&self, pieces: &[Piece], rng: &mut Pcg64) -> Result<Unguided> {
        let specs: Vec<SampleSpec> = (pieces.iter())
            .map(|piece| {
                let mut spec = piece.spec.clone();
                spec.text = 0;
                spec
            })
            .collect();
        let sequence = TokenSequence::new(&self.config, &specs, &self.device)?;
        let heard = sequence.count(Modality::Audio) > 0;
        let noise = pieces.iter().filter(|_| heard);
        let noise = noise.map(|piece| gaussian(rng, piece.video[0].shape(), &Device::Cpu));
        let hidden = match noise.collect::<candle_core::Result<Vec<_>>>()? {
            noise if noise.is_empty() => None,
            noise => sequence.video_tokens(&noise)?,
        };
        Ok(Unguided {
            hidden: hidden.map(|x| x.to_device(&self.device)).transpose()?,
            sequence,
        })
    }

    fn pack(&self, pieces: Vec<Piece>, sigmas: Vec<Sigmas>, rng: &mut Pcg64) -> Result<DitBatch> {
        let specs: Vec<SampleSpec> = pieces.iter().map(|piece| piece.spec.clone()).collect();
        let sequence = TokenSequence::new(&self.config, &specs, &self.device)?;
        let video =
            |k: usize| -> Vec<Tensor> { pieces.iter().map(|p| p.video[k].clone()).collect() };
        let audio = |k: usize| -> Vec<Tensor> {
            let audio = pieces.iter().filter_map(|p| p.audio.as_ref());
            audio.map(|audio| audio[k].clone()).collect()
        };
        let beside = (self.recipe.teacher.as_ref())
            .map(|teacher| -> Result<_> {
                Ok(match teacher {
                    TeacherRecipe::Distil(_) => {
                        Beside::Unguided(Box::new(self.unguided(&pieces, rng)?))
                    }
                    TeacherRecipe::Transfer(_) => Beside::Before(self.before(&sequence, &pieces)?),
                })
            })
            .transpose()?;
        let ids: Vec<u32> = pieces
            .iter()
            .flat_map(|piece| &piece.ids)
            .copied()
            .collect();
        let motion: Vec<Tensor> = pieces.iter().map(|piece| piece.motion.clone()).collect();
        let motion = match sequence.video_targets(&motion)? {
            Some(tokens) => tokens.mean(1)?,
            None => Tensor::zeros(0, DType::F32, &Device::Cpu)?,
        };
        Ok(DitBatch {
            motion: motion.to_device(&self.device)?,
            video: self.here(sequence.video_tokens(&video(0)))?,
            video_target: self.here(sequence.video_targets(&video(1)))?,
            audio: self.here(sequence.pack(Modality::Audio, &audio(0)))?,
            audio_target: self.here(sequence.pack(Modality::Audio, &audio(1)))?,
            ids: (!ids.is_empty())
                .then(|| Tensor::new(ids, &self.device))
                .transpose()?,
            sequence,
            sigmas,
            beside,
        })
    }

    /// Tokens on the device that batches go to.
    fn here(&self, tokens: candle_core::Result<Option<Tensor>>) -> Result<Option<Tensor>> {
        let tokens = tokens?.map(|x| x.to_device(&self.device));
        Ok(tokens.transpose()?)
    }

    /// What a teacher of other latents sees, and how far its velocities are from these.
    fn before(&self, sequence: &TokenSequence, pieces: &[Piece]) -> Result<Before> {
        let before: Vec<_> = pieces.iter().filter_map(|p| p.before.as_ref()).collect();
        let gap = |[_, now]: &[Tensor; 2], [_, then]: &[Tensor; 2]| now - then;
        let video: Vec<Tensor> = before.iter().map(|(video, _)| video[0].clone()).collect();
        let video_gap = (pieces.iter().zip(&before))
            .map(|(piece, (video, _))| gap(&piece.video, video))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let sounds = before.iter().filter_map(|(_, audio)| audio.as_ref());
        let audio: Vec<Tensor> = sounds.map(|audio| audio[0].clone()).collect();
        let audio_gap = (pieces.iter().zip(&before))
            .filter_map(|(piece, (_, audio))| Some(gap(piece.audio.as_ref()?, audio.as_ref()?)))
            .collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Before {
            video: self.here(sequence.video_tokens(&video))?,
            video_gap: self.here(sequence.video_targets(&video_gap))?,
            audio: self.here(sequence.pack(Modality::Audio, &audio))?,
            audio_gap: self.here(sequence.pack(Modality::Audio, &audio_gap))?,
        })
    }
}
