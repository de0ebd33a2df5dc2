//! Schedules, samplers, guidance, the flow path and its losses. Knows no network.
//!
//! Terms: sigma is the noise level (1 = noise, 0 = data); `x_sigma = (1 - sigma) * x0 + sigma * noise`;
//! the velocity is `dx/dsigma = noise - x0`, so `x0 = x - sigma * velocity`.
//! A state is one tensor a modality; a sampler is a free function over a [`Field`], which gives the
//! velocities of a state and keeps in place what is given (a first frame, a sound).
#![warn(missing_docs)]

mod guidance;
mod levels;
mod loss;
mod noise;
mod path;
mod restart;
mod samplers;
mod schedule;
mod training;
mod unipc;

pub use guidance::{Guidance, Scale, push_is_felt};
pub use levels::Levels;
pub use loss::{flow_matching, next_token};
pub use noise::gaussian;
pub use path::{add_noise, add_noise_by_part, mix_snr, velocity_target, x0_from_velocity};
pub use restart::{Noise, Restart, restarted};
pub use samplers::{Field, euler, renoise, renoise_step, sde, sde_step, sde_theta};
pub use schedule::{flow_sigmas, log_snr_sigmas, shifted, timestep, zero_snr_table};
pub use training::SigmaDistribution;
pub use unipc::unipc;
