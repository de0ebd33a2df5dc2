// Norms and rotations of rows, and sums over rows.

// Where rows of heads lie: head h of row l begins at l * stride + offset + h * width.
struct View {
    int heads;
    int stride;
    int offset;
};

__device__ __forceinline__ u64 place(View v, u32 row, int width) {
    return (u64)(row / v.heads) * v.stride + v.offset + row % v.heads * width;
}

// The root mean square's inverse of a row, by a warp.
__device__ __forceinline__ float inverse_rms(const float *x, int width, float eps, int lane) {
    float sum = 0.0f;
    for (int i = lane; i < width; i += LANES) sum += x[i] * x[i];
    return 1.0f / sqrtf(warp_sum(sum) / width + eps);
}

// Number i of a normed row after the rotation of its first 2 * turning numbers.
__device__ __forceinline__ float normed(const float *x, const float *w, float r, int i) {
    return x[i] * r * (w[i] + 1.0f);
}

__device__ __forceinline__ float turned_forward(const float *x, const float *w, float r, int i, const float *sin,
                                                const float *cos, int turning) {
    float own = normed(x, w, r, i);
    if (i < turning) return own * cos[i] - normed(x, w, r, i + turning) * sin[i];
    if (i < 2 * turning) return own * cos[i - turning] + normed(x, w, r, i - turning) * sin[i - turning];
    return own;
}

// What follows a norm: 0 nothing, 1 SiLU, 2 ReLU.
__device__ __forceinline__ float followed(float x, int then) {
    if (then == 1) return x * sigmoid(x);
    if (then == 2) return fmaxf(x, 0.0f);
    return x;
}

// RMSNorm with weights `w[group] + 1`, and rotation; a warp a row. A row in no group (-1) gives zeros.
// Row r has the group and the angles of r / heads; without groups all rows are of the first.
KERNEL norm_turn(const float *x, View from, const float *w, const int *groups, const float *sin, const float *cos,
                 int turning, float eps, int width, u64 rows, int then, E *y) {
    u32 row = AT / LANES;
    int lane = threadIdx.x % LANES;
    if (row >= rows) return;
    u32 l = row / from.heads;
    int group = groups ? groups[l] : 0;
    x += place(from, row, width);
    y += (u64)row * width;
    if (group < 0) {
        for (int i = lane; i < width; i += LANES) y[i] = element(0.0f);
        return;
    }
    w += (u64)group * width;
    float r = inverse_rms(x, width, eps, lane);
    for (int i = lane; i < width; i += LANES) {
        float value = turned_forward(x, w, r, i, sin + (u64)l * turning, cos + (u64)l * turning, turning);
        y[i] = element(followed(value, then));
    }
}

// The same as numbers for products, `[heads, L, padded]`, the rest of each row zeros.
KERNEL norm_turn_pack(const float *x, View from, const float *w, const int *groups, const float *sin,
                      const float *cos, int turning, float eps, int width, u64 rows, int padded, E *y) {
    u32 row = AT / LANES;
    int lane = threadIdx.x % LANES;
    if (row >= rows) return;
    u32 l = row / from.heads;
    x += place(from, row, width);
    if (groups) w += (u64)groups[l] * width;
    y += (row % from.heads * (rows / from.heads) + l) * padded;
    float r = inverse_rms(x, width, eps, lane);
    for (int i = lane; i < padded; i += LANES) {
        y[i] = element(i < width ? turned_forward(x, w, r, i, sin + (u64)l * turning, cos + (u64)l * turning, turning) : 0.0f);
    }
}

// Heads as numbers for products, `[heads, L, padded]`, times the sigmoids of gates where there are some.
KERNEL pack_heads(const float *x, View from, const float *gates, int gate_stride, int gate_offset, int width,
                  int padded, u64 rows, E *y) {
    if (AT >= rows * padded) return;
    u32 row = AT / padded;
    int i = AT % padded;
    u32 l = row / from.heads;
    int head = row % from.heads;
    float value = i < width ? x[place(from, row, width) + i] : 0.0f;
    if (gates) value *= sigmoid(gates[(u64)l * gate_stride + gate_offset + head]);
    y[(head * (rows / from.heads) + l) * padded + i] = element(value);
}

