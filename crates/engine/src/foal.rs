//! foal: its weights, from inside the program or from a folder, and what it says of itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use gallop_core::{PixelSize, Plan, Request, Resolution, Strides, UserError};
use gallop_diffusion::{
    Field, Levels, Noise, Restart, euler, flow_sigmas, log_snr_sigmas, renoise, sde, sde_theta,
    unipc,
};
use gallop_kernels::Precision;
use gallop_model::audio_ae::AudioAe;
use gallop_model::dit::{Dit, video_shifts};
use gallop_model::lora::open_loras;
use gallop_model::upscaler::Upscaler;
use gallop_model::video_ae::VideoAe;
use gallop_model::{TextTokenizer, Vars, WeightFiles, Weights};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// The files of a model's folder; the same ones are inside the program.
const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";

/// A part of the model that has weights of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The transformer.
    Dit,
    /// The video autoencoder.
    VideoAe,
    /// The audio autoencoder.
    AudioAe,
    /// What makes the transformer's pictures larger, of models that have it.
    Upscaler,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 4] = [Self::Dit, Self::VideoAe, Self::AudioAe, Self::Upscaler];

    /// Its file in a model's folder.
    pub fn file(self) -> &'static str {
        match self {
            Self::Dit => "dit.safetensors",
            Self::VideoAe => "video_ae.safetensors",
            Self::AudioAe => "audio_ae.safetensors",
            Self::Upscaler => "upscaler.safetensors",
        }
    }

    /// Nothing in a program without weights.
    #[cfg(not(feature = "embedded"))]
    fn embedded(self) -> &'static [u8] {
        &[]
    }

    #[cfg(feature = "embedded")]
    fn embedded(self) -> &'static [u8] {
        match self {
            Self::Dit => include_bytes!("../assets/foal/dit.safetensors"),
            Self::VideoAe => include_bytes!("../assets/foal/video_ae.safetensors"),
            Self::AudioAe => include_bytes!("../assets/foal/audio_ae.safetensors"),
            Self::Upscaler => include_bytes!("../assets/foal/upscaler.safetensors"),
        }
    }
}

/// How a model is best sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// The algorithm.
    pub sampler: Sampler,
    /// Steps.
    pub num_steps: usize,
    /// Classifier-free guidance; 1 is none.
    pub guidance: f64,
    /// The most of it for the sound, if there is a most: pushed hard towards its prompt, a sound goes less by the picture.
    #[serde(default)]
    pub audio_guidance: Option<f64>,
    /// How much further the sound is pushed towards its picture, away from what it would be beside a picture of noise;
    /// 0 is not at all. A third evaluation a step once the picture shows anything.
    #[serde(default)]
    pub picture_guidance: f64,
    /// Noise levels between which the sampler goes up and down again, if there are such.
    #[serde(default)]
    pub restart: Option<Restart>,
    /// Shift of the sigma schedule.
    pub shift: f64,
    /// Instead of that schedule, steps that are even in the log-SNR between these two.
    #[serde(default)]
    pub log_snr: Option<[f64; 2]>,
    /// How far each latent frame is ahead of the next, in log-SNR.
    #[serde(default)]
    pub lead: f64,
    /// Shift of the sound's noise level against the picture's: above 1 the picture is ahead, and the
    /// sound is made to fit it; below 1 the other way round.
    #[serde(default = "together")]
    pub audio_shift: f64,
}

impl Sampling {
    /// The noise levels of so many steps.
    pub(crate) fn sigmas(&self, steps: usize) -> Vec<f64> {
        match self.log_snr {
            Some(range) => log_snr_sigmas(steps, range),
            None => flow_sigmas(steps, self.shift),
        }
    }
}

/// Sound and picture at the same noise level.
fn together() -> f64 {
    1.0
}

/// A sampling algorithm of `gallop-diffusion`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampler {
    /// Euler's method.
    Euler,
    /// UniPC of order 2.
    Unipc,
    /// Few steps with fresh noise, for distilled models.
    Renoise,
    /// Every now and then all noise is exchanged for new noise.
    Sde,
}

impl Sampler {
    /// Follows `field` from `x` along falling `sigmas`.
    ///
    /// # Errors
    /// What `field` and `noise` return.
    pub(crate) fn run(
        self,
        field: &mut impl Field,
        x: Vec<Tensor>,
        sigmas: &[f64],
        noise: Noise,
    ) -> candle_core::Result<Vec<Tensor>> {
        let steps = sigmas.len() - 1;
        match self {
            Self::Euler => euler(field, x, sigmas),
            Self::Unipc => unipc(field, x, sigmas),
            Self::Renoise => renoise(field, x, sigmas, |like| noise(like.dims())),
            Self::Sde => {
                let theta = |step| sde_theta(step, steps);
                sde(field, x, sigmas, theta, |like| noise(like.dims()))
            }
        }
    }
}

