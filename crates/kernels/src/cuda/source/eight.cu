// Rows of 8-bit floats (E4M3), each with a scale.

typedef unsigned char u8;

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
    if (AT >= count) return;
    u32 byte = x[AT];
    // Exponent and mantissa put into those of an f32 are 2^-120 of the number.
    float number = __uint_as_float((byte & 0x7fu) << 20 | (byte & 0x80u) << 24) * 1.329227995784916e36f;
    to[AT] = (byte & 0x7fu) == 0x7fu ? 0x7fc0 : to_bf16(number);
}

// y [rows, width] times the scales of its rows and columns where there are some, plus a bias where there is one.
KERNEL scale_rows(float *y, const float *rows, const float *columns, const float *bias, int width, u64 count) {
    if (AT >= count) return;
    float x = y[AT];
    if (rows) x *= rows[AT / width] * columns[AT % width];
    if (bias) x += bias[AT % width];
    y[AT] = x;
}
