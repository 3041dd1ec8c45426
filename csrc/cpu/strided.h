/* Arrays with strides: which of their items lie in the same memory. */
#ifndef LZPENALTY_CPU_STRIDED_H
#define LZPENALTY_CPU_STRIDED_H

#include <stdint.h>
#include <stdlib.h>

typedef struct {
    const void *data;
    int64_t item_size;              /* in bytes */
    int ndim;                       /* at most 32 */
    const int64_t *shape, *strides; /* strides in items; they may be negative */
} strided;

/* Whether the items of the last dimension lie side by side; strides of arrays without items don't matter. */
static inline int strided_has_runs(const strided *a)
{
    const int last = a->ndim - 1;
    int empty = 0;
    for (int i = 0; i < last; i++)
        empty |= a->shape[i] == 0;
    return empty || a->shape[last] <= 1 || a->strides[last] == 1;
}

/* A dimension in which two indices may name the same item, as it does not step over all that the tighter ones reach; or -1.
 */
static inline int strided_collision(const strided *a)
{
    int64_t extent = 1;
    unsigned done = 0;
    for (int i = 0; i < a->ndim; i++)
        if (a->shape[i] == 0)
            return -1;
    for (int n = 0; n < a->ndim; n++) {
        int tightest = -1;
        for (int i = 0; i < a->ndim; i++)
            if (!(done >> i & 1) && (tightest < 0 || llabs(a->strides[i]) < llabs(a->strides[tightest])))
                tightest = i;
        done |= 1u << tightest;
        if (a->shape[tightest] == 1)
            continue;
        if (llabs(a->strides[tightest]) < extent)
            return tightest;
        extent += llabs(a->strides[tightest]) * (a->shape[tightest] - 1);
    }
    return -1;
}

/* Whether an item of `a` and one of `b` may be the same, `distance` items after the start of each: a sum of
 * strides[i] * z[i] with -b->shape[i] < z[i] < a->shape[i]. Each stride is wider than all narrower ones can add up to, so
 * that only z next to the quotient come into question. */
static inline int strided_items_meet(const strided *a, const strided *b, int64_t distance, unsigned done)
{
    int widest = -1;
    for (int i = 0; i < a->ndim; i++)
        if (!(done >> i & 1) && (a->shape[i] > 1 || b->shape[i] > 1) &&
            (widest < 0 || llabs(a->strides[i]) > llabs(a->strides[widest])))
            widest = i;
    if (widest < 0)
        return distance == 0;
    const int64_t stride = a->strides[widest], quotient = stride ? distance / stride : 0;
    for (int64_t z = quotient - 1; z <= quotient + 1; z++)
        if (z > -b->shape[widest] && z < a->shape[widest] &&
            strided_items_meet(a, b, distance - z * stride, done | 1u << widest))
            return 1;
    return 0;
}

/* The first and the last byte of an array. Returns 0 if it has none. */
static inline int strided_span(const strided *a, intptr_t *first, intptr_t *last)
{
    *first = *last = (intptr_t)a->data;
    for (int i = 0; i < a->ndim; i++) {
        const int64_t reach = (a->shape[i] - 1) * a->strides[i] * a->item_size;
        if (a->shape[i] == 0)
            return 0;
        *(reach < 0 ? first : last) += (intptr_t)reach;
    }
    *last += (intptr_t)a->item_size - 1;
    return 1;
}

/* Whether two arrays, one of them without a collision, may have memory in common. Exact for arrays of the same type and
 * strides, as of one buffer that holds keys and values; of others already where they span the same memory. */
static inline int strided_meet(const strided *a, const strided *b, int same_type)
{
    intptr_t first_a, last_a, first_b, last_b;
    if (!strided_span(a, &first_a, &last_a) || !strided_span(b, &first_b, &last_b) || last_a < first_b || last_b < first_a)
        return 0;
    int same = same_type && a->ndim == b->ndim;
    for (int i = 0; same && i < a->ndim; i++)
        same = a->strides[i] == b->strides[i] || (a->shape[i] == 1 && b->shape[i] == 1);
    const int64_t distance = (intptr_t)b->data - (intptr_t)a->data;
    return !same || distance % b->item_size != 0 || strided_items_meet(a, b, distance / b->item_size, 0);
}

#endif
