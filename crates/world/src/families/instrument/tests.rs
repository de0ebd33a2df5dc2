use gallop_core::{PixelSize, SAMPLE_RATE};
use rand::SeedableRng;

use super::*;
use crate::{Look, WorldConfig};

fn config(frames: usize) -> WorldConfig {
    WorldConfig {
        families: vec!["instrument".into()],
        sizes: vec![PixelSize::new(112, 64)],
        frames: vec![frames],
        ..WorldConfig::default()
    }
}

#[test]
fn every_stroke_is_heard_when_it_is_seen() {
    let mut checked = 0;
    for seed in 0..30 {
        let rendered = config(73).render(seed).unwrap();
        let mono = rendered.clip.audio.unwrap().mono();
        assert!(!rendered.truth.events.is_empty());
        let event = &rendered.truth.events[0];
        if rendered.truth.attributes.weather != crate::Weather::Clear
            || rendered.truth.attributes.place == "garden"
        {
            continue;
        }
        let at = (event.time * SAMPLE_RATE as f64).round() as usize;
        let level = |x: &[f32]| x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert!(level(&mono[at..at + 96]) > 30.0 * level(&mono[..at]).max(1e-6));
        checked += 1;
    }
    assert!(checked > 10);
}

#[test]
fn mallets_touch_at_strokes_and_are_raised_before() {
    let mut rng = WorldRng::seed_from_u64(4);
    let shape = ClipShape {
        frames: 97,
        size: PixelSize::new(448, 256),
    };
    for _ in 0..20 {
        let a = Struck.sample(&mut rng, 4.0);
        let stage = StruckStage::new(&a, shape, &mut rng);
        for stroke in &stage.strokes {
            let mallet = if stage.is_xylophone() {
                0
            } else {
                stroke.target
            };
            let target = stage.contact(stroke.target);
            let gap = |time: f64| {
                let head = stage.heads(time)[mallet];
                (head[0] - target[0]).hypot(head[1] - target[1])
            };
            let touching = gap(stroke.time);
            assert!(touching < 1.1 * draw::HEAD, "{}: {touching}", a.subject);
            assert!(gap(stroke.time - 0.12) > touching + 0.05);
            assert!(gap(stroke.time + 0.06) > touching + 0.02);
            if !stage.is_xylophone() {
                // The way that it comes, by how far it goes to the right and down.
                let [before, at] =
                    [0.05, 0.0].map(|early| stage.heads(stroke.time - early)[mallet]);
                let (dx, dy) = (at[0] - before[0], before[1] - at[1]);
                let [right, down] = Struck::fall(&a);
                let along = (dx * right + dy * down) / dx.hypot(dy);
                assert!(along > 0.999, "{}: {along}", a.subject);
            }
        }
    }
}

#[test]
fn strokes_are_as_many_as_told_and_within_the_clip() {
    for seed in 0..60 {
        let rendered = config(97).render(seed).unwrap();
        let told: usize = rendered.truth.attributes.details["strokes"]
            .parse()
            .unwrap();
        assert_eq!(rendered.truth.events.len(), told);
    }
}

#[test]
fn a_melody_goes_where_it_is_told() {
    let mut seen = 0;
    for seed in 0..120 {
        let truth = config(97).render(seed).unwrap().truth;
        let objects: Vec<usize> = truth.events.iter().map(|e| e.object).collect();
        match truth.attributes.details.get("melody").map(String::as_str) {
            Some("up") => assert!(objects.is_sorted()),
            Some("down") => assert!(objects.iter().rev().is_sorted()),
            _ => continue,
        }
        let label = &truth.tracks[objects[0]].label;
        assert!(label.starts_with("bar_"), "{label}");
        seen += 1;
    }
    assert!(seen > 5);
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

#[test]
fn period_of_unknown_rhythm_is_steady() {
    assert_eq!(strokes::period("steady"), strokes::period("?"));
}
