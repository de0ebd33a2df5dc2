//! Many clips' metrics as one row of a table.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::kept::{KEPT_MS, Kept};
use crate::measure::{Measures, Sync};

/// One row: a model, or what it is compared with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Clips.
    pub clips: usize,
    /// Impacts seen in them; `None` where no clip is of a kind that has any.
    pub impacts: Option<usize>,
    /// Share of the impacts that have a sound within 200 ms.
    pub matched: Option<f64>,
    /// The same share for sounds shifted in time: what is matched by chance.
    #[serde(default)]
    pub matched_by_chance: Option<f64>,
    /// Share of the impacts that have a sound within 60 ms.
    #[serde(default)]
    pub close: Option<f64>,
    /// The same share by chance.
    #[serde(default)]
    pub close_by_chance: Option<f64>,
    /// Median of |onset - impact| over those, in milliseconds.
    pub offset_median_ms: Option<f64>,
    /// 95th percentile of the same.
    pub offset_p95_ms: Option<f64>,
    /// Where mallets strike, what is above of where balls hit the floor: strokes seen.
    #[serde(default)]
    pub strokes: Option<usize>,
    /// Share of the strokes that have a sound within 60 ms.
    #[serde(default)]
    pub strokes_close: Option<f64>,
    /// The same share by chance.
    #[serde(default)]
    pub strokes_close_by_chance: Option<f64>,
    /// Median of |onset - stroke| over those that have one within 200 ms, in milliseconds.
    #[serde(default)]
    pub stroke_offset_median_ms: Option<f64>,
    /// Attribute -> (right, asked for).
    pub accuracy: BTreeMap<String, (usize, usize)>,
    /// Mean R squared of falls.
    pub gravity: Option<f64>,
    /// Mean similarity of the first frame.
    pub first_frame_ssim: Option<f64>,
    /// Mean correlation of mouth and voice.
    pub lips: Option<f64>,
    /// The same with the voice shifted in time.
    #[serde(default)]
    pub lips_by_chance: Option<f64>,
    /// Median lag of the voice in milliseconds.
    pub lips_lag_ms: Option<f64>,
    /// Mean step where latent frames meet, as a share of the steps beside.
    #[serde(default)]
    pub latent_seams: Option<f64>,
    /// The same where chunks of the decoder meet.
    #[serde(default)]
    pub chunk_seams: Option<f64>,
    /// Share of the coded sounds' onsets that are heard within [`KEPT_MS`] of where they were.
    #[serde(default)]
    pub onsets_kept: Option<f64>,
    /// Median of |shift| of those heard again, in milliseconds.
    #[serde(default)]
    pub onset_shift_median_ms: Option<f64>,
    /// 95th percentile of the same.
    #[serde(default)]
    pub onset_shift_p95_ms: Option<f64>,
    /// Mean difference of log magnitudes of a sound and what coding made of it, in nats.
    #[serde(default)]
    pub spectrum: Option<f64>,
    /// Mean seconds a clip.
    pub seconds: Option<f64>,
    /// Most memory used, in MiB.
    pub peak_mib: Option<f64>,
}

