// cuDNN as far as Gallop calls it: descriptors with attributes, attention and convolutions in plain arithmetic. What the
// library would refuse on a Hopper GPU (types, alignment, descriptors that are not finished or not alive) fails here too.

#include <stdio.h>
#include <stdlib.h>

#include <map>
#include <set>
#include <vector>

#include "numbers.h"

#define API extern "C" __attribute__((visibility("default")))

namespace {

enum { OK = 0, BAD_PARAM = 2000, NOT_SUPPORTED = 3000 };
enum { POINTWISE = 0, CONVOLUTION = 1, ENGINE = 2, CONFIG = 3, HEURISTIC = 4, PLAN = 5, GRAPH = 15, PACK = 16, TENSOR = 17 };
enum { CONVOLVE = 10, CONVOLVE_FILTER = 11, CONVOLVE_DATA = 12, COMPUTE_POINTWISE = 13, ATTENTION = 41 };
enum { F32 = 0, BF16 = 9, E4M3 = 12 };

const char *why = "";
int fail(int status, const char *text) {
    why = text;
    return status;
}

struct Descriptor {
    int kind;
    bool finished = false;
    std::map<int, std::vector<long long>> numbers;
    std::map<int, std::vector<Descriptor *>> others;
};

std::set<Descriptor *> alive;

// Bytes of a value of each type of attribute.
size_t width(int type) {
    switch (type) {
        case 1: case 4: case 7: case 8: case 14: return 4;
        case 2: return 1;
        case 0: case 3: case 6: case 15: return 8;
        default: return 0;
    }
}

Descriptor *other(Descriptor *d, int name) {
    auto found = d->others.find(name);
    if (found == d->others.end() || found->second.size() != 1) return nullptr;
    Descriptor *one = found->second[0];
    return alive.count(one) && one->finished ? one : nullptr;
}

long long one(Descriptor *d, int name, long long otherwise) {
    auto found = d->numbers.find(name);
    return found == d->numbers.end() ? otherwise : found->second[0];
}

// What an attention needs: queries, keys, values, output, logarithms of sums, scale.
int check_attention(Descriptor *d) {
    std::vector<long long> sizes[6];
    for (int i = 0; i < 6; i++) {
        Descriptor *t = other(d, 2800 + i);
        if (!t) return fail(BAD_PARAM, "a tensor is missing");
        sizes[i] = t->numbers[902];
        int wanted = i < 4 ? one(other(d, 2800), 901, -1) : F32;
        if (one(t, 901, -1) != wanted || (i < 4 && wanted != BF16 && wanted != E4M3))
            return fail(NOT_SUPPORTED, "numbers of this type");
        if (sizes[i].size() != 4 || t->numbers[903].size() != 4) return fail(BAD_PARAM, "not four sizes");
    }
    auto &q = sizes[0], &k = sizes[1], &v = sizes[2], &o = sizes[3], &s = sizes[4];
    bool fits = q[0] == 1 && q[3] == k[3] && k == v && o == q && q[1] % k[1] == 0 && s[1] == q[1] && s[2] == q[2] && s[3] == 1;
    if (!fits) return fail(BAD_PARAM, "sizes do not agree");
    if (q[3] % 8 != 0 || q[3] > 256) return fail(NOT_SUPPORTED, "heads of this width");
    for (int i = 2822; i < 2830 && one(other(d, 2800), 901, -1) == E4M3; i++)
        if (!other(d, i) || one(other(d, i), 901, -1) != F32) return fail(BAD_PARAM, "a scale of 8-bit floats is missing");
    if (!one(other(d, 2805), 908, 0)) return fail(NOT_SUPPORTED, "a scale in the GPU's memory");
    return OK;
}

// Where a convolution's factors, windows and tensors are among its attributes.
int first_of(Descriptor *d) { return d->kind == CONVOLVE ? 700 : d->kind == CONVOLVE_DATA ? 706 : 712; }

// What a convolution needs: channels-last tensors, what is read in bf16 and in eights of channels, the rest in f32.
int check_convolution(Descriptor *d) {
    int first = first_of(d), found = d->kind == CONVOLVE_FILTER ? 0 : d->kind == CONVOLVE_DATA ? 1 : 2;
    float factors[2];
    for (int i = 0; i < 2; i++) {
        long long bits = one(d, first + i, -1);
        memcpy(&factors[i], &bits, 4);
    }
    Descriptor *windows = other(d, first + 2), *t[3];
    if (!windows || windows->kind != CONVOLUTION || factors[0] != 1 || factors[1] != 0) return fail(BAD_PARAM, "a convolution");
    if (one(windows, 101, -1) != 1 || one(windows, 100, -1) != F32 || one(windows, 106, -1) != 3) return fail(BAD_PARAM, "its windows");
    for (int i = 0; i < 3; i++) {
        t[i] = other(d, first + 3 + i);
        if (!t[i] || t[i]->numbers[902].size() != 5 || t[i]->numbers[903].size() != 5) return fail(BAD_PARAM, "a tensor is missing");
        auto &sizes = t[i]->numbers[902], &strides = t[i]->numbers[903];
        long long step = sizes[1];
        bool last = strides[1] == 1;
        for (int k = 4; k > 1; k--) {
            last = last && strides[k] == step;
            step *= sizes[k];
        }
        if (!last || strides[0] != step) return fail(NOT_SUPPORTED, "not channels last");
        if (one(t[i], 901, -1) != (i == found ? F32 : BF16)) return fail(NOT_SUPPORTED, "numbers of this type");
    }
    auto &w = t[0]->numbers[902], &x = t[1]->numbers[902], &y = t[2]->numbers[902];
    if (x[0] != y[0] || w[0] != y[1] || x[1] % w[1] || y[1] % (x[1] / w[1])) return fail(BAD_PARAM, "channels do not agree");
    if (w[1] % 8 || (found != 2 && w[0] / (x[1] / w[1]) % 8)) return fail(NOT_SUPPORTED, "so many channels");
    for (int k = 0; k < 3; k++) {
        auto at = [&](int name) { return windows->numbers[name].size() == 3 ? windows->numbers[name][k] : -1; };
        long long room = x[2 + k] + at(105) + at(104) - at(102) * (w[2 + k] - 1) - 1;
        if (at(103) < 1 || room < 0 || room / at(103) + 1 != y[2 + k]) return fail(BAD_PARAM, "sizes do not agree");
        if (found == 1 && (at(103) != 1 || at(102) != 1)) return fail(NOT_SUPPORTED, "a gradient over strides or dilations");
    }
    return OK;
}

struct Tensor {
    std::vector<long long> sizes, strides;
    char *data;
    size_t at(size_t a, size_t b, size_t c) const { return a * strides[1] + b * strides[2] + c * strides[3]; }
};

// Softmax of the scaled products of a head's queries and keys, times the values; the probabilities are rounded before
// they multiply, as the tensor cores take them. `s8` are the scales of 8-bit floats, or null.
void attend(const Tensor *t, float scale, float *const *s8) {
    const Tensor &q = t[0], &k = t[1], &v = t[2], &o = t[3], &s = t[4];
    size_t rows = q.sizes[2], keys = k.sizes[2], width = q.sizes[3], group = q.sizes[1] / k.sizes[1];
    std::vector<float> p(keys), sum(width);
    auto number = [s8](const Tensor &x, size_t i, int which) {
        return s8 ? from_e4m3(((const uint8_t *)x.data)[i]) * *s8[which] : widened(((const uint16_t *)x.data)[i]);
    };
    for (size_t head = 0; head < (size_t)q.sizes[1]; head++)
        for (size_t row = 0; row < rows; row++) {
            float top = -INFINITY;
            for (size_t key = 0; key < keys; key++) {
                float z = 0;
                for (size_t c = 0; c < width; c++) z += number(q, q.at(head, row, c), 0) * number(k, k.at(head / group, key, c), 1);
                p[key] = z * scale;
                top = fmaxf(top, p[key]);
            }
            float all = 0;
            sum.assign(width, 0.0f);
            for (size_t key = 0; key < keys; key++) {
                float e = expf(p[key] - top);
                all += e;
                e = s8 ? from_e4m3(to_e4m3(e * *s8[4])) * *s8[3] : widened(rounded(e));
                for (size_t c = 0; c < width; c++) sum[c] += e * number(v, v.at(head / group, key, c), 2);
            }
            for (size_t c = 0; c < width; c++) {
                size_t at = o.at(head, row, c);
                if (s8) ((uint8_t *)o.data)[at] = to_e4m3(sum[c] / all * *s8[5]);
                else ((uint16_t *)o.data)[at] = rounded(sum[c] / all);
            }
            ((float *)s.data)[s.at(head, row, 0)] = top + logf(all);
        }
}

// A convolution or one of its gradients: weights, input and output, the one that is found in f32.
void convolve(Descriptor *d, Tensor *t, const float *bias) {
    Descriptor *windows = other(d, first_of(d) + 2);
    auto &before = windows->numbers[105], &dilation = windows->numbers[102], &stride = windows->numbers[103];
    const Tensor &w = t[0], &x = t[1], &y = t[2];
    int found = d->kind == CONVOLVE_FILTER ? 0 : d->kind == CONVOLVE_DATA ? 1 : 2;
    float *to = (float *)t[found].data;
    size_t count = t[found].sizes[0] * t[found].strides[0];
    for (size_t i = 0; i < count; i++) to[i] = bias ? bias[i % t[found].sizes[1]] : 0.0f;
    auto number = [](const Tensor &of, size_t i) { return widened(((const uint16_t *)of.data)[i]); };
    long long groups = x.sizes[1] / w.sizes[1], outputs = y.sizes[1] / groups, inputs = w.sizes[1];
    long long p[4], k[3], at[3];
    for (p[0] = 0; p[0] < y.sizes[0]; p[0]++)
    for (p[1] = 0; p[1] < y.sizes[2]; p[1]++)
    for (p[2] = 0; p[2] < y.sizes[3]; p[2]++)
    for (p[3] = 0; p[3] < y.sizes[4]; p[3]++)
    for (k[0] = 0; k[0] < w.sizes[2]; k[0]++)
    for (k[1] = 0; k[1] < w.sizes[3]; k[1]++)
    for (k[2] = 0; k[2] < w.sizes[4]; k[2]++) {
        bool inside = true;
        for (int i = 0; i < 3; i++) {
            at[i] = p[1 + i] * stride[i] + k[i] * dilation[i] - before[i];
            inside = inside && at[i] >= 0 && at[i] < x.sizes[2 + i];
        }
        if (!inside) continue;
        size_t row = p[0] * y.strides[0] + p[1] * y.strides[2] + p[2] * y.strides[3] + p[3] * y.strides[4];
        size_t source = p[0] * x.strides[0] + at[0] * x.strides[2] + at[1] * x.strides[3] + at[2] * x.strides[4];
        size_t tap = k[0] * w.strides[2] + k[1] * w.strides[3] + k[2] * w.strides[4];
        for (long long o = 0; o < y.sizes[1]; o++)
            for (long long c = 0; c < inputs; c++) {
                size_t wi = o * w.strides[0] + tap + c, xi = source + o / outputs * inputs + c, yi = row + o;
                if (found == 0) to[wi] += number(x, xi) * number(y, yi);
                else if (found == 1) to[xi] += number(w, wi) * number(y, yi);
                else to[yi] += number(w, wi) * number(x, xi);
            }
    }
}

}  // namespace

