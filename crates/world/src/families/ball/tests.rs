use super::*;
use crate::render::{Cameraman, View};
use crate::world::{Spec, WorldConfig, rng};
use crate::{Camera, Look};
use gallop_core::PixelSize;

fn spec(seed: u64, look: Look) -> Spec {
    let config = WorldConfig {
        families: vec!["ball".into()],
        looks: vec![look],
        sizes: vec![PixelSize::new(448, 256)],
        frames: vec![72],
        ..WorldConfig::default()
    };
    config.spec(seed).expect("the family is registered")
}

/// Integrates gravity and rebounds in small steps, knowing nothing of the closed form.
fn simulated_impacts(height: f64, fall_from: f64, contact: Contact, until: f64) -> Vec<f64> {
    let step = 1e-6;
    let (mut time, mut y, mut speed) = (fall_from, height, 0.0);
    let mut impacts = Vec::new();
    while time < until {
        speed -= motion::GRAVITY * step;
        y += speed * step;
        time += step;
        if y <= 0.0 {
            impacts.push(time);
            speed = -speed * contact.restitution;
            y = 0.0;
            time += contact.seconds;
            if speed < 0.2 {
                break;
            }
        }
    }
    impacts
}

#[test]
fn flights_meet_in_the_middle_of_the_contact() {
    for (subject, floor) in [("basketball", "stone"), ("rubber_ball", "wood")] {
        let contact = Contact::of(subject, floor);
        let bounce = Bounce::new(0.12, 0.5, 0.6, contact);
        let (touch, speed) = bounce.impacts().next().expect("it falls");
        // Two flights as straight lines at the touch, which is all that counts so near to it.
        let before = |t: f64| speed * (t - touch);
        let after = |t: f64| speed * contact.restitution * (touch + contact.seconds - t);
        let meet = touch + contact.turn();
        assert!((before(meet) - after(meet)).abs() < 1e-9);
        assert!(bounce.pose(meet).half_y < 0.12 && contact.turn() < 0.5 * contact.seconds);
    }
}

#[test]
fn impacts_equal_a_step_by_step_simulation() {
    for (subject, floor) in [
        ("basketball", "wood"),
        ("marble", "sand"),
        ("rubber_ball", "trampoline"),
    ] {
        let contact = Contact::of(subject, floor);
        let (height, first) = (0.55, 0.4);
        let bounce = Bounce::new(0.12, height, first, contact);
        let fall = (2.0 * height / motion::GRAVITY).sqrt();
        let simulated = simulated_impacts(height, first - fall, contact, 4.0);
        let exact: Vec<f64> = bounce.impacts().map(|i| i.0).collect();
        assert!(simulated.len() >= 2);
        for (a, b) in simulated.iter().zip(&exact) {
            assert!(
                (a - b).abs() < 1e-4,
                "{subject} on {floor}: {a} against {b}"
            );
        }
    }
}

#[test]
fn the_lowest_point_is_on_the_floor_at_every_impact_and_never_jumps() {
    for seed in 0..20 {
        let spec = spec(seed, Look::Soft3d);
        let stage = BallStage::new(&spec.attributes, spec.shape, &mut rng(seed, 1));
        for ball in &stage.balls {
            for (time, speed) in ball.bounce.impacts() {
                let pose = ball.bounce.pose(time);
                assert!((pose.y - pose.half_y).abs() < 1e-9);
                let before = ball.bounce.pose(time - 1e-4);
                assert!((before.y - before.half_y - speed * 1e-4).abs() < 1e-6);
            }
            let mut last = ball.bounce.pose(0.0).y;
            for step in 1..3000 {
                let y = ball.bounce.pose(step as f64 * 1e-3).y;
                assert!(
                    (y - last).abs() < 4e-3,
                    "seed {seed}, {step} ms: {last} to {y}"
                );
                last = y;
            }
        }
    }
}

#[test]
fn balls_stay_in_the_picture_and_do_not_all_rest_from_the_start() {
    for seed in 0..60 {
        let spec = spec(seed, Look::Soft3d);
        let stage = BallStage::new(&spec.attributes, spec.shape, &mut rng(seed, 1));
        let man = Cameraman::new(
            &stage.setting,
            &spec.attributes,
            spec.shape,
            &mut rng(seed, 2),
        );
        for frame in 0..spec.shape.frames {
            let time = frame as f64 / FPS as f64;
            let view = man.view(time, 0.0);
            for placed in stage.objects(time) {
                let spot = view.project(placed.at);
                let reach = placed.half[0] as f32 * spot.scale;
                let slack = 0.12 * view.height;
                assert!(spot.x - reach > -slack && spot.x + reach < view.width + slack);
                assert!(spot.y - reach > -slack && spot.y + reach < view.height + slack);
            }
        }
        assert!(
            stage.events().iter().any(|e| e.time > 0.0 && e.time < 2.2),
            "seed {seed}"
        );
    }
}

/// Rows in which a ball of saturated colour is seen, top and bottom.
fn extent(frame: &gallop_core::Frame, want: fn([u8; 3]) -> bool) -> Option<(usize, usize, f64)> {
    let (mut top, mut bottom, mut sum, mut count) = (usize::MAX, 0, 0.0, 0.0);
    for y in 0..frame.size.height {
        let mut seen = 0;
        for x in 0..frame.size.width {
            if want(frame.pixel(x, y)) {
                seen += 1;
                sum += x as f64;
                count += 1.0;
            }
        }
        if seen >= 3 {
            top = top.min(y);
            bottom = y;
        }
    }
    (count > 50.0).then(|| (top, bottom, sum / count))
}

