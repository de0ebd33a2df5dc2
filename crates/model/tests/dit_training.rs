//! The transformer as training sees it: gradients, packing, masks.

use candle_core::{DType, Device, Result, Tensor, Var};
use gallop_core::LatentShape;
use gallop_kernels::Precision;
use gallop_model::dit::{AttentionKind, Batch, Dit, DitConfig, MlpKind, Outputs, Text, TextConfig};
use gallop_model::tokens::{Modality, SampleSpec, Task, TextRole, TokenSequence};
use gallop_model::{Vars, Weights};
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;

const CPU: Device = Device::Cpu;

fn config() -> DitConfig {
    let mut config = DitConfig {
        head_dim: 16,
        num_heads_q: 4,
        num_heads_kv: 2,
        video_channels: 6,
        audio_channels: 5,
        patch: [1, 2, 1],
        text: TextConfig {
            channels: 8,
            vocabulary: Some(11),
        },
        ..DitConfig::small(64, 3, 1, 11)
    };
    config.layers[0].mlp = MlpKind::Gelu7;
    config
}

/// The same with a layer in which picture and sound are in step.
fn in_step() -> DitConfig {
    let mut config = config();
    config.layers[1].attention = AttentionKind::InStep;
    config
}

fn random(rng: &mut Pcg64, shape: &[usize]) -> Result<Tensor> {
    let n = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|_| StandardNormal.sample(rng)).collect();
    Tensor::from_vec(values, shape, &CPU)
}

/// A transformer none of whose weights is zero, and its weights.
fn dit(config: &DitConfig) -> (Dit, Vars) {
    let vars = Vars::default();
    let dit = Dit::new(config, &Weights::vars(&vars, Some(5), &CPU)).unwrap();
    let mut rng = Pcg64::seed_from_u64(6);
    for (_, var) in vars.all() {
        let noise = random(&mut rng, var.dims()).unwrap();
        var.set(&(var.as_tensor() + (noise * 0.1).unwrap()).unwrap())
            .unwrap();
    }
    (dit.with_precision(Precision::F32), vars)
}

fn latents(frames: usize, audio: usize) -> LatentShape {
    LatentShape {
        frames,
        height: 4,
        width: 3,
        audio,
    }
}

/// The parts of one sample.
struct Clip {
    spec: SampleSpec,
    video: Tensor,
    audio: Tensor,
    ids: Tensor,
}

impl Clip {
    fn new(spec: SampleSpec, seed: u64) -> Result<Self> {
        let mut rng = Pcg64::seed_from_u64(seed);
        let l = spec.latents;
        let ids: Vec<u32> = (0..spec.text)
            .map(|i| (i as u64 * 7 + seed) as u32 % 11)
            .collect();
        Ok(Self {
            video: random(&mut rng, &[l.frames, l.height, l.width, 6])?,
            audio: random(&mut rng, &[l.audio, 5])?,
            ids: Tensor::new(ids, &CPU)?,
            spec,
        })
    }
}

fn forward(dit: &Dit, clips: &[&Clip]) -> Result<(TokenSequence, Outputs)> {
    let specs: Vec<SampleSpec> = clips.iter().map(|c| c.spec.clone()).collect();
    let sequence = TokenSequence::new(dit.config(), &specs, &CPU).unwrap();
    let all = |f: fn(&Clip) -> &Tensor| clips.iter().map(|c| f(c).clone()).collect::<Vec<_>>();
    let batch = Batch {
        sequence: &sequence,
        video: sequence.video_tokens(&all(|c| &c.video))?,
        audio: sequence.pack(Modality::Audio, &all(|c| &c.audio))?,
        text: sequence
            .pack(Modality::Text, &all(|c| &c.ids))?
            .map(Text::Ids),
        predict_text: true,
    };
    let out = dit.forward(&batch).unwrap();
    Ok((sequence, out))
}

