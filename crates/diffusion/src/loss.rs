//! Training losses: scalars that autodiff starts from.

use candle_core::{D, DType, Result, Tensor};

/// Mean squared error of velocities: `predicted` and `target` [L, C], `weight` [L].
///
/// Tokens of weight 0 (given ones) do not count; the sum is divided by the sum of the weights.
///
/// # Errors
/// When shapes differ. With no weight at all the loss is 0.
pub fn flow_matching(predicted: &Tensor, target: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let per_token = (predicted - target)?.sqr()?.mean(D::Minus1)?;
    weighted_mean(&per_token, weight)
}

/// Cross-entropy in nats of `logits` [L, V] (f32) against the next tokens `targets` [L] (u32), with
/// `weight` [L].
pub fn next_token(logits: &Tensor, targets: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let highest = logits.max_keepdim(D::Minus1)?.detach();
    let centred = logits.broadcast_sub(&highest)?;
    let log_sum = centred.exp()?.sum(D::Minus1)?.log()?;
    let right = centred
        .gather(&targets.to_dtype(DType::U32)?.unsqueeze(1)?, 1)?
        .squeeze(1)?;
    weighted_mean(&(log_sum - right)?, weight)
}

fn weighted_mean(values: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let total = weight.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    let scale = if total > 0.0 { 1.0 / total } else { 0.0 };
    (values * weight)?.sum_all()?.affine(scale, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn given_tokens_do_not_count() -> Result<()> {
        let cpu = &Device::Cpu;
        let predicted = Tensor::new(&[[1.0_f32, 3.0], [9.0, 9.0]], cpu)?;
        let target = Tensor::zeros((2, 2), DType::F32, cpu)?;
        let weight = Tensor::new(&[1.0_f32, 0.0], cpu)?;
        let loss = flow_matching(&predicted, &target, &weight)?;
        assert_eq!(loss.to_scalar::<f32>()?, 5.0);
        let none = flow_matching(&predicted, &target, &weight.zeros_like()?)?;
        assert_eq!(none.to_scalar::<f32>()?, 0.0);
        Ok(())
    }

    #[test]
    fn cross_entropy_and_its_gradient() -> Result<()> {
        let cpu = &Device::Cpu;
        let logits = Var::new(&[[1000.0_f32, 1000.0, 1000.0], [5.0, 0.0, 1.0]], cpu)?;
        let targets = Tensor::new(&[2_u32, 0], cpu)?;
        let weight = Tensor::new(&[1.0_f32, 0.0], cpu)?;
        let loss = next_token(&logits, &targets, &weight)?;
        assert!((loss.to_scalar::<f32>()? - 3.0_f32.ln()).abs() < 1e-6);
        let grads = loss.backward()?;
        let grad = grads.get(&logits).expect("logits are a variable");
        let want = [[1.0 / 3.0, 1.0 / 3.0, -2.0 / 3.0], [0.0; 3]];
        for (row, want) in grad.to_vec2::<f32>()?.iter().zip(want) {
            for (got, want) in row.iter().zip(want) {
                assert!((got - want).abs() < 1e-6, "{got} {want}");
            }
        }
        Ok(())
    }
}