impl Row {
    /// Sums up clips.
    pub fn new(name: &str, measures: &[Measures]) -> Self {
        let impacts = Steps::of(measures.iter().filter_map(|m| m.sync.as_ref()));
        let strokes = Steps::of(measures.iter().filter_map(|m| m.strokes.as_ref()));
        let mut accuracy: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for (attribute, named) in measures.iter().flat_map(|m| &m.named) {
            let entry = accuracy.entry(attribute.clone()).or_default();
            entry.0 += usize::from(named.want == named.got);
            entry.1 += 1;
        }
        let mut lags: Vec<f64> = measures
            .iter()
            .filter_map(|m| m.lips)
            // A still mouth has no lag.
            .filter(|lips| lips.correlation.abs() > 1e-3)
            .map(|lips| lips.lag_ms)
            .collect();
        lags.sort_by(f64::total_cmp);
        let sounds: Vec<&Kept> = measures.iter().filter_map(|m| m.sound.as_ref()).collect();
        let onsets: usize = sounds.iter().map(|s| s.onsets).sum();
        let kept: usize = sounds.iter().map(|s| s.kept()).sum();
        let shifts = sounds.iter().flat_map(|s| &s.shifts_ms);
        let mut shifts: Vec<f64> = shifts.map(|shift| shift.abs()).collect();
        shifts.sort_by(f64::total_cmp);
        Self {
            name: name.to_string(),
            clips: measures.len(),
            impacts: impacts.seen,
            matched: impacts.share(impacts.offsets.len() as f64),
            matched_by_chance: impacts.share(impacts.chance),
            close: impacts.share(impacts.close),
            close_by_chance: impacts.share(impacts.close_chance),
            offset_median_ms: quantile(&impacts.offsets, 0.5),
            offset_p95_ms: quantile(&impacts.offsets, 0.95),
            strokes: strokes.seen,
            strokes_close: strokes.share(strokes.close),
            strokes_close_by_chance: strokes.share(strokes.close_chance),
            stroke_offset_median_ms: quantile(&strokes.offsets, 0.5),
            accuracy,
            gravity: mean(measures.iter().filter_map(|m| m.gravity)),
            first_frame_ssim: mean(measures.iter().filter_map(|m| m.first_frame_ssim)),
            lips: mean(measures.iter().filter_map(|m| Some(m.lips?.correlation))),
            lips_by_chance: mean(measures.iter().filter_map(|m| Some(m.lips?.chance))),
            lips_lag_ms: quantile(&lags, 0.5),
            latent_seams: mean(measures.iter().filter_map(|m| m.latent_seams)),
            chunk_seams: mean(measures.iter().filter_map(|m| m.chunk_seams)),
            onsets_kept: (onsets > 0).then(|| kept as f64 / onsets as f64),
            onset_shift_median_ms: quantile(&shifts, 0.5),
            onset_shift_p95_ms: quantile(&shifts, 0.95),
            spectrum: mean(sounds.iter().map(|s| s.spectrum)),
            seconds: mean(measures.iter().filter_map(|m| m.seconds)),
            peak_mib: measures.iter().filter_map(|m| m.peak_mib).reduce(f64::max),
        }
    }
}

/// What is in step, of many clips.
struct Steps {
    /// Impacts or strokes; `None` where no clip is of a kind that has any.
    seen: Option<usize>,
    chance: f64,
    close: f64,
    close_chance: f64,
    /// |onset - impact| in milliseconds, sorted.
    offsets: Vec<f64>,
}

impl Steps {
    fn of<'a>(syncs: impl Iterator<Item = &'a Sync>) -> Self {
        let syncs: Vec<&Sync> = syncs.collect();
        let all = syncs.iter().flat_map(|s| &s.offsets_ms);
        let mut offsets: Vec<f64> = all.map(|offset| offset.abs()).collect();
        offsets.sort_by(f64::total_cmp);
        Self {
            seen: (!syncs.is_empty()).then(|| syncs.iter().map(|s| s.impacts).sum()),
            chance: syncs.iter().map(|s| s.chance).sum(),
            close: syncs.iter().map(|s| s.close as f64).sum(),
            close_chance: syncs.iter().map(|s| s.close_chance).sum(),
            offsets,
        }
    }

    /// So many of those that were seen.
    fn share(&self, of: f64) -> Option<f64> {
        let seen = self.seen.filter(|seen| *seen > 0)?;
        Some(of / seen as f64)
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0), |(sum, n), v| (sum + v, n + 1));
    (n > 0).then(|| sum / f64::from(n))
}

