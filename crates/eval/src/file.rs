//! Detectors in a file: safetensors, weights in 16 bits, the rest as JSON in its header.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use half::f16;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};

use crate::classifier::{Classifier, Scale};
use crate::detectors::{Detectors, Fitted};
use crate::error::EvalError;
use crate::finder::{Finder, LAYERS};
use crate::lips::{self, Reader};
use crate::namer::{Namer, TRUNK};
use crate::net::{Layer, Net};

/// Changes whenever features or networks do.
const RELEASE: u32 = 3;
/// The finder of mallets.
const MALLETS: &str = "mallets";
/// What the parts of the lip reader are called.
const LIPS: [&str; 2] = ["lips_seen", "lips_heard"];
/// The header's entry that holds the JSON.
const ENTRY: &str = "detectors";

/// What is not a weight.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    release: u32,
    fitted: Fitted,
    /// Detector -> what it can name.
    classes: BTreeMap<String, Vec<String>>,
}

impl Detectors {
    /// The detectors as the bytes of a file.
    ///
    /// # Errors
    /// Never for detectors that were fitted.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EvalError> {
        let mut classes = BTreeMap::new();
        let mut blobs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut put = |name: String, values: &[f32]| {
            let bytes = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes());
            blobs.insert(name, bytes.collect());
        };
        put("finder".into(), self.finder.0.weights());
        if let Some(mallets) = &self.mallets {
            put(MALLETS.into(), mallets.0.weights());
        }
        for (name, namer) in [("subject", &self.subject), ("colour", &self.colour)] {
            let Some(namer) = namer else { continue };
            classes.insert(name.to_string(), namer.classes.clone());
            put(format!("{name}.trunk"), namer.trunk.weights());
            put(format!("{name}.head"), namer.head.weights());
            put(format!("{name}.mean"), namer.scale.parts().0);
            put(format!("{name}.gain"), namer.scale.parts().1);
        }
        for (name, classifier) in &self.plain {
            classes.insert(name.clone(), classifier.classes.clone());
            put(format!("{name}.net"), classifier.net.weights());
            put(format!("{name}.mean"), classifier.scale.parts().0);
            put(format!("{name}.gain"), classifier.scale.parts().1);
        }
        if let Some(lips) = &self.lips {
            for (name, (scale, net)) in LIPS.iter().zip(lips.scales.iter().zip(&lips.nets)) {
                put(format!("{name}.net"), net.weights());
                put(format!("{name}.mean"), scale.parts().0);
                put(format!("{name}.gain"), scale.parts().1);
            }
        }
        let header = Header {
            release: RELEASE,
            fitted: self.fitted.clone(),
            classes,
        };
        let json = serde_json::to_string(&header).map_err(|e| wrong("detectors", e))?;
        let views: Result<Vec<_>, _> = blobs
            .iter()
            .map(|(name, bytes)| {
                TensorView::new(Dtype::F16, vec![bytes.len() / 2], bytes).map(|view| (name, view))
            })
            .collect();
        let views = views.map_err(|e| wrong("detectors", e))?;
        safetensors::serialize(views, Some(HashMap::from([(ENTRY.to_string(), json)])))
            .map_err(|e| wrong("detectors", e))
    }

    /// Detectors from the bytes of a file; `name` is what errors call it.
    ///
    /// # Errors
    /// Anything that [`Detectors::to_bytes`] of this release did not write.
    pub fn from_bytes(bytes: &[u8], name: &str) -> Result<Self, EvalError> {
        let (_, meta) = SafeTensors::read_metadata(bytes).map_err(|e| wrong(name, e))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| wrong(name, e))?;
        let json = meta.metadata().as_ref().and_then(|m| m.get(ENTRY));
        let json = json.ok_or_else(|| wrong(name, "its header has no detectors"))?;
        let header: Header = serde_json::from_str(json).map_err(|e| wrong(name, e))?;
        if header.release != RELEASE {
            let what = format!("it is of release {}, not {RELEASE}", header.release);
            return Err(wrong(name, what));
        }
        let parts = Parts { tensors, name };
        let mut detectors = Self {
            fitted: header.fitted,
            finder: Finder(parts.net("finder", &LAYERS)?),
            mallets: (parts.has(MALLETS).then(|| parts.net(MALLETS, &LAYERS)))
                .transpose()?
                .map(Finder),
            subject: None,
            colour: None,
            plain: BTreeMap::new(),
            lips: parts.lips()?,
        };
        for (attribute, classes) in header.classes {
            match attribute.as_str() {
                "subject" => detectors.subject = Some(parts.namer(&attribute, classes)?),
                "colour" => detectors.colour = Some(parts.namer(&attribute, classes)?),
                _ => {
                    let classifier = parts.classifier(&attribute, classes)?;
                    detectors.plain.insert(attribute, classifier);
                }
            }
        }
        Ok(detectors)
    }

    /// A number that differs for other detectors (FNV-1a of their bytes).
    pub fn identity(&self) -> u64 {
        let bytes = self.to_bytes().unwrap_or_default();
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| {
            (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }

    /// The detectors inside this library.
    ///
    /// # Errors
    /// Never in a library that passed its tests.
    pub fn embedded() -> Result<Self, EvalError> {
        Self::from_bytes(
            include_bytes!("../assets/detectors.safetensors"),
            "detectors",
        )
    }

    /// Detectors from a file.
    ///
    /// # Errors
    /// A file that cannot be read; as [`Detectors::from_bytes`].
    pub fn open(path: &Path) -> Result<Self, EvalError> {
        let bytes = std::fs::read(path).map_err(|source| EvalError::File {
            path: path.to_owned(),
            source,
        })?;
        Self::from_bytes(&bytes, &path.display().to_string())
    }
}

/// The tensors of a file.
struct Parts<'a> {
    tensors: SafeTensors<'a>,
    name: &'a str,
}