API size_t cudnnGetVersion() { return 92600; }
API int cudnnCreate(void **handle) {
    static int it;
    *handle = &it;
    return OK;
}
API int cudnnSetStream(void *, void *) { return OK; }
API void cudnnGetLastErrorString(char *to, size_t room) { snprintf(to, room, "%s", why); }

API int cudnnBackendCreateDescriptor(int kind, Descriptor **to) {
    *to = new Descriptor{kind};
    alive.insert(*to);
    return OK;
}
API int cudnnBackendDestroyDescriptor(Descriptor *d) {
    if (!alive.erase(d)) return fail(BAD_PARAM, "destroyed twice");
    delete d;
    return OK;
}

API int cudnnBackendSetAttribute(Descriptor *d, int name, int type, long long count, const char *values) {
    if (!alive.count(d) || d->finished || count < 1 || !width(type)) return fail(BAD_PARAM, "an attribute");
    for (long long i = 0; i < count; i++) {
        long long value = 0;
        memcpy(&value, values + i * width(type), width(type));
        if (type == 15) d->others[name].push_back((Descriptor *)value);
        else d->numbers[name].push_back(value);
    }
    return OK;
}

API int cudnnBackendGetAttribute(Descriptor *d, int name, int type, long long room, long long *count, void *to) {
    if (!alive.count(d) || !d->finished) return fail(BAD_PARAM, "asked before it was finished");
    *count = room < 1 && to ? 0 : 1;
    if (d->kind == HEURISTIC && name == 202 && type == 15) {
        // As the library's: convolutions to f32 are known to one heuristic, attention to the other.
        Descriptor *graph = other(d, 201);
        bool attention = graph && graph->others[801][0]->kind == ATTENTION;
        if (one(d, 200, -1) != (attention ? 3 : 2)) {
            *count = 0;
            return OK;
        }
        if (room < 1) return OK;
        Descriptor *config = *(Descriptor **)to;
        config->others[301] = {graph};
        config->finished = true;
        return OK;
    }
    if (d->kind == CONFIG && name == 300 && type == 15 && room == 1) {
        Descriptor *engine = *(Descriptor **)to;
        if (!alive.count(engine) || engine->kind != ENGINE) return fail(BAD_PARAM, "no engine to describe");
        engine->finished = true;
        return OK;
    }
    if (d->kind == ENGINE && name == 1303 && type == 11 && room > 0) {
        // It uses tensor cores.
        *(int *)to = 0;
        return OK;
    }
    if (d->kind == PLAN && name == 402 && type == 3 && room == 1) {
        *(long long *)to = 256;
        return OK;
    }
    return fail(BAD_PARAM, "an attribute that is not emulated");
}

