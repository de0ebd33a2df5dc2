// Numbers of fewer bits, for the emulated libraries.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

inline float widened(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

// To the nearest bf16, ties to even.
inline uint16_t rounded(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// E4M3: four bits of exponent, three of fraction, no infinities.
inline float from_e4m3(uint8_t x) {
    int exponent = x >> 3 & 15, fraction = x & 7;
    if ((x & 127) == 127) return NAN;
    float size = exponent ? ldexpf(8 + fraction, exponent - 10) : ldexpf(fraction, -9);
    return x & 128 ? -size : size;
}

// To the nearest E4M3, ties to even; what is beyond the greatest becomes that.
inline uint8_t to_e4m3(float x) {
    uint8_t sign = signbit(x) ? 128 : 0;
    if (isnan(x)) return sign | 127;
    x = fminf(fabsf(x), 448.0f);
    int exponent;
    frexpf(x, &exponent);
    // The last of four bits, but not below 2^-9.
    int last = exponent - 4 < -9 ? -9 : exponent - 4;
    float whole = nearbyintf(ldexpf(x, -last));
    if (whole == 16) whole = 8, last++;
    return sign | (whole < 8 ? (int)whole : (last + 10) * 8 + (int)whole - 8);
}
