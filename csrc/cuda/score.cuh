/* Attention scores on the device, in two passes over the keys: the first finds each query's largest product and the sum of
 * its exponentials, the second adds up the weights. The products are computed twice rather than kept: they would take more
 * memory than the keys. What is computed is said in cache/score.h.
 *
 * Everything is added up in an order that does not depend on what runs first, so that results are reproducible. */
#ifndef LZPENALTY_CUDA_SCORE_CUH
#define LZPENALTY_CUDA_SCORE_CUH

#include "block.cuh"

#define vec_fma fmaf
#include "../cpu/vector.h"

/* 16 x 16 threads, each with 4 x 4 products of a tile: those of keys across + 16 i and queries down + 16 j. */
enum { SIDE = 16, EACH = CUDA_TILE / SIDE, DEPTH = 32 };

/* Not fmaxf: that would hide a NaN, which here reaches the sum in any case. */
static __device__ float larger(float a, float b)
{
    return a > b ? a : b;
}

/* Where query q of a unit, or token t of its region, begins. */
static __device__ int64_t query_at(const cuda_score_args &a, int64_t unit, int q)
{
    const int64_t batch = unit / a.heads, head = unit % a.heads * a.group + q / a.recent;
    return batch * a.queries.batch_stride + head * a.queries.head_stride + q % a.recent * a.queries.token_stride;
}

static __device__ int64_t key_at(const cuda_score_args &a, int64_t unit, int t)
{
    return unit / a.heads * a.keys.batch_stride + unit % a.heads * a.keys.head_stride + (a.start + t) * a.keys.token_stride;
}

/* products[i][j] = scale * <key first_key + across + 16 i, query first_query + down + 16 j>, garbage beyond the last. */
static __device__ void multiply_tile(const cuda_score_args &a, int64_t unit, int first_key, int first_query,
                                     float products[EACH][EACH])
{
    __shared__ float keys[DEPTH][CUDA_TILE + 1], queries[DEPTH][CUDA_TILE + 1]; /* one more, against bank conflicts */
    const int across = threadIdx.x % SIDE, down = threadIdx.x / SIDE, n_queries = a.group * a.recent;

    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++)
            products[i][j] = 0;
    ONE_AT_A_TIME
    for (int from = 0; from < a.size; from += DEPTH) {
        const int d = from + lane_id();
        __syncthreads(); /* until all have read the tiles before */
        ONE_AT_A_TIME
        for (int r = threadIdx.x / 32; r < CUDA_TILE; r += CUDA_TILE_THREADS / 32) {
            const bool is_key = d < a.size && first_key + r < a.n, is_query = d < a.size && first_query + r < n_queries;
            keys[lane_id()][r] = is_key ? load_number(a.keys.data, a.dtype, key_at(a, unit, first_key + r) + d) : 0;
            queries[lane_id()][r] =
                is_query ? load_number(a.queries.data, a.dtype, query_at(a, unit, first_query + r) + d) * a.scale : 0;
        }
        __syncthreads();
        const int depth = least((int)DEPTH, a.size - from);
        for (int k = 0; k < depth; k++)
            for (int i = 0; i < EACH; i++)
                for (int j = 0; j < EACH; j++)
                    products[i][j] = fmaf(keys[k][across + SIDE * i], queries[k][down + SIDE * j], products[i][j]);
    }
}

/* Combines what the threads across hold: the SIDE lanes that share their queries. */
static __device__ float largest_across(float x)
{
    for (int step = SIDE / 2; step > 0; step /= 2)
        x = larger(x, __shfl_xor_sync(EVERY_LANE, x, step));
    return x;
}