API int cudnnBackendFinalize(Descriptor *d) {
    if (!alive.count(d) || d->finished) return fail(BAD_PARAM, "finished twice");
    if (d->kind == ATTENTION && check_attention(d)) return BAD_PARAM;
    if ((d->kind == CONVOLVE || d->kind == CONVOLVE_DATA || d->kind == CONVOLVE_FILTER) && check_convolution(d)) return BAD_PARAM;
    if (d->kind == COMPUTE_POINTWISE) {
        bool adds = other(d, 750) && one(other(d, 750), 0, -1) == 0 && one(other(d, 750), 1, -1) == F32;
        Descriptor *sums = other(d, 751), *bias = other(d, 752), *y = other(d, 753);
        if (!adds || !sums || !bias || !y || !one(sums, 907, 0)) return fail(BAD_PARAM, "an addition");
        if (sums->numbers[902] != y->numbers[902] || bias->numbers[902][1] != y->numbers[902][1]) return fail(BAD_PARAM, "a bias of other channels");
    }
    if (d->kind == GRAPH) {
        auto &operations = d->others[801];
        bool whole = one(d, 800, 0) && (operations.size() == 1 || operations.size() == 2);
        for (Descriptor *each : operations) whole = whole && alive.count(each) && each->finished;
        if (!whole) return fail(BAD_PARAM, "a graph of nothing");
        if (operations.size() == 2 && (operations[0]->kind != CONVOLVE || operations[1]->kind != COMPUTE_POINTWISE))
            return fail(NOT_SUPPORTED, "a graph of these operations");
    }
    if (d->kind == HEURISTIC && (!other(d, 201) || one(d, 200, -1) < 2)) return fail(BAD_PARAM, "engines for nothing");
    if (d->kind == PLAN && (!other(d, 401) || !one(d, 400, 0))) return fail(BAD_PARAM, "a plan of nothing");
    d->finished = true;
    return OK;
}