/// Everything one sample of a sequence gets, as one row of numbers.
fn outputs(sequence: &TokenSequence, out: &Outputs, sample: usize) -> Result<Vec<f32>> {
    let parts = [
        (Modality::Video, &out.video),
        (Modality::Audio, &out.audio),
        (Modality::Text, &out.text_logits),
    ];
    let mut all = Vec::new();
    for (modality, tensor) in parts {
        let rows = sequence.local_rows(sample, modality);
        if let Some(tensor) = tensor.as_ref().filter(|_| !rows.is_empty()) {
            let part = tensor.narrow(0, rows.start, rows.len())?;
            all.extend(part.flatten_all()?.to_vec1::<f32>()?);
        }
    }
    Ok(all)
}

fn assert_close(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let worst = a
        .iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(worst < 2e-5, "{what}: {worst}");
}

fn clips() -> Result<Vec<Clip>> {
    [
        SampleSpec::new(Task::TextToClip, latents(3, 9), 4),
        SampleSpec::new(Task::Describe, latents(2, 5), 5),
        // A picture without sound, sound without picture, a clip without text.
        SampleSpec::new(Task::TextToClip, latents(1, 0), 3),
        SampleSpec::new(Task::TextToClip, latents(0, 7), 2),
        SampleSpec::public(latents(2, 5), 0),
    ]
    .into_iter()
    .zip(0..)
    .map(|(spec, seed)| Clip::new(spec, seed))
    .collect()
}

#[test]
fn samples_packed_together_do_not_see_each_other() -> Result<()> {
    for config in [config(), in_step()] {
        let (dit, _) = dit(&config);
        let clips = clips()?;
        let (together, all) = forward(&dit, &clips.iter().collect::<Vec<_>>())?;
        for (i, clip) in clips.iter().enumerate() {
            let (alone, out) = forward(&dit, &[clip])?;
            let (got, want) = (outputs(&together, &all, i)?, outputs(&alone, &out, 0)?);
            assert_close(&got, &want, &format!("sample {i}"));
        }
    }
    Ok(())
}

/// The output of a clip, and of the same clip with another last text token and another video.
fn disturbed(role: TextRole) -> Result<[Outputs; 3]> {
    let (dit, _) = dit(&config());
    let spec = SampleSpec {
        text_role: role,
        ..SampleSpec::new(Task::TextToClip, latents(2, 5), 4)
    };
    let clip = Clip::new(spec, 1)?;
    let other_text = Clip {
        ids: Tensor::cat(
            &[clip.ids.narrow(0, 0, 3)?, Tensor::new(&[9_u32], &CPU)?],
            0,
        )?,
        video: clip.video.clone(),
        audio: clip.audio.clone(),
        spec: clip.spec.clone(),
    };
    let other_video = Clip {
        video: (&clip.video * 0.5)?,
        ids: clip.ids.clone(),
        audio: clip.audio.clone(),
        spec: clip.spec.clone(),
    };
    Ok([
        forward(&dit, &[&clip])?.1,
        forward(&dit, &[&other_text])?.1,
        forward(&dit, &[&other_video])?.1,
    ])
}

fn differ(a: &Option<Tensor>, b: &Option<Tensor>, rows: usize) -> Result<bool> {
    let [a, b] = [a, b].map(|t| t.as_ref().unwrap().narrow(0, 0, rows));
    Ok((a? - b?)?.abs()?.sum_all()?.to_scalar::<f32>()? > 1e-4)
}

#[test]
fn a_prompt_is_seen_by_the_clip_but_does_not_look_ahead_or_at_it() -> Result<()> {
    let [base, text, video] = disturbed(TextRole::Prompt)?;
    assert!(differ(&base.video, &text.video, 4)?);
    assert!(!differ(&base.text_logits, &text.text_logits, 3)?);
    assert!(differ(&base.text_logits, &text.text_logits, 4)?);
    assert!(!differ(&base.text_logits, &video.text_logits, 4)?);
    Ok(())
}

#[test]
fn a_caption_sees_the_clip_which_does_not_see_it() -> Result<()> {
    let [base, text, video] = disturbed(TextRole::Caption)?;
    assert!(!differ(&base.video, &text.video, 4)? && !differ(&base.audio, &text.audio, 5)?);
    assert!(!differ(&base.text_logits, &text.text_logits, 3)?);
    assert!(differ(&base.text_logits, &video.text_logits, 1)?);
    Ok(())
}

