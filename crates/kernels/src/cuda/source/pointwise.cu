// Functions of one number, gates, copies. What a product may read is written as products take it.

// Where SwiGLU7 and GELU7 clamp, and the steepness of their sigmoid.
#define LIMIT 7.0f
#define STEEPNESS 1.702f

__device__ __forceinline__ float silu_value(float x) { return x * sigmoid(x); }
__device__ __forceinline__ float silu_slope(float x) {
    float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}
__device__ __forceinline__ float gelu_value(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
__device__ __forceinline__ float gelu_slope(float x) {
    return 0.5f * (1.0f + erff(x * 0.70710678f)) + x * 0.3989423f * expf(-0.5f * x * x);
}
#define INNER 0.7978846f
#define CUBIC 0.044715f
__device__ __forceinline__ float gelu_tanh_value(float x) {
    return 0.5f * x * (1.0f + tanhf(INNER * (x + CUBIC * x * x * x)));
}
__device__ __forceinline__ float gelu_tanh_slope(float x) {
    float t = tanhf(INNER * (x + CUBIC * x * x * x));
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * INNER * (1.0f + 3.0f * CUBIC * x * x);
}
__device__ __forceinline__ float gelu7_value(float x) {
    x = fminf(x, LIMIT);
    return x * sigmoid(STEEPNESS * x);
}
__device__ __forceinline__ float gelu7_slope(float x) {
    if (x > LIMIT) return 0.0f;
    float s = sigmoid(STEEPNESS * x);
    return s * (1.0f + STEEPNESS * x * (1.0f - s));
}

#define UNARY(name)                                                                              \
    KERNEL name##_forward(const float *x, E *y, u64 count) {                                     \
        if (AT < count) y[AT] = element(name##_value(x[AT]));                                    \
    }                                                                                            \
    KERNEL name##_backward(const float *x, const float *g, float *dx, u64 count) {               \
        if (AT < count) dx[AT] = g[AT] * name##_slope(x[AT]);                                    \
    }

UNARY(silu)
UNARY(gelu)
UNARY(gelu_tanh)
UNARY(gelu7)

// x [count, 2]: gate and linear.
KERNEL swiglu7_forward(const float *x, E *y, u64 count) {
    if (AT >= count) return;
    float gate = x[2ull * AT], linear = x[2ull * AT + 1];
    y[AT] = element(gelu7_value(gate) * (fminf(fmaxf(linear, -LIMIT), LIMIT) + 1.0f));
}

KERNEL swiglu7_backward(const float *x, const float *g, float *dx, u64 count) {
    if (AT >= count) return;
    float gate = x[2ull * AT], linear = x[2ull * AT + 1];
    dx[2ull * AT] = g[AT] * gelu7_slope(gate) * (fminf(fmaxf(linear, -LIMIT), LIMIT) + 1.0f);
    dx[2ull * AT + 1] = fabsf(linear) <= LIMIT ? g[AT] * gelu7_value(gate) : 0.0f;
}

// One gate a head of `width` numbers; row l of the gates begins at l * stride + offset.
KERNEL gate_heads(const float *x, const float *gates, E *y, u64 count, int width, int heads, int stride,
                  int offset) {
    if (AT >= count) return;
    u32 head = AT / width;
    y[AT] = element(x[AT] * sigmoid(gates[(u64)(head / heads) * stride + offset + head % heads]));
}

// The gradient of the gates: a warp a head.
KERNEL gate_gradient(const float *x, const float *gates, const float *g, float *dgates, u64 heads, int width) {
    u64 head = AT / LANES;
    int lane = threadIdx.x % LANES;
    if (head >= heads) return;
    float sum = 0.0f;
    for (int i = lane; i < width; i += LANES) sum += x[head * width + i] * g[head * width + i];
    sum = warp_sum(sum);
    float s = sigmoid(gates[head]);
    if (lane == 0) dgates[head] = s * (1.0f - s) * sum;
}

#define SNAKE_EPS 1e-9f

KERNEL snake_forward(const float *x, const float *alpha, const float *beta, float *y, u64 count, int width) {
    if (AT >= count) return;
    int c = AT % width;
    float s = sinf(alpha[c] * x[AT]);
    y[AT] = x[AT] + s * s / (beta[c] + SNAKE_EPS);
}

// Also what is summed over the rows for the gradients of alpha and beta.
KERNEL snake_backward(const float *x, const float *alpha, const float *beta, const float *g, float *dx, float *da,
                      float *db, u64 count, int width) {
    if (AT >= count) return;
    int c = AT % width;
    float phase = alpha[c] * x[AT];
    float s = sinf(phase), r = 1.0f / (beta[c] + SNAKE_EPS);
    float slope = 2.0f * s * cosf(phase) * r;
    dx[AT] = g[AT] * (1.0f + alpha[c] * slope);
    da[AT] = g[AT] * x[AT] * slope;
    db[AT] = -g[AT] * s * s * r * r;
}