/// The nearest-rank quantile of sorted values.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// Rows side by side as a Markdown table, one metric a line.
pub fn table(rows: &[Row]) -> String {
    let mut out = String::from("| metric |");
    for row in rows {
        let _ = write!(out, " {} |", row.name);
    }
    out.push_str("\n|---|");
    out.push_str(&"---:|".repeat(rows.len()));
    out.push('\n');
    let mut line = |name: &str, value: &dyn Fn(&Row) -> Option<String>| {
        if rows.iter().any(|row| value(row).is_some()) {
            let cells: Vec<String> = rows
                .iter()
                .map(|r| value(r).unwrap_or_else(|| "–".into()))
                .collect();
            let _ = writeln!(out, "| {name} | {} |", cells.join(" | "));
        }
    };
    line("clips", &|r| Some(r.clips.to_string()));
    line("impacts seen", &|r| r.impacts.map(|n| n.to_string()));
    line("impacts with a sound within 200 ms", &|r| {
        r.matched.map(percent)
    });
    line("the same by chance (sound shifted in time)", &|r| {
        r.matched_by_chance.map(percent)
    });
    line("impacts with a sound within 60 ms", &|r| {
        r.close.map(percent)
    });
    line("within 60 ms by chance", &|r| {
        r.close_by_chance.map(percent)
    });
    line("onset to impact, median", &|r| {
        r.offset_median_ms.map(|v| format!("{v:.0} ms"))
    });
    line("onset to impact, 95th percentile", &|r| {
        r.offset_p95_ms.map(|v| format!("{v:.0} ms"))
    });
    line("mallets' strokes seen", &|r| {
        r.strokes.map(|n| n.to_string())
    });
    line("strokes with a sound within 60 ms", &|r| {
        r.strokes_close.map(percent)
    });
    line("the same by chance", &|r| {
        r.strokes_close_by_chance.map(percent)
    });
    line("onset to stroke, median", &|r| {
        r.stroke_offset_median_ms.map(|v| format!("{v:.0} ms"))
    });
    for attribute in crate::detectors::ATTRIBUTES {
        line(&format!("{attribute} right"), &|r| {
            let &(right, all) = r.accuracy.get(attribute)?;
            Some(format!(
                "{} of {all}",
                percent(right as f64 / all.max(1) as f64)
            ))
        });
    }
    line("falls fit gravity, R²", &|r| {
        r.gravity.map(|v| format!("{v:.3}"))
    });
    line("first frame, SSIM", &|r| {
        r.first_frame_ssim.map(|v| format!("{v:.3}"))
    });
    line("lips and voice, correlation", &|r| {
        r.lips.map(|v| format!("{v:.2}"))
    });
    line("lips and voice by chance (voice shifted in time)", &|r| {
        r.lips_by_chance.map(|v| format!("{v:.2}"))
    });
    line("lips and voice, lag", &|r| {
        r.lips_lag_ms.map(|v| format!("{v:.0} ms"))
    });
    line("step where latents meet, over those beside", &|r| {
        r.latent_seams.map(|v| format!("{v:.2}"))
    });
    line("step where chunks meet, over those beside", &|r| {
        r.chunk_seams.map(|v| format!("{v:.2}"))
    });
    line(&format!("sound's onsets kept within {KEPT_MS} ms"), &|r| {
        r.onsets_kept.map(percent)
    });
    line("shift of its onsets, median", &|r| {
        r.onset_shift_median_ms.map(|v| format!("{v:.1} ms"))
    });
    line("shift of its onsets, 95th percentile", &|r| {
        r.onset_shift_p95_ms.map(|v| format!("{v:.1} ms"))
    });
    line("its spectra, log distance", &|r| {
        r.spectrum.map(|v| format!("{v:.3} nats"))
    });
    line("seconds a clip", &|r| r.seconds.map(|v| format!("{v:.1}")));
    line("peak memory", &|r| {
        r.peak_mib.map(|v| format!("{v:.0} MiB"))
    });
    out
}

fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Named;

    #[test]
    fn rows_sum_up_and_the_table_shows_only_what_was_measured() {
        let clip = |got: &str, offsets: &[f64]| Measures {
            named: [(
                "colour".to_string(),
                Named {
                    want: "red".into(),
                    got: got.into(),
                },
            )]
            .into(),
            sync: Some(Sync {
                impacts: 2,
                chance: 0.5,
                close: offsets.len(),
                close_chance: 0.25,
                offsets_ms: offsets.to_vec(),
            }),
            strokes: Some(Sync {
                impacts: 4,
                close: 1,
                offsets_ms: vec![-70.0, 5.0],
                ..Sync::default()
            }),
            sound: Some(Kept {
                onsets: 2,
                shifts_ms: vec![-1.0, 9.0],
                spectrum: 0.25,
            }),
            ..Measures::default()
        };
        let row = Row::new(
            "foal",
            &[clip("red", &[10.0, -30.0]), clip("blue", &[20.0])],
        );
        assert_eq!(row.accuracy["colour"], (1, 2));
        assert_eq!(row.matched, Some(0.75));
        assert_eq!(row.matched_by_chance, Some(0.25));
        assert_eq!((row.close, row.close_by_chance), (Some(0.75), Some(0.125)));
        assert_eq!(
            (row.offset_median_ms, row.offset_p95_ms),
            (Some(20.0), Some(30.0))
        );
        assert_eq!((row.strokes, row.strokes_close), (Some(8), Some(0.25)));
        assert_eq!(row.stroke_offset_median_ms, Some(5.0));
        assert_eq!((row.onsets_kept, row.spectrum), (Some(0.5), Some(0.25)));
        assert_eq!(
            (row.onset_shift_median_ms, row.onset_shift_p95_ms),
            (Some(1.0), Some(9.0))
        );
        let table = table(&[row, Row::new("none", &[])]);
        assert!(table.contains("| colour right | 50% of 2 | – |"), "{table}");
        assert!(!table.contains("SSIM"), "{table}");
        let line = "| sound's onsets kept within 5 ms | 50% | – |";
        assert!(table.contains(line), "{table}");
    }
}
