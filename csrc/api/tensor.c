/* What has to hold of a tensor before its memory is touched. */
#include <stdlib.h>

#include "api.h"

/* Items that any dimension may reach, so that sums of addresses stay far from overflowing. */
static const int64_t most_reach = (int64_t)1 << (sizeof(void *) > 4 ? 56 : 27);

int64_t api_item_size(int32_t dtype)
{
    switch (dtype) {
    case LZPENALTY_FLOAT16:
    case LZPENALTY_BFLOAT16:
        return 2;
    case LZPENALTY_FLOAT32:
    case LZPENALTY_INT32:
        return 4;
    default:
        return 8;
    }
}

/* At most most_reach, which is more than any memory holds. */
int64_t api_items(const lzpenalty_tensor *t)
{
    int64_t items = 1;
    for (int i = 0; i < t->dims; i++)
        if (t->shape[i] == 0)
            return 0;
    for (int i = 0; i < t->dims; i++)
        items = items > most_reach / t->shape[i] ? most_reach : items * t->shape[i];
    return items;
}

int api_check_tensor(const lzpenalty_tensor *t, int least_dims, int most_dims)
{
    WANT(t, LZPENALTY_NULL);
    WANT(t->dims >= least_dims && t->dims <= most_dims, LZPENALTY_BAD_DIMENSIONS);
    WANT(t->dtype >= LZPENALTY_FLOAT32 && t->dtype <= LZPENALTY_INT64, LZPENALTY_BAD_DTYPE);
    for (int i = 0; i < t->dims; i++) {
        WANT(t->shape[i] >= 0 && t->shape[i] <= INT32_MAX, LZPENALTY_BAD_SHAPE);
        const int64_t most = t->shape[i] > 1 ? most_reach / (t->shape[i] - 1) : most_reach;
        WANT(t->strides[i] >= -most && t->strides[i] <= most, LZPENALTY_BAD_STRIDES);
    }
    WANT(t->data || api_items(t) == 0, LZPENALTY_NULL);
    WANT((uintptr_t)t->data % (uintptr_t)api_item_size(t->dtype) == 0, LZPENALTY_BAD_ALIGNMENT);
    return LZPENALTY_OK;
}

/* Each dimension, from the tightest on, has to step over the others. */
int api_check_distinct(const lzpenalty_tensor *t)
{
    int64_t extent = 1;
    unsigned done = 0;
    if (api_items(t) == 0)
        return LZPENALTY_OK;
    for (int n = 0; n < t->dims; n++) {
        int tightest = -1;
        for (int i = 0; i < t->dims; i++)
            if (!(done >> i & 1) && (tightest < 0 || llabs(t->strides[i]) < llabs(t->strides[tightest])))
                tightest = i;
        done |= 1u << tightest;
        if (t->shape[tightest] == 1)
            continue;
        WANT(llabs(t->strides[tightest]) >= extent, LZPENALTY_BAD_STRIDES);
        extent += llabs(t->strides[tightest]) * (t->shape[tightest] - 1);
    }
    return LZPENALTY_OK;
}

/* Whether an item of `a` and one of `b` may be the same, `distance` items after the start of each: a sum of
 * strides[i] * z[i] with -b->shape[i] < z[i] < a->shape[i]. Each stride is wider than all narrower ones can add up to, so
 * that only z next to the quotient come into question. */
static int items_meet(const lzpenalty_tensor *a, const lzpenalty_tensor *b, int64_t distance, unsigned done)
{
    int widest = -1;
    for (int i = 0; i < a->dims; i++)
        if (!(done >> i & 1) && (a->shape[i] > 1 || b->shape[i] > 1) &&
            (widest < 0 || llabs(a->strides[i]) > llabs(a->strides[widest])))
            widest = i;
    if (widest < 0)
        return distance == 0;
    const int64_t stride = a->strides[widest], quotient = stride ? distance / stride : 0;
    for (int64_t z = quotient - 1; z <= quotient + 1; z++)
        if (z > -b->shape[widest] && z < a->shape[widest] && items_meet(a, b, distance - z * stride, done | 1u << widest))
            return 1;
    return 0;
}

int api_check_apart(const lzpenalty_tensor *written, const lzpenalty_tensor *read)
{
    const lzpenalty_tensor *both[2] = {written, read};
    intptr_t first[2], last[2];
    int same = written->dtype == read->dtype && written->dims == read->dims;
    for (int n = 0; n < 2; n++) {
        const int64_t size = api_item_size(both[n]->dtype);
        if (api_items(both[n]) == 0)
            return LZPENALTY_OK;
        first[n] = last[n] = (intptr_t)both[n]->data;
        for (int i = 0; i < both[n]->dims; i++) {
            const int64_t reach = (both[n]->shape[i] - 1) * both[n]->strides[i] * size;
            *(reach < 0 ? &first[n] : &last[n]) += (intptr_t)reach;
        }
        last[n] += (intptr_t)size - 1;
    }
    if (last[0] < first[1] || last[1] < first[0])
        return LZPENALTY_OK;
    for (int i = 0; same && i < written->dims; i++)
        same = written->strides[i] == read->strides[i] || (written->shape[i] == 1 && read->shape[i] == 1);
    const int64_t distance = (intptr_t)read->data - (intptr_t)written->data, size = api_item_size(read->dtype);
    WANT(same && distance % size == 0 && !items_meet(written, read, distance / size, 0), LZPENALTY_OVERLAP);
    return LZPENALTY_OK;
}

int api_check_contiguous(const lzpenalty_tensor *t)
{
    const int last = t->dims - 1;
    WANT(api_items(t) == 0 || t->shape[last] <= 1 || t->strides[last] == 1, LZPENALTY_BAD_STRIDES);
    return LZPENALTY_OK;
}
