/* Numbers in memory, of the narrow types that float32 holds exactly, for CPU and CUDA alike. */
#ifndef LZPENALTY_CPU_NUMBER_H
#define LZPENALTY_CPU_NUMBER_H

#include "dtype.h"
#include "half.h"

SHARED_FUNCTION float load_number(const void *numbers, int dtype, int64_t i)
{
    switch (dtype) {
    case FLOAT16:
        return f16_to_float(((const uint16_t *)numbers)[i]);
    case BFLOAT16:
        return bf16_to_float(((const uint16_t *)numbers)[i]);
    default:
        return ((const float *)numbers)[i];
    }
}

SHARED_FUNCTION void store_number(void *numbers, int dtype, int64_t i, float x)
{
    switch (dtype) {
    case FLOAT16:
        ((uint16_t *)numbers)[i] = float_to_f16(x);
        break;
    case BFLOAT16:
        ((uint16_t *)numbers)[i] = float_to_bf16(x);
        break;
    default:
        ((float *)numbers)[i] = x;
    }
}

/* An id of a text or a position in one, of 64 or of 32 bits. */
SHARED_FUNCTION int64_t load_id(const void *ids, int is_int64, int64_t i)
{
    return is_int64 ? ((const int64_t *)ids)[i] : ((const int32_t *)ids)[i];
}

#endif