static int execute_convolution(std::vector<Descriptor *> &operations, std::map<long long, char *> &at) {
    Descriptor *convolution = operations[0];
    bool biased = operations.size() == 2;
    Tensor tensors[4];
    for (int i = 0; i < (biased ? 4 : 3); i++) {
        Descriptor *t = i == 3 ? other(operations[1], 752) : other(convolution, first_of(convolution) + 3 + i);
        if (i == 2 && biased) t = other(operations[1], 753);
        if (!t) return fail(BAD_PARAM, "a plan whose tensors are gone");
        tensors[i] = {t->numbers[902], t->numbers[903], at[one(t, 906, -1)]};
        bool aligned = (size_t)tensors[i].data % one(t, 900, 1) == 0;
        if (!tensors[i].data || !aligned) return fail(BAD_PARAM, "an address that is not aligned");
    }
    convolve(convolution, tensors, biased ? (const float *)tensors[3].data : nullptr);
    return OK;
}

API int cudnnBackendExecute(void *, Descriptor *plan, Descriptor *pack) {
    Descriptor *config = other(plan, 401), *graph = config ? other(config, 301) : nullptr;
    if (!graph || !pack->finished) return fail(BAD_PARAM, "a plan whose parts are gone");
    std::map<long long, char *> at;
    auto &ids = pack->numbers[1000], &pointers = pack->numbers[1001];
    if (ids.size() != pointers.size() || !one(pack, 1003, 0)) return fail(BAD_PARAM, "addresses are missing");
    for (size_t i = 0; i < ids.size(); i++) at[ids[i]] = (char *)pointers[i];
    for (Descriptor *each : graph->others[801])
        if (!alive.count(each)) return fail(BAD_PARAM, "a plan whose operations are gone");
    Descriptor *attention = graph->others[801][0];
    if (attention->kind != ATTENTION) return execute_convolution(graph->others[801], at);
    Tensor tensors[6];
    for (int i = 0; i < 6; i++) {
        Descriptor *t = other(attention, 2800 + i);
        if (!t) return fail(BAD_PARAM, "a plan whose tensors are gone");
        tensors[i] = {t->numbers[902], t->numbers[903], at[one(t, 906, -1)]};
        bool aligned = i == 5 || (size_t)tensors[i].data % one(t, 900, 1) == 0;
        if (!tensors[i].data || !aligned) return fail(BAD_PARAM, "an address that is not aligned");
    }
    float *scales[8];
    bool eight = one(other(attention, 2800), 901, -1) == E4M3;
    for (int i = 0; i < 8 && eight; i++) {
        scales[i] = (float *)at[one(other(attention, 2822 + i), 906, -1)];
        if (!scales[i] || (size_t)scales[i] % 16) return fail(BAD_PARAM, "a scale has no address");
    }
    attend(tensors, *(float *)tensors[5].data, eight ? scales : nullptr);
    return OK;
}
