//! The samplers against values of the public code.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{Device, Result, Tensor, safetensors};
use gallop_diffusion::{flow_sigmas, renoise_step, sde_step, timestep, unipc, zero_snr_table};

/// GALLOP_GOLDEN, or the small copy beside this file.
fn golden() -> HashMap<String, Tensor> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folder = std::env::var_os("GALLOP_GOLDEN").map_or(here, PathBuf::from);
    let file = folder.join("samplers.safetensors");
    safetensors::load(&file, &Device::Cpu).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// Every step count that the file holds a trajectory of.
fn step_counts(golden: &HashMap<String, Tensor>) -> Vec<usize> {
    let counts: Vec<usize> = golden
        .keys()
        .filter_map(|key| {
            key.strip_prefix("unipc")?
                .strip_suffix(".sigmas")?
                .parse()
                .ok()
        })
        .collect();
    assert!(!counts.is_empty());
    counts
}

fn relative(got: &Tensor, want: &Tensor) -> Result<f64> {
    let norm = |t: &Tensor| -> Result<f64> {
        Ok(f64::from(t.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt())
    };
    Ok(norm(&(got - want)?)? / norm(want)?)
}

#[test]
fn golden_sigmas_and_timesteps() -> Result<()> {
    let golden = golden();
    for steps in step_counts(&golden) {
        let sigmas = flow_sigmas(steps, 5.0);
        let want = golden[&format!("unipc{steps}.sigmas")].to_vec1::<f32>()?;
        assert_eq!(sigmas.iter().map(|&s| s as f32).collect::<Vec<_>>(), want);
        let times: Vec<f32> = sigmas[..steps]
            .iter()
            .map(|&s| timestep(s) as f32)
            .collect();
        assert_eq!(
            times,
            golden[&format!("unipc{steps}.timesteps")].to_vec1::<f32>()?
        );
    }
    Ok(())
}

#[test]
fn golden_unipc_trajectories() -> Result<()> {
    let golden = golden();
    for steps in step_counts(&golden) {
        let get = |name: &str| &golden[&format!("unipc{steps}.{name}")];
        let (velocity, states) = (get("velocity"), get("states"));
        let (mut step, mut worst) = (0, 0.0_f64);
        let mut field = |x: &[Tensor], _: f64| {
            if step > 0 {
                worst = worst.max(relative(&x[0], &states.get(step - 1)?)?);
            }
            step += 1;
            Ok(vec![velocity.get(step - 1)?])
        };
        let end = unipc(
            &mut field,
            vec![get("x0").clone()],
            &flow_sigmas(steps, 5.0),
        )?;
        worst = worst.max(relative(&end[0], &states.get(steps - 1)?)?);
        println!("unipc{steps}: worst relative error {worst:.2e}");
        assert_eq!(step, steps);
        assert!(worst <= 1e-5, "unipc{steps}: {worst}");
    }
    Ok(())
}

#[test]
fn golden_renoise_and_sde_steps() -> Result<()> {
    let golden = golden();
    let [x, v, noise] = ["x", "v", "noise"].map(|n| &golden[&format!("renoise.{n}")]);
    for (i, pair) in flow_sigmas(8, 5.0).windows(2).enumerate() {
        let sigmas = (pair[0], pair[1]);
        let steps = [
            (renoise_step(x, v, noise, sigmas)?, "renoise.out"),
            (sde_step(x, v, noise, sigmas, 0.0)?, "sde.out_theta0"),
            (sde_step(x, v, noise, sigmas, 1.0)?, "sde.out_theta1"),
        ];
        for (got, name) in steps {
            let error = relative(&got, &golden[name].get(i)?)?;
            assert!(error <= 1e-6, "{name} {i}: {error}");
        }
    }
    Ok(())
}

#[test]
fn golden_super_resolution_table() -> Result<()> {
    let want = golden()["sr.sigmas"].to_vec1::<f32>()?;
    let got = zero_snr_table();
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - f64::from(want)).abs() < 1e-6, "{i}: {got} {want}");
    }
    Ok(())
}
