// As in cuda_fp16.h.
#pragma once
#include "cuda_fp16.h"
enum { __NV_E4M3 };
struct __nv_fp8_e4m3 {
    unsigned char __x;
    __nv_fp8_e4m3() = default;
    explicit __nv_fp8_e4m3(float) : __x(0) {}
};
inline __half __nv_cvt_fp8_to_halfraw(unsigned char x, int) { return {x}; }
