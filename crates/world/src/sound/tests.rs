use std::f32::consts::PI;

use gallop_core::SAMPLE_RATE;
use proptest::prelude::*;
use realfft::RealFftPlanner;

use super::*;

fn cue(time: f64, sound: Sound) -> Cue {
    Cue {
        time,
        strength: 0.8,
        pan: 0.0,
        sound,
    }
}

fn score(room: &str, cues: Vec<Cue>) -> Score {
    Score {
        room: room.to_owned(),
        cues,
    }
}

fn impact(subject: &str, floor: &str) -> Sound {
    Sound::Impact {
        subject: subject.to_owned(),
        floor: floor.to_owned(),
        size: 0.12,
    }
}

/// One of every kind of sound that begins at a time.
fn struck() -> Vec<Sound> {
    let mut all = Vec::new();
    for subject in ["basketball", "rubber_ball", "steel_ball", "marble"] {
        for floor in ["wood", "stone", "sand", "trampoline"] {
            all.push(impact(subject, floor));
        }
    }
    for ground in ["grass", "dirt", "sand", "stone", "snow", "wood", "water"] {
        all.push(Sound::Hoof {
            ground: ground.to_owned(),
        });
    }
    for (instrument, hz) in [
        (Instrument::Drum, 90.0),
        (Instrument::Snare, 190.0),
        (Instrument::Bell, 520.0),
        (Instrument::Xylophone, 660.0),
        (Instrument::Cymbal, 300.0),
    ] {
        all.push(Sound::Strike { instrument, hz });
    }
    all.push(Sound::Firework(Firework::Launch));
    all.push(Sound::Firework(Firework::Boom(80.0)));
    all.push(Sound::Firework(Firework::Crackle(1.0)));
    all
}

/// The frequency of the strongest bin between `low` and `high` hertz, refined by a parabola.
fn peak_hz(samples: &[f32], low: f32, high: f32) -> f32 {
    let n = 1 << 16;
    let mut input: Vec<f32> = samples.iter().copied().take(n).collect();
    let used = input.len() as f32;
    for (i, x) in input.iter_mut().enumerate() {
        *x *= 0.5 - 0.5 * (2.0 * PI * i as f32 / used).cos();
    }
    input.resize(n, 0.0);
    let fft = RealFftPlanner::<f32>::new().plan_fft_forward(n);
    let mut output = fft.make_output_vec();
    fft.process(&mut input, &mut output).unwrap();
    let bin = SAMPLE_RATE as f32 / n as f32;
    let range = (low / bin) as usize..(high / bin) as usize;
    let level = |i: usize| output[i].norm().ln();
    let best = range
        .max_by(|&a, &b| level(a).total_cmp(&level(b)))
        .unwrap();
    let (a, b, c) = (level(best - 1), level(best), level(best + 1));
    (best as f32 + 0.5 * (a - c) / (a - 2.0 * b + c)) * bin
}

#[test]
fn every_stroke_is_heard_within_a_millisecond() {
    let time = 0.51237;
    for sound in struck() {
        for room in ["", "hall"] {
            let audio = score(room, vec![cue(time, sound.clone())]).render(96_000, 3);
            let mono = audio.mono();
            let start = (time * SAMPLE_RATE as f64).round() as usize;
            assert!(
                mono[..start].iter().all(|&x| x.abs() < 1e-6),
                "{sound:?} early"
            );
            let peak = mono.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let soon = mono[start..start + 48]
                .iter()
                .fold(0.0f32, |m, x| m.max(x.abs()));
            assert!(soon > 0.12 * peak, "{sound:?}: {soon} of {peak} in 1 ms");
        }
    }
}

#[test]
fn bars_have_their_pitch() {
    for hz in [392.0, 523.25, 659.26, 880.0, 1318.5] {
        let strike = Sound::Strike {
            instrument: Instrument::Xylophone,
            hz,
        };
        let audio = score("", vec![cue(0.0, strike)]).render(48_000, 1);
        let found = peak_hz(&audio.left, 200.0, 6000.0);
        assert!((found / hz - 1.0).abs() < 0.01, "{found} for {hz}");
    }
}

#[test]
fn passing_by_shifts_pitch_as_physics_says() {
    let speed = 30.0;
    let path = Path::pass_by(2.0, speed, 4.0, 4.0);
    let drive = Sound::Drive {
        engine: Engine::Tone,
        path,
    };
    let audio = score("", vec![cue(0.0, drive)]).render(4 * SAMPLE_RATE, 1);
    let mono = audio.mono();
    let coming = peak_hz(&mono[4_800..28_800], 300.0, 700.0);
    let going = peak_hz(&mono[163_200..187_200], 300.0, 700.0);
    let v = speed / SPEED_OF_SOUND;
    let expected = (1.0 + v) / (1.0 - v);
    let ratio = f64::from(coming / going);
    assert!(
        (ratio / expected - 1.0).abs() < 0.01,
        "{ratio} for {expected}"
    );
}