/// Rows of `tensor` that differ between two outputs, in groups of these lengths.
fn changed(a: &Option<Tensor>, b: &Option<Tensor>, groups: &[usize]) -> Result<Vec<bool>> {
    let (a, b) = (
        a.as_ref().expect("an output"),
        b.as_ref().expect("an output"),
    );
    let rows = (a - b)?.abs()?.sum(1)?.to_vec1::<f32>()?;
    let mut at = 0;
    Ok(groups
        .iter()
        .map(|length| {
            at += length;
            rows[at - length..at].iter().any(|x| *x > 1e-5)
        })
        .collect())
}

#[test]
fn in_step_sound_sees_the_picture_that_it_is_heard_with() -> Result<()> {
    let mut config = DitConfig {
        layers: config().layers[..1].to_vec(),
        ..config()
    };
    config.layers[0].attention = AttentionKind::InStep;
    let (dit, _) = dit(&config);
    // Video latents last 1, 4 and 4 audio latents; the last has what is over, too.
    let clip = Clip::new(SampleSpec::new(Task::TextToClip, latents(3, 11), 4), 1)?;
    let with = |video: Option<Tensor>, audio: Option<Tensor>| Clip {
        video: video.unwrap_or_else(|| clip.video.clone()),
        audio: audio.unwrap_or_else(|| clip.audio.clone()),
        ids: clip.ids.clone(),
        spec: clip.spec.clone(),
    };
    // In the middle of time alone.
    let louder = |x: &Tensor, from: usize, n: usize| -> Result<Tensor> {
        let all = x.dim(0)?;
        let parts = [
            x.narrow(0, 0, from)?,
            (x.narrow(0, from, n)? * 2.0)?,
            x.narrow(0, from + n, all - from - n)?,
        ];
        Tensor::cat(&parts, 0)
    };
    let (pictures, sounds) = ([6, 6, 6], [1, 4, 6]);
    let (_, base) = forward(&dit, &[&clip])?;
    let (_, other) = forward(&dit, &[&with(Some(louder(&clip.video, 1, 1)?), None)])?;
    assert_eq!(
        changed(&base.audio, &other.audio, &sounds)?,
        [false, true, false]
    );
    assert_eq!(changed(&base.video, &other.video, &pictures)?, [true; 3]);
    let (_, other) = forward(&dit, &[&with(None, Some(louder(&clip.audio, 1, 4)?))])?;
    assert_eq!(changed(&base.video, &other.video, &pictures)?, [true; 3]);
    assert_eq!(changed(&base.audio, &other.audio, &sounds)?, [true; 3]);
    // Each of them knows which quarter it is: equal latents do not sound alike.
    let same = Tensor::zeros((11, 5), DType::F32, &CPU)?;
    let (_, out) = forward(&dit, &[&with(None, Some(same))])?;
    let audio = out.audio.expect("an output");
    let (second, third) = (audio.narrow(0, 1, 1)?, audio.narrow(0, 2, 1)?);
    assert!((second - third)?.abs()?.max_all()?.to_scalar::<f32>()? > 1e-4);
    Ok(())
}

