/* The LZ penalty on the device: one block a row, the window in shared memory. The formulas are those of lz/codelength.h and
 * lz/penalty.h, with the same roundings in the same order, so that results agree bit for bit with the CPU's.
 *
 * Every token of the window is stood for by one position (history.cuh), which collects the token's bits from all others; at
 * the end that position's thread does the one write. */
#ifndef LZPENALTY_CUDA_LZ_CUH
#define LZPENALTY_CUDA_LZ_CUH

#include "../lz/bits.h"
#include "evidence.cuh"
#include "marks.cuh"

/* What is due of each mark in this row, -1 where it is another's, too; and how many nats it gains, 0 if nothing does. */
struct cuda_release {
    int due[LZ_MOST_MARKS];
    float nats;
};

/* Which of the n tokens of shared memory stands for all that hold the same, and how long their matches are: in owner[] and
 * lengths[]. Returns the length and the nearness of the open match. */
static __device__ unsigned find_matches(const cuda_lz_args &a, int n, int window)
{
    __shared__ unsigned longest;
    const int *recent = (const int *)SHARED_MEMORY;
    unsigned short *table = (unsigned short *)(SHARED_MEMORY + a.table);
    unsigned short *owner = (unsigned short *)(SHARED_MEMORY + a.owner);
    unsigned short *lengths = (unsigned short *)(SHARED_MEMORY + a.lengths);
    unsigned mine = 0;
    if (threadIdx.x == 0)
        longest = 0;
    FOR_EACH (i, a.table_size)
        table[i] = no_position;
    __syncthreads();
    FOR_EACH (k, window) {
        const int d = k + 1, length = match_length(recent, d, least(a.options.buffer, n - d));
        owner[k] = (unsigned short)enter_token(table, a.table_size, recent, k);
        lengths[k] = (unsigned short)length;
        if (length > 0)
            mine = most(mine, (unsigned)length << 16 | (0xffffu - d));
    }
    mine = warp_max(mine);
    if (lane_id() == 0)
        atomicMax(&longest, mine);
    __syncthreads();
    return longest;
}

/* best[] gets the bits of the tokens of the window, at the positions that stand for them; UINT_MAX where they are absent.
 * Bits are never negative, so they are ordered like the whole numbers that spell them. */
static __device__ void find_bits(const cuda_lz_args &a, unsigned open, int window)
{
    const unsigned short *owner = (const unsigned short *)(SHARED_MEMORY + a.owner);
    const unsigned short *lengths = (const unsigned short *)(SHARED_MEMORY + a.lengths);
    unsigned *best = (unsigned *)(SHARED_MEMORY + a.best), *longest = (unsigned *)(SHARED_MEMORY + a.longest);
    const int open_length = open >> 16, open_distance = 0xffff - (open & 0xffff), cost = a.options.cost;

    FOR_EACH (k, window) {
        best[k] = UINT_MAX;
        if (cost == LZ_DISTANCE)
            longest[k] = 0;
    }
    __syncthreads();
    if (cost == LZ_DISTANCE) {
        FOR_EACH (k, window)
            if (lengths[k] >= a.options.min_match - 1)
                raise_cell(&longest[owner[k]], lengths[k]);
        __syncthreads();
    }
    FOR_EACH (k, window) {
        const int d = k + 1, length = lengths[k];
        float bits = a.log2[d];
        if (length < a.options.min_match - 1 || (cost == LZ_DISTANCE && (unsigned)length < longest[owner[k]]))
            continue;
        if (cost == LZ_PAIR)
            bits = pair_bits(d, length, a.log2);
        if (cost == LZ_LZSS && length > 0 && length == open_length)
            bits = least(bits, prolonging_bits(open_length, open_distance, d, a.log2));
        lower_cell(&best[owner[k]], float_bits(bits));
    }
    __syncthreads();
}

/* What a token gains: nothing, unless it is due, and then is no longer. */
static __device__ float take_due(cuda_release &release, int n, int token)
{
    if (release.nats <= 0)
        return 0;
    for (int m = 0; m < n; m++)
        if (release.due[m] == token) {
            release.due[m] = -1;
            return release.nats;
        }
    return 0;
}

/* Charges the tokens of the window, of which `n` are in shared memory with those before it. */
static __device__ void charge_row(const cuda_lz_args &a, int64_t row, int n, float strength, cuda_release &release)
{
    const int *recent = (const int *)SHARED_MEMORY;
    const unsigned short *owner = (const unsigned short *)(SHARED_MEMORY + a.owner);
    const unsigned *best = (const unsigned *)(SHARED_MEMORY + a.best);
    const int window = least(n, a.window);
    find_bits(a, find_matches(a, n, window), window);
    FOR_EACH (k, window) {
        if (owner[k] != k || best[k] == UINT_MAX)
            continue;
        const float bits = a.literal - least(bits_float(best[k]), a.literal);
        if (bits != 0)
            change_logit(a.logits, row, recent[k], strength * bits, take_due(release, a.options.release.n, recent[k]));
    }
}

/* Fills in what is due `steps` tokens after the section began to circle. */
static __device__ void find_due(const cuda_lz_args &a, int n, int steps, cuda_release &release)
{
    const int *recent = (const int *)SHARED_MEMORY;
    const lz_marks &marks = a.options.release;
    const int me = threadIdx.x;
    if (me == 0)
        release.nats = steps > 0 ? release_nats(&a.options, steps) : 0;
    if (me < marks.n)
        release.due[me] = due_id(&marks.mark[me], recent, n);
    __syncthreads();
    bool again = false;
    for (int earlier = 0; me < marks.n && earlier < me; earlier++)
        again |= release.due[earlier] == release.due[me];
    __syncthreads();
    if (again)
        release.due[me] = -1;
    __syncthreads();
}

static __device__ void penalize_row(const cuda_lz_args &a)
{
    __shared__ cuda_release release;
    const lz_penalty &p = a.options;
    const int64_t row = blockIdx.x;
    int *recent = (int *)SHARED_MEMORY;
    const row_text text = {a.tokens, row};
    const int start = start_of(a.tokens, row);
    if (start == a.tokens.length || is_skipped(&p, text, a.tokens.length))
        return;
    const lz_section section = last_section(&p, text, start, a.tokens.length);
    const int n = read_since(a.tokens, row, (int)section.begin, a.context, recent);
    __syncthreads(); /* lz/penalty.h, step for step, from here on */
    const int window = least(n, a.window);
    if (window == 0)
        return;
    if (threadIdx.x == 0)
        release.nats = 0;
    float strength = p.strength;
    const lz_range gate = gate_of(&p, section.is_open);
    if (gate.to > 0 || section.is_open) {
        const circling found = find_circling(a.grams, recent, window, LZ_GRAM, section.is_open ? p.release_after : 1);
        if (gate.to > 0)
            strength *= gate_share(gate, found.length);
        if (section.is_open)
            find_due(a, n, found.steps, release);
    }
    __syncthreads();
    if (strength != 0)
        charge_row(a, row, n, strength, release);
    __syncthreads(); /* what is due and paid has been written */
    if (release.nats > 0 && threadIdx.x < p.release.n && release.due[threadIdx.x] >= 0)
        change_logit(a.logits, row, release.due[threadIdx.x], 0, release.nats);
}

#endif
