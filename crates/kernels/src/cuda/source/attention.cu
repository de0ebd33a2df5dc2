// Softmax attention over lists of key ranges, in memory linear in the length.
//
// HEAD is the number of numbers a head, a multiple of 16, with zeros behind the real ones; queries, keys, values and
// the output's gradient come as [heads, rows, HEAD]. A warp owns 16 rows of a tile; products are of 16x8x16 with the
// layout of `mma.m16n8k16`, in f32 by plain sums over the same fragments. Exponentials are powers of two.

#define WARPS 4
#define ROWS (16 * WARPS)
// The other side of a tile: the keys of a tile of queries, and the queries of a tile of keys.
#ifdef BF16
#define COLUMNS 64
#define BACK 32
#else
#define COLUMNS 32
#define BACK 16
#endif
// A row of a tile in shared memory: padded so that the rows of a fragment are in different banks.
#define PITCH (HEAD + 8)
#define NONE __uint_as_float(0xff800000u)
#define LOG2E 1.44269504f

#ifdef BF16
#ifndef GALLOP_EMULATE
__device__ __forceinline__ void mma(float *c, const u32 *a, const u32 *b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Two 8x8 matrices turned: rows 0..8 and 8..16 from `x`, of `pitch` numbers.
__device__ __forceinline__ void load_turned(u32 *r, const E *x, int pitch, int lane) {
    u32 address = (u32)__cvta_generic_to_shared(x + lane % 16 * pitch);
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ u32 pack(float low, float high) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
#else
__device__ u32 pack(float low, float high) { return to_bf16(low) | (u32)to_bf16(high) << 16; }
__device__ void load_turned(u32 *r, const E *x, int pitch, int lane) {
    for (int m = 0; m < 2; m++) {
        const E *at = x + (8 * m + lane % 4 * 2) * pitch + lane / 4;
        r[m] = at[0] | (u32)at[pitch] << 16;
    }
}
#endif

__device__ __forceinline__ u32 two(const E *x) { return *(const u32 *)x; }

// The 16 rows of a warp as the left side of products.
struct Left {
    u32 a[HEAD / 16][4];
    __device__ __forceinline__ void load(const E *x, int lane) {
        x += lane / 4 * PITCH + lane % 4 * 2;
#pragma unroll
        for (int k = 0; k < HEAD / 16; k++) {
            a[k][0] = two(x + k * 16);
            a[k][1] = two(x + k * 16 + 8 * PITCH);
            a[k][2] = two(x + k * 16 + 8);
            a[k][3] = two(x + k * 16 + 8 * PITCH + 8);
        }
    }
};

// c [16, 8 N] = the warp's rows times the rows of `b`.
template <int N> __device__ __forceinline__ void times_rows(float (*c)[4], const Left &left, const E *b, int lane) {
#pragma unroll
    for (int n = 0; n < N; n++) {
        c[n][0] = c[n][1] = c[n][2] = c[n][3] = 0.0f;
        const E *at = b + (n * 8 + lane / 4) * PITCH + lane % 4 * 2;
#pragma unroll
        for (int k = 0; k < HEAD / 16; k++) {
            u32 right[2] = {two(at + k * 16), two(at + k * 16 + 8)};
            mma(c[n], left.a[k], right);
        }
    }
}

// c [16, HEAD] += p [16, 8 N] times the N * 8 rows of `b`; p in the layout of results.
template <int N> __device__ __forceinline__ void add_weighted(float (*c)[4], float (*p)[4], const E *b, int lane) {
#pragma unroll
    for (int k = 0; k < N / 2; k++) {
        u32 left[4] = {pack(p[2 * k][0], p[2 * k][1]), pack(p[2 * k][2], p[2 * k][3]),
                       pack(p[2 * k + 1][0], p[2 * k + 1][1]), pack(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < HEAD / 8; n++) {
            u32 right[2];
            load_turned(right, b + k * 16 * PITCH + n * 8, PITCH, lane);
            mma(c[n], left, right);
        }
    }
}
#else
struct Left {
    const E *rows;
    __device__ __forceinline__ void load(const E *x, int) { rows = x; }
};

template <int N> __device__ __forceinline__ void times_rows(float (*c)[4], const Left &left, const E *b, int lane) {
    for (int n = 0; n < N; n++) {
        for (int e = 0; e < 4; e++) {
            const E *x = left.rows + (lane / 4 + e / 2 * 8) * PITCH, *y = b + (n * 8 + lane % 4 * 2 + e % 2) * PITCH;
            float sum = 0.0f;
            for (int k = 0; k < HEAD; k++) sum += x[k] * y[k];
            c[n][e] = sum;
        }
    }
}

template <int N> __device__ __forceinline__ void add_weighted(float (*c)[4], float (*p)[4], const E *b, int lane) {
    // Each number of p is with one lane of the four that share a row.
#pragma unroll
    for (int k = 0; k < 8 * N; k++) {
        int owner = lane / 4 * 4 + k % 8 / 2;
        float low = __shfl_sync(0xffffffffu, p[k / 8][k % 2], owner);
        float high = __shfl_sync(0xffffffffu, p[k / 8][2 + k % 2], owner);
        const E *x = b + k * PITCH + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < HEAD / 8; n++) {
            c[n][0] += low * x[n * 8];
            c[n][1] += low * x[n * 8 + 1];
            c[n][2] += high * x[n * 8];
            c[n][3] += high * x[n * 8 + 1];
        }
    }
}
#endif

// Brings rows `first..end` (at most `count`) of [rows, HEAD] into a tile; zeros behind them.
__device__ __forceinline__ void bring(E *tile, const E *from, int first, int end, int count) {
    const int wide = 16 / sizeof(E);
    for (int i = threadIdx.x; i < count * (HEAD / wide); i += WARPS * LANES) {
        int row = i / (HEAD / wide), c = i % (HEAD / wide) * wide;
        uint4 value = {0, 0, 0, 0};
        if (first + row < end) value = *(const uint4 *)(from + (u64)(first + row) * HEAD + c);
        *(uint4 *)(tile + row * PITCH + c) = value;
    }
}

// How products of queries and keys become logits to base 2.
struct Logits {
    float scale;
    // 0 for none.
    float cap;
};

__device__ __forceinline__ float logit(Logits how, float product) {
    if (how.cap > 0.0f) return how.cap * tanhf(product * (how.scale / how.cap)) * LOG2E;
    return product * (how.scale * LOG2E);
}

// The gradient of a product, for a probability and the gradient of its logit.
__device__ __forceinline__ float product_gradient(Logits how, float product, float gradient) {
    gradient *= how.scale;
    if (how.cap > 0.0f) {
        float t = tanhf(product * (how.scale / how.cap));
        gradient *= 1.0f - t * t;
    }
    return gradient;
}

// A tile of queries: rows q..end of a block that begins at `start`, which see `count` ranges of the list.
struct QueryTile {
    int q, end, start, ranges, count, causal;
};

struct Sizes {
    int queries, keys, query_heads, key_heads, width;
};

// out [queries, heads, width]; lse [heads, queries], to base 2, infinite where nothing is seen.
// Grid (tiles, query heads).
KERNEL __launch_bounds__(WARPS *LANES) attention_forward(const E *q, const E *k, const E *v, const QueryTile *tiles,
                                                         const int *ranges, Logits how, Sizes s, float *out,
                                                         float *lse) {
    SHARED_BYTES(bytes);
    E *keys = (E *)bytes, *values = keys + COLUMNS * PITCH, *own = values + COLUMNS * PITCH;
    QueryTile tile = tiles[blockIdx.x];
    int head = blockIdx.y, lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    u64 key_head = head / (s.query_heads / s.key_heads);
    k += key_head * s.keys * HEAD;
    v += key_head * s.keys * HEAD;
    bring(own, q + (u64)head * s.queries * HEAD, tile.q, tile.end, ROWS);
    __syncthreads();
    Left left;
    left.load(own + warp * 16 * PITCH, lane);

    int rows[2] = {tile.q + warp * 16 + lane / 4, tile.q + warp * 16 + lane / 4 + 8};
    float top[2] = {NONE, NONE}, sum[2] = {0.0f, 0.0f};
    float o[HEAD / 8][4];
#pragma unroll
    for (int n = 0; n < HEAD / 8; n++) o[n][0] = o[n][1] = o[n][2] = o[n][3] = 0.0f;

    for (int r = 0; r < tile.count; r++) {
        int low = ranges[2 * (tile.ranges + r)], high = ranges[2 * (tile.ranges + r) + 1];
        bool causal = tile.causal && r + 1 == tile.count;
        if (causal && high > low + tile.end - tile.start) high = low + tile.end - tile.start;
        for (int first = low; first < high; first += COLUMNS) {
            __syncthreads();
            bring(keys, k, first, high, COLUMNS);
            bring(values, v, first, high, COLUMNS);
            __syncthreads();
            float p[COLUMNS / 8][4];
            times_rows<COLUMNS / 8>(p, left, keys, lane);
            float here[2] = {NONE, NONE};
#pragma unroll
            for (int n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int key = first + n * 8 + lane % 4 * 2 + e % 2;
                    bool seen = key < high && (!causal || key - low <= rows[e / 2] - tile.start);
                    p[n][e] = seen ? logit(how, p[n][e]) : NONE;
                    here[e / 2] = fmaxf(here[e / 2], p[n][e]);
                }
            }
            float factor[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                here[i] = fmaxf(here[i], __shfl_xor_sync(0xffffffffu, here[i], 1));
                here[i] = fmaxf(here[i], __shfl_xor_sync(0xffffffffu, here[i], 2));
                float next = fmaxf(top[i], here[i]);
                // Before anything is seen, exponents must not be infinity less infinity.
                factor[i] = next == NONE ? 1.0f : exp2f(top[i] - next);
                top[i] = next;
                sum[i] *= factor[i];
            }
#pragma unroll
            for (int n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    p[n][e] = p[n][e] == NONE ? 0.0f : exp2f(p[n][e] - top[e / 2]);
                    sum[e / 2] += p[n][e];
                }
            }
#pragma unroll
            for (int n = 0; n < HEAD / 8; n++) {
#pragma unroll
                for (int e = 0; e < 4; e++) o[n][e] *= factor[e / 2];
            }
            add_weighted<COLUMNS / 8>(o, p, values, lane);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 1);
        sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 2);
        if (rows[i] >= tile.end) continue;
        float inverse = sum[i] > 0.0f ? 1.0f / sum[i] : 0.0f;
        float *to = out + ((u64)rows[i] * s.query_heads + head) * s.width;
#pragma unroll
        for (int n = 0; n < HEAD / 8; n++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int d = n * 8 + lane % 4 * 2 + e;
                if (d < s.width) to[d] = o[n][2 * i + e] * inverse;
            }
        }
        if (lane % 4 == 0) {
            lse[(u64)head * s.queries + rows[i]] = sum[i] > 0.0f ? top[i] + log2f(sum[i]) : -NONE;
        }
    }
}

