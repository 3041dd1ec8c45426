/* What the interfaces of Python and C ask alike of what they are given, and how they hand it on to the LZ routines. */
#ifndef LZPENALTY_LZ_CHECK_H
#define LZPENALTY_LZ_CHECK_H

#include <stdlib.h>

#include "lz.h"

/* A position among the tokens of a row at which those that count may begin. */
static inline int lz_is_start(int64_t start, int64_t length)
{
    return start >= 0 && start <= length;
}

static inline int lz_is_gram(int32_t tokens)
{
    return tokens >= 1 && tokens <= LZ_MOST_GRAM;
}

static inline int lz_ascending(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Makes n ids ascend, each of them once. Returns how many there are then. */
static inline int32_t lz_sort_ids(int32_t *ids, int64_t n)
{
    int32_t distinct = 0;
    if (n > 0)
        qsort(ids, (size_t)n, sizeof *ids, lz_ascending);
    for (int64_t i = 0; i < n; i++)
        if (distinct == 0 || ids[distinct - 1] != ids[i])
            ids[distinct++] = ids[i];
    return distinct;
}

/* Arrays of two dimensions, or of one for a single row; strides in elements. */
static inline lz_logits lz_logits_of(void *data, float_dtype dtype, int ndim, const int64_t *shape, const int64_t *strides)
{
    const int columns = ndim - 1;
    return (lz_logits){.data = data,
                       .dtype = dtype,
                       .rows = columns ? shape[0] : 1,
                       .vocab = shape[columns],
                       .row_stride = columns ? strides[0] : 0,
                       .column_stride = strides[columns]};
}

static inline lz_tokens lz_tokens_of(const void *data, int is_int64, int ndim, const int64_t *shape, const int64_t *strides)
{
    const int columns = ndim - 1;
    return (lz_tokens){.data = data,
                       .is_int64 = is_int64,
                       .rows = columns ? shape[0] : 1,
                       .length = shape[columns],
                       .row_stride = columns ? strides[0] : 0,
                       .column_stride = strides[columns]};
}

#endif
