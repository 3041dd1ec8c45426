/* DRY on the device: one block a row; the formula is in lz/dry.h. */
#ifndef LZPENALTY_CUDA_DRY_CUH
#define LZPENALTY_CUDA_DRY_CUH

#include "history.cuh"

/* multiplier * base^over, multiplied up one by one in double precision as on the CPU, at most the largest float. */
static __device__ float dry_price(const cuda_dry_args &a, int over)
{
    double price = a.multiplier;
    ONE_AT_A_TIME
    for (int i = 0; i < over && !(a.base >= 1 && price >= FLT_MAX); i++) {
        double next = price * a.base;
        if (next == price)
            break;
        price = next;
    }
    return price < FLT_MAX ? (float)price : FLT_MAX;
}

static __device__ void dry_row(const cuda_dry_args &a, const cuda_ids *ids)
{
    __shared__ int limit;
    const int64_t row = blockIdx.x;
    int *recent = (int *)SHARED_MEMORY, *breakers = (int *)(SHARED_MEMORY + a.breakers);
    unsigned short *table = (unsigned short *)(SHARED_MEMORY + a.table);
    unsigned short *owner = (unsigned short *)(SHARED_MEMORY + a.owner);
    unsigned *longest = (unsigned *)(SHARED_MEMORY + a.longest);
    const int n_breakers = ids ? ids->n : 0, n = read_recent(a.tokens, row, a.window, recent);

    if (threadIdx.x == 0)
        limit = n;
    FOR_EACH (i, n_breakers)
        breakers[i] = ids->id[i];
    FOR_EACH (i, a.table_size)
        table[i] = no_position;
    FOR_EACH (k, n)
        longest[k] = 0;
    __syncthreads();
    FOR_EACH (i, n)
        if (is_listed(breakers, n_breakers, recent[i]))
            atomicMin(&limit, i);
    __syncthreads();
    if (limit < a.allowed_length)
        return;

    FOR_EACH (k, n) {
        const int d = k + 1, length = match_length(recent, d, least(limit, n - d));
        owner[k] = no_position;
        if (length < a.allowed_length || is_listed(breakers, n_breakers, recent[k]))
            continue;
        owner[k] = (unsigned short)enter_token(table, a.table_size, recent, k);
        raise_cell(&longest[owner[k]], length);
    }
    __syncthreads();
    FOR_EACH (k, n)
        if (owner[k] == k)
            change_logit(a.logits, row, recent[k], dry_price(a, longest[k] - a.allowed_length), 0);
}

#endif
