/* The k highest scores of a row, one block a row: digit by digit, as in cache/select.c. */
#ifndef LZPENALTY_CUDA_SELECT_CUH
#define LZPENALTY_CUDA_SELECT_CUH

#include "block.cuh"

#include "../cache/rank.h"

enum { DIGITS = 256 };

/* The rank of the k-th highest of n scores. *ties gets how many with just this rank are among the k. */
static __device__ unsigned kth_rank(const float *scores, int n, int k, int *ties)
{
    __shared__ int counts[DIGITS], chosen, left;
    unsigned known = 0, mask = 0;
    ONE_AT_A_TIME
    for (int shift = 24; shift >= 0; shift -= 8) {
        FOR_EACH (i, DIGITS)
            counts[i] = 0;
        __syncthreads();
        ONE_AT_A_TIME
        for (int from = 0; from < n; from += blockDim.x) {
            const int t = from + threadIdx.x;
            const unsigned rank = t < n ? rank_of(scores[t]) : 0, none = DIGITS;
            const unsigned digit = t < n && (rank & mask) == known ? rank >> shift & (DIGITS - 1) : none;
            /* Scores are much alike: one lane counts for all that share its digit. */
            const unsigned same = __match_any_sync(EVERY_LANE, digit);
            if (digit != none && __ffs(same) - 1 == lane_id())
                atomicAdd(&counts[digit], __popc(same));
        }
        __syncthreads();
        if (threadIdx.x < 32) { /* each lane sees eight digits, from the highest down */
            const int highest = DIGITS - 1 - 8 * lane_id();
            int own = 0, above;
            for (int i = 0; i < 8; i++)
                own += counts[highest - i];
            above = own;
            for (int step = 1; step < 32; step *= 2) {
                const int other = __shfl_up_sync(EVERY_LANE, above, step);
                above += lane_id() >= step ? other : 0;
            }
            above -= own;
            if (above < k && k <= above + own) {
                int digit = highest;
                for (; above + counts[digit] < k; digit--)
                    above += counts[digit];
                chosen = digit;
                left = k - above;
            }
        }
        __syncthreads();
        known |= (unsigned)chosen << shift;
        mask |= (unsigned)(DIGITS - 1) << shift;
        k = left;
    }
    *ties = k;
    return known;
}

static __device__ void select_row(const cuda_select_args &a)
{
    __shared__ int warps[2][CUDA_MOST_THREADS / 32]; /* scores above the k-th and ties with it, of each warp; in turn */
    const int64_t row = blockIdx.x;
    const float *scores = a.scores + row / a.heads * a.batch_stride + row % a.heads * a.head_stride;
    const int n_warps = blockDim.x / 32, warp = threadIdx.x / 32;
    int64_t *positions = a.positions + row * a.k;
    int ties, above_before = 0, ties_before = 0, turn = 0;
    const unsigned kth = kth_rank(scores, a.n, a.k, &ties);

    ONE_AT_A_TIME
    for (int from = 0; from < a.n; from += blockDim.x, turn ^= 1) {
        const int t = from + threadIdx.x;
        const unsigned rank = t < a.n ? rank_of(scores[t]) : 0;
        const unsigned lower = (1u << lane_id()) - 1;
        const unsigned above = __ballot_sync(EVERY_LANE, t < a.n && rank > kth);
        const unsigned tied = __ballot_sync(EVERY_LANE, t < a.n && rank == kth);
        if (lane_id() == 0)
            warps[turn][warp] = __popc(above) | __popc(tied) << 16;
        __syncthreads();
        int mine_above = above_before + __popc(above & lower), mine_tied = ties_before + __popc(tied & lower);
        ONE_AT_A_TIME
        for (int w = 0; w < n_warps; w++) {
            const int count = warps[turn][w];
            mine_above += w < warp ? count & 0xffff : 0;
            mine_tied += w < warp ? count >> 16 : 0;
            above_before += count & 0xffff;
            ties_before += count >> 16;
        }
        const bool is_above = above >> lane_id() & 1, is_tied = tied >> lane_id() & 1;
        if (is_above || (is_tied && mine_tied < ties))
            positions[mine_above + least(mine_tied, ties)] = t;
    }
}

#endif
