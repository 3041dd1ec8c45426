/* Where marks stand in a text, on the device: what lz/marks.h is on the CPU. */
#ifndef LZPENALTY_CUDA_MARKS_CUH
#define LZPENALTY_CUDA_MARKS_CUH

#include "history.cuh"

struct row_text {
    const cuda_tokens &tokens;
    int64_t row;
};

/* Whether any of the marks ends at position i and begins at `first` or later. */
static __device__ bool ends_any(const lz_marks &marks, row_text text, int first, int i)
{
    ONE_AT_A_TIME
    for (int m = 0; m < marks.n; m++) {
        const lz_mark &mark = marks.mark[m];
        const int back = text.tokens.length - 1 - i;
        int k = 0;
        ONE_AT_A_TIME
        while (k < mark.n && i - k >= first && id_at(text.tokens, text.row, back + k) == mark.id[mark.n - 1 - k])
            k++;
        if (k == mark.n)
            return true;
    }
    return false;
}

/* By all threads, each of which gets what is found; a few positions for each before they wait for each other. */
static __device__ int64_t newest_of(row_text text, const lz_marks *one, const lz_marks *other, int64_t first, int64_t from,
                                    int64_t to, int *is_of_first)
{
    __shared__ unsigned newest; /* 0, or one more than twice the position and whether it is of the first */
    const int lowest = (int)from, part = 8 * blockDim.x;
    ONE_AT_A_TIME
    for (int end = (int)to; end > lowest; end = end - lowest > part ? end - part : lowest) {
        const int begin = end - lowest > part ? end - part : lowest;
        if (threadIdx.x == 0)
            newest = 0;
        __syncthreads();
        ONE_AT_A_TIME
        for (int i = end - 1 - (int)threadIdx.x; i >= begin; i -= blockDim.x) {
            const bool is_one = ends_any(*one, text, (int)first, i);
            if (is_one || ends_any(*other, text, (int)first, i)) {
                atomicMax(&newest, 2 * (unsigned)i + is_one + 1);
                break;
            }
        }
        __syncthreads();
        const unsigned found = newest;
        __syncthreads(); /* or a thread could be here again already */
        if (found > 0) {
            *is_of_first = (found - 1) & 1;
            return (found - 1) / 2;
        }
    }
    return from - 1;
}

#define section_text row_text
#include "../lz/section.h"

#endif
