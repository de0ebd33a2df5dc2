//! The fast operations, forward and backward, as candle custom ops.

mod activation;
mod adam;
mod attention;
mod branch;
mod conv;
#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod frames;
mod frozen;
pub mod gemm;
mod isa;
mod linear;
mod memory;
mod norm;
mod resample;
mod resident;
mod rope;
mod rows;
mod segments;
pub mod selftest;
mod simd;
mod storage;

pub use activation::{
    Activation, gelu, gelu_tanh, gelu7, gelu7_for_product, head_gate, silu, snake, swiglu7,
    swiglu7_for_product,
};
pub use adam::{AdamStep, adam_on_gpu, sum_in_parts};
pub use attention::{AttentionBlock, AttentionPlan, SelfAttention, attention, self_attention};
pub use branch::{AttentionWeights, BranchMatrix, MlpBranch, attention_branch, mlp_branch};
pub use conv::{ConvSpec, Padding, conv, conv_backward, conv_to_bf16};
pub use device::{
    DeviceMemory, cuda_device, device_memory, device_name, forget_peak, fused_attention,
};
pub use frames::{frames, overlap_add};
pub use frozen::{Frozen, Numbers};
pub use gemm::Precision;
pub use isa::{Isa, UnsupportedIsa, isa, set_isa};
pub use linear::{linear, linear_backward, linear_frozen, linear_to_bf16};
pub use memory::{LineAllocator, keep_freed_memory};
pub use norm::{Then, layer_norm, rms_norm, rms_norm_for_product, rms_norm_then};
pub use resample::upsample_nearest;
pub use resident::{Resident, linear_resident};
pub use rope::qk_norm_rope;
pub use segments::Segments;
