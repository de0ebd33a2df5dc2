//! Samplers on data whose velocity is known exactly.

use candle_core::{Device, Result, Tensor};
use gallop_diffusion::{
    Field, Noise, Restart, euler, flow_sigmas, gaussian, renoise, restarted, sde, shifted, unipc,
};
use rand::SeedableRng;
use rand_pcg::Pcg64;

const MEAN: f64 = 0.7;
const STD: f64 = 0.4;

/// Variance of `(1 - sigma) * x0 + sigma * noise` for x0 ~ N(MEAN, STD^2).
fn variance(sigma: f64) -> f64 {
    ((1.0 - sigma) * STD).powi(2) + sigma * sigma
}

/// `E[noise - x0 | x]`.
fn exact(x: &[Tensor], sigma: f64) -> Result<Vec<Tensor>> {
    let slope = (sigma - (1.0 - sigma) * STD * STD) / variance(sigma);
    x.iter()
        .map(|x| x.affine(slope, -slope * (1.0 - sigma) * MEAN - MEAN))
        .collect()
}

/// Where the exact flow carries `x` from `sigma` to 0.
fn solution(x: f64, sigma: f64) -> f64 {
    MEAN + STD * (x - (1.0 - sigma) * MEAN) / variance(sigma).sqrt()
}

type Sampler = fn(Vec<Tensor>, &[f64]) -> Result<Vec<Tensor>>;

fn error(sampler: Sampler, steps: usize) -> Result<f64> {
    let sigmas = flow_sigmas(steps, 1.0);
    let start = [-1.3, 0.2, 2.1];
    let x = sampler(vec![Tensor::new(&start, &Device::Cpu)?], &sigmas)?;
    let errors = x[0].to_vec1::<f64>()?;
    Ok(errors
        .iter()
        .zip(start)
        .map(|(got, x)| (got - solution(x, sigmas[0])).abs())
        .fold(0.0, f64::max))
}

#[test]
fn euler_is_of_first_order() -> Result<()> {
    let sampler: Sampler = |x, s| euler(&mut exact, x, s);
    let order = (error(sampler, 64)? / error(sampler, 128)?).log2();
    assert!((0.9..1.15).contains(&order), "{order}");
    Ok(())
}

#[test]
fn unipc_is_of_second_order() -> Result<()> {
    let sampler: Sampler = |x, s| unipc(&mut exact, x, s);
    let (coarse, fine) = (error(sampler, 64)?, error(sampler, 128)?);
    let order = (coarse / fine).log2();
    assert!((1.8..3.3).contains(&order), "{order}");
    let euler: Sampler = |x, s| gallop_diffusion::euler(&mut exact, x, s);
    assert!(coarse < error(euler, 64)? / 10.0);
    Ok(())
}

/// Two parts, the second ahead of the first.
struct Ahead;

impl Field for Ahead {
    fn velocity(&mut self, x: &[Tensor], sigma: f64) -> Result<Vec<Tensor>> {
        let parts = x.iter().enumerate();
        let velocity = parts.map(|(m, x)| exact(std::slice::from_ref(x), self.level(m, sigma)));
        Ok(velocity.collect::<Result<Vec<_>>>()?.concat())
    }

    fn level(&self, part: usize, sigma: f64) -> f64 {
        shifted(sigma, [1.0, 0.25][part])
    }
}

#[test]
fn a_part_may_run_ahead() -> Result<()> {
    let sigmas = flow_sigmas(400, 1.0);
    let start = Tensor::new(&[-1.3, 0.2, 2.1], &Device::Cpu)?;
    let x = || vec![start.clone(), start.clone()];
    let zeros = |like: &Tensor| like.zeros_like();
    for (x, most) in [
        (euler(&mut Ahead, x(), &sigmas)?, 1e-2),
        (unipc(&mut Ahead, x(), &sigmas)?, 1e-4),
        (sde(&mut Ahead, x(), &sigmas, |_| 0.0, zeros)?, 1e-2),
    ] {
        for (part, x) in x.iter().enumerate() {
            let sigma = Ahead.level(part, sigmas[0]);
            for (got, from) in x.to_vec1::<f64>()?.iter().zip(start.to_vec1::<f64>()?) {
                let error = (got - solution(from, sigma)).abs();
                assert!(error < most, "{part} {error}");
            }
        }
    }
    Ok(())
}

/// Mean and standard deviation.
fn moments(x: &Tensor) -> Result<(f64, f64)> {
    let v = x.to_vec1::<f32>()?;
    let n = v.len() as f64;
    let mean = v.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let var = v
        .iter()
        .map(|&x| (f64::from(x) - mean).powi(2))
        .sum::<f64>()
        / n;
    Ok((mean, var.sqrt()))
}

