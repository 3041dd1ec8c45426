/* What has to hold of a tensor before its memory is touched. */
#include "../cpu/strided.h"
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

static strided as_strided(const lzpenalty_tensor *t)
{
    return (strided){t->data, api_item_size(t->dtype), t->dims, t->shape, t->strides};
}

int api_check_distinct(const lzpenalty_tensor *t)
{
    const strided a = as_strided(t);
    WANT(strided_collision(&a) < 0, LZPENALTY_BAD_STRIDES);
    return LZPENALTY_OK;
}

int api_check_apart(const lzpenalty_tensor *written, const lzpenalty_tensor *read)
{
    const strided a = as_strided(written), b = as_strided(read);
    WANT(!strided_meet(&a, &b, written->dtype == read->dtype), LZPENALTY_OVERLAP);
    return LZPENALTY_OK;
}

int api_check_contiguous(const lzpenalty_tensor *t)
{
    const strided a = as_strided(t);
    WANT(strided_has_runs(&a), LZPENALTY_BAD_STRIDES);
    return LZPENALTY_OK;
}
