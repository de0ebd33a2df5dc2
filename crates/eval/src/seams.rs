//! Whether a clip that was made piece by piece jumps where the pieces meet.

use gallop_core::Frame;

/// How far a clip moves from each frame before one of `starts` to it, as a share of how far it moves in the steps
/// just before and after those: 1 where nothing is to be seen. `None` where no such step has others beside it, or
/// nothing moves there.
pub fn seam_ratio(frames: &[Frame], starts: impl IntoIterator<Item = usize>) -> Option<f64> {
    let step = |at: usize| difference(&frames[at - 1], &frames[at]);
    let (mut across, mut beside) = (0.0, 0.0);
    for start in starts {
        if start >= 2 && start + 1 < frames.len() {
            across += step(start);
            beside += 0.5 * (step(start - 1) + step(start + 1));
        }
    }
    (beside > 0.0).then(|| across / beside)
}

/// The mean absolute difference of two pictures' bytes.
fn difference(a: &Frame, b: &Frame) -> f64 {
    let sum: u64 = (a.rgb.iter().zip(&b.rgb))
        .map(|(a, b)| u64::from(a.abs_diff(*b)))
        .sum();
    sum as f64 / a.rgb.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use gallop_core::PixelSize;

    /// Frames that are each brighter than the one before, by 2, and by 2 more at `jumps`.
    fn brightening(count: usize, jumps: &[usize]) -> Vec<Frame> {
        let size = PixelSize::new(8, 4);
        let mut level = 0u8;
        let mut frame = |i: usize| {
            level += 2 + 2 * u8::from(jumps.contains(&i));
            Frame {
                size,
                rgb: vec![level; 8 * 4 * 3],
            }
        };
        (0..count).map(&mut frame).collect()
    }

    #[test]
    fn even_motion_has_no_seam_and_a_jump_is_one() {
        assert_eq!(seam_ratio(&brightening(20, &[]), [5, 13]), Some(1.0));
        assert_eq!(seam_ratio(&brightening(20, &[5, 13]), [5, 13]), Some(2.0));
        assert_eq!(seam_ratio(&brightening(20, &[6]), [5, 13]), Some(4.0 / 5.0));
    }

    #[test]
    fn stills_and_ends_have_none() {
        let still = vec![Frame::black(PixelSize::new(4, 4)); 9];
        assert_eq!(seam_ratio(&still, [4]), None);
        assert_eq!(seam_ratio(&brightening(9, &[]), [0, 1, 8, 30]), None);
    }
}