#[test]
fn an_sde_of_many_steps_keeps_the_distribution() -> Result<()> {
    let mut rng = Pcg64::seed_from_u64(1);
    let x = gaussian(&mut rng, 20_000, &Device::Cpu)?;
    let noise = |like: &Tensor| gaussian(&mut rng, like.shape(), &Device::Cpu);
    let x = sde(&mut exact, vec![x], &flow_sigmas(200, 1.0), |_| 0.1, noise)?;
    let (mean, std) = moments(&x[0])?;
    assert!(
        (mean - MEAN).abs() < 0.02 && (std - STD).abs() < 0.02,
        "{mean} {std}"
    );
    Ok(())
}

const RESTART: Restart = Restart {
    low: 0.3,
    high: 0.7,
    times: 4,
};

/// UniPC with restarts along `steps` steps, from `x`.
fn with_restarts(
    restart: &Restart,
    field: &mut impl Field,
    x: Vec<Tensor>,
    steps: usize,
) -> Result<Vec<Tensor>> {
    let mut rng = Pcg64::seed_from_u64(5);
    let (sigmas, double) = (flow_sigmas(steps, 1.0), x[0].dtype());
    let mut noise = |shape: &[usize]| gaussian(&mut rng, shape, &Device::Cpu)?.to_dtype(double);
    let run = &mut |field: &mut _, x, sigmas: &[f64], _: Noise| unipc(field, x, sigmas);
    restarted(restart, field, x, &sigmas, run, &mut noise)
}

#[test]
fn restarts_keep_the_distribution() -> Result<()> {
    let mut rng = Pcg64::seed_from_u64(3);
    let x = gaussian(&mut rng, 20_000, &Device::Cpu)?;
    let x = with_restarts(&RESTART, &mut exact, vec![x], 24)?;
    let (mean, std) = moments(&x[0])?;
    assert!(
        (mean - MEAN).abs() < 0.02 && (std - STD).abs() < 0.02,
        "{mean} {std}"
    );
    Ok(())
}

#[test]
fn restarts_forget_errors() -> Result<()> {
    // Wrong above the levels that are visited again.
    let end = |times: usize, wrong: f64| -> Result<f64> {
        let mut field = |x: &[Tensor], sigma: f64| {
            let shift = if sigma > 0.8 { wrong } else { 0.0 };
            exact(x, sigma)?.iter().map(|v| v + shift).collect()
        };
        let x = vec![Tensor::zeros(2000, candle_core::DType::F32, &Device::Cpu)?];
        let x = with_restarts(&Restart { times, ..RESTART }, &mut field, x, 24)?;
        Ok(moments(&x[0])?.0)
    };
    let left = |times| -> Result<f64> { Ok((end(times, 1.0)? - end(times, 0.0)?).abs()) };
    let (without, with) = (left(0)?, left(4)?);
    assert!(with < 0.5 * without, "{without} {with}");
    Ok(())
}

#[test]
fn renoise_hits_a_single_point_in_one_step() -> Result<()> {
    let mut rng = Pcg64::seed_from_u64(2);
    let mut field = |x: &[Tensor], sigma: f64| {
        x.iter()
            .map(|x| x.affine(1.0 / sigma, -MEAN / sigma))
            .collect::<Result<Vec<_>>>()
    };
    let x = gaussian(&mut rng, 100, &Device::Cpu)?;
    let noise = |like: &Tensor| gaussian(&mut rng, like.shape(), &Device::Cpu);
    let x = renoise(&mut field, vec![x], &flow_sigmas(3, 5.0), noise)?;
    let (mean, std) = moments(&x[0])?;
    assert!((mean - MEAN).abs() < 1e-5 && std < 1e-5, "{mean} {std}");
    Ok(())
}

/// A field whose first element is given.
struct Given;

impl Field for Given {
    fn velocity(&mut self, x: &[Tensor], sigma: f64) -> Result<Vec<Tensor>> {
        assert_eq!(x[0].get(0)?.to_scalar::<f64>()?, 9.0);
        exact(x, sigma)
    }

    fn hold(&mut self, x: Vec<Tensor>) -> Result<Vec<Tensor>> {
        let rest = x[0].narrow(0, 1, x[0].dim(0)? - 1)?;
        Ok(vec![Tensor::cat(
            &[&Tensor::new(&[9.0], &Device::Cpu)?, &rest],
            0,
        )?])
    }
}

#[test]
fn what_is_given_is_held_in_every_sampler() -> Result<()> {
    let x = || Tensor::new(&[0.0, 1.0, -1.0], &Device::Cpu).map(|x| vec![x]);
    let sigmas = flow_sigmas(6, 5.0);
    let zeros = |like: &Tensor| like.zeros_like();
    for end in [
        euler(&mut Given, x()?, &sigmas)?,
        unipc(&mut Given, x()?, &sigmas)?,
        renoise(&mut Given, x()?, &sigmas, zeros)?,
        sde(&mut Given, x()?, &sigmas, |_| 0.5, zeros)?,
        with_restarts(&RESTART, &mut Given, x()?, 6)?,
    ] {
        let end = end[0].to_vec1::<f64>()?;
        assert_eq!(end[0], 9.0);
        assert!((end[1] - MEAN).abs() < 2.0);
    }
    Ok(())
}
