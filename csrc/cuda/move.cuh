/* Moving keys and values on the device: compaction in place, appending, and gathering from blocks. Rows are moved in units
 * of 16, 4 or 2 bytes, the largest that all addresses are multiples of. */
#ifndef LZPENALTY_CUDA_MOVE_CUH
#define LZPENALTY_CUDA_MOVE_CUH

#include "block.cuh"

struct __align__(16) unit16 {
    uint32_t words[4];
};

static __device__ int64_t token_at(const cuda_rows &rows, int64_t batch, int64_t head, int64_t token)
{
    return batch * rows.batch_stride + head * rows.head_stride + token * rows.token_stride;
}

/* The same of a request in blocks, if there is a table. Its ids can't have been looked at either. */
static __device__ int64_t token_at(const cuda_rows &rows, const cuda_table *table, int64_t batch, int64_t head,
                                   int64_t token)
{
    if (!table)
        return token_at(rows, batch, head, token);
    const int64_t block = load_id(table->ids, table->is_int64, (int)token / table->tokens * table->stride);
    return token_at(rows, least(most(block, (int64_t)0), (int64_t)table->blocks - 1), head, (int)token % table->tokens);
}

/* One block moves a slice of the rows of one head's keys or values, a group of tokens at a time. Tokens only move down and
 * keep their order, so a group overwrites no token of a later one; within the group, all are read before any is written.
 *
 * The host can't have looked at the positions: whatever they are, nothing outside of the region is read and nothing outside
 * of [start, start + moved) written. */
template <typename unit> static __device__ void compact(const cuda_compact_args &a, const cuda_table *table)
{
    const int64_t of_keys = a.units * a.arrays[0].slices;
    const int which = blockIdx.x >= of_keys;
    const cuda_rows &rows = a.arrays[which];
    const int64_t block = blockIdx.x - which * of_keys;
    const int slice = (int)(block % rows.slices);
    const int64_t batch = block / rows.slices / a.heads, head = block / rows.slices % a.heads;
    const int width = CUDA_MOVE_SLICE / (int)sizeof(unit), tokens = blockDim.x / width;
    const int column = slice * width + threadIdx.x % width, own = threadIdx.x / width;
    const int64_t *positions = a.positions + batch * a.position_batch_stride + head * a.position_head_stride;
    unit *data = (unit *)rows.data, held[CUDA_MOVE_HELD];

    ONE_AT_A_TIME
    for (int first = 0; first < a.moved; first += tokens * CUDA_MOVE_HELD) {
        for (int i = 0; i < CUDA_MOVE_HELD; i++) {
            const int to = first + i * tokens + own;
            if (to >= a.moved || column >= rows.units)
                continue;
            int64_t from = a.region + to - a.kept;
            if (to < a.kept)
                from = least(most(positions[to], (int64_t)0), (int64_t)a.region - 1);
            held[i] = data[token_at(rows, table, batch, head, a.start + from) + column];
        }
        __syncthreads();
        for (int i = 0; i < CUDA_MOVE_HELD; i++) {
            const int to = first + i * tokens + own;
            if (to < a.moved && column < rows.units)
                data[token_at(rows, table, batch, head, a.start + to) + column] = held[i];
        }
    }
}

/* The first half of the grid for the keys, the second for the values. */
template <typename unit> static __device__ void append(const cuda_append_args &a)
{
    const int half = gridDim.x / 2, which = (int)blockIdx.x >= half;
    const cuda_rows &to = a.to[which], &from = a.from[which];
    const int64_t step = (int64_t)half * blockDim.x;
    ONE_AT_A_TIME
    for (int64_t i = (int64_t)(blockIdx.x - which * half) * blockDim.x + threadIdx.x; i < a.items[which]; i += step) {
        const int64_t column = i % to.units, token = i / to.units % a.tokens, row = i / to.units / a.tokens;
        const int64_t batch = row / a.heads, head = row % a.heads;
        ((unit *)to.data)[token_at(to, batch, head, a.position + token) + column] =
            ((const unit *)from.data)[token_at(from, batch, head, token) + column];
    }
}

template <typename unit> static __device__ void gather(const cuda_gather_args &a, const cuda_table *table)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    ONE_AT_A_TIME
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < a.items; i += step) {
        const int64_t column = i % a.to.units, token = i / a.to.units % a.tokens, head = i / a.to.units / a.tokens;
        ((unit *)a.to.data)[token_at(a.to, 0, head, token) + column] =
            ((const unit *)a.from.data)[token_at(a.from, table, 0, head, a.start + token) + column];
    }
}

#endif
