/* Where marks stand in a text, on the device: what lz/marks.h is on the CPU. */
#ifndef LZPENALTY_CUDA_MARKS_CUH
#define LZPENALTY_CUDA_MARKS_CUH

#include "history.cuh"

/* The newest position in [0, to) of the n tokens at which any of the marks ends, else `to`. */
static __device__ int newest_mark(const lz_marks &marks, const int *recent, int n, int to)
{
    __shared__ int newest;
    if (threadIdx.x == 0)
        newest = to;
    __syncthreads();
    ONE_AT_A_TIME
    for (int m = 0; m < marks.n; m++)
        FOR_EACH (i, to)
            if (ends_mark(&marks.mark[m], marks.mark[m].n, recent, n, i))
                atomicMin(&newest, i);
    __syncthreads();
    const int result = newest;
    __syncthreads(); /* or a thread could be here again already */
    return result;
}

/* Whether any of the marks stands among all of the row's tokens that count. */
static __device__ bool holds_mark(const lz_marks &marks, const cuda_tokens &tokens, int64_t row)
{
    const int n = counting(tokens, row);
    int found = 0;
    ONE_AT_A_TIME
    for (int m = 0; m < marks.n; m++) {
        const lz_mark &mark = marks.mark[m];
        FOR_EACH (i, n - mark.n + 1) {
            int k = 0;
            ONE_AT_A_TIME
            while (k < mark.n && id_at(tokens, row, i + k) == mark.id[mark.n - 1 - k])
                k++;
            found |= k == mark.n;
        }
    }
    return __syncthreads_or(found);
}

#endif