#[test]
fn given_latents_have_no_weight_in_the_loss() -> Result<()> {
    let config = config();
    let spec = SampleSpec::new(Task::FirstFrames(1), latents(2, 3), 3);
    let describe = SampleSpec::new(Task::Describe, latents(1, 2), 4);
    let sequence = TokenSequence::new(&config, &[spec, describe], &CPU).unwrap();
    let video = sequence.video_weight(&CPU)?.to_vec1::<f32>()?;
    assert_eq!(
        video,
        [
            0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0,
            0.0
        ]
    );
    let audio = sequence.audio_weight(&CPU)?.to_vec1::<f32>()?;
    assert_eq!(audio, [1.0, 1.0, 1.0, 0.0, 0.0]);
    let (next, weight) = sequence.next_text(&Tensor::new(&[1_u32, 2, 3, 4, 5, 6, 7], &CPU)?)?;
    assert_eq!(next.to_vec1::<u32>()?, [2, 3, 3, 5, 6, 7, 7]);
    assert_eq!(
        weight.to_vec1::<f32>()?,
        [1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    );
    Ok(())
}

/// A random linear function of everything the transformer says, in f64.
fn loss(dit: &Dit, clips: &[&Clip], f64_sum: bool) -> Result<Tensor> {
    let (_, out) = forward(dit, clips)?;
    let mut rng = Pcg64::seed_from_u64(9);
    let mut total = Tensor::zeros((), if f64_sum { DType::F64 } else { DType::F32 }, &CPU)?;
    for part in [out.video, out.audio, out.text_logits]
        .into_iter()
        .flatten()
    {
        let product = (&part * random(&mut rng, part.dims())?)?;
        total = (&total + product.to_dtype(total.dtype())?.sum_all()?)?;
    }
    Ok(total)
}

fn slope(dit: &Dit, clips: &[&Clip], var: &Var, direction: &Tensor) -> Result<f64> {
    let step = 2e-3;
    let start = var.as_tensor().copy()?;
    let at = |factor: f64| -> Result<f64> {
        var.set(&(&start + (direction * factor)?)?)?;
        loss(dit, clips, true)?.to_scalar()
    };
    let slope = (at(step)? - at(-step)?) / (2.0 * step);
    var.set(&start)?;
    Ok(slope)
}

#[test]
fn gradients_agree_with_finite_differences_for_every_weight() -> Result<()> {
    // Of all layer kinds: full attention, and in step.
    let (dit, vars) = dit(&in_step());
    let clips = clips()?;
    let clips: Vec<&Clip> = clips.iter().collect();
    let grads = loss(&dit, &clips, false)?.backward()?;
    let mut rng = Pcg64::seed_from_u64(10);
    for (name, var) in vars.all() {
        let grad = grads
            .get(&var)
            .unwrap_or_else(|| panic!("{name} has no gradient"));
        // Along the gradient and a random direction of the same size: errors of both sign and place show.
        let size = grad.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt();
        let noise = random(&mut rng, var.dims())?;
        let length = noise.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt();
        let along = ((grad / f64::from(size))? + (noise / f64::from(length))?)?;
        let want = slope(&dit, &clips, &var, &along)?;
        let got = f64::from((grad * &along)?.sum_all()?.to_scalar::<f32>()?);
        let error = (got - want).abs() / f64::from(size);
        assert!(error < 2e-2, "{name}: {got} {want}");
    }
    Ok(())
}

#[test]
fn an_untrained_transformer_says_nothing() -> Result<()> {
    let vars = Vars::default();
    let dit = Dit::new(&in_step(), &Weights::vars(&vars, Some(1), &CPU)).unwrap();
    assert_eq!(vars.parameters(), in_step().parameters());
    let clip = &clips()?[0];
    let (sequence, out) = forward(&dit, &[clip])?;
    assert!(outputs(&sequence, &out, 0)?.iter().all(|&x| x == 0.0));
    Ok(())
}

#[test]
fn wrong_batches_are_errors() -> Result<()> {
    let config = config();
    let (dit, _) = dit(&config);
    let spec = SampleSpec::new(Task::TextToClip, latents(2, 5), 4);
    let sequence = TokenSequence::new(&config, &[spec], &CPU).unwrap();
    let batch = Batch {
        sequence: &sequence,
        video: None,
        audio: None,
        text: None,
        predict_text: false,
    };
    assert!(dit.forward(&batch).is_err());
    let odd = LatentShape {
        height: 3,
        ..latents(1, 1)
    };
    for spec in [
        SampleSpec::new(Task::TextToClip, odd, 1),
        SampleSpec::new(Task::TextToClip, latents(0, 0), 0),
    ] {
        assert!(TokenSequence::new(&config, &[spec], &CPU).is_err());
    }
    Ok(())
}
