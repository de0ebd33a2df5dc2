// Matrices in fewer bits to bf16: a block a row. What a stored number means is in crates/kernels/src/frozen.rs.

typedef unsigned char u8;

__device__ __forceinline__ float int8_number(u8 byte) { return (float)((int)byte - 128); }

// Exponent and mantissa put into those of an f32 are 2^-120 of the number.
__device__ __forceinline__ float fp8_number(u8 byte) {
    if ((byte & 0x7f) == 0x7f) return __uint_as_float(0x7fc00000u);
    return __uint_as_float((u32)(byte & 0x7f) << 20 | (u32)(byte & 0x80) << 24) * 1.329227995784916e36f;
}

// Four numbers are read and written at once where rows allow it.
#define EXPAND(name)                                                                             \
    KERNEL expand_##name(const u8 *bytes, const float *scales, u16 *out, u32 columns) {          \
        const u8 *from = bytes + (u64)blockIdx.x * columns;                                      \
        u16 *to = out + (u64)blockIdx.x * columns;                                               \
        float scale = scales[blockIdx.x];                                                        \
        if (columns % 4) {                                                                       \
            for (u32 i = threadIdx.x; i < columns; i += blockDim.x)                              \
                to[i] = to_bf16(name##_number(from[i]) * scale);                                 \
            return;                                                                              \
        }                                                                                        \
        for (u32 i = threadIdx.x; i < columns / 4; i += blockDim.x) {                            \
            u32 four = ((const u32 *)from)[i];                                                   \
            u64 made = 0;                                                                        \
            for (u32 j = 0; j < 4; j++)                                                          \
                made |= (u64)to_bf16(name##_number((u8)(four >> 8 * j)) * scale) << 16 * j;      \
            ((u64 *)to)[i] = made;                                                               \
        }                                                                                        \
    }

EXPAND(int8)
EXPAND(fp8)

// The even column is in the low half of a byte; 32 columns share a scale. Columns are even.
KERNEL expand_q4(const u8 *bytes, const u16 *scales, u16 *out, u32 columns) {
    const u8 *from = bytes + (u64)blockIdx.x * (columns / 2);
    const u16 *scale = scales + (u64)blockIdx.x * ((columns + 31) / 32);
    u32 *to = (u32 *)(out + (u64)blockIdx.x * columns);
    for (u32 i = threadIdx.x; i < columns / 2; i += blockDim.x) {
        float factor = from_bf16(scale[i / 16]);
        u32 low = to_bf16((float)((int)(from[i] & 15) - 8) * factor);
        u32 high = to_bf16((float)((int)(from[i] >> 4) - 8) * factor);
        to[i] = low | high << 16;
    }
}