impl Parts<'_> {
    fn has(&self, tensor: &str) -> bool {
        self.tensors.tensor(tensor).is_ok()
    }

    fn values(&self, tensor: &str) -> Result<Vec<f32>, EvalError> {
        let view = self
            .tensors
            .tensor(tensor)
            .map_err(|e| wrong(self.name, e))?;
        if view.dtype() != Dtype::F16 {
            return Err(wrong(self.name, format!("`{tensor}` is not F16")));
        }
        let values: Vec<f32> = view
            .data()
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect();
        let finite = values.iter().all(|v| v.is_finite());
        finite
            .then_some(values)
            .ok_or_else(|| wrong(self.name, format!("`{tensor}` is not all finite")))
    }

    fn net(&self, tensor: &str, layers: &[Layer]) -> Result<Net, EvalError> {
        Net::with_weights(layers, self.values(tensor)?)
            .ok_or_else(|| wrong(self.name, format!("`{tensor}` has another shape")))
    }

    fn scale(&self, attribute: &str) -> Result<Scale, EvalError> {
        let mean = self.values(&format!("{attribute}.mean"))?;
        let gain = self.values(&format!("{attribute}.gain"))?;
        Scale::from_parts(mean, gain)
            .ok_or_else(|| wrong(self.name, format!("`{attribute}.mean` has another shape")))
    }

    fn namer(&self, attribute: &str, classes: Vec<String>) -> Result<Namer, EvalError> {
        let scale = self.scale(attribute)?;
        let head = Namer::head_layers(scale.len(), classes.len());
        Ok(Namer {
            trunk: self.net(&format!("{attribute}.trunk"), &TRUNK)?,
            head: self.net(&format!("{attribute}.head"), &head)?,
            classes,
            scale,
        })
    }

    /// The lip reader, where the file has one.
    fn lips(&self) -> Result<Option<Reader>, EvalError> {
        if !self.has(&format!("{}.net", LIPS[0])) {
            return Ok(None);
        }
        let net = |k: usize| self.net(&format!("{}.net", LIPS[k]), &lips::LAYERS[k]);
        let (nets, scales) = (
            [net(0)?, net(1)?],
            [self.scale(LIPS[0])?, self.scale(LIPS[1])?],
        );
        let fits = (0..2).all(|k| scales[k].len() == lips::LAYERS[k][0].inputs);
        fits.then_some(Some(Reader { scales, nets }))
            .ok_or_else(|| wrong(self.name, "its lip reader has another shape"))
    }

    fn classifier(&self, attribute: &str, classes: Vec<String>) -> Result<Classifier, EvalError> {
        let scale = self.scale(attribute)?;
        let layers = Classifier::layers(scale.len(), classes.len());
        Ok(Classifier {
            net: self.net(&format!("{attribute}.net"), &layers)?,
            classes,
            scale,
        })
    }
}

fn wrong(name: &str, what: impl std::fmt::Display) -> EvalError {
    EvalError::Format {
        name: name.to_string(),
        what: what.to_string().replace(['\n', '\r'], " "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_detectors_are_whole_and_small() {
        let detectors = Detectors::embedded().unwrap();
        let bytes = detectors.to_bytes().unwrap();
        assert!(bytes.len() < 1_000_000, "{}", bytes.len());
        assert_eq!(Detectors::from_bytes(&bytes, "again").unwrap(), detectors);
        // What was reached on 226 held-out clips of the sizes that foal makes, and coded on 224 others, in thousandths: to be
        // raised, not lowered.
        let reached = [
            ("subject", 977, 964),
            ("colour", 985, 961),
            ("count", 1000, 973),
            ("direction", 1000, 976),
            ("look", 991, 928),
            ("camera", 1000, 1000),
        ];
        for (attribute, plain, coded) in reached {
            let fitted = &detectors.fitted;
            for (least, accuracy) in [(plain, &fitted.accuracy), (coded, &fitted.coded)] {
                let (right, all) = accuracy[attribute];
                assert!(right * 1000 >= least * all, "{attribute}: {right} of {all}");
            }
        }
        let (right, seen, all) = detectors.fitted.strokes.unwrap();
        assert!(
            right * 1000 >= 872 * all && right == seen,
            "{right} of {seen} seen, {all} there"
        );
        let (own, other) = detectors.fitted.lips.unwrap();
        assert!(own >= 0.83 && other.abs() < 0.15, "{own} {other}");
    }

    #[test]
    fn damaged_files_are_named_and_refused() {
        let bytes = Detectors::embedded().unwrap().to_bytes().unwrap();
        let mut cases: Vec<Vec<u8>> = [0, 4, 9, 200, bytes.len() / 2, bytes.len() - 1]
            .map(|n| bytes[..n].to_vec())
            .to_vec();
        let mut foreign = bytes.clone();
        foreign[8..40].fill(b' ');
        cases.push(foreign);
        let mut endless = bytes.clone();
        let end = endless.len();
        // Infinity among the weights.
        endless[end - 2..].copy_from_slice(&f16::INFINITY.to_le_bytes());
        cases.push(endless);
        for case in cases {
            let error = Detectors::from_bytes(&case, "x.safetensors").unwrap_err();
            let line = error.to_string();
            assert!(
                line.contains("x.safetensors") && !line.contains('\n'),
                "{line}"
            );
        }
    }
}
