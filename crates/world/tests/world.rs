//! What holds for every family: equal seeds give equal clips, any shape works, the splits part.

use gallop_core::{PixelSize, SAMPLES_PER_FRAME};
use gallop_world::{Look, Only, Rendered, Split, WorldConfig, is_heldout, registry};
use proptest::prelude::*;

fn config(family: &str, size: (usize, usize), frames: usize) -> WorldConfig {
    WorldConfig {
        families: vec![family.to_owned()],
        sizes: vec![PixelSize::new(size.0, size.1)],
        frames: vec![frames],
        ..WorldConfig::default()
    }
}

fn check(rendered: &Rendered, size: (usize, usize), frames: usize) {
    assert_eq!(rendered.clip.frames.len(), frames);
    for frame in &rendered.clip.frames {
        assert_eq!((frame.size.width, frame.size.height), size);
        assert_eq!(frame.rgb.len(), size.0 * size.1 * 3);
    }
    let audio = rendered.clip.audio.as_ref().expect("sound was asked for");
    assert_eq!(audio.left.len(), frames * SAMPLES_PER_FRAME);
    assert_eq!(audio.right.len(), audio.left.len());
    assert!(
        audio
            .left
            .iter()
            .chain(&audio.right)
            .all(|s| s.is_finite() && s.abs() <= 1.0)
    );
    let seconds = frames as f64 / 24.0;
    for event in &rendered.truth.events {
        let inside = |t: f64| (0.0..seconds).contains(&t);
        assert!(inside(event.time) || inside(event.heard));
        assert!((0.0..=1.0).contains(&event.strength), "{event:?}");
    }
    for track in &rendered.truth.tracks {
        assert_eq!(track.points.len(), frames);
        assert!(
            track
                .points
                .iter()
                .all(|p| p.x.is_finite() && p.y.is_finite())
        );
    }
    let text = rendered.truth.to_json();
    let again: gallop_world::Truth = serde_json::from_str(&text).expect("its own JSON");
    assert_eq!(again.attributes, rendered.truth.attributes);
}

/// How far from the middle the first thing of clips that stay in their place is at the most.
fn farthest(family: &str, centred: bool) -> f32 {
    let only = [
        ("camera", "still"),
        ("count", "1"),
        ("direction", "in_place"),
    ];
    let config = WorldConfig {
        only: Only(only.map(|(k, v)| (k.into(), vec![v.into()])).into()),
        audio: false,
        centred,
        ..config(family, (96, 64), 3)
    };
    (0..12)
        .map(|seed| {
            let truth = config.render(seed).unwrap().truth;
            assert_eq!(truth.attributes.centred, centred);
            (truth.tracks[0].points[1].x - 0.5).abs()
        })
        .fold(0.0, f32::max)
}

#[test]
fn what_is_centred_stays_in_the_middle() {
    for family in ["ball", "instrument", "face"] {
        // A head sways a little.
        let (middle, anywhere) = (farthest(family, true), farthest(family, false));
        assert!(middle < 0.02, "{family}: {middle}");
        assert!(anywhere > 0.05, "{family}: {anywhere}");
    }
}

#[test]
fn a_centred_upright_picture_has_the_square_one_in_its_middle() {
    for family in ["ball", "instrument", "face"] {
        let only = [("camera", "still"), ("count", "1")];
        let render = |height| {
            let config = WorldConfig {
                only: Only(only.map(|(k, v)| (k.into(), vec![v.into()])).into()),
                audio: false,
                centred: true,
                ..config(family, (64, height), 25)
            };
            config.render(3).unwrap().truth
        };
        let (square, upright) = (render(64), render(112));
        for (square, upright) in square.tracks.iter().zip(&upright.tracks) {
            for (a, b) in square.points.iter().zip(&upright.points) {
                assert!((a.x - b.x).abs() < 1e-4, "{family}: {a:?} {b:?}");
                let rows = (64.0 * a.y + 24.0, 112.0 * b.y);
                assert!((rows.0 - rows.1).abs() < 1e-2, "{family}: {rows:?}");
            }
        }
    }
}

#[test]
fn equal_seeds_give_equal_bytes_and_others_differ() {
    for family in registry() {
        for look in Look::ALL {
            let mut config = config(family.name(), (112, 64), 9);
            config.looks = vec![*look];
            let (a, b) = (config.render(5).unwrap(), config.render(5).unwrap());
            assert_eq!(a.clip, b.clip, "{}", family.name());
            assert_eq!((&a.truth, &a.captions), (&b.truth, &b.captions));
            assert_ne!(a.clip, config.render(6).unwrap().clip);
        }
    }
}

#[test]
fn long_tall_and_tiny_clips() {
    for family in registry() {
        for (size, frames) in [
            ((64, 36), 361),
            ((36, 64), 30),
            ((16, 16), 5),
            ((1, 1), 2),
            ((448, 256), 1),
        ] {
            for seed in 0..3 {
                check(
                    &config(family.name(), size, frames).render(seed).unwrap(),
                    size,
                    frames,
                );
            }
        }
    }
}

#[test]
fn the_splits_part_the_world() {
    for family in registry() {
        for (split, held) in [(Split::Train, false), (Split::Heldout, true)] {
            let mut config = config(family.name(), (16, 16), 24);
            config.split = split;
            for seed in 0..200 {
                assert_eq!(is_heldout(&config.spec(seed).unwrap().attributes), held);
            }
        }
    }
}

#[test]
fn foolish_wishes_are_refused_with_the_way_out() {
    let message = config("unicorn", (16, 16), 1)
        .render(0)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("unicorn") && message.contains("ball"),
        "{message}"
    );
    assert!(config("ball", (16, 16), 0).render(0).is_err());
    assert!(config("ball", (0, 16), 1).render(0).is_err());
    let mut empty = config("ball", (16, 16), 1);
    empty.sizes.clear();
    assert!(empty.render(0).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_shape_renders(seed: u64, width in 1usize..150, height in 1usize..150, frames in 1usize..14) {
        let family = registry()[(seed % registry().len() as u64) as usize].name();
        check(&config(family, (width, height), frames).render(seed).unwrap(), (width, height), frames);
    }
}

#[test]
fn only_clips_of_the_values_asked_for() {
    let mut config = config("ball", (64, 48), 1);
    let values = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
    config.only.0.insert("weather".into(), values(&["clear"]));
    config.only.0.insert("count".into(), values(&["1", "2"]));
    // An attribute that balls lack leaves them alone.
    config.only.0.insert("phrase".into(), values(&["Hello!"]));
    for seed in 0..60 {
        let attributes = config.spec(seed).unwrap().attributes;
        assert_eq!(attributes.weather, gallop_world::Weather::Clear);
        assert!((1..=2).contains(&attributes.count));
    }
    config.only.0.insert("weather".into(), values(&["hail"]));
    let error = config.spec(0).unwrap_err().to_string();
    assert!(error.contains("ball"), "{error}");
    config.only.0.insert("smell".into(), values(&["good"]));
    assert!(config.spec(0).unwrap_err().to_string().contains("smell"));
}