// The gradient of `norm_turn`: writes that of x, and for the weights' gradient the gradient turned back
// `[rows, width]` and the inverse root mean squares.
KERNEL norm_turn_backward(const float *x, View from, const float *g, const float *w, const int *groups,
                          const float *sin, const float *cos, int turning, float eps, int width, u64 rows, float *dx,
                          View to, float *turned, float *inverse) {
    u32 row = AT / LANES;
    int lane = threadIdx.x % LANES;
    if (row >= rows) return;
    u32 l = row / from.heads;
    int group = groups ? groups[l] : 0;
    x += place(from, row, width);
    dx += place(to, row, width);
    g += (u64)row * width;
    turned += (u64)row * width;
    if (group < 0) {
        for (int i = lane; i < width; i += LANES) dx[i] = turned[i] = 0.0f;
        if (lane == 0) inverse[row] = 0.0f;
        return;
    }
    w += (u64)group * width;
    sin += (u64)l * turning;
    cos += (u64)l * turning;
    float r = inverse_rms(x, width, eps, lane);
    float pull = 0.0f;
    for (int i = lane; i < width; i += LANES) {
        float t = g[i];
        if (i < turning) t = g[i] * cos[i] + g[i + turning] * sin[i];
        else if (i < 2 * turning) t = g[i] * cos[i - turning] - g[i - turning] * sin[i - turning];
        turned[i] = t;
        pull += t * (w[i] + 1.0f) * x[i];
    }
    pull = warp_sum(pull) * r * r * r / width;
    // Each lane reads what it wrote itself.
    for (int i = lane; i < width; i += LANES) dx[i] = turned[i] * (w[i] + 1.0f) * r - x[i] * pull;
    if (lane == 0) inverse[row] = r;
}

__device__ __forceinline__ void moments(const float *x, int width, float eps, int lane, float *mean, float *r) {
    float sum = 0.0f;
    for (int i = lane; i < width; i += LANES) sum += x[i];
    *mean = warp_sum(sum) / width;
    float squares = 0.0f;
    for (int i = lane; i < width; i += LANES) squares += (x[i] - *mean) * (x[i] - *mean);
    *r = 1.0f / sqrtf(warp_sum(squares) / width + eps);
}

KERNEL layer_norm_forward(const float *x, const float *w, const float *b, float *y, float eps, int width, u64 rows) {
    u32 row = AT / LANES;
    int lane = threadIdx.x % LANES;
    if (row >= rows) return;
    x += (u64)row * width;
    y += (u64)row * width;
    float mean, r;
    moments(x, width, eps, lane, &mean, &r);
    for (int i = lane; i < width; i += LANES) y[i] = (x[i] - mean) * r * w[i] + b[i];
}

// Also the mean and the inverse deviation of each row, for the weights' gradient.
KERNEL layer_norm_backward(const float *x, const float *w, const float *g, float *dx, float *means, float *inverse,
                           float eps, int width, u64 rows) {
    u32 row = AT / LANES;
    int lane = threadIdx.x % LANES;
    if (row >= rows) return;
    x += (u64)row * width;
    g += (u64)row * width;
    dx += (u64)row * width;
    float mean, r, along_mean = 0.0f, along_x = 0.0f;
    moments(x, width, eps, lane, &mean, &r);
    for (int i = lane; i < width; i += LANES) {
        along_mean += g[i] * w[i];
        along_x += g[i] * w[i] * (x[i] - mean) * r;
    }
    along_mean = warp_sum(along_mean) / width;
    along_x = warp_sum(along_x) / width;
    for (int i = lane; i < width; i += LANES) {
        dx[i] = r * (g[i] * w[i] - along_mean - (x[i] - mean) * r * along_x);
    }
    if (lane == 0) {
        means[row] = mean;
        inverse[row] = r;
    }
}

// Sums over rows, in two steps whose order does not depend on timing: first of the rows of each part.
// `kind` 0: a; 1: a * b * scale[row]; 2: a * (b - shift[row]) * scale[row].
// parts [P, 2]: first row and end, rows of `heads` each; scale and shift are [rows * heads].
// Blocks of 32 columns and 8 rows; grid (columns / 32, P). out [P, width].
KERNEL column_parts(const float *a, View va, const float *b, View vb, const float *scale, const float *shift, int kind,
                    const int *parts, int width, float *out) {
    __shared__ float sums[8][33];
    int column = blockIdx.x * 32 + threadIdx.x;
    u32 first = parts[2 * blockIdx.y] * va.heads, end = parts[2 * blockIdx.y + 1] * va.heads;
    float sum = 0.0f;
    if (column < width) {
        for (u32 row = first + threadIdx.y; row < end; row += 8) {
            float value = a[place(va, row, width) + column];
            if (kind == 1) value *= b[place(vb, row, width) + column] * scale[row];
            if (kind == 2) value *= (b[place(vb, row, width) + column] - shift[row]) * scale[row];
            sum += value;
        }
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < width) {
        for (int i = 1; i < 8; i++) sum += sums[i][threadIdx.x];
        out[(u64)blockIdx.y * width + column] = sum;
    }
}

// Then of the parts of each group; groups [P], none where there is one group. Blocks of 32 columns and 8 rows of parts; grid (columns / 32, G).
// out [G, width].
KERNEL column_totals(const float *sums, const int *groups, int parts, int width, float *out) {
    __shared__ float rows[8][33];
    int column = blockIdx.x * 32 + threadIdx.x, group = blockIdx.y;
    float sum = 0.0f;
    if (column < width) {
        for (int p = threadIdx.y; p < parts; p += 8) {
            if (!groups || groups[p] == group) sum += sums[(u64)p * width + column];
        }
    }
    rows[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < width) {
        for (int i = 1; i < 8; i++) sum += rows[i][threadIdx.x];
        out[(u64)group * width + column] = sum;
    }
}
