// candle's kernels for bf16 that Gallop calls, under candle's names: those of candle need CUDA's headers.

typedef unsigned short u16;
typedef unsigned long long u64;

__device__ u16 rounded(float x) {
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
__device__ float widened(u16 x) { return __uint_as_float((unsigned)x << 16); }

// Where element i is; `info` has sizes and strides, or is null for contiguous numbers.
__device__ u64 place(u64 i, u64 dims, const u64 *info) {
    if (!info) return i;
    u64 at = 0;
    for (u64 d = dims; d-- > 0; i /= info[d]) at += i % info[d] * info[dims + d];
    return at;
}

#define EACH(count) for (u64 i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += blockDim.x * gridDim.x)

extern "C" __global__ void cast_f32_bf16(const u64 count, const u64 dims, const u64 *info, const float *x, u16 *y) {
    EACH(count) y[i] = rounded(x[place(i, dims, info)]);
}
extern "C" __global__ void cast_bf16_f32(const u64 count, const u64 dims, const u64 *info, const u16 *x, float *y) {
    EACH(count) y[i] = widened(x[place(i, dims, info)]);
}
extern "C" __global__ void ucopy_bf16(const u64 count, const u64 dims, const u64 *info, const u16 *x, u16 *y) {
    EACH(count) y[i] = x[place(i, dims, info)];
}
extern "C" __global__ void badd_bf16(const u64 count, const u64 dims, const u64 *info, const u16 *a, const u16 *b,
                                     u16 *y) {
    const u64 *other = info ? info + dims : nullptr;
    EACH(count) {
        u64 second = i;
        if (info) {
            second = 0;
            u64 rest = i;
            for (u64 d = dims; d-- > 0; rest /= info[d]) second += rest % info[d] * other[dims + d];
        }
        y[i] = rounded(widened(a[place(i, dims, info)]) + widened(b[second]));
    }
}
extern "C" __global__ void const_set_bf16(const u64 count, const u64 dims, const u64 *info, const u16 value, u16 *y) {
    EACH(count) y[place(i, dims, info)] = value;
}
extern "C" __global__ void copy2d_bf16(const u16 *from, u16 *to, unsigned rows, unsigned columns, unsigned from_pitch,
                                       unsigned to_pitch) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < rows * columns) to[i / columns * to_pitch + i % columns] = from[i / columns * from_pitch + i % columns];
}
