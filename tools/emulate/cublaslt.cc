// cuBLASLt as far as Gallop calls it, in plain arithmetic. What the library would refuse on a Hopper GPU fails here too.
// With GALLOP_EMULATE_OLD=1 it is a release without scales for rows and columns, with 2 one without 8-bit floats.

#include <stdio.h>
#include <stdlib.h>

#include <map>
#include <vector>

#include "numbers.h"

#define API extern "C" __attribute__((visibility("default")))

enum { OK = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { F32 = 0, BF16 = 14, E4M3 = 28 };
enum { TURN_A = 3, TURN_B = 4, EPILOGUE = 7, BIAS = 8, A_SCALES = 17, B_SCALES = 18, BIAS_TYPE = 26, A_MODE = 31, B_MODE = 32 };

struct Matrix {
    int type;
    size_t rows, columns, pitch;
};
struct Product {
    std::map<int, long long> set;
    long long get(int name) const {
        auto found = set.find(name);
        return found == set.end() ? 0 : found->second;
    }
};
struct Found {
    unsigned long long algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

static const unsigned long long MARK = 0x6761110;

API int cublasLtCreate(void **handle) {
    static int it;
    *handle = &it;
    return OK;
}
API int cublasLtDestroy(void *) { return OK; }
API int cublasLtMatrixLayoutCreate(Matrix **to, int type, size_t rows, size_t columns, long long pitch) {
    if (pitch < (long long)rows) return INVALID_VALUE;
    *to = new Matrix{type, rows, columns, (size_t)pitch};
    return OK;
}
API int cublasLtMatrixLayoutDestroy(Matrix *m) {
    delete m;
    return OK;
}
API int cublasLtMatmulDescCreate(Product **to, int compute, int scale) {
    if (compute != 68 || scale != F32) return INVALID_VALUE;
    *to = new Product();
    return OK;
}
API int cublasLtMatmulDescDestroy(Product *p) {
    delete p;
    return OK;
}
API int cublasLtMatmulDescSetAttribute(Product *p, int name, const void *value, size_t size) {
    bool pointer = name == BIAS || name == A_SCALES || name == B_SCALES;
    if (size != (pointer ? 8 : 4)) return INVALID_VALUE;
    long long full = 0;
    memcpy(&full, value, size);
    p->set[name] = full;
    return OK;
}
API int cublasLtMatmulPreferenceCreate(int **to) {
    *to = new int(0);
    return OK;
}
API int cublasLtMatmulPreferenceSetAttribute(int *, int, const void *, size_t) { return OK; }
API int cublasLtMatmulPreferenceDestroy(int *p) {
    delete p;
    return OK;
}

static bool supported(const Product *p, const Matrix *a, const Matrix *b, const Matrix *d) {
    const char *text = getenv("GALLOP_EMULATE_OLD");
    int old = text ? atoi(text) : 0;
    if (a->type != b->type || d->type != F32) return false;
    if (a->type == BF16) return p->get(EPILOGUE) == 4 && p->get(BIAS_TYPE) == F32 && p->get(BIAS);
    // Bytes are multiplied with the left side turned, in sizes that are multiples of 16 but for the right columns.
    if (a->type != E4M3 || old >= 2 || p->get(EPILOGUE) || !p->get(TURN_A) || p->get(TURN_B)) return false;
    if (a->rows % 16 || a->columns % 16 || a->pitch % 16 || b->pitch % 16 || d->pitch % 4) return false;
    bool scaled = p->get(A_MODE) == 3 && p->get(B_MODE) == 3 && p->get(A_SCALES) && p->get(B_SCALES);
    return scaled ? old < 1 : !p->get(A_MODE) && !p->get(B_MODE);
}

API int cublasLtMatmulAlgoGetHeuristic(void *, Product *p, Matrix *a, Matrix *b, Matrix *c, Matrix *d, int *, int wanted,
                                       Found *found, int *count) {
    *count = 0;
    if (c != d || wanted < 1 || !supported(p, a, b, d)) return NOT_SUPPORTED;
    *found = {{MARK}, 0, OK, 1.0f, {}};
    *count = 1;
    return OK;
}

static float load(const Matrix *m, const void *p, size_t row, size_t column) {
    size_t i = row + column * m->pitch;
    return m->type == E4M3 ? from_e4m3(((const uint8_t *)p)[i]) : widened(((const uint16_t *)p)[i]);
}

API int cublasLtMatmul(void *, Product *p, const float *alpha, const void *a, Matrix *ma, const void *b, Matrix *mb,
                       const float *beta, const void *c, Matrix *, float *d, Matrix *md, const unsigned long long *algorithm,
                       void *workspace, size_t room, void *) {
    if (*algorithm != MARK || !supported(p, ma, mb, md) || c != d || *alpha != 1.0f || *beta != 0.0f) return INVALID_VALUE;
    if ((size_t)a % 16 || (size_t)b % 16 || (size_t)d % 16 || !workspace || !room) return INVALID_VALUE;
    bool ta = p->get(TURN_A), tb = p->get(TURN_B);
    size_t m = ta ? ma->columns : ma->rows, k = ta ? ma->rows : ma->columns, n = tb ? mb->rows : mb->columns;
    if (k != (tb ? mb->columns : mb->rows) || m != md->rows || n != md->columns) return INVALID_VALUE;
    const float *left = (const float *)p->get(A_SCALES), *right = (const float *)p->get(B_SCALES);
    const float *bias = (const float *)p->get(BIAS);
    std::vector<float> column(k);
    for (size_t j = 0; j < n; j++) {
        for (size_t q = 0; q < k; q++) column[q] = tb ? load(mb, b, j, q) : load(mb, b, q, j);
        for (size_t i = 0; i < m; i++) {
            double sum = 0;
            for (size_t q = 0; q < k; q++) sum += (double)(ta ? load(ma, a, q, i) : load(ma, a, i, q)) * column[q];
            if (left) sum *= (double)left[i] * right[j];
            d[i + j * md->pitch] = (float)(sum + (bias ? bias[i] : 0.0f));
        }
    }
    return OK;
}
