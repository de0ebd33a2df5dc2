// Rows of 8-bit floats (E4M3), each with a scale.

// The greatest number of E4M3, and threads of the block that rounds a row.
#define MOST 448.0f
#define THREADS 128

// To the nearest, ties to even; what is beyond the greatest becomes that.
__device__ __forceinline__ u32 to_e4m3(float x) {
    u32 bits = __float_as_uint(x), sign = bits >> 24 & 0x80u;
    if ((bits & 0x7fffffffu) > 0x7f800000u) return sign | 0x7fu;
    x = fminf(fabsf(x), MOST);
    // Below the normal numbers steps are of 2^-9; adding 2^23 rounds to whole ones.
    if (x < 0.015625f) return sign | (__float_as_uint(x * 512.0f + 8388608.0f) & 0xffu);
    bits = __float_as_uint(x);
    return sign | (((bits + 0x7ffffu + (bits >> 20 & 1u)) >> 20) - (120u << 3));
}

__device__ __forceinline__ float load(const float *x, u64 i) { return x[i]; }
__device__ __forceinline__ float load(const u16 *x, u64 i) { return from_bf16(x[i]); }

// A row of x [rows, width] to [rows, padded], a multiple of 4, with zeros behind. A block a row.
template <class T>
__device__ __forceinline__ void round_row(const T *x, int width, int padded, u8 *to, float *scales) {
    __shared__ float greatest[THREADS / LANES];
    x += (u64)blockIdx.x * width;
    to += (u64)blockIdx.x * padded;
    float most = 0.0f;
    for (int i = threadIdx.x; i < width; i += THREADS) most = fmaxf(most, fabsf(load(x, i)));
    for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
    if (threadIdx.x % LANES == 0) greatest[threadIdx.x / LANES] = most;
    __syncthreads();
    for (int i = 0; i < THREADS / LANES; i++) most = fmaxf(most, greatest[i]);
    float scale = most > 0.0f ? most / MOST : 1.0f;
    if (threadIdx.x == 0) scales[blockIdx.x] = scale;
    for (int i = 4 * threadIdx.x; i < padded; i += 4 * THREADS) {
        u32 four = 0;
        for (int j = 0; j < 4; j++)
            if (i + j < width) four |= to_e4m3(load(x, i + j) / scale) << 8 * j;
        *(u32 *)(to + i) = four;
    }
}

KERNEL __launch_bounds__(THREADS) round_f32(const float *x, int width, int padded, u8 *to, float *scales) {
    round_row(x, width, padded, to, scales);
}

KERNEL __launch_bounds__(THREADS) round_16(const u16 *x, int width, int padded, u8 *to, float *scales) {
    round_row(x, width, padded, to, scales);
}

// The numbers without their scales, which bf16 holds exactly.
KERNEL widen_eight(const u8 *x, u16 *to, u64 count) {
    if (AT < count) to[AT] = to_bf16(from_e4m3(x[AT]));
}

// y [rows, width] times the scales of its rows and columns where there are some, plus a bias where there is one.
KERNEL scale_rows(float *y, const float *rows, const float *columns, const float *bias, int width, u64 count) {
    if (AT >= count) return;
    float x = y[AT];
    if (rows) x *= rows[AT / width] * columns[AT % width];
    if (bias) x += bias[AT % width];
    y[AT] = x;
}

// The greatest size of a tensor's numbers as bits, which are in the order of the sizes; 0 before.
KERNEL __launch_bounds__(THREADS) greatest_16(const u16 *x, u32 *greatest, u64 count) {
    u32 most = 0;
    u64 begin = (u64)blockIdx.x * THREADS * 64;
    for (int i = 0; i < 64; i++) {
        u64 at = begin + i * THREADS + threadIdx.x;
        if (at < count && (x[at] & 0x7fffu) > most) most = x[at] & 0x7fffu;
    }
    for (int step = 16; step > 0; step /= 2) {
        u32 other = __shfl_xor_sync(0xffffffffu, most, step);
        if (other > most) most = other;
    }
    if (threadIdx.x % LANES == 0) atomicMax(greatest, most << 16);
}

// The least power of two that makes a number of this size at most the greatest of E4M3.
__device__ __forceinline__ float whole_scale(u32 greatest) {
    float most = __uint_as_float(greatest) / MOST;
    if (!(most >= 1.17549435e-38f)) return 1.0f;
    u32 bits = __float_as_uint(most);
    return __uint_as_float((bits + 0x7fffffu) & 0x7f800000u);
}

// What cuDNN wants of an attention in 8-bit floats, four floats apart: the scales of queries, keys, values and
// probabilities, the inverse ones of probabilities and output, and room for the greatest of both. Probabilities are
// at most 1, and the output at most the greatest value.
KERNEL attention_scales(const u32 *greatest, float *scales) {
    if (AT > 0) return;
    float value = whole_scale(greatest[2]);
    float all[8] = {whole_scale(greatest[0]), whole_scale(greatest[1]), value, 1.0f / 256.0f, 256.0f, 1.0f / value, 0.0f, 0.0f};
    for (int i = 0; i < 32; i++) scales[i] = i % 4 ? 0.0f : all[i / 4];
}

// A tensor's numbers, as many as a multiple of 4, by one scale.
KERNEL round_all(const u16 *x, const float *scale, u8 *to, u64 count) {
    if (4 * (u64)AT >= count) return;
    float by = *scale;
    u32 four = 0;
    for (int j = 0; j < 4; j++) four |= to_e4m3(from_bf16(x[4 * (u64)AT + j]) / by) << 8 * j;
    *(u32 *)(to + 4 * (u64)AT) = four;
}
