/* Exact loops at the end of a text: one block a row, one warp a period; the definition is in lz/lz.h. */
#ifndef LZPENALTY_CUDA_PERIOD_CUH
#define LZPENALTY_CUDA_PERIOD_CUH

#include "../lz/lz.h"
#include "history.cuh"

static __device__ void find_period(const cuda_period_args &a)
{
    __shared__ int smallest;
    const int64_t row = blockIdx.x;
    const int n = a.tokens.length - start_of(a.tokens, row), warps = blockDim.x / 32;
    if (threadIdx.x == 0)
        smallest = INT_MAX;
    __syncthreads();
    for (int period = 1 + threadIdx.x / 32; period <= a.max_period; period += warps) {
        const int64_t length = lz_loop_match(a.ngram, a.count, period);
        /* One lane looks for all: they must not come to different conclusions. */
        const int found = __shfl_sync(EVERY_LANE, *(volatile int *)&smallest, 0);
        if (found < period || length > n - period)
            break;
        int differ = 0;
        ONE_AT_A_TIME
        for (int64_t from = 0; from < length && !differ; from += 32) {
            const int i = (int)from + lane_id();
            differ = __any_sync(EVERY_LANE, i < length && id_at(a.tokens, row, i) != id_at(a.tokens, row, i + period));
        }
        if (differ)
            continue;
        if (lane_id() == 0)
            atomicMin(&smallest, period);
        break;
    }
    __syncthreads();
    if (threadIdx.x == 0)
        a.periods[row] = smallest == INT_MAX ? 0 : smallest;
}

#endif
