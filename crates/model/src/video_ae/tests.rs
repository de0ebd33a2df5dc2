use gallop_kernels::Precision;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::*;
use crate::Vars;

fn tiny_config() -> VideoAeConfig {
    VideoAeConfig {
        latent_channels: 6,
        widths: [16, 16, 8],
        encoder_blocks: [2, 2],
        decoder_blocks: [2, 2, 1],
    }
}

fn tiny() -> VideoAe {
    let weights = Weights::vars(&Vars::default(), Some(1), &Device::Cpu);
    VideoAe::new(&tiny_config(), &weights, Precision::F32).unwrap()
}

fn noise_frames(count: usize, size: PixelSize) -> Vec<Frame> {
    let mut rng = Pcg64::seed_from_u64(2);
    (0..count)
        .map(|_| Frame {
            size,
            rgb: (0..size.width * size.height * 3)
                .map(|_| rng.random())
                .collect(),
        })
        .collect()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn sizes_follow_the_strides() {
    let ae = tiny();
    let size = PixelSize::new(40, 19);
    for (frames, latents) in [(1, 1), (2, 2), (5, 2), (9, 3)] {
        let z = ae.encode(&noise_frames(frames, size)).unwrap();
        assert_eq!(z.dims(), [latents, 2, 3, 6]);
        let back = ae.decode(&z, size).unwrap();
        assert_eq!(back.len(), 4 * (latents - 1) + 1);
        assert!(back.iter().all(|frame| frame.size == size));
    }
}

#[test]
fn coding_by_chunks_equals_coding_at_once() {
    let ae = tiny();
    let size = PixelSize::new(48, 32);
    let frames = noise_frames(21, size);
    let whole = ae.encode(&frames).unwrap();
    let mut encoder = VideoEncoder::new(&ae);
    let mut parts = Vec::new();
    for chunk in [&frames[..1], &frames[1..4], &frames[4..14], &frames[14..]] {
        parts.extend(encoder.push(chunk).unwrap());
    }
    assert!(encoder.finish().unwrap().is_none());
    // Products of other sizes are summed in another order.
    let parts = values(&Tensor::cat(&parts, 0).unwrap());
    let far = |a: &f32, b: &f32| (a - b).abs() > 1e-4;
    assert!(!parts.iter().zip(values(&whole)).any(|(a, b)| far(a, &b)));

    let at_once = ae.decode(&whole, size).unwrap();
    let mut decoder = VideoDecoder::new(&ae, size);
    let mut by_chunks = Vec::new();
    for (start, count) in [(0, 1), (1, 1), (2, 3), (5, 1)] {
        by_chunks.extend(
            decoder
                .push(&whole.narrow(0, start, count).unwrap())
                .unwrap(),
        );
    }
    assert_eq!(by_chunks.len(), at_once.len());
    for (a, b) in by_chunks.iter().zip(&at_once) {
        assert!(!a.rgb.iter().zip(&b.rgb).any(|(a, b)| a.abs_diff(*b) > 1));
    }
}

#[test]
fn the_future_does_not_reach_back() {
    let ae = tiny();
    let size = PixelSize::new(32, 32);
    let mut frames = noise_frames(13, size);
    let before = ae.encode(&frames).unwrap();
    frames[9]
        .rgb
        .iter_mut()
        .for_each(|byte| *byte = 255 - *byte);
    let after = ae.encode(&frames).unwrap();
    let early = |z: &Tensor| values(&z.narrow(0, 0, 3).unwrap());
    assert_eq!(early(&before), early(&after));
    let last = |z: &Tensor| values(&z.narrow(0, 3, 1).unwrap());
    assert_ne!(last(&before), last(&after));
}

#[test]
fn pixels_go_through_patches_unchanged() {
    let size = PixelSize::new(21, 34);
    let frames = noise_frames(5, size);
    let groups = frames_to_groups(&frames, true, &Device::Cpu).unwrap();
    assert_eq!(groups.dims(), [1, 2, 6, 4, 768]);
    let patches = groups_to_patches(&groups).unwrap().squeeze(0).unwrap();
    assert_eq!(patches_to_frames(&patches, 3, size).unwrap(), frames);
}

#[test]
fn training_starts_as_a_transform_that_keeps_smooth_pictures() {
    let config = VideoAeConfig {
        widths: [96, 64, 48],
        ..VideoAeConfig::default()
    };
    let vars = Vars::default();
    let weights = Weights::vars(&vars, Some(1), &Device::Cpu);
    let ae = VideoAe::new(&config, &weights, Precision::F32).unwrap();
    start_as_transform(&config, &vars).unwrap();
    let size = PixelSize::new(64, 48);
    let value = |x: usize, y: usize, c: usize| (100 + x / 2 + y / 2 * (c % 2)) as u8;
    let mut frame = Frame::black(size);
    for (i, byte) in frame.rgb.iter_mut().enumerate() {
        *byte = value(i / 3 % 64, i / 192, i % 3);
    }
    let back = ae
        .decode(&ae.encode(&vec![frame.clone(); 5]).unwrap(), size)
        .unwrap();
    for (a, b) in back[4].rgb.iter().zip(&frame.rgb) {
        assert!(a.abs_diff(*b) < 12, "{a} {b}");
    }
}

#[test]
fn turned_latents_decode_to_the_same_pictures() {
    let size = PixelSize::new(48, 32);
    let frames = noise_frames(9, size);
    let vars = Vars::default();
    let weights = Weights::vars(&vars, Some(1), &Device::Cpu);
    let plain = VideoAe::new(&tiny_config(), &weights, Precision::F32).unwrap();
    let latents = plain.encode(&frames).unwrap();
    let pictures = plain.decode(&latents, size).unwrap();
    // A shear: each channel gets `by` of the one before it, but the first.
    let shear = |by: f32| {
        let of = |(from, to): (usize, usize)| match to.checked_sub(from) {
            Some(0) => 1.0,
            Some(steps) => by.powi(steps as i32),
            None => 0.0,
        };
        let numbers: Vec<f32> = (0..36).map(|i| of((i / 6, i % 6))).collect();
        Tensor::from_vec(numbers, (6, 6), &Device::Cpu).unwrap()
    };
    let identity = Tensor::eye(6, DType::F32, &Device::Cpu).unwrap();
    // (1 - N)^-1 = 1 + N + N^2 + ..., N being one step.
    let there = shear(0.5);
    let one_step = (0..36).map(|i| if i % 6 == i / 6 + 1 { 0.5 } else { 0.0 });
    let one_step = Tensor::from_iter(one_step.map(|x: f64| x as f32), &Device::Cpu).unwrap();
    let back = (&identity - one_step.reshape((6, 6)).unwrap()).unwrap();
    let with = |unmix: &Tensor| {
        let mut tensors: std::collections::HashMap<String, Tensor> =
            vars.tensors().into_iter().collect();
        tensors.insert("latents.mix".into(), there.clone());
        tensors.insert("latents.unmix".into(), unmix.clone());
        let weights = Weights::memory(tensors, &Device::Cpu);
        VideoAe::new(&tiny_config(), &weights, Precision::F32)
    };
    let turned = with(&back).unwrap();
    let mixed = turned.encode(&frames).unwrap();
    let rows = latents.reshape(((), 6)).unwrap().matmul(&there).unwrap();
    let far = |(a, b): (f32, f32)| (a - b).abs() > 1e-4;
    assert!(!values(&mixed).into_iter().zip(values(&rows)).any(far));
    assert!(values(&mixed).into_iter().zip(values(&latents)).any(far));
    let back = turned.decode(&mixed, size).unwrap();
    let bytes = back
        .iter()
        .zip(&pictures)
        .flat_map(|(a, b)| a.rgb.iter().zip(&b.rgb));
    assert!(bytes.map(|(a, b)| a.abs_diff(*b)).max() <= Some(1));
    let error = with(&identity).err().unwrap().to_string();
    assert!(error.contains("latents.unmix"), "{error}");
}
