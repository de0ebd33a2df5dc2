//! gallop-diffusion.
