// cuDNN as far as Gallop calls it: descriptors with attributes, and attention in plain arithmetic. What the library
// would refuse on a Hopper GPU (types, alignment, descriptors that are not finished or not alive) fails here too.

#include <stdio.h>
#include <stdlib.h>

#include <map>
#include <set>
#include <vector>

#include "numbers.h"

#define API extern "C" __attribute__((visibility("default")))

namespace {

enum { OK = 0, BAD_PARAM = 2000, NOT_SUPPORTED = 3000 };
enum { CONFIG = 3, HEURISTIC = 4, PLAN = 5, GRAPH = 15, PACK = 16, TENSOR = 17, ATTENTION = 41 };
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
        case 1: case 8: return 4;
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
    *count = 1;
    if (d->kind == HEURISTIC && name == 202 && type == 15) {
        if (room < 1) return OK;
        Descriptor *config = *(Descriptor **)to;
        config->others[301] = {other(d, 201)};
        config->finished = true;
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
    if (d->kind == GRAPH && (!other(d, 801) || !one(d, 800, 0))) return fail(BAD_PARAM, "a graph of nothing");
    if (d->kind == HEURISTIC && (!other(d, 201) || one(d, 200, -1) != 3)) return fail(BAD_PARAM, "engines for nothing");
    if (d->kind == PLAN && (!other(d, 401) || !one(d, 400, 0))) return fail(BAD_PARAM, "a plan of nothing");
    d->finished = true;
    return OK;
}

API int cudnnBackendExecute(void *, Descriptor *plan, Descriptor *pack) {
    Descriptor *config = other(plan, 401), *graph = config ? other(config, 301) : nullptr;
    Descriptor *attention = graph ? other(graph, 801) : nullptr;
    if (!attention || !pack->finished) return fail(BAD_PARAM, "a plan whose parts are gone");
    std::map<long long, char *> at;
    auto &ids = pack->numbers[1000], &pointers = pack->numbers[1001];
    if (ids.size() != pointers.size() || !one(pack, 1003, 0)) return fail(BAD_PARAM, "addresses are missing");
    for (size_t i = 0; i < ids.size(); i++) at[ids[i]] = (char *)pointers[i];
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
