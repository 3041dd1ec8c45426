/* float16 and bfloat16 to and from float32, for CPU and CUDA alike, rounding to nearest even. No result depends on the
 * denormal mode. */
#ifndef LZPENALTY_CPU_HALF_H
#define LZPENALTY_CPU_HALF_H

#include <stdint.h>
#include <string.h>

#include "shared.h"

SHARED_FUNCTION uint32_t float_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

SHARED_FUNCTION float bits_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

SHARED_FUNCTION float bf16_to_float(uint16_t h)
{
    return bits_float((uint32_t)h << 16);
}

SHARED_FUNCTION uint16_t float_to_bf16(float x)
{
    uint32_t bits = float_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u); /* a NaN stays one when its low mantissa bits go */
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

SHARED_FUNCTION float f16_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = (uint32_t)(h & 0x7fffu) << 13;
    if (rest >= 0x0f800000u) /* infinity or NaN */
        return bits_float(sign | 0x70000000u | rest);
    if (rest >= 0x00800000u) /* normal: the exponent biases differ by 112 */
        return bits_float(sign | (rest + (112u << 23)));
    /* subnormal: a multiple of 2^-24, made normal by an implicit bit worth 2^-14 and taken off again */
    float magnitude = bits_float(rest | (113u << 23)) - bits_float(113u << 23);
    return bits_float(sign | float_bits(magnitude));
}

SHARED_FUNCTION uint16_t float_to_f16(float x)
{
    uint32_t bits = float_bits(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude >= 0x38800000u) /* 2^-14 and above are normal */
        return (uint16_t)(sign | ((magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13));
    /* subnormal: adding 1/2 leaves a float32 whose last place is worth 2^-24 */
    return (uint16_t)(sign | (float_bits(bits_float(magnitude) + 0.5f) - float_bits(0.5f)));
}

#endif
