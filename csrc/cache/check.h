/* What the interfaces of Python and C ask alike of what they are given, and how they hand it on to the cache's routines. */
#ifndef LZPENALTY_CACHE_CHECK_H
#define LZPENALTY_CACHE_CHECK_H

#include "cache.h"

/* Of n positions the first that does not ascend or is not below `most`, n if there is none. */
static inline int64_t cache_misplaced(const int64_t *positions, int64_t n, int64_t most)
{
    int64_t i = 0;
    for (int64_t least = 0; i < n && positions[i] >= least && positions[i] < most; i++)
        least = positions[i] + 1;
    return i;
}

/* [batch, heads, tokens, size], contiguous in the last. */
static inline cache_array cache_array_of(void *data, float_dtype dtype, const int64_t *shape, const int64_t *strides)
{
    return (cache_array){data, dtype, shape[0], shape[1], shape[2], shape[3], strides[0], strides[1], strides[2]};
}

/* One float32 for each token of each head, [batch, heads, tokens]. */
static inline cache_array cache_numbers_of(void *data, const int64_t *shape, const int64_t *strides)
{
    return (cache_array){data, FLOAT32, shape[0], shape[1], shape[2], 1, strides[0], strides[1], strides[2]};
}

/* Entries [slots, size] that heads share out among themselves, as one row of one head. */
static inline cache_array cache_slots_of(void *data, const int64_t *shape, const int64_t *strides)
{
    return (cache_array){.data = data, .tokens = shape[0], .size = shape[1], .token_stride = strides[0]};
}

#endif