/// What a model was trained on, and so what it can make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trained {
    /// Families of the world.
    pub families: Vec<String>,
    /// Looks; empty for all.
    #[serde(default)]
    pub looks: Vec<String>,
    /// Attributes of which it saw only these values.
    #[serde(default)]
    pub only: BTreeMap<String, Vec<String>>,
    /// Whether what stays in its place was always in the middle of the picture.
    #[serde(default)]
    pub centred: bool,
    /// Languages of prompts.
    pub languages: Vec<String>,
    /// The size that it makes best.
    pub resolution: String,
    /// The longest clips it saw, in seconds.
    pub seconds: f64,
}

/// `config.json`: what the model is. The shapes of its networks are in the headers of their weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoalInfo {
    /// Its name.
    pub name: String,
    /// How it is best sampled.
    pub sampling: Sampling,
    /// The pictures that the transformer makes, of which a clip takes the nearest in shape, enlarged and cut; any size
    /// where there are none, and then there is no upscaler.
    #[serde(default)]
    pub base_sizes: Vec<PixelSize>,
    /// Seconds of a clip where none are asked for; else as long as it was trained on, up to [`SECONDS`].
    #[serde(default)]
    pub default_seconds: Option<f64>,
    /// What it was trained on.
    pub trained: Trained,
}

/// The longest clip that is made where no length is asked for, in seconds.
pub const SECONDS: f64 = 5.0;

impl FoalInfo {
    /// Seconds of a clip where none are asked for.
    pub fn seconds(&self) -> f64 {
        (self.default_seconds).unwrap_or(SECONDS.min(self.trained.seconds))
    }

    /// The config of the model inside the program.
    ///
    /// # Errors
    /// Never in a program that passed its tests.
    pub fn embedded() -> Result<Self> {
        Self::parse(
            include_str!("../assets/foal/config.json"),
            Path::new("foal"),
        )
    }

    /// The config of a model's folder.
    ///
    /// # Errors
    /// A missing or malformed `config.json`.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        let json = std::fs::read_to_string(&path).map_err(|error| {
            UserError::new(
                format!("no model in `{}`: {CONFIG}: {error}", folder.display()),
                "name a folder with config.json, tokenizer.json, dit.safetensors, video_ae.safetensors and \
                 audio_ae.safetensors, or one with the folders of the public weights (base, distill, ...)",
            )
        })?;
        Self::parse(&json, &path)
    }

    fn parse(json: &str, path: &Path) -> Result<Self> {
        serde_json::from_str(json).map_err(|error| {
            let what = format!("`{}` is not a config of foal: {error}", path.display());
            UserError::new(what, "take the config.json that came with the weights").into()
        })
    }

    /// What will be made for a request.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan(&self, request: Request) -> Result<Plan> {
        Ok(Plan::new(request, self.strides(), &self.base_sizes)?)
    }

    /// Pixels and frames to latents.
    pub fn strides(&self) -> Strides {
        Strides::FOAL
    }

    /// The size that the model makes best.
    ///
    /// # Errors
    /// A config that names no size.
    pub fn resolution(&self) -> Result<Resolution> {
        Ok(self.trained.resolution.parse()?)
    }
}

/// foal, ready to make clips.
pub struct Foal {
    /// What it is.
    pub info: FoalInfo,
    pub(crate) tokenizer: TextTokenizer,
    pub(crate) dit: Dit,
    pub(crate) levels: Levels,
    pub(crate) video_ae: VideoAe,
    pub(crate) audio_ae: AudioAe,
    /// Of a model whose transformer makes small pictures only.
    pub(crate) upscaler: Option<Upscaler>,
    pub(crate) device: Device,
}

impl Foal {
    /// The model inside the program.
    ///
    /// # Errors
    /// No memory; else never in a program that passed its tests.
    pub fn embedded(device: &Device) -> Result<Self> {
        let tokenizer = TextTokenizer::from_json(include_str!("../assets/foal/tokenizer.json"))?;
        Self::load(FoalInfo::embedded()?, tokenizer, None, device)
    }

    /// The model in a folder.
    ///
    /// # Errors
    /// A file that is missing, broken or of another model; the error names it.
    pub fn open(folder: &Path, device: &Device) -> Result<Self> {
        let info = FoalInfo::open(folder)?;
        let tokenizer = TextTokenizer::load(&folder.join(TOKENIZER))?;
        Self::load(info, tokenizer, Some(folder), device)
    }

