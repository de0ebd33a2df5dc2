//! Which noise levels a sampler visits.

/// Steps of the schedule that the public weights were trained with.
const TRAIN_STEPS: usize = 1000;
/// A level that leaves nothing to be seen of any part of a clip, however far it is ahead.
const ALL_NOISE: f64 = 0.9999;

/// Moves a noise level towards noise: `shift * s / (1 + (shift - 1) * s)`.
///
/// SD3 (arXiv 2403.03206, eq. 23): larger clips need more noise to hide as much.
pub fn shifted(sigma: f64, shift: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}

/// `num_steps + 1` falling noise levels, the last being 0.
///
/// The first is `shifted(0.999, shift)`: the highest level of a 1000-step schedule. Values are rounded
/// to f32, as the public code stores them: near 1 the rounding of `sigma` is felt in `1 - sigma`.
pub fn flow_sigmas(num_steps: usize, shift: f64) -> Vec<f64> {
    let highest = f64::from((1.0 - 1.0 / TRAIN_STEPS as f64) as f32);
    let step = -highest / num_steps as f64;
    (0..num_steps)
        .map(|i| f64::from(shifted(highest + i as f64 * step, shift) as f32))
        .chain([0.0])
        .collect()
}

/// `num_steps + 1` falling noise levels, the last being 0: almost nothing but noise, then even in the log-SNR
/// `ln((1 - sigma) / sigma)` from `from` to `to`.
///
/// For clips whose parts have levels of their own (see [`crate::Levels`]): a shift moves a part's log-SNR by so much, and
/// so no part is given larger steps than another.
pub fn log_snr_sigmas(num_steps: usize, [from, to]: [f64; 2]) -> Vec<f64> {
    let rest = num_steps.saturating_sub(1);
    let step = (to - from) / rest.saturating_sub(1).max(1) as f64;
    let sigma = |i: usize| 1.0 / (1.0 + (from + step * i as f64).exp());
    std::iter::once(ALL_NOISE)
        .chain((0..rest).map(sigma))
        .chain([0.0])
        .collect()
}

/// The whole timestep of a noise level, 0 to 1000: the public code compares these, rounded down.
pub fn timestep(sigma: f64) -> i64 {
    (sigma * TRAIN_STEPS as f64) as i64
}

/// The 1000 signal levels of a schedule whose last has no signal at all ("Common diffusion noise
/// schedules are flawed", arXiv 2305.08891), from clean to noise.
///
/// Entry 220 is where the super-resolution of the public weights enters, by [`crate::mix_snr`].
pub fn zero_snr_table() -> Vec<f64> {
    let (start, end) = (0.00085_f64.sqrt(), 0.0120_f64.sqrt());
    let mut product = 1.0;
    let signal: Vec<f64> = (0..TRAIN_STEPS)
        .map(|i| {
            let beta = start + (end - start) * i as f64 / (TRAIN_STEPS - 1) as f64;
            product *= 1.0 - beta * beta;
            product.sqrt()
        })
        .collect();
    let (first, last) = (signal[0], signal[TRAIN_STEPS - 1]);
    signal
        .iter()
        .map(|s| (s - last) * first / (first - last))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_fall_to_zero() {
        for steps in [1, 2, 8, 50] {
            let sigmas = flow_sigmas(steps, 5.0);
            assert_eq!(sigmas.len(), steps + 1);
            assert!(sigmas.windows(2).all(|w| w[0] > w[1]));
            assert_eq!(sigmas[steps], 0.0);
        }
    }

    #[test]
    fn even_steps_of_log_snr() {
        let sigmas = log_snr_sigmas(6, [-3.0, 5.0]);
        assert_eq!((sigmas.len(), sigmas[0], sigmas[6]), (7, ALL_NOISE, 0.0));
        for (i, wanted) in [-3.0, -1.0, 1.0, 3.0, 5.0].into_iter().enumerate() {
            let found = ((1.0 - sigmas[i + 1]) / sigmas[i + 1]).ln();
            assert!((found - wanted).abs() < 1e-12, "{found}");
        }
        assert_eq!(log_snr_sigmas(1, [-3.0, 5.0]), [ALL_NOISE, 0.0]);
    }

    #[test]
    fn no_shift_changes_nothing_and_shift_keeps_the_ends() {
        assert_eq!(shifted(0.3, 1.0), 0.3);
        assert_eq!((shifted(0.0, 5.0), shifted(1.0, 5.0)), (0.0, 1.0));
        assert!(shifted(0.5, 5.0) > 0.8);
    }

    #[test]
    fn the_entry_of_super_resolution() {
        assert!((zero_snr_table()[220] - 0.8389).abs() < 5e-5);
        assert_eq!(zero_snr_table()[999], 0.0);
    }
}
