//! Times for people and for programs.

use std::fmt::Write;

use gallop_engine::public::Timing;
use gallop_model::memory::readable;
use serde_json::{Value, json};

use super::{BenchPart, Measured};
use crate::args::Numbers;

/// What was measured on.
pub struct About<'a> {
    /// The name of the device.
    pub device: &'a str,
    /// Its bf16 peak in TFLOP/s.
    pub peak: Option<f64>,
    /// The model's sizes.
    pub preset: &'a str,
    /// Seconds of the clip.
    pub duration: f64,
    /// What the transformer multiplies.
    pub precision: Numbers,
}

/// Clips: their name, the parts that make one, and the seconds that the public code's authors name for one H100.
const TOTALS: [(&str, &[BenchPart], f64); 3] = {
    use BenchPart::{Base, Decode256, Decode540, Decode1080, P540, P1080, Sound};
    [
        ("256p", &[Base, Decode256, Sound], 2.0),
        ("540p", &[Base, P540, Decode540, Sound], 8.0),
        ("1080p", &[Base, P1080, Decode1080, Sound], 38.4),
    ]
};
/// The preset and the length of clip that published times are of.
const PUBLISHED: (&str, f64) = ("horse-15b", 5.0);

impl About<'_> {
    fn published(&self, seconds: f64) -> Option<f64> {
        ((self.preset, self.duration) == PUBLISHED).then_some(seconds)
    }

    fn share(&self, timing: &Timing) -> Option<f64> {
        self.peak.map(|peak| timing.rate() / 1e12 / peak)
    }
}

fn timing(measured: &[Measured], part: BenchPart) -> Option<&Timing> {
    let found = measured.iter().find(|m| m.part == part)?;
    found.outcome.as_ref().ok()
}

/// The seconds of a clip, if all its parts were timed.
fn total(measured: &[Measured], parts: &[BenchPart]) -> Option<f64> {
    let seconds = parts.iter().map(|&part| timing(measured, part));
    seconds.map(|timing| Some(timing?.whole_seconds())).sum()
}

/// One JSON object.
pub fn json(about: &About, measured: &[Measured]) -> Value {
    let totals = TOTALS.iter().filter_map(|(name, parts, published)| {
        Some(json!({
            "clip": name,
            "seconds": total(measured, parts)?,
            "published_seconds": about.published(*published),
        }))
    });
    json!({
        "program": "gallop",
        "device": about.device,
        "peak_tflops": about.peak,
        "preset": about.preset,
        "duration": about.duration,
        "precision": about.precision.name(),
        "results": measured.iter().map(|m| part_json(about, m)).collect::<Vec<_>>(),
        "totals": totals.collect::<Vec<_>>(),
    })
}

fn part_json(about: &About, measured: &Measured) -> Value {
    let size = measured.size;
    let mut value = json!({
        "part": measured.part.name(),
        "size": format!("{}x{}", size.width, size.height),
        "tokens": measured.tokens,
    });
    let more = match &measured.outcome {
        Err(error) => json!({"error": error}),
        Ok(timing) => json!({
            "seconds": timing.whole_seconds(),
            "measured_seconds": timing.seconds,
            "step_seconds": timing.steps,
            "warm_up_seconds": timing.warm_up,
            "load_seconds": timing.load,
            "operations": timing.whole,
            "tflops": timing.rate() / 1e12,
            "share_of_peak": about.share(timing),
            "weight_bytes": timing.weights,
            "peak_bytes": timing.peak,
            "layers": timing.layers,
        }),
    };
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    value
}

