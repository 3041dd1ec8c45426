/* The order in which scores are selected, for CPU and CUDA alike. */
#ifndef LZPENALTY_CACHE_RANK_H
#define LZPENALTY_CACHE_RANK_H

#include "../cpu/half.h"

/* Whole numbers in the order of the scores; equal for 0 and -0, and 0 for NaN alone. */
SHARED_FUNCTION uint32_t rank_of(float score)
{
    const uint32_t bits = float_bits(score + 0.0f);
    if (score != score)
        return 0;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

#endif