    /// The same model with a transformer that has learnt nothing: the floor that evaluation compares with.
    ///
    /// # Errors
    /// No memory.
    pub fn untrained(self, seed: u64) -> Result<Self> {
        let vars = Vars::default();
        Dit::new(
            self.dit.config(),
            &Weights::vars(&vars, Some(seed), &self.device),
        )?;
        // Variables would have every step remembered for a gradient.
        let values = vars.tensors().into_iter().collect();
        let weights = Weights::memory(values, &self.device);
        let dit = Dit::new(self.dit.config(), &weights)?;
        Ok(Self { dit, ..self })
    }

    /// The same model, which is that of `folder` or the one inside the program, with low-rank changes to its
    /// transformer, each a file and its strength; and the modules to be changed that it does not have.
    ///
    /// # Errors
    /// A file that cannot be read, or is for another model; names it.
    pub fn with_loras(
        self,
        folder: Option<&Path>,
        files: &[(PathBuf, f64)],
    ) -> Result<(Self, Vec<String>)> {
        let own = Arc::new(open(Part::Dit, folder)?);
        let (loras, unmatched) = open_loras(files, &own.names())?;
        let weights = Weights::files(own.clone(), &self.device).with_loras(loras);
        let dit = Dit::new(&config(&own, Part::Dit)?, &weights)?;
        Ok((Self { dit, ..self }, unmatched))
    }

    fn load(
        info: FoalInfo,
        tokenizer: TextTokenizer,
        folder: Option<&Path>,
        device: &Device,
    ) -> Result<Self> {
        let precision = Precision::Bf16;
        let open = |part| -> Result<(Arc<WeightFiles>, Weights)> {
            let files = Arc::new(open(part, folder)?);
            Ok((files.clone(), Weights::files(files, device)))
        };
        let (files, weights) = open(Part::Dit)?;
        let dit = Dit::new(&config(&files, Part::Dit)?, &weights)?;
        let levels = Levels {
            video: video_shifts(&files, dit.config().video_channels)?,
            lead: info.sampling.lead,
            audio: info.sampling.audio_shift,
        };
        let (files, weights) = open(Part::VideoAe)?;
        let video_ae = VideoAe::new(&config(&files, Part::VideoAe)?, &weights, precision)?;
        let (files, weights) = open(Part::AudioAe)?;
        let audio_ae = AudioAe::new(&config(&files, Part::AudioAe)?, &weights, precision)?;
        let upscaler = match info.base_sizes.is_empty() {
            true => None,
            false => {
                let (files, weights) = open(Part::Upscaler)?;
                let config = config(&files, Part::Upscaler)?;
                Some(Upscaler::new(&config, &weights, precision)?)
            }
        };
        Ok(Self {
            info,
            tokenizer,
            dit,
            levels,
            video_ae,
            audio_ae,
            upscaler,
            device: device.clone(),
        })
    }

    /// The video autoencoder.
    pub fn video_ae(&self) -> &VideoAe {
        &self.video_ae
    }

    /// The audio autoencoder.
    pub fn audio_ae(&self) -> &AudioAe {
        &self.audio_ae
    }
}

/// The weights of a part: of `folder`, or of the model inside the program.
fn open(part: Part, folder: Option<&Path>) -> Result<WeightFiles> {
    if folder.is_none() && cfg!(not(feature = "embedded")) {
        return Err(UserError::new(
            "this program was built without weights".to_string(),
            "name a model's folder with --model",
        )
        .into());
    }
    Ok(match folder {
        None => WeightFiles::embedded(part.file(), part.embedded())?,
        Some(folder) => WeightFiles::open(&folder.join(part.file()))?,
    })
}

/// The shape of a network, from the header of its weights.
fn config<C: DeserializeOwned>(files: &WeightFiles, part: Part) -> Result<C> {
    let json = files.metadata("config").unwrap_or_default();
    serde_json::from_str(json).map_err(|error| {
        let what = format!("`{}` does not say its shape: {error}", part.file());
        UserError::new(what, "use weights that `gallop train` wrote").into()
    })
}

/// Each part of the model that `info` is of, with its bytes and parameters: of `folder`, or of the one inside the program.
///
/// # Errors
/// A file that is missing or broken.
pub fn parts(info: &FoalInfo, folder: Option<&Path>) -> Result<Vec<(Part, usize, usize)>> {
    Part::ALL
        .into_iter()
        .filter(|part| *part != Part::Upscaler || !info.base_sizes.is_empty())
        .map(|part| {
            let files = open(part, folder)?;
            let names = files.names();
            let bytes = names
                .iter()
                .filter_map(|name| files.bytes(name))
                .map(<[u8]>::len);
            Ok((part, bytes.sum(), files.parameters()))
        })
        .collect()
}