// out . grad of each head and query: along [heads, queries], from [queries, heads, width]; a warp a head.
KERNEL attention_along(const float *out, const float *grad, Sizes s, float *along) {
    u32 at = AT / LANES;
    int lane = threadIdx.x % LANES;
    if (at >= (u64)s.queries * s.query_heads) return;
    float sum = 0.0f;
    for (int i = lane; i < s.width; i += LANES) sum += out[(u64)at * s.width + i] * grad[(u64)at * s.width + i];
    sum = warp_sum(sum);
    if (lane == 0) along[(u64)(at % s.query_heads) * s.queries + at / s.query_heads] = sum;
}

// Writes the warp's 16 rows of HEAD numbers to [rows, heads, width].
__device__ __forceinline__ void store(const float (*x)[4], float *to, int first, int end, int head, int heads, int width,
                                      int lane) {
#pragma unroll
    for (int n = 0; n < HEAD / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int row = first + lane / 4 + e / 2 * 8, d = n * 8 + lane % 4 * 2 + e % 2;
            if (row < end && d < width) to[((u64)row * heads + head) * width + d] = x[n][e];
        }
    }
}

// dq [queries, heads, width]. Grid (tiles of queries, query heads).
KERNEL __launch_bounds__(WARPS *LANES)
    attention_queries_gradient(const E *q, const E *k, const E *v, const E *g, const float *lse, const float *along,
                               const QueryTile *tiles, const int *ranges, Logits how, Sizes s, float *dq) {
    SHARED_BYTES(bytes);
    E *keys = (E *)bytes, *values = keys + BACK * PITCH, *own = values + BACK * PITCH, *grads = own + ROWS * PITCH;
    QueryTile tile = tiles[blockIdx.x];
    int head = blockIdx.y, lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    u64 key_head = head / (s.query_heads / s.key_heads);
    k += key_head * s.keys * HEAD;
    v += key_head * s.keys * HEAD;
    bring(own, q + (u64)head * s.queries * HEAD, tile.q, tile.end, ROWS);
    bring(grads, g + (u64)head * s.queries * HEAD, tile.q, tile.end, ROWS);
    __syncthreads();
    Left queries, gradients;
    queries.load(own + warp * 16 * PITCH, lane);
    gradients.load(grads + warp * 16 * PITCH, lane);

    int rows[2] = {tile.q + warp * 16 + lane / 4, tile.q + warp * 16 + lane / 4 + 8};
    float sums[2], pull[2];
    for (int i = 0; i < 2; i++) {
        bool mine = rows[i] < tile.end;
        sums[i] = mine ? lse[(u64)head * s.queries + rows[i]] : -NONE;
        pull[i] = mine ? along[(u64)head * s.queries + rows[i]] : 0.0f;
    }
    float d[HEAD / 8][4];
#pragma unroll
    for (int n = 0; n < HEAD / 8; n++) d[n][0] = d[n][1] = d[n][2] = d[n][3] = 0.0f;

    for (int r = 0; r < tile.count; r++) {
        int low = ranges[2 * (tile.ranges + r)], high = ranges[2 * (tile.ranges + r) + 1];
        bool causal = tile.causal && r + 1 == tile.count;
        if (causal && high > low + tile.end - tile.start) high = low + tile.end - tile.start;
        for (int first = low; first < high; first += BACK) {
            __syncthreads();
            bring(keys, k, first, high, BACK);
            bring(values, v, first, high, BACK);
            __syncthreads();
            float z[BACK / 8][4], dp[BACK / 8][4];
            times_rows<BACK / 8>(z, queries, keys, lane);
            times_rows<BACK / 8>(dp, gradients, values, lane);
#pragma unroll
            for (int n = 0; n < BACK / 8; n++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int key = first + n * 8 + lane % 4 * 2 + e % 2;
                    bool seen = key < high && (!causal || key - low <= rows[e / 2] - tile.start);
                    float p = seen ? exp2f(logit(how, z[n][e]) - sums[e / 2]) : 0.0f;
                    dp[n][e] = product_gradient(how, z[n][e], p * (dp[n][e] - pull[e / 2]));
                }
            }
            add_weighted<BACK / 8>(d, dp, keys, lane);
        }
    }
    store(d, dq, tile.q + warp * 16, tile.end, head, s.query_heads, s.width, lane);
}

