//! The detectors of all attributes, fitted on clips that the world renders.

use std::collections::BTreeMap;

use gallop_core::{Cancel, Progress};
use gallop_world::{Attributes, Split, WorldConfig, WorldError};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::detector::Detector;
use crate::features::Seen;

/// Seeds of fitting clips begin here, far from those of training and of prompts.
const FIRST_SEED: u64 = 7_000_000_000;
/// Clips rendered between two reports of progress.
const BATCH: usize = 16;

/// What is detected in a clip.
pub const ATTRIBUTES: [&str; 6] = ["subject", "colour", "count", "direction", "look", "camera"];

/// One detector an attribute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detectors(BTreeMap<String, Detector>);

/// What an attribute is called in `attributes`; `None` where it does not apply.
pub fn label(attributes: &Attributes, attribute: &str) -> Option<String> {
    match attribute {
        "subject" => Some(attributes.subject.clone()),
        "colour" => attributes.colours.first().map(|c| c.key().to_string()),
        "count" => Some(attributes.count.to_string()),
        "direction" => attributes.direction.map(|d| d.key().to_string()),
        "look" => Some(attributes.look.key().to_string()),
        "camera" => Some(attributes.camera.key().to_string()),
        _ => None,
    }
}

impl Detectors {
    /// Renders `clips` clips of `world` (its training part) and fits the detectors to them; `None` when
    /// cancelled.
    ///
    /// # Errors
    /// As rendering: a family that is not registered.
    pub fn fit(
        world: &WorldConfig,
        clips: usize,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Option<Self>, WorldError> {
        let world = WorldConfig {
            audio: false,
            split: Split::Train,
            ..world.clone()
        };
        progress.stage("detectors", clips as u64);
        let mut seen: Vec<(Attributes, Vec<f32>)> = Vec::with_capacity(clips);
        while seen.len() < clips {
            if cancel.is_cancelled() {
                return Ok(None);
            }
            let batch: Result<Vec<_>, WorldError> = (seen.len()..(seen.len() + BATCH).min(clips))
                .into_par_iter()
                .map(|i| {
                    let rendered = world.render(FIRST_SEED + i as u64)?;
                    Ok((
                        rendered.truth.attributes,
                        Seen::new(&rendered.clip).features,
                    ))
                })
                .collect();
            seen.extend(batch?);
            progress.at(seen.len() as u64);
        }
        Ok(Some(Self::of(&seen)))
    }

    fn of(seen: &[(Attributes, Vec<f32>)]) -> Self {
        let fitted = ATTRIBUTES.iter().filter_map(|&attribute| {
            let (features, labels): (Vec<_>, Vec<_>) = seen
                .iter()
                .filter_map(|(a, f)| Some((f.clone(), label(a, attribute)?)))
                .unzip();
            // What never varies needs no detector.
            let varies = labels.windows(2).any(|w| w[0] != w[1]);
            varies.then(|| (attribute.to_string(), Detector::fit(&features, &labels)))
        });
        Self(fitted.collect())
    }

    /// The attribute's value in a clip of these features; `None` without a detector for it.
    pub fn name(&self, attribute: &str, features: &[f32]) -> Option<String> {
        Some(self.0.get(attribute)?.name(features).to_string())
    }

    /// The attributes that can be named.
    pub fn attributes(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}
