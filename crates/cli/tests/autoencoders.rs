//! What foal's autoencoders keep of rendered clips.

use candle_core::Device;
use gallop_core::{Clip, ClipShape, Frame, PixelSize};
use gallop_engine::{Foal, chunk_starts, latent_starts, reconstruct};
use gallop_eval::{Kept, seam_ratio};
use gallop_model::video_ae::VideoDecoder;
use gallop_world::{WorldConfig, render_spec};

const SIZE: PixelSize = PixelSize {
    width: 168,
    height: 96,
};

/// A clip of the world of 61 frames, 4 chunks of the decoder.
fn rendered(family: &str, seed: u64) -> Clip {
    let world = WorldConfig {
        families: vec![family.into()],
        ..WorldConfig::default()
    };
    let mut spec = world.spec(seed).unwrap();
    spec.shape = ClipShape {
        frames: 61,
        size: SIZE,
    };
    render_spec(&spec, true).unwrap().clip
}

/// |a - b| / |b - mean of b| over all bytes.
fn relative_error(a: &[Frame], b: &[Frame]) -> f64 {
    assert_eq!(a.len(), b.len());
    let bytes = |frames: &[Frame]| -> Vec<f64> {
        let all = frames.iter().flat_map(|f| &f.rgb);
        all.map(|v| f64::from(*v)).collect()
    };
    let (a, b) = (bytes(a), bytes(b));
    let mean = b.iter().sum::<f64>() / b.len() as f64;
    let apart: f64 = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum();
    let size: f64 = b.iter().map(|b| (b - mean).powi(2)).sum();
    (apart / size).sqrt()
}

#[test]
fn chunks_leave_no_seam() {
    let model = Foal::embedded(&Device::Cpu).unwrap();
    let ae = model.video_ae();
    for (family, seed) in [("face", 3), ("ball", 5), ("instrument", 8)] {
        let clip = rendered(family, seed);
        let starts: Vec<usize> = chunk_starts(clip.frames.len()).collect();
        assert_eq!(starts, [13, 29, 45]);
        let latents = ae.encode(&clip.frames).unwrap();
        let at_once = ae.decode(&latents, SIZE).unwrap();
        let by_chunks = reconstruct(&model, &clip).unwrap().frames;
        let error = relative_error(&by_chunks, &at_once);
        let bytes = by_chunks.iter().zip(&at_once);
        let pairs = bytes.flat_map(|(a, b)| a.rgb.iter().zip(&b.rgb));
        let most = pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap();

        // Without what one chunk hands to the next.
        let broken: Vec<Frame> = (0..4)
            .flat_map(|chunk| {
                let part = latents.narrow(0, 4 * chunk, 4).unwrap();
                let mut decoder = VideoDecoder::new(ae, SIZE);
                if chunk > 0 {
                    // The first frame of a decoder stands for one frame alone: give it one to lose.
                    decoder.push(&part.narrow(0, 0, 1).unwrap()).unwrap();
                }
                decoder.push(&part).unwrap()
            })
            .collect();
        let lost = relative_error(&broken, &at_once);
        let [real, chunked, whole, broken] = [&clip.frames, &by_chunks, &at_once, &broken]
            .map(|frames| seam_ratio(frames, starts.iter().copied()).unwrap());
        let latent = seam_ratio(&by_chunks, latent_starts(clip.frames.len())).unwrap();
        println!(
            "{family}: step at chunk borders over those beside: rendered {real:.3}, decoded {chunked:.3}, at once \
             {whole:.3}, without memory {broken:.3}; at all latents' borders {latent:.3}; chunks against all at \
             once {error:.1e}, at most {most} of 255, without memory {lost:.1e}"
        );
        // Sums of another order round to other bf16 numbers here and there, and those to the next byte.
        assert!(error < 1e-2, "{family}: {error}");
        assert!(most <= 6, "{family}: {most} of 255");
        assert!((chunked - whole).abs() < 0.02, "{family}");
        // All latents' borders are seen alike: those of chunks are none the worse, but for what truly moves there.
        assert!(chunked < 1.15 * latent * real.max(1.0), "{family}");
        assert!(lost > 3.0 * error, "{family}: nothing is handed on");
    }
}

/// Onsets, those within 5 ms, and the median of shifts in ms, of six clips of a family.
fn onsets_kept(model: &Foal, family: &str) -> (usize, usize, f64) {
    let (mut onsets, mut kept, mut shifts) = (0, 0, Vec::new());
    for seed in 1..7 {
        let sound = rendered(family, seed).audio.unwrap();
        let ae = model.audio_ae();
        let found = Kept::new(&sound, &ae.decode(&ae.encode(&sound).unwrap()).unwrap());
        println!(
            "{family} {seed}: {} onsets, {} kept, shifts {:?}, {:.3} nats",
            found.onsets,
            found.kept(),
            found.shifts_ms,
            found.spectrum
        );
        (onsets, kept) = (onsets + found.onsets, kept + found.kept());
        shifts.extend(found.shifts_ms.iter().map(|s| s.abs()));
        assert!(found.spectrum < 1.5, "{family} {seed}");
    }
    shifts.sort_by(f64::total_cmp);
    (onsets, kept, shifts[shifts.len() / 2])
}

#[test]
fn onsets_stay_in_place() {
    let model = Foal::embedded(&Device::Cpu).unwrap();
    // Over more clips all of instruments' and three quarters of syllables' (docs/log.md, 2026-12-01).
    for (family, least, most) in [("instrument", 0.95, 1.5), ("face", 0.55, 4.0)] {
        let (onsets, kept, median) = onsets_kept(&model, family);
        println!("{family}: {kept} of {onsets} onsets within 5 ms, median {median:.1} ms");
        assert!(onsets > 12 && median < most, "{family}: {median}");
        assert!(
            kept as f64 >= least * onsets as f64,
            "{family}: {kept} of {onsets}"
        );
    }
}