KERNEL round_bf16(const float *x, u16 *y, u64 count) {
    if (AT < count) y[AT] = to_bf16(x[AT]);
}

KERNEL widen_bf16(const u16 *x, float *y, u64 count) {
    if (AT < count) y[AT] = from_bf16(x[AT]);
}

// Rows of `width` numbers to rows of `pitch`, with zeros behind; `count` numbers of the result.
KERNEL round_rows(const float *x, u16 *y, int width, int pitch, u64 count) {
    if (AT >= count) return;
    u32 row = AT / pitch, column = AT % pitch;
    y[AT] = column < width ? to_bf16(x[(u64)row * width + column]) : 0;
}

KERNEL pad_rows(const u16 *x, u16 *y, int width, int pitch, u64 count) {
    if (AT >= count) return;
    u32 row = AT / pitch, column = AT % pitch;
    y[AT] = column < width ? x[(u64)row * width + column] : 0;
}

// The same row everywhere.
KERNEL fill_rows(const float *row, float *y, u64 count, int width) {
    if (AT < count) y[AT] = row[AT % width];
}

// Nearest upsampling of [B, a, b, c, C] by factors; `count` numbers of the large tensor.
struct Grid {
    int size[3];
    int factor[3];
    int channels;
};

KERNEL upsample_forward(const float *x, float *y, u64 count, Grid grid) {
    if (AT >= count) return;
    u32 at = AT / grid.channels;
    u64 source = 0, stride = 1;
    int c = AT % grid.channels;
    for (int d = 2; d >= 0; d--) {
        int large = grid.size[d] * grid.factor[d];
        source += at % large / grid.factor[d] * stride;
        at /= large;
        stride *= grid.size[d];
    }
    y[AT] = x[(source + at * stride) * grid.channels + c];
}

// `count` numbers of the small tensor, each the sum of its copies.
KERNEL upsample_backward(const float *g, float *dx, u64 count, Grid grid) {
    if (AT >= count) return;
    u32 at = AT / grid.channels;
    int c = AT % grid.channels, p[3];
    for (int d = 2; d >= 0; d--) {
        p[d] = at % grid.size[d] * grid.factor[d];
        at /= grid.size[d];
    }
    u64 sizes[3];
    for (int d = 0; d < 3; d++) sizes[d] = (u64)grid.size[d] * grid.factor[d];
    float sum = 0.0f;
    for (int i = 0; i < grid.factor[0]; i++)
        for (int j = 0; j < grid.factor[1]; j++)
            for (int k = 0; k < grid.factor[2]; k++) {
                u64 row = ((at * sizes[0] + p[0] + i) * sizes[1] + p[1] + j) * sizes[2] + p[2] + k;
                sum += g[row * grid.channels + c];
            }
    dx[AT] = sum;
}

// Windows of `size` positions every `hop`, of signals [B, length, C]; `count` numbers of [B, n, size, C].
KERNEL cut_frames(const float *x, float *y, u64 count, int frames, int size, int hop, int length, int channels) {
    if (AT >= count) return;
    u32 at = AT / channels;
    int c = AT % channels, i = at % size;
    at /= size;
    u64 position = (u64)(at / frames) * length + at % frames * hop + i;
    y[AT] = x[position * channels + c];
}

// The sums of overlapping windows; `count` numbers of [B, length, C].
KERNEL join_frames(const float *x, float *y, u64 count, int frames, int size, int hop, int length, int channels) {
    if (AT >= count) return;
    u32 at = AT / channels;
    int c = AT % channels, position = at % length;
    u64 batch = at / length;
    int first = position < size ? 0 : (position - size) / hop + 1;
    float sum = 0.0f;
    for (int n = first; n < frames && n * hop <= position; n++) {
        sum += x[((batch * frames + n) * size + position - n * hop) * channels + c];
    }
    y[AT] = sum;
}

// AdamW with a moving average of the weights, in place.
struct AdamStep {
    float scale, betas[2], corrections[2], rate, decay, keep;
};

KERNEL adam(float *w, float *m, float *v, float *average, const float *g, u64 count, AdamStep s) {
    if (AT >= count) return;
    float gradient = g[AT] * s.scale, weight = w[AT];
    float first = m[AT] + (gradient - m[AT]) * (1.0f - s.betas[0]);
    float second = v[AT] + (gradient * gradient - v[AT]) * (1.0f - s.betas[1]);
    float update = first * s.corrections[0] / (sqrtf(second * s.corrections[1]) + 1e-8f);
    weight -= s.rate * (update + s.decay * weight);
    w[AT] = weight;
    m[AT] = first;
    v[AT] = second;
    average[AT] += (weight - average[AT]) * (1.0f - s.keep);
}
