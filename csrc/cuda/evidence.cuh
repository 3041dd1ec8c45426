/* How long a string of the recent text stands for the third time, on the device: as lz/evidence.h has it. */
#ifndef LZPENALTY_CUDA_EVIDENCE_CUH
#define LZPENALTY_CUDA_EVIDENCE_CUH

#include "../lz/lz.h"
#include "history.cuh"

static __device__ int enter_gram(unsigned short *table, unsigned table_size, const int *recent, int i, int size)
{
    uint64_t hash = 0;
    for (int k = 0; k < size; k++)
        hash = (hash ^ (uint32_t)recent[i + k]) * 0x9e3779b97f4a7c15u;
    return enter(table, table_size, (unsigned)(hash >> 32), i, [recent, size](int x, int y) {
        for (int k = 0; k < size; k++)
            if (recent[x + k] != recent[y + k])
                return false;
        return true;
    });
}

struct circling {
    int length, steps;
};

/* The runs of ones among n bits, highest first: the longest, and the position + 1 of the first bit with which a run is
 * `wanted` long. By one thread; words without a mixture, as most are, are read at once. */
static __device__ circling read_runs(const unsigned *words, int n, int wanted)
{
    int run = 0, longest = 0, steps = 0;
    wanted = most(wanted, 1);
    ONE_AT_A_TIME
    for (int w = (n - 1) / 32; w >= 0; w--) {
        const unsigned word = words[w];
        if (word == 0) {
            run = 0;
        } else if (word == UINT_MAX) {
            if (steps == 0 && run + 32 >= wanted)
                steps = 32 * w + 33 - most(wanted - run, 1);
            run += 32;
        } else {
            ONE_AT_A_TIME
            for (int bit = 31; bit >= 0; bit--) {
                run = word >> bit & 1 ? run + 1 : 0;
                longest = most(longest, run);
                if (run >= wanted && steps == 0)
                    steps = 32 * w + bit + 1;
            }
        }
        longest = most(longest, run);
    }
    return {longest, steps};
}

/* A gram stands for the third time if it is neither the oldest nor the second oldest of its kind. */
static __device__ circling find_circling(const cuda_grams &g, const int *recent, int n, int size, int wanted)
{
    __shared__ circling found;
    unsigned short *table = (unsigned short *)(SHARED_MEMORY + g.table);
    unsigned short *owner = (unsigned short *)(SHARED_MEMORY + g.owner);
    unsigned *oldest = (unsigned *)(SHARED_MEMORY + g.cells), *words = (unsigned *)(SHARED_MEMORY + g.words);
    const int grams = n - size + 1;

    if (grams < 3)
        return {0, 0};
    FOR_EACH (i, g.table_size)
        table[i] = no_position;
    FOR_EACH (i, grams)
        oldest[i] = 0;
    __syncthreads();
    FOR_EACH (i, grams) {
        const int k = enter_gram(table, g.table_size, recent, i, size);
        owner[i] = (unsigned short)k;
        raise_cell(&oldest[k], i + 1);
    }
    __syncthreads();
    FOR_EACH_OF_WARP(i, grams)
    {
        const unsigned first = __ballot_sync(EVERY_LANE, i < grams && oldest[owner[i]] == (unsigned)i + 1);
        if (lane_id() == 0)
            words[i / 32] = first;
    }
    __syncthreads();
    FOR_EACH (i, grams)
        oldest[i] = 0; /* of the others, from here on */
    __syncthreads();
    FOR_EACH (i, grams)
        if (!(words[i / 32] >> i % 32 & 1))
            raise_cell(&oldest[owner[i]], i + 1);
    __syncthreads();
    FOR_EACH_OF_WARP(i, grams)
    {
        const bool third = i < grams && !(words[i / 32] >> i % 32 & 1) && (unsigned)i + 1 < oldest[owner[i]];
        const unsigned thirds = __ballot_sync(EVERY_LANE, third);
        if (lane_id() == 0)
            words[i / 32] = thirds;
    }
    __syncthreads();
    if (threadIdx.x == 0)
        found = read_runs(words, grams, wanted - size + 1);
    __syncthreads();
    circling result = found;
    result.length += result.length > 0 ? size - 1 : 0;
    __syncthreads(); /* the memory is used for other things next */
    return result;
}

static __device__ void evidence_row(const cuda_evidence_args &a)
{
    int *recent = (int *)SHARED_MEMORY;
    const int n = read_recent(a.tokens, blockIdx.x, a.window, recent);
    const circling found = find_circling(a.grams, recent, n, a.gram, 1);
    if (threadIdx.x == 0)
        a.lengths[blockIdx.x] = found.length;
}

#endif
