//! What can be known of a part from the headers of its files: whether its tensors have the shapes that its configuration
//! asks for, and what memory its stage will take. Seen before hours of work.

use super::{
    error::Result,
    folder::{Part, PublicModel, VIDEO_WEIGHTS},
    manifest::{
        TensorSpec, VideoWidths, audio_autoencoder, fast_decoder, parameters, text_encoder,
        video_autoencoder,
    },
    memory::{self, StageBytes},
    source::{Renamed, TensorSource},
    wan_vae::LATENT_CHANNELS,
};
use crate::error::ModelError;

/// The work of a stage around the transformer.
#[derive(Clone, Copy, Debug)]
pub enum StageWork<'a> {
    /// Texts of so many tokens are encoded.
    Texts(&'a [usize]),
    /// One picture of so many pixels is encoded.
    EncodePicture(usize),
    /// A sound of so many latents is encoded.
    EncodeSound(usize),
    /// So many audio latents are decoded.
    DecodeSound(usize),
    /// Video latents of so many rows and columns go through the fast decoder.
    FastDecode(usize, usize),
    /// Video latents for pictures of so many pixels go through the decoder of Wan2.2.
    ExactDecode(usize),
}

impl StageWork<'_> {
    /// The part that does it.
    pub fn part(&self) -> Part {
        match self {
            Self::Texts(_) => Part::TextEncoder,
            Self::EncodePicture(_) | Self::ExactDecode(_) => Part::VideoAutoencoder,
            Self::EncodeSound(_) | Self::DecodeSound(_) => Part::AudioAutoencoder,
            Self::FastDecode(..) => Part::FastDecoder,
        }
    }
}

impl PublicModel {
    /// Checks the shapes of a part's tensors. Those of transformers depend on more than their folder and are not looked
    /// at.
    ///
    /// # Errors
    /// When a file or a tensor is missing, or of another shape.
    pub fn check_shapes(&self, part: Part) -> Result<()> {
        match part {
            Part::FastDecoder => {
                let (config, file) = self.fast()?;
                compare(fast_decoder(&config), &file)
            }
            Part::VideoAutoencoder => {
                let file = self.pickle(part, VIDEO_WEIGHTS)?;
                let widths = VideoWidths {
                    latents: LATENT_CHANNELS,
                    ..VideoWidths::of(&file)?
                };
                compare(video_autoencoder(widths), &file)
            }
            Part::AudioAutoencoder => {
                let (config, files) = self.audio()?;
                compare(audio_autoencoder(&config), &files)
            }
            Part::TextEncoder => {
                let (config, files) = self.text_files()?;
                let inner = |name: &str| name.strip_prefix("model.").unwrap_or(name).to_string();
                let mut specs = text_encoder(&config);
                specs
                    .iter_mut()
                    .for_each(|spec| spec.name = inner(&spec.name));
                compare(specs, &Renamed::new(files, |name| Some(inner(name))))
            }
            _ => Ok(()),
        }
    }

    /// The bytes that a stage will hold at its most.
    ///
    /// # Errors
    /// When a file is missing, or not what it should be.
    pub fn stage_bytes(&self, work: StageWork) -> Result<StageBytes> {
        let half = |specs: Vec<TensorSpec>, half: &str| -> u64 {
            let of_half: Vec<TensorSpec> = specs
                .into_iter()
                .filter(|spec| spec.name.starts_with(half))
                .collect();
            parameters(&of_half)
        };
        Ok(match work {
            StageWork::Texts(tokens) => {
                let (config, files) = self.text_files()?;
                let matrix = "layers.0.mlp.up_proj.weight";
                let name = files.names().into_iter().find(|n| n.ends_with(matrix));
                let stored = name.map_or(2, |name| {
                    let count = files
                        .shape(&name)
                        .unwrap_or_default()
                        .iter()
                        .product::<usize>();
                    files.stored_bytes(&name).div_ceil(count.max(1) as u64)
                });
                memory::text_encoder(&config, tokens, stored)
            }
            StageWork::EncodePicture(pixels) | StageWork::ExactDecode(pixels) => {
                let file = self.pickle(Part::VideoAutoencoder, VIDEO_WEIGHTS)?;
                let widths = VideoWidths::of(&file)?;
                let specs = video_autoencoder(widths);
                match work {
                    StageWork::EncodePicture(_) => {
                        memory::video_encoder(widths, pixels, half(specs, "encoder."))
                    }
                    _ => memory::video_decoder(widths, pixels, half(specs, "decoder.")),
                }
            }
            StageWork::EncodeSound(latents) => {
                let config = self.audio()?.0;
                let weights = half(audio_autoencoder(&config), "encoder.");
                memory::audio_encoder(&config, latents, weights)
            }
            StageWork::DecodeSound(latents) => {
                let config = self.audio()?.0;
                let weights = half(audio_autoencoder(&config), "decoder.");
                memory::audio_decoder(&config, latents, weights)
            }
            StageWork::FastDecode(h, w) => {
                let config = self.fast()?.0;
                let weights = parameters(&fast_decoder(&config));
                memory::fast_decoder(&config, (h, w), (weights, self.device()))
            }
        })
    }
}

impl VideoWidths {
    /// The widths of a video autoencoder, by the shapes of its tensors.
    ///
    /// # Errors
    /// When a tensor that tells them is missing.
    pub fn of(source: &dyn TensorSource) -> Result<Self> {
        let rows = |name: &str| -> Result<usize> {
            let shape = source.shape(name);
            let shape = shape.ok_or_else(|| ModelError::Missing(name.into()))?;
            Ok(shape.first().copied().unwrap_or(0))
        };
        let block = |i: &usize| format!("encoder.downsamples.0.downsamples.{i}.residual.2.weight");
        Ok(Self {
            encoder: rows("encoder.conv1.weight")?,
            decoder: rows("decoder.head.0.gamma")?,
            blocks: (0..)
                .take_while(|i| source.shape(&block(i)).is_some())
                .count(),
            latents: rows("conv2.weight")?,
        })
    }
}

/// Every tensor of the list is there and of its shape.
fn compare(specs: Vec<TensorSpec>, source: &dyn TensorSource) -> Result<()> {
    for TensorSpec { name, shape, .. } in specs {
        match source.shape(&name) {
            Some(got) if got == shape => {}
            Some(got) => {
                let want = shape;
                return Err(ModelError::Shape { name, got, want }.into());
            }
            None if otherwise_kept(&name, source) => {}
            None => return Err(ModelError::Missing(name).into()),
        }
    }
    Ok(())
}

/// Whether a weight that is listed as direction and length is kept under the newer names of these, or as their product.
fn otherwise_kept(name: &str, source: &dyn TensorSource) -> bool {
    let module = name
        .strip_suffix("weight_g")
        .or(name.strip_suffix("weight_v"));
    let names = ["weight", "parametrizations.weight.original0"];
    module.is_some_and(|module| {
        let mut names = names.iter().map(|name| format!("{module}{name}"));
        names.any(|name| source.shape(&name).is_some())
    })
}
