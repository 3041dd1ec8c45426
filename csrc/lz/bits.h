/* What the coder pays, in bits, for CPU and CUDA alike: the same sums in the same order, so that results agree to the last
 * bit. log2[i] is the logarithm of i. codelength.h says what is computed from them. */
#ifndef LZPENALTY_LZ_BITS_H
#define LZPENALTY_LZ_BITS_H

#include "../cpu/shared.h"

#include <stdint.h>

/* Bits that prolonging a match of so many tokens at distance `open` from another distance adds:
 * log2(distance / open) + log2((length + 1) / length), never less than none. */
SHARED_FUNCTION float prolonging_bits(int32_t length, int32_t open, int32_t distance, const float *log2)
{
    const float bits = (log2[distance] - log2[open]) + (log2[length + 1] - log2[length]);
    return bits > 0 ? bits : 0;
}

/* Those of the pair of a distance and a length, for each token that a match of `length` and the next one cover. */
SHARED_FUNCTION float pair_bits(int32_t distance, int32_t length, const float *log2)
{
    return (log2[distance] + log2[length + 1]) / (float)(length + 1);
}

#endif
