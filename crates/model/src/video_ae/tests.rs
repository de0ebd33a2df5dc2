use gallop_kernels::Precision;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::*;
use crate::Vars;

fn tiny() -> VideoAe {
    let config = VideoAeConfig {
        latent_channels: 6,
        widths: [16, 16, 8],
        encoder_blocks: [2, 2],
        decoder_blocks: [2, 2, 1],
    };
    let weights = Weights::vars(&Vars::default(), Some(1), &Device::Cpu);
    VideoAe::new(&config, &weights, Precision::F32).unwrap()
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
