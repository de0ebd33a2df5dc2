// Convolutions: windows as rows of a matrix, and channels by themselves.

// One spatial dimension of a grid of windows over a source.
struct Axis {
    // Windows, and source positions.
    int positions;
    int sources;
    int taps;
    int stride;
    int dilation;
    // Added before the source (forward); or what position 0 is of the padded input (backward).
    int shift;
};

struct Windows {
    Axis axes[3];
    // Channels of a source position, and those that are taken.
    int channels;
    int first;
    int width;
    // 0: position p sees p * stride + tap * dilation - shift, zeros outside; 1: the same, the nearest inside;
    // 2: the outputs that saw p: (p + shift - tap * dilation) / stride.
    int mode;
};

// Where window position `p` finds its tap in the source, or -1.
__device__ __forceinline__ int find(const Axis &axis, int mode, int p, int tap) {
    if (mode == 2) {
        int reach = p + axis.shift - tap * axis.dilation;
        if (reach < 0 || reach % axis.stride != 0) return -1;
        int at = reach / axis.stride;
        return at < axis.sources ? at : -1;
    }
    int at = p * axis.stride + tap * axis.dilation - axis.shift;
    if (mode == 1) return at < 0 ? 0 : at >= axis.sources ? axis.sources - 1 : at;
    return at >= 0 && at < axis.sources ? at : -1;
}

// The source row of window `row` under `tap`, or -1.
__device__ __forceinline__ long long source_row(const Windows &v, u32 row, int tap) {
    int k[3], p[3];
    for (int d = 2; d >= 0; d--) {
        k[d] = tap % v.axes[d].taps;
        tap /= v.axes[d].taps;
        p[d] = row % v.axes[d].positions;
        row /= v.axes[d].positions;
    }
    long long at = row;
    for (int d = 0; d < 3; d++) {
        int found = find(v.axes[d], v.mode, p[d], k[d]);
        if (found < 0) return -1;
        at = at * v.axes[d].sources + found;
    }
    return at;
}

// Windows `first_row..first_row + rows` as rows [taps, width]; a thread 4 numbers where the width allows it.
KERNEL unfold(const float *x, E *y, Windows v, u32 first_row, u64 rows, int taps) {
    int step = v.width % 4 == 0 ? 4 : 1;
    u32 blocks = v.width / step;
    if (AT >= rows * taps * blocks) return;
    int c = AT % blocks * step;
    u32 place = AT / blocks;
    long long at = source_row(v, first_row + place / taps, place % taps);
    y += (u64)place * v.width + c;
    for (int i = 0; i < step; i++) {
        y[i] = at < 0 ? element(0.0f) : element(x[(u64)at * v.channels + v.first + c + i]);
    }
}

// Weights [outputs, taps, inputs] as [taps, outputs, inputs].
KERNEL taps_first(const E *w, E *y, int outputs, int taps, int inputs) {
    u64 count = (u64)outputs * taps * inputs;
    if (AT >= count) return;
    int c = AT % inputs;
    u32 at = AT / inputs;
    y[AT] = w[((u64)(at % outputs) * taps + at / outputs) * inputs + c];
}

// A convolution of each channel by itself: w [C, taps]. y [rows, C].
KERNEL depthwise(const float *x, const float *w, const float *bias, float *y, Windows v, u64 rows, int taps) {
    if (AT >= rows * v.channels) return;
    int c = AT % v.channels;
    float sum = bias ? bias[c] : 0.0f;
    for (int tap = 0; tap < taps; tap++) {
        long long at = source_row(v, AT / v.channels, tap);
        if (at >= 0) sum += x[(u64)at * v.channels + c] * w[(u64)c * taps + tap];
    }
    y[AT] = sum;
}

// Its weights' gradient, of parts of `step` rows: blocks of 32 channels and 8 rows;
// grid (channels / 32, parts, taps). out [parts, C * taps].
KERNEL depthwise_parts(const float *x, const float *g, Windows v, u64 rows, int step, int taps, float *out) {
    __shared__ float sums[8][33];
    int c = blockIdx.x * 32 + threadIdx.x, tap = blockIdx.z;
    u32 first = blockIdx.y * step, end = first + step < rows ? first + step : rows;
    float sum = 0.0f;
    if (c < v.channels) {
        for (u32 row = first + threadIdx.y; row < end; row += 8) {
            long long at = source_row(v, row, tap);
            if (at >= 0) sum += x[(u64)at * v.channels + c] * g[(u64)row * v.channels + c];
        }
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && c < v.channels) {
        for (int i = 1; i < 8; i++) sum += sums[i][threadIdx.x];
        out[((u64)blockIdx.y * v.channels + c) * taps + tap] = sum;
    }
}

// Adds the gradients of replicated positions to those that they repeat: `padded` has the sizes input + before +
// after, dx those of the input; a thread a number of dx.
struct Borders {
    int input[3];
    int before[3];
    int after[3];
    int channels;
};

KERNEL fold_borders(const float *padded, float *dx, Borders b, u64 count) {
    if (AT >= count) return;
    int c = AT % b.channels;
    u32 at = AT / b.channels;
    int from[3], to[3];
    u64 sizes[3];
    for (int d = 2; d >= 0; d--) {
        int i = at % b.input[d];
        at /= b.input[d];
        sizes[d] = (u64)b.input[d] + b.before[d] + b.after[d];
        from[d] = i == 0 ? 0 : i + b.before[d];
        to[d] = i + 1 == b.input[d] ? (int)sizes[d] : i + b.before[d] + 1;
    }
    float sum = 0.0f;
    for (int i = from[0]; i < to[0]; i++)
        for (int j = from[1]; j < to[1]; j++)
            for (int k = from[2]; k < to[2]; k++) {
                sum += padded[(((at * sizes[0] + i) * sizes[1] + j) * sizes[2] + k) * b.channels + c];
            }
    dx[AT] = sum;
}
