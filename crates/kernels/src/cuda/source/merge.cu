// Attentions of the same queries over different keys, put together.

#define LOG2E 1.44269504f
#define INFINITE __uint_as_float(0x7f800000u)

// The logarithm of the sum of no exponentials, as the backward pass takes it.
KERNEL nothing_seen(float *lse, u64 count) {
    if (AT < count) lse[AT] = INFINITE;
}

// Two numbers of what lies apart, times a factor.
__device__ __forceinline__ float2 load_two(const u16 *x, const float *) {
    u32 two = *(const u32 *)x;
    return {__uint_as_float(two << 16), __uint_as_float(two & 0xffff0000u)};
}
__device__ __forceinline__ float2 load_two(const u8 *x, const float *scales) {
    u32 two = *(const u16 *)x;
    // The scale of the values is that of the output.
    float by = scales[8];
    return {from_e4m3(two & 0xffu) * by, from_e4m3(two >> 8) * by};
}

// Puts rows first..first + count of queries, which lie apart as `part` [count, heads, width] with the natural
// logarithms of their sums [heads, count], to those that are in `out` [queries, heads, width] with logarithms to base 2
// [heads, queries]. A warp a row and head.
template <class T>
__device__ __forceinline__ void merge(const T *part, const float *sums, const float *scales, int first, int count,
                                      int queries, int heads, int width, float *out, float *lse) {
    u32 at = AT / LANES;
    int lane = threadIdx.x % LANES;
    if (at >= (u32)count * heads) return;
    int row = at / heads, head = at % heads;
    float is = sums[(u64)head * count + row] * LOG2E;
    float *kept = lse + (u64)head * queries + first + row, was = *kept;
    bool alone = was == INFINITE;
    float top = alone ? is : fmaxf(was, is);
    float old = alone ? 0.0f : exp2f(was - top), own = exp2f(is - top), sum = old + own;
    old /= sum;
    own /= sum;
    part += (u64)at * width;
    out += ((u64)(first + row) * heads + head) * width;
    for (int i = 2 * lane; i < width; i += 2 * LANES) {
        float2 x = load_two(part + i, scales);
        if (!alone) {
            float2 y = *(const float2 *)(out + i);
            x = {old * y.x + own * x.x, old * y.y + own * x.y};
        }
        *(float2 *)(out + i) = x;
    }
    // Every lane has read what was kept.
    __syncwarp();
    if (lane == 0) *kept = top + log2f(sum);
}

// Of bf16.
KERNEL merge_attention(const u16 *part, const float *sums, const float *scales, int first, int count, int queries,
                       int heads, int width, float *out, float *lse) {
    merge(part, sums, scales, first, count, queries, heads, width, out, lse);
}

// Of 8-bit floats, with the scales of `attention_scales`.
KERNEL merge_attention_eight(const u8 *part, const float *sums, const float *scales, int first, int count, int queries,
                             int heads, int width, float *out, float *lse) {
    merge(part, sums, scales, first, count, queries, heads, width, out, lse);
}