/// Lines of a table.
pub fn text(about: &About, measured: &[Measured]) -> String {
    let mut out = format!(
        "{}, {}, {} s of clip, {}, random weights\n",
        about.device,
        about.preset,
        about.duration,
        about.precision.name()
    );
    let _ = writeln!(
        out,
        "{:<13}{:>10}{:>9}{:>7}{:>9}{:>10}{:>10}{:>9}{:>8}{:>11}{:>11}",
        "part",
        "size",
        "tokens",
        "steps",
        "s",
        "s a step",
        "warm-up s",
        "TFLOP/s",
        "of peak",
        "weights",
        "most held"
    );
    for measured in measured {
        out.push_str(&line(about, measured));
    }
    for (name, parts, published) in TOTALS {
        if let Some(seconds) = total(measured, parts) {
            let names: Vec<String> = parts.iter().map(|part| part.name()).collect();
            let of = about.published(published);
            let of = of.map_or_else(String::new, |s| format!("; published for one H100: {s} s"));
            let _ = writeln!(
                out,
                "{name:<13}{seconds:>36.3} s, the sum of {}{of}",
                names.join(" + ")
            );
        }
    }
    out
}

fn line(about: &About, measured: &Measured) -> String {
    let size = format!("{}x{}", measured.size.width, measured.size.height);
    let tokens = measured.tokens.map_or(0, |tokens| tokens.iter().sum());
    let name = measured.part.name();
    let timing = match &measured.outcome {
        Err(error) => return format!("{name:<13}{size:>10}  not timed: {error}\n"),
        Ok(timing) => timing,
    };
    let share = about.share(timing);
    let scaled = match timing.layers {
        Some((some, all)) if some < all => format!(
            "  {some} of {all} layers timed ({:.3} s), the whole by its operations",
            timing.seconds
        ),
        _ => String::new(),
    };
    format!(
        "{name:<13}{size:>10}{tokens:>9}{:>7}{:>9.3}{:>10.4}{:>10.2}{:>9.2}{:>8}{:>11}{:>11}{scaled}\n",
        timing.steps.len(),
        timing.whole_seconds(),
        middle(&timing.steps) * timing.whole / timing.operations.max(1.0),
        timing.warm_up,
        timing.rate() / 1e12,
        share.map_or_else(|| "-".into(), |share| format!("{:.0}%", 100.0 * share)),
        readable(timing.weights),
        readable(timing.peak),
    )
}

/// The median.
fn middle(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gallop_core::PixelSize;

    fn measured(part: BenchPart, seconds: f64, layers: (usize, usize)) -> Measured {
        Measured {
            part,
            size: PixelSize::new(448, 256),
            tokens: Some([3584, 126, 640]),
            outcome: Ok(Timing {
                load: 1.0,
                warm_up: 2.0,
                seconds,
                steps: vec![seconds / 2.0; 2],
                operations: 1e12 * seconds * layers.0 as f64 / layers.1 as f64,
                whole: 1e12 * seconds,
                weights: 30 << 30,
                peak: 33 << 30,
                layers: Some(layers),
            }),
        }
    }

    #[test]
    fn clips_are_summed_where_all_parts_are_there() {
        let about = About {
            device: "a GPU",
            peak: Some(100.0),
            preset: "horse-15b",
            duration: 5.0,
            precision: Numbers::Bf16,
        };
        let mut all = vec![
            measured(BenchPart::Base, 2.0, (10, 40)),
            measured(BenchPart::Decode256, 0.5, (1, 1)),
        ];
        assert!(json(&about, &all)["totals"].as_array().unwrap().is_empty());
        all.push(measured(BenchPart::Sound, 0.25, (1, 1)));
        let value = json(&about, &all);
        assert_eq!(value["totals"][0]["seconds"], 8.75);
        assert_eq!(value["totals"][0]["published_seconds"], 2.0);
        assert_eq!(value["results"][0]["seconds"], 8.0);
        assert_eq!(value["results"][0]["share_of_peak"], 0.0025);
        let text = text(&about, &all);
        assert!(
            text.contains("10 of 40 layers") && text.contains("8.750"),
            "{text}"
        );
        all[1].outcome = Err("no memory".into());
        assert!(super::text(&about, &all).contains("not timed: no memory"));
    }
}
