//! Guidance, learned: a student whose one evaluation gives what its teacher needs three for.
//!
//! The target is not a clip's own velocity but the one that sampling with guidance would follow from the same noisy
//! clip (Meng et al., arXiv 2210.03142, stage one): away from the teacher's velocity without text and, for the sound,
//! away from that beside a picture of noise.

use std::path::PathBuf;

use candle_core::{Device, Tensor};
use gallop_diffusion::{Guidance, push_is_felt};
use gallop_model::dit::Dit;
use gallop_model::tokens::{Modality, TokenSequence};
use serde::{Deserialize, Serialize};

use crate::dit_data::{DitBatch, Sigmas};
use crate::error::Result;
use crate::teacher::said;

/// What a student learns from, and how its teacher would be sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistilRecipe {
    /// Weights of the teacher, of the student's size.
    pub weights: PathBuf,
    /// Its guidance for the picture.
    pub guidance: f64,
    /// Its guidance for the sound.
    pub audio_guidance: f64,
    /// How far it pushes the sound towards the picture; 0 for not at all.
    #[serde(default)]
    pub picture_guidance: f64,
}

/// What a batch is besides.
pub(crate) struct Unguided {
    /// The same clips without text.
    pub sequence: TokenSequence,
    /// Noise in place of the pictures, `[Lv, C]`.
    pub hidden: Option<Tensor>,
}

pub(crate) struct Distil {
    dit: Dit,
    recipe: DistilRecipe,
}

impl Distil {
    pub fn new(dit: Dit, recipe: DistilRecipe) -> Self {
        Self { dit, recipe }
    }

    /// The velocities that sampling would follow from a batch, of its video and of its audio tokens.
    pub fn velocities(&self, batch: &DitBatch, beside: &Unguided) -> Result<[Option<Tensor>; 2]> {
        let DistilRecipe {
            guidance,
            audio_guidance,
            picture_guidance,
            ..
        } = self.recipe;
        let (audio, ids) = (batch.audio.as_ref(), batch.ids.as_ref());
        let say = |sequence, video: &Option<Tensor>, ids| {
            said(&self.dit, sequence, [video.as_ref(), audio], ids)
        };
        let with = say(&batch.sequence, &batch.video, ids)?;
        let without = say(&beside.sequence, &batch.video, None)?;
        let push = |part: usize, scale: f64| -> Result<_> {
            let (Some(with), Some(without)) = (&with[part], &without[part]) else {
                return Ok(None);
            };
            let [with, without] = [with, without].map(std::slice::from_ref);
            // Such a scale is the same at every level.
            Ok(Guidance::constant(scale, 1)
                .apply(with, without, 0.0)?
                .pop())
        };
        let (video, mut audio) = (push(0, guidance)?, push(1, audio_guidance)?);
        if let (Some(sound), Some(with), Some(_)) = (&audio, &with[1], &beside.hidden)
            && picture_guidance != 0.0
            && let [_, Some(hidden)] = say(&batch.sequence, &beside.hidden, ids)?
        {
            let felt = felt(batch, sound.device())?.affine(picture_guidance, 0.0)?;
            let push = (with - hidden)?.broadcast_mul(&felt.unsqueeze(1)?)?;
            audio = Some((sound + push)?);
        }
        Ok([video, audio])
    }
}