static __device__ float sum_across(float x)
{
    for (int step = SIDE / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(EVERY_LANE, x, step);
    return x;
}

/* First pass: one block for a chunk of keys and a tile of a unit's queries. */
static __device__ void find_maxima(const cuda_score_args &a)
{
    const int chunk = blockIdx.x % a.chunks, tile = blockIdx.x / a.chunks % a.query_tiles;
    const int64_t unit = blockIdx.x / a.chunks / a.query_tiles;
    const int across = threadIdx.x % SIDE, down = threadIdx.x / SIDE, n_queries = a.group * a.recent;
    const int end = least(a.n, (chunk + 1) * CUDA_CHUNK);
    float maxima[EACH], sums[EACH], products[EACH][EACH];

    for (int j = 0; j < EACH; j++) {
        maxima[j] = -INFINITY;
        sums[j] = 0;
    }
    for (int first = chunk * CUDA_CHUNK; first < end; first += CUDA_TILE) {
        multiply_tile(a, unit, first, tile * CUDA_TILE, products);
        for (int j = 0; j < EACH; j++) {
            float highest = maxima[j], sum = 0;
            for (int i = 0; i < EACH; i++)
                if (first + across + SIDE * i < end)
                    highest = larger(highest, products[i][j]);
            highest = largest_across(highest);
            for (int i = 0; i < EACH; i++)
                if (first + across + SIDE * i < end)
                    sum += vec_exp2(products[i][j] - highest);
            sums[j] = sums[j] * vec_exp2(maxima[j] - highest) + sum_across(sum);
            maxima[j] = highest;
        }
    }
    for (int j = 0; j < EACH; j++) {
        const int q = tile * CUDA_TILE + down + SIDE * j;
        if (across == 0 && q < n_queries) {
            float *partial = a.partial + ((unit * n_queries + q) * a.chunks + chunk) * 2;
            partial[0] = maxima[j];
            partial[1] = sums[j];
        }
    }
}

/* Between the passes: one warp for a query. */
static __device__ void combine_maxima(const cuda_score_args &a)
{
    const int64_t query = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (query >= a.units * a.group * a.recent)
        return;
    const float *partial = a.partial + query * a.chunks * 2;
    float highest = -INFINITY, sum = 0;
    ONE_AT_A_TIME
    for (int c = lane_id(); c < a.chunks; c += 32)
        highest = larger(highest, partial[2 * c]);
    for (int step = 16; step > 0; step /= 2)
        highest = larger(highest, __shfl_xor_sync(EVERY_LANE, highest, step));
    ONE_AT_A_TIME
    for (int c = lane_id(); c < a.chunks; c += 32)
        sum += partial[2 * c + 1] * vec_exp2(partial[2 * c] - highest);
    for (int step = 16; step > 0; step /= 2)
        sum += __shfl_xor_sync(EVERY_LANE, sum, step);
    if (lane_id() == 0) {
        a.totals[2 * query] = highest;
        a.totals[2 * query + 1] = 1 / sum;
    }
}

/* Second pass: one block for a tile of keys and all queries of a unit. */
static __device__ void add_weights(const cuda_score_args &a)
{
    __shared__ float columns[SIDE][CUDA_TILE];
    const int n_queries = a.group * a.recent, tiles = (a.n + CUDA_TILE - 1) / CUDA_TILE;
    const int first = blockIdx.x % tiles * CUDA_TILE, across = threadIdx.x % SIDE, down = threadIdx.x / SIDE;
    const int64_t unit = blockIdx.x / tiles;
    float weights[EACH] = {0}, products[EACH][EACH];

    for (int tile = 0; tile < a.query_tiles; tile++) {
        multiply_tile(a, unit, first, tile * CUDA_TILE, products);
        for (int j = 0; j < EACH; j++) {
            const int q = tile * CUDA_TILE + down + SIDE * j;
            if (q >= n_queries)
                continue;
            const float *total = a.totals + (unit * n_queries + q) * 2;
            for (int i = 0; i < EACH; i++)
                weights[i] = fmaf(vec_exp2(products[i][j] - total[0]), total[1], weights[i]);
        }
    }
    for (int i = 0; i < EACH; i++)
        columns[down][across + SIDE * i] = weights[i];
    __syncthreads();
    const int t = first + threadIdx.x;
    if (threadIdx.x < CUDA_TILE && t < a.n) {
        float sum = 0;
        for (int i = 0; i < SIDE; i++)
            sum += columns[i][threadIdx.x];
        a.sums[unit * a.n + t] = sum;
    }
}

/* The mean over heads and queries, and then over neighbours; in the CPU's order of additions. */
static __device__ void smooth(const cuda_smooth_args &a)
{
    const int64_t item = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (item >= a.rows * a.n)
        return;
    const int t = (int)(item % a.n), from = most(t - a.reach, 0), to = least(t + a.reach, a.n - 1);
    const float *sums = a.sums + item / a.n * a.heads * a.n;
    float score = 0;
    ONE_AT_A_TIME
    for (int i = from; i <= to; i++) {
        float mean = sums[i];
        ONE_AT_A_TIME
        for (int head = 1; head < a.heads; head++)
            mean += sums[(int64_t)head * a.n + i];
        score += mean * a.head_share;
    }
    a.scores[item] = score * a.position_share;
}

#endif
