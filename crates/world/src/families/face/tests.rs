use gallop_core::{PixelSize, SAMPLES_PER_FRAME};

use super::*;
use crate::{Look, Split, WorldConfig, phrase_is_heldout};

fn config(frames: usize) -> WorldConfig {
    WorldConfig {
        families: vec!["face".into()],
        sizes: vec![PixelSize::new(112, 64)],
        frames: vec![frames],
        ..WorldConfig::default()
    }
}

#[test]
fn lips_move_with_the_voice() {
    let (mut sum, mut count) = (0.0, 0);
    for seed in 0..24 {
        let rendered = config(73).render(seed).unwrap();
        let a = &rendered.truth.attributes;
        if !Backdrop::from_key(&a.place).indoor() {
            continue;
        }
        let mono = rendered.clip.audio.unwrap().mono();
        let loud: Vec<f32> = mono
            .chunks(SAMPLES_PER_FRAME)
            .map(|c| (c.iter().map(|x| x * x).sum::<f32>() / c.len() as f32).sqrt())
            .collect();
        let mouth = rendered
            .truth
            .tracks
            .iter()
            .find(|t| t.label == "mouth")
            .unwrap();
        // A frame shows the moment at which it begins: between the sound before and after.
        let around: Vec<f32> = (0..loud.len())
            .map(|i| 0.5 * (loud[i] + loud[i.saturating_sub(1)]))
            .collect();
        let open: Vec<f32> = mouth.points.iter().map(|p| p.ry).collect();
        sum += correlation(&around, &open);
        count += 1;
    }
    assert!(
        count > 8 && sum / count as f32 > 0.7,
        "{}",
        sum / count as f32
    );
}

fn correlation(a: &[f32], b: &[f32]) -> f32 {
    let mean = |v: &[f32]| v.iter().sum::<f32>() / v.len() as f32;
    let (ma, mb) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        ab += (x - ma) * (y - mb);
        aa += (x - ma) * (x - ma);
        bb += (y - mb) * (y - mb);
    }
    ab / (aa * bb).sqrt().max(1e-9)
}

#[test]
fn whole_phrases_are_said_within_clips_long_enough() {
    for seed in 0..40 {
        let truth = config(97).render(seed).unwrap().truth;
        let (first, last) = (&truth.speech[0], truth.speech.last().unwrap());
        assert!(
            first.start >= 0.0 && last.end <= 97.0 / 24.0 + 0.02,
            "{}",
            last.end
        );
        let phrase = truth.attributes.phrase.as_deref().unwrap();
        let times: usize = truth.attributes.details["times"].parse().unwrap();
        let gap = if truth.attributes.phrase_lang.as_deref() == Some("en") {
            " "
        } else {
            ""
        };
        let words: Vec<&str> = truth.words.iter().map(|w| w.text.as_str()).collect();
        let once = &words[..words.len() / times];
        assert_eq!(once.join(gap), phrase);
    }
}

#[test]
fn phrases_are_split() {
    for split in [Split::Train, Split::Heldout] {
        let config = WorldConfig {
            split,
            ..config(73)
        };
        for seed in 0..20 {
            let phrase = config.spec(seed).unwrap().attributes.phrase.unwrap();
            assert_eq!(phrase_is_heldout(&phrase), split == Split::Heldout);
        }
    }
}

#[test]
fn an_open_mouth_is_seen() {
    let mut rng = crate::world::rng(1, 1);
    let shape = ClipShape {
        frames: 73,
        size: PixelSize::new(448, 256),
    };
    let a = Face.sample(&mut rng, 3.0);
    let stage = FaceStage::new(&a, shape, &mut rng);
    let opening = |time: f64| stage.objects(time)[1].half[1];
    let widest = (0..73)
        .map(|f| opening(f64::from(f) / 24.0))
        .fold(0.0, f64::max);
    assert!(widest > 0.02 && opening(0.0) < 0.3 * widest);
}

#[test]
fn any_size_length_and_look_is_drawn() {
    for (i, &look) in Look::ALL.iter().enumerate() {
        for (width, height) in [(16, 16), (64, 112), (33, 7)] {
            let config = WorldConfig {
                looks: vec![look],
                sizes: vec![PixelSize::new(width, height)],
                ..config(2)
            };
            for seed in 0..6 {
                let clip = config.render(seed + 10 * i as u64).unwrap().clip;
                assert_eq!(clip.frames.len(), 2);
            }
        }
    }
}
