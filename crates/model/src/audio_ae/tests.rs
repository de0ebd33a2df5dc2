use gallop_core::Audio;
use gallop_kernels::Precision;

use super::*;
use crate::Vars;

fn tiny() -> AudioAe {
    let config = AudioAeConfig {
        latent_channels: 8,
        widths: [16, 16, 8],
        encoder_blocks: [1, 1],
        decoder_blocks: [1, 1],
    };
    let weights = Weights::vars(&Vars::default(), Some(1), &Device::Cpu);
    AudioAe::new(&config, &weights, Precision::F32).unwrap()
}

#[test]
fn lengths_follow_the_frames() {
    let ae = tiny();
    for (samples, latents) in [(1, 1), (2000, 1), (2001, 2), (9000, 5)] {
        let mut audio = Audio::silence(samples);
        audio.left[samples / 2] = 0.7;
        let z = ae.encode(&audio).unwrap();
        assert_eq!(z.dims(), [latents, 8]);
        assert_eq!(ae.decode(&z).unwrap().len(), latents * SAMPLES_PER_FRAME);
    }
    assert!(ae.encode(&Audio::default()).is_err());
}

#[test]
fn a_sound_moves_the_latents_about_its_own_time() {
    let ae = tiny();
    let silent = ae.encode(&Audio::silence(40 * SAMPLES_PER_FRAME)).unwrap();
    let mut audio = Audio::silence(40 * SAMPLES_PER_FRAME);
    audio.left[30 * SAMPLES_PER_FRAME + 1000] = 1.0;
    let clicked = ae.encode(&audio).unwrap();
    let change = (clicked - silent).unwrap().sqr().unwrap().sum(1).unwrap();
    let change: Vec<f32> = change.to_vec1().unwrap();
    // Four latents to each side are as far as the convolutions of this one reach.
    for (i, &change) in change.iter().enumerate() {
        assert_eq!(change > 0.0, i.abs_diff(30) <= 4, "{i}");
    }
}