fn plain_clip(camera: Camera) -> crate::Rendered {
    let mut a = spec(3, Look::Flat).attributes;
    a.subject = "steel_ball".into();
    a.count = 1;
    a.colours = vec![Colour::Teal];
    a.floor = Some("wood".into());
    a.place = "room".into();
    a.size = Some(Size::Large);
    a.camera = camera;
    a.time_of_day = crate::TimeOfDay::Day;
    a.direction = Some(Direction::Right);
    let shape = ClipShape {
        frames: 49,
        size: PixelSize::new(448, 256),
    };
    let spec = Spec {
        seed: 11,
        shape,
        attributes: a,
        split: crate::Split::Train,
    };
    crate::render_spec(&spec, false).expect("a registered family")
}

#[test]
fn tracks_know_the_colours_that_captions_name() {
    for seed in 0..40 {
        let a = spec(seed, Look::Flat).attributes;
        let shape = ClipShape {
            frames: 1,
            size: PixelSize::new(64, 48),
        };
        let one = Spec {
            seed,
            shape,
            attributes: a.clone(),
            split: crate::Split::Train,
        };
        let tracks = crate::render_spec(&one, false).unwrap().truth.tracks;
        let mut seen: Vec<_> = tracks.iter().filter_map(|t| t.colour).collect();
        let mut told: Vec<_> = (0..a.count).map(|i| a.colour(i)).collect();
        seen.sort();
        told.sort();
        assert_eq!(seen, told);
    }
}

#[test]
fn pixels_show_the_ball_where_the_track_and_the_impact_say() {
    let teal = |[r, g, b]: [u8; 3]| r < 110 && g > 90 && b > 90 && g.abs_diff(b) < 30;
    for &camera in Camera::ALL {
        let rendered = plain_clip(camera);
        let track = &rendered.truth.tracks[0];
        assert_eq!(track.colour, Some(Colour::Teal));
        let mut bottoms = Vec::new();
        for (frame, point) in rendered.clip.frames.iter().zip(&track.points) {
            let (top, bottom, x) = extent(frame, teal).expect("the ball is seen");
            let (cy, ry) = (point.y * 256.0, point.ry * 256.0);
            assert!(
                (top as f32 - (cy - ry)).abs() < 2.0,
                "{camera:?}: {top} {}",
                cy - ry
            );
            assert!((bottom as f32 + 1.0 - (cy + ry)).abs() < 2.0, "{camera:?}");
            let want = point.x * 448.0;
            assert!(
                (x as f32 + 0.5 - want).abs() < 4.0,
                "{camera:?}: {x} {want}"
            );
            bottoms.push(bottom as f32);
        }
        if camera == Camera::Shake {
            // The floor itself moves between the impact and the next frame.
            continue;
        }
        let impact = &rendered.truth.events[0];
        let nearest = (impact.time * FPS as f64).ceil() as usize;
        let floor = impact.y * 256.0;
        let seen = bottoms[nearest] + 1.0;
        assert!((seen - floor).abs() < 4.5, "{camera:?}: {seen} {floor}");
    }
}

#[test]
fn the_floor_under_the_ball_is_where_the_view_says() {
    let spec = spec(5, Look::Soft3d);
    let stage = BallStage::new(&spec.attributes, spec.shape, &mut rng(5, 1));
    let man = Cameraman::new(&stage.setting, &spec.attributes, spec.shape, &mut rng(5, 2));
    let view: View = man.view(0.5, 0.0);
    let row = view.project([0.3, 0.0, 0.4]).y;
    assert!((row - view.floor_row(0.4)).abs() < 1e-3);
}

#[test]
fn balls_that_travel_together_are_seen_apart() {
    let mut seen = 0;
    for seed in 0..400 {
        let mut spec = spec(seed, Look::Flat);
        let a = &mut spec.attributes;
        let travels = a.direction.is_some_and(|d| d != Direction::InPlace);
        if a.count == 1 || !travels {
            continue;
        }
        // Sand stops each where it falls; a camera that goes along changes what is beside what.
        (a.floor, a.camera) = (Some("wood".into()), Camera::Still);
        (spec.shape.size, spec.shape.frames) = (PixelSize::new(64, 36), 49);
        let tracks = crate::render_spec(&spec, false).unwrap().truth.tracks;
        for frame in 0..spec.shape.frames {
            let mut balls: Vec<_> = tracks.iter().map(|t| t.points[frame]).collect();
            balls.sort_by(|p, q| p.x.total_cmp(&q.x));
            for pair in balls.windows(2) {
                let apart = pair[1].x - pair[0].x;
                // Touching at most: squeezed balls are wider.
                assert!(apart > 0.95 * (pair[0].rx + pair[1].rx), "{seed}: {pair:?}");
            }
            let inside = |p: &crate::truth::TrackPoint| (0.0..=1.0).contains(&p.x);
            assert!(balls.iter().all(inside), "{seed}: {balls:?}");
        }
        seen += 1;
    }
    assert!(seen > 20);
}
