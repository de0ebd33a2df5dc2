// What a kernel's text needs to be compiled for the processor: CUDA's words, and threads that wait for one another.
#pragma once
#define GALLOP_EMULATE 1
#define __CUDA_ARCH__ 500
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

struct uint3 {
    unsigned x, y, z;
};
typedef uint3 dim3;
struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }

// The thread that runs now, and its block's memory.
struct Emulated {
    uint3 thread, block, block_size, grid_size;
    unsigned char *shared;
    // 64 bytes a lane, for what lanes of this thread's warp exchange.
    unsigned char (*exchange)[64];
};
extern "C" Emulated gallop_emulated;
extern "C" void gallop_sync_block();
extern "C" void gallop_sync_warp();

#define __global__ __attribute__((used))
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
// One block runs at a time.
#define __shared__ static
#define threadIdx gallop_emulated.thread
#define blockIdx gallop_emulated.block
#define blockDim gallop_emulated.block_size
#define gridDim gallop_emulated.grid_size
#define SHARED_BYTES(name) unsigned char *name = gallop_emulated.shared

inline void __syncthreads() { gallop_sync_block(); }
inline void __syncwarp(unsigned = ~0u) { gallop_sync_warp(); }

inline unsigned gallop_lane() {
    const uint3 &t = gallop_emulated.thread, &n = gallop_emulated.block_size;
    return ((t.z * n.y + t.y) * n.x + t.x) % 32;
}

// Every lane gives a value and takes that of another one.
template <class T> T gallop_take(T value, unsigned from) {
    memcpy(gallop_emulated.exchange[gallop_lane()], &value, sizeof value);
    gallop_sync_warp();
    memcpy(&value, gallop_emulated.exchange[from % 32], sizeof value);
    gallop_sync_warp();
    return value;
}
template <class T> T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
    return gallop_take(value, gallop_lane() ^ mask);
}
template <class T> T __shfl_sync(unsigned, T value, int from, int = 32) { return gallop_take(value, from); }
template <class T> T __shfl_down_sync(unsigned, T value, int by, int = 32) {
    unsigned lane = gallop_lane();
    return gallop_take(value, lane + by < 32 ? lane + by : lane);
}

inline unsigned __float_as_uint(float x) {
    unsigned u;
    memcpy(&u, &x, 4);
    return u;
}
inline float __uint_as_float(unsigned u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}
template <class To, class From> To gallop_bits(From from) {
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline int __float_as_int(float x) { return gallop_bits<int>(x); }
inline float __int_as_float(int x) { return gallop_bits<float>(x); }
inline long long __double_as_longlong(double x) { return gallop_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return gallop_bits<double>(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678f); }
inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752); }
template <class A, class B> std::common_type_t<A, B> min(A a, B b) {
    std::common_type_t<A, B> x = a, y = b;
    return y < x ? y : x;
}
template <class A, class B> std::common_type_t<A, B> max(A a, B b) {
    std::common_type_t<A, B> x = a, y = b;
    return x < y ? y : x;
}
using std::isnan;
using std::signbit;
template <class T, class V> T atomicAdd(T *to, V value) {
    T old = *to;
    *to += (T)value;
    return old;
}
template <class T, class A, class B> T atomicCAS(T *to, A expected, B value) {
    T old = *to;
    if (old == (T)expected) *to = (T)value;
    return old;
}
template <class T, class V> T atomicMax(T *to, V value) {
    T old = *to;
    if (old < (T)value) *to = (T)value;
    return old;
}
template <class T, class V> T atomicMin(T *to, V value) {
    T old = *to;
    if ((T)value < old) *to = (T)value;
    return old;
}

// mma.m16n8k16 of bf16: where PTX puts the numbers of each matrix in the lanes' registers.
inline void mma(float *c, const unsigned *a, const unsigned *b) {
    unsigned lane = gallop_lane(), mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    memcpy(gallop_emulated.exchange[lane], mine, sizeof mine);
    gallop_sync_warp();
    auto number = [](unsigned owner, int which, int half) {
        unsigned both;
        memcpy(&both, gallop_emulated.exchange[owner] + 4 * which, 4);
        return __uint_as_float(half ? both & 0xffff0000u : both << 16);
    };
    for (int i = 0; i < 4; i++) {
        unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k++) {
            float x = number(row % 8 * 4 + k % 8 / 2, (row >= 8) + 2 * (k >= 8), k % 2);
            float y = number(column * 4 + k % 8 / 2, 4 + (k >= 8), k % 2);
            c[i] += x * y;
        }
    }
    gallop_sync_warp();
}

// Calls a kernel with arguments as the driver gets them.
template <class... A, size_t... I>
void gallop_spread(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
    kernel(*(std::remove_reference_t<A> *)arguments[I]...);
}
template <class... A> void gallop_call(void (*kernel)(A...), void **arguments) {
    gallop_spread(kernel, arguments, std::index_sequence_for<A...>());
}
