// What all kernels share. No header is included, so that NVRTC compiles them with nothing but itself.
// Under GALLOP_EMULATE (tools/cuda-emulate) the same text is compiled for the processor.

typedef unsigned long long u64;
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

// The number of this thread in a grid of one dimension. 32 bits, as divisions of 64 bits cost more than what memory-bound
// kernels do otherwise; whoever starts them has fewer than 2^32.
#define AT (blockIdx.x * blockDim.x + threadIdx.x)
#define KERNEL extern "C" __global__ void
#define LANES 32

#ifndef GALLOP_EMULATE
#define SHARED_BYTES(name) extern __shared__ __align__(16) unsigned char name[]
#endif

// To the nearest, ties to even; what is not a number stays so.
__device__ __forceinline__ u16 to_bf16(float x) {
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

__device__ __forceinline__ float from_bf16(u16 x) { return __uint_as_float((u32)x << 16); }

// E4M3: exponent and mantissa put into those of an f32 are 2^-120 of the number.
__device__ __forceinline__ float from_e4m3(u32 byte) {
    if ((byte & 0x7fu) == 0x7fu) return __uint_as_float(0x7fc00000u);
    return __uint_as_float((byte & 0x7fu) << 20 | (byte & 0x80u) << 24) * 1.329227995784916e36f;
}

// The numbers that go into products: bf16 or f32, by the precision.
#ifdef BF16
typedef u16 E;
__device__ __forceinline__ E element(float x) { return to_bf16(x); }
__device__ __forceinline__ float number(E x) { return from_bf16(x); }
#else
typedef float E;
__device__ __forceinline__ E element(float x) { return x; }
__device__ __forceinline__ float number(E x) { return x; }
#endif

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// The sum over a warp, in every lane.
__device__ __forceinline__ float warp_sum(float x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