/// 1 for audio tokens that are pushed towards their picture, 0 for others, `[La]`.
fn felt(batch: &DitBatch, device: &Device) -> Result<Tensor> {
    let mut all = Vec::with_capacity(batch.sequence.count(Modality::Audio));
    for (i, &Sigmas { video, audio, .. }) in batch.sigmas.iter().enumerate() {
        let tokens = batch.sequence.local_rows(i, Modality::Audio).len();
        let is = f32::from(u8::from(push_is_felt(video, audio)));
        all.extend(std::iter::repeat_n(is, tokens));
    }
    Ok(Tensor::new(all, device)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, IndexOp};
    use gallop_core::LatentShape;
    use gallop_diffusion::gaussian;
    use gallop_kernels::Precision;
    use gallop_model::dit::{Batch, DitConfig, Text};
    use gallop_model::tokens::{SampleSpec, Task};
    use gallop_model::{Vars, Weights};
    use rand::SeedableRng;
    use rand_pcg::Pcg64;

    const SHAPE: LatentShape = LatentShape {
        frames: 2,
        height: 2,
        width: 3,
        audio: 5,
    };
    const TEXT: usize = 3;

    fn specs(text: usize) -> [SampleSpec; 2] {
        [(); 2].map(|()| SampleSpec::new(Task::TextToClip, SHAPE, text))
    }

    /// Two clips, the second nearly noise.
    fn batch(config: &DitConfig, rng: &mut Pcg64) -> Result<(DitBatch, Unguided)> {
        let cpu = &Device::Cpu;
        let places = 2 * SHAPE.frames * SHAPE.height * SHAPE.width;
        let video = [(); 2].map(|()| gaussian(rng, (places, config.video_channels), cpu));
        let [video, hidden] = video;
        let ids: Vec<u32> = (0..2 * TEXT as u32).collect();
        let batch = DitBatch {
            sequence: TokenSequence::new(config, &specs(TEXT), cpu)?,
            video: Some(video?),
            video_target: None,
            audio: Some(gaussian(
                rng,
                (2 * SHAPE.audio, config.audio_channels),
                cpu,
            )?),
            audio_target: None,
            ids: Some(Tensor::new(ids, cpu)?),
            motion: Tensor::zeros(places, DType::F32, cpu)?,
            sigmas: vec![[0.5, 0.6].into(), [0.95, 0.99].into()],
            beside: None,
        };
        let beside = Unguided {
            sequence: TokenSequence::new(config, &specs(0), cpu)?,
            hidden: Some(hidden?),
        };
        Ok((batch, beside))
    }

    /// The velocities of clip `i` alone.
    fn alone(
        dit: &Dit,
        batch: &DitBatch,
        video: &Tensor,
        (i, text): (usize, bool),
    ) -> Result<[Tensor; 2]> {
        let spec = &specs(if text { TEXT } else { 0 })[..1];
        let half = |x: &Tensor| x.chunk(2, 0).map(|halves| halves[i].clone());
        let ids = batch.ids.as_ref().filter(|_| text).map(half).transpose()?;
        let outputs = dit.forward(&Batch {
            sequence: &TokenSequence::new(dit.config(), spec, &Device::Cpu)?,
            video: Some(half(video)?),
            audio: batch.audio.as_ref().map(half).transpose()?,
            text: ids.map(Text::Ids),
            predict_text: false,
        })?;
        Ok([outputs.video, outputs.audio].map(|x| x.expect("both are there")))
    }

    #[test]
    fn targets_are_what_sampling_would_follow() -> Result<()> {
        let config = DitConfig::small(64, 2, 1, 20);
        let vars = Vars::default();
        let weights = Weights::vars(&vars, Some(5), &Device::Cpu);
        let dit = Dit::new(&config, &weights)?;
        // The last maps begin as zeros.
        let mut rng = Pcg64::seed_from_u64(1);
        for (_, var) in vars.all() {
            let noise = gaussian(&mut rng, var.shape(), &Device::Cpu)?;
            var.set(&(var.as_tensor() + (noise * 0.05)?)?)?;
        }
        let recipe = DistilRecipe {
            weights: PathBuf::new(),
            guidance: 3.0,
            audio_guidance: 1.5,
            picture_guidance: 2.0,
        };
        let teacher = Distil::new(dit.with_precision(Precision::F32), recipe);
        let (batch, beside) = batch(&config, &mut rng)?;
        let [video, audio] = teacher
            .velocities(&batch, &beside)?
            .map(|x| x.expect("both"));
        let (seen, hidden) = (batch.video.as_ref(), beside.hidden.as_ref());
        let [seen, hidden] = [seen, hidden].map(|x| x.expect("given above"));
        for i in 0..2 {
            let with = alone(&teacher.dit, &batch, seen, (i, true))?;
            let without = alone(&teacher.dit, &batch, seen, (i, false))?;
            let beside_noise = alone(&teacher.dit, &batch, hidden, (i, true))?;
            let guided = |part: usize, scale: f64| {
                &without[part] + ((&with[part] - &without[part])? * scale)?
            };
            let mut sound = guided(1, 1.5)?;
            if i == 0 {
                sound = (sound + ((&with[1] - &beside_noise[1])? * 2.0)?)?;
            }
            for (got, want) in [(&video, guided(0, 3.0)?), (&audio, sound)] {
                let rows = want.dim(0)?;
                let gap = (got.i(i * rows..(i + 1) * rows)? - &want)?;
                let size = |x: &Tensor| x.sqr()?.sum_all()?.to_scalar::<f32>();
                let error = (size(&gap)? / size(&want)?).sqrt();
                assert!(error < 1e-5, "clip {i}: {error}");
            }
        }
        Ok(())
    }
}