#[test]
fn a_car_from_the_left_is_louder_left_then_right_and_loudest_near() {
    let drive = Sound::Drive {
        engine: Engine::Car,
        path: Path::pass_by(2.0, 15.0, 5.0, 4.0),
    };
    let audio = score("", vec![cue(0.0, drive)]).render(4 * SAMPLE_RATE, 1);
    let power = |x: &[f32]| x.iter().map(|v| v * v).sum::<f32>();
    let second = SAMPLE_RATE;
    assert!(power(&audio.left[..second]) > 2.0 * power(&audio.right[..second]));
    assert!(power(&audio.right[3 * second..]) > 2.0 * power(&audio.left[3 * second..]));
    let near = power(&audio.left[3 * second / 2..5 * second / 2]);
    assert!(near > 4.0 * power(&audio.left[..second]));
}

#[test]
fn place_is_heard_by_level_and_time() {
    for (pan, left_first) in [(-0.8, true), (0.8, false)] {
        let mut cue = cue(0.1, impact("marble", "stone"));
        cue.pan = pan;
        let audio = score("", vec![cue]).render(24_000, 1);
        let onset = |x: &[f32]| x.iter().position(|&v| v != 0.0).unwrap();
        let (l, r) = (onset(&audio.left), onset(&audio.right));
        assert_eq!(l < r, left_first);
        assert!(l.abs_diff(r) < 40 && l.min(r) == 4_800);
        let power = |x: &[f32]| x.iter().map(|v| v * v).sum::<f32>();
        assert_eq!(power(&audio.left) > power(&audio.right), left_first);
    }
}

#[test]
fn harder_is_louder_and_brighter() {
    let at = |strength: f32| {
        let mut cue = cue(0.0, impact("basketball", "wood"));
        cue.strength = strength;
        let mut sound = vec![0.0; 9_600];
        cue.synthesise(&mut sound, &mut Noise::new(5));
        let power: f32 = sound.iter().map(|x| x * x).sum();
        let slope: f32 = sound.windows(2).map(|w| (w[1] - w[0]).powi(2)).sum();
        (power, slope / power)
    };
    let (soft, hard) = (at(0.2), at(1.0));
    assert!(hard.0 > 5.0 * soft.0);
    assert!(hard.1 > 1.1 * soft.1, "{} {}", hard.1, soft.1);
}

#[test]
fn a_hall_rings_on_and_the_open_air_does_not() {
    let tail = |room: &str| {
        let audio = score(room, vec![cue(0.1, impact("marble", "stone"))]).render(96_000, 1);
        audio.left[33_600..].iter().map(|x| x * x).sum::<f32>()
    };
    assert!(tail("hall") > 1e-4);
    assert_eq!(tail("garden"), 0.0);
    assert!(tail("hall") > 20.0 * tail("room"));
}

fn everything() -> Score {
    let mut cues: Vec<Cue> = struck()
        .into_iter()
        .enumerate()
        .map(|(i, sound)| cue(0.07 * i as f64 - 0.3, sound))
        .collect();
    for bed in [
        Bed::Wind,
        Bed::Rain,
        Bed::Sea,
        Bed::Crickets,
        Bed::Hum,
        Bed::Crowd,
    ] {
        cues.push(cue(0.0, Sound::Bed(bed)));
    }
    for engine in [
        Engine::Car,
        Engine::Truck,
        Engine::Motorcycle,
        Engine::Racer,
        Engine::Tram,
    ] {
        let path = Path::pass_by(1.0, -20.0, 6.0, 3.0);
        cues.push(cue(0.0, Sound::Drive { engine, path }));
    }
    cues.push(cue(0.2, Sound::Firework(Firework::Whistle(0.8))));
    score("tunnel", cues)
}

#[test]
fn equal_seeds_sound_equal_and_no_sample_leaves_the_scale() {
    let score = everything();
    let (a, b, c) = (
        score.render(144_000, 9),
        score.render(144_000, 9),
        score.render(144_000, 10),
    );
    assert_eq!(a, b);
    assert_ne!(a, c);
    assert!(
        a.left
            .iter()
            .chain(&a.right)
            .all(|x| x.is_finite() && x.abs() <= 0.96)
    );
}

proptest! {
    #[test]
    fn any_length_and_any_cue_is_safe(
        samples in 0usize..5000, time in -3.0f64..3.0, strength in -1.0f32..3.0,
        pan in -2.0f32..2.0, which in 0usize..40,
    ) {
        let mut all = struck();
        all.push(Sound::Bed(Bed::Sea));
        all.push(Sound::Drive {
            engine: Engine::Siren,
            path: Path { points: vec![[1.0, 2.0]], rate: 24.0 },
        });
        all.push(Sound::Drive { engine: Engine::Car, path: Path { points: vec![], rate: 1.0 } });
        all.push(Sound::Samples(vec![0.5; 100].into()));
        let sound = all.swap_remove(which % all.len());
        let audio = score("room", vec![Cue { time, strength, pan, sound }]).render(samples, 1);
        prop_assert_eq!(audio.len(), samples);
        prop_assert!(audio.left.iter().chain(&audio.right).all(|x| x.is_finite() && x.abs() <= 1.0));
    }
}