// Queries q..end of a block that begins at `start`, which see the keys low..high.
struct Seen {
    int q, end, start, low, high, causal;
};

// Parts of dk and dv, [query heads a key head, keys, key heads, width]: those of each query head. Tile t of ROWS keys has
// the entries offsets[t]..offsets[t + 1] of the list. Grid (tiles of keys, query heads).
KERNEL __launch_bounds__(WARPS *LANES)
    attention_keys_gradient(const E *q, const E *k, const E *v, const E *g, const float *lse, const float *along,
                            const Seen *list, const int *offsets, Logits how, Sizes s, float *dk, float *dv) {
    SHARED_BYTES(bytes);
    E *queries = (E *)bytes, *grads = queries + BACK * PITCH, *own = grads + BACK * PITCH, *values = own + ROWS * PITCH;
    float *sums = (float *)(values + ROWS * PITCH), *pulls = sums + BACK;
    int head = blockIdx.y, group = s.query_heads / s.key_heads, key_head = head / group;
    int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, first_key = blockIdx.x * ROWS;
    bring(own, k + (u64)key_head * s.keys * HEAD, first_key, s.keys, ROWS);
    bring(values, v + (u64)key_head * s.keys * HEAD, first_key, s.keys, ROWS);
    __syncthreads();
    Left left, left_values;
    left.load(own + warp * 16 * PITCH, lane);
    left_values.load(values + warp * 16 * PITCH, lane);

    int rows[2] = {first_key + warp * 16 + lane / 4, first_key + warp * 16 + lane / 4 + 8};
    float sum_k[HEAD / 8][4], sum_v[HEAD / 8][4];
#pragma unroll
    for (int n = 0; n < HEAD / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) sum_k[n][e] = sum_v[n][e] = 0.0f;
    }

    q += (u64)head * s.queries * HEAD;
    g += (u64)head * s.queries * HEAD;
    lse += (u64)head * s.queries;
    along += (u64)head * s.queries;
    for (int entry = offsets[blockIdx.x]; entry < offsets[blockIdx.x + 1]; entry++) {
        Seen seen = list[entry];
        int begin = seen.q;
        // The queries before the tile's first key see none of its keys.
        int offset = (first_key > seen.low ? first_key : seen.low) - seen.low;
        if (seen.causal && begin < seen.start + offset) begin = seen.start + offset;
        for (int first = begin; first < seen.end; first += BACK) {
            __syncthreads();
            bring(queries, q, first, seen.end, BACK);
            bring(grads, g, first, seen.end, BACK);
            if (threadIdx.x < BACK) {
                int query = first + threadIdx.x;
                bool is = query < seen.end;
                sums[threadIdx.x] = is ? lse[query] : -NONE;
                pulls[threadIdx.x] = is ? along[query] : 0.0f;
            }
            __syncthreads();
            float z[BACK / 8][4], dp[BACK / 8][4];
            times_rows<BACK / 8>(z, left, queries, lane);
            times_rows<BACK / 8>(dp, left_values, grads, lane);
#pragma unroll
            for (int n = 0; n < BACK / 8; n++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int column = n * 8 + lane % 4 * 2 + e % 2, query = first + column, key = rows[e / 2];
                    bool is = query < seen.end && key >= seen.low && key < seen.high &&
                              (!seen.causal || key - seen.low <= query - seen.start);
                    float p = is ? exp2f(logit(how, z[n][e]) - sums[column]) : 0.0f;
                    dp[n][e] = product_gradient(how, z[n][e], p * (dp[n][e] - pulls[column]));
                    z[n][e] = p;
                }
            }
            add_weighted<BACK / 8>(sum_v, z, grads, lane);
            add_weighted<BACK / 8>(sum_k, dp, queries, lane);
        }
    }
    u64 part = (u64)(head % group) * s.keys * s.key_heads * s.width;
    store(sum_k, dk + part, first_key + warp * 16, s.keys, key_head, s.key_heads, s.width, lane);
    store(sum_v, dv + part, first_key + warp * 16, s.keys, key_head, s.key_heads, s.width, lane);
}

// The end of a self-attention layer's backward pass: the columns of v and of the gates of dqkv [L, stride].
// along is of the gated output, so that the gate's slope lacks its value.
KERNEL values_and_gates(const float *qkv, const float *dv, const float *along, float *dqkv, Sizes s, int stride) {
    int values = s.key_heads * s.width, count = values + s.query_heads;
    if (AT >= (u64)s.queries * count) return;
    u64 row = AT / count;
    int i = AT % count, offset = (s.query_heads + s.key_heads) * s.width;
    float *to = dqkv + row * stride + offset + i;
    if (i < values) *to = dv[row * values + i];
    else *to = along[(u64)(i - values) * s.queries + row] * (1.0f - sigmoid(qkv[row * stride + offset + i]));
}
