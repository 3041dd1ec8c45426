/* The LZ penalty on the device: one block a row, the window in shared memory. The formulas are those of lz/codelength.h and
 * lz/penalty.h, with the same roundings in the same order, so that results agree bit for bit with the CPU's.
 *
 * Every token of the window is stood for by one position (history.cuh), which collects the token's bits from all others; at
 * the end that position's thread does the one write. */
#ifndef LZPENALTY_CUDA_LZ_CUH
#define LZPENALTY_CUDA_LZ_CUH

#include "../lz/lz.h"
#include "history.cuh"

/* How many of the last `horizon` tokens end a 4-gram that also ended at most `window` tokens earlier.
 *
 * Oldest first, as many positions at once as are surely within a window of each other. latest[] holds, for the position
 * that stands for a 4-gram, where it was last seen before; while a group is looked at, where it first stands in the group.
 */
static __device__ int count_repeated(const cuda_lz_args &a, const int *recent, int n)
{
    __shared__ int repeated;
    const unsigned never = UINT_MAX;
    unsigned short *grams = (unsigned short *)(SHARED_MEMORY + a.grams);
    unsigned *latest = (unsigned *)(SHARED_MEMORY + a.latest);
    const int first = (int)least((int64_t)n - 4, (int64_t)a.horizon - 1 + a.window);
    const int group = least((int)blockDim.x, a.window);

    if (threadIdx.x == 0)
        repeated = 0;
    FOR_EACH (i, a.grams_size)
        grams[i] = nobody;
    FOR_EACH (i, first + 1)
        latest[i] = never;
    __syncthreads();
    ONE_AT_A_TIME
    for (int oldest = first; oldest >= 0; oldest -= group) {
        const int i = oldest - (int)threadIdx.x;
        const bool active = (int)threadIdx.x < group && i >= 0;
        unsigned *seen = latest, before = never;
        if (active) {
            uint64_t hash = 0;
            for (int k = 0; k < 4; k++)
                hash = (hash ^ (uint32_t)recent[i + k]) * 0x9e3779b97f4a7c15u;
            seen += enter(grams, a.grams_size, (unsigned)(hash >> 32), i, [recent](int x, int y) {
                return recent[x] == recent[y] && recent[x + 1] == recent[y + 1] && recent[x + 2] == recent[y + 2] &&
                       recent[x + 3] == recent[y + 3];
            });
            before = *seen;
        }
        __syncthreads();
        if (active)
            *seen = 0;
        __syncthreads();
        if (active)
            atomicMax(seen, (unsigned)i);
        __syncthreads();
        if (active && i < a.horizon && (*seen > (unsigned)i || (before != never && before - i <= (unsigned)a.window)))
            atomicAdd(&repeated, 1);
        __syncthreads();
        if (active)
            atomicMin(seen, (unsigned)i);
        __syncthreads();
    }
    const int result = repeated;
    __syncthreads(); /* the memory is used for other things next */
    return result;
}

/* Length of the match at `distance`, of which `known` tokens are known, at most the window: read from the row itself, of
 * which shared memory may hold less. */
static __device__ int loop_length(const cuda_lz_args &a, int64_t row, int distance, int known)
{
    __shared__ int end;
    const int limit = least(a.window, counting(a.tokens, row) - distance);
    if (threadIdx.x == 0)
        end = limit;
    __syncthreads();
    ONE_AT_A_TIME
    for (int from = known; from < limit; from += blockDim.x) {
        const int i = from + threadIdx.x;
        const int differ = i < limit && id_at(a.tokens, row, i) != id_at(a.tokens, row, i + distance);
        if (differ)
            atomicMin(&end, i);
        if (__syncthreads_or(differ))
            break;
    }
    return end;
}

static __device__ void penalize_row(const cuda_lz_args &a, const cuda_ids *neutral)
{
    __shared__ unsigned longest; /* length and nearness of the open match */
    __shared__ unsigned long long total;
    const int64_t row = blockIdx.x;
    int *recent = (int *)SHARED_MEMORY;
    unsigned short *table = (unsigned short *)(SHARED_MEMORY + a.table);
    unsigned short *owner = (unsigned short *)(SHARED_MEMORY + a.owner);
    unsigned short *lengths = (unsigned short *)(SHARED_MEMORY + a.lengths);
    unsigned *best = (unsigned *)(SHARED_MEMORY + a.best);
    unsigned *tally = (unsigned *)(SHARED_MEMORY + a.tally);
    const unsigned none = UINT_MAX;

    const int n = read_recent(a.tokens, row, a.context, recent), window = least(n, a.window);
    if (window == 0)
        return;
    float strength = a.strength;
    if (a.horizon > 0) {
        strength = 2 * strength * ((float)count_repeated(a, recent, n) / (float)a.horizon);
        if (strength == 0)
            return;
    }

    const bool tallied = a.min_count > 1 || a.cost == LZ_DISTANCE;
    if (threadIdx.x == 0) {
        longest = 0;
        total = 0;
    }
    FOR_EACH (i, a.table_size)
        table[i] = nobody;
    FOR_EACH (k, window) {
        best[k] = none;
        if (tallied)
            tally[k] = 0;
    }
    __syncthreads();

    unsigned mine = 0;
    FOR_EACH (k, window) {
        const int d = k + 1, length = match_length(recent, d, least(a.buffer, n - d));
        owner[k] = (unsigned short)enter_token(table, a.table_size, recent, k);
        lengths[k] = (unsigned short)length;
        if (length > 0)
            mine = most(mine, (unsigned)length << 16 | (0xffffu - d));
    }
    mine = warp_max(mine);
    if (lane_id() == 0)
        atomicMax(&longest, mine);
    __syncthreads();
    const int open_length = longest >> 16, open_distance = 0xffff - (longest & 0xffff);

    /* Bits are never negative, so they are ordered like the whole numbers that spell them. */
    if (a.cost == LZ_DISTANCE) {
        FOR_EACH (k, window)
            if (lengths[k] >= a.min_match - 1)
                raise_cell(&tally[owner[k]], lengths[k]);
        __syncthreads();
    }
    FOR_EACH (k, window) {
        const int d = k + 1, length = lengths[k];
        float bits = a.log2[d];
        if (length < a.min_match - 1 || (a.cost == LZ_DISTANCE && (unsigned)length < tally[owner[k]]))
            continue;
        if (a.cost == LZ_PAIR)
            bits = (bits + a.log2[length + 1]) / (float)(length + 1);
        if (a.cost == LZ_LZSS && length > 0 && length == open_length) {
            float prolonging = (bits - a.log2[open_distance]) + (a.log2[open_length + 1] - a.log2[open_length]);
            bits = least(bits, prolonging > 0 ? prolonging : 0);
        }
        lower_cell(&best[owner[k]], float_bits(bits));
    }
    __syncthreads();
    if (a.min_count > 1) {
        if (a.cost == LZ_DISTANCE) {
            FOR_EACH (k, window)
                tally[k] = 0;
            __syncthreads();
        }
        FOR_EACH (k, window)
            if (lengths[k] >= a.min_match - 1)
                atomicAdd(&tally[owner[k]], 1u);
        __syncthreads();
    }

    /* From here on best[] holds penalties, in bits. */
    FOR_EACH (k, window) {
        if (owner[k] != k)
            continue;
        bool charged = best[k] != none && (a.min_count == 1 || tally[k] >= (unsigned)a.min_count) &&
                       (unsigned)recent[k] < (unsigned)a.logits.vocab;
        best[k] = float_bits(charged ? a.literal - least(bits_float(best[k]), a.literal) : 0);
    }
    __syncthreads();
    float mean = 0;
    if (neutral) { /* in fixed point, so that no order of summation matters */
        const double unit = 1 << 24;
        long long sum = 0;
        FOR_EACH (k, window)
            sum += (long long)((double)bits_float(best[owner[k]]) * unit);
        sum = warp_sum(sum);
        if (lane_id() == 0)
            atomicAdd(&total, (unsigned long long)sum);
        __syncthreads();
        mean = (float)((double)(long long)total / unit / window);
    }
    if (a.escalation > 0 && open_length > 0) {
        const int turn = most(a.buffer, open_distance), length = loop_length(a, row, open_distance, open_length);
        if (threadIdx.x == 0 && length > turn) {
            unsigned *gain = &best[owner[open_distance - 1]];
            *gain = float_bits(bits_float(*gain) + a.escalation * a.literal * ((float)length / (float)turn - 1));
        }
        __syncthreads();
    }
    if (neutral) {
        FOR_EACH (i, neutral->n) {
            const int id = neutral->id[i], k = find_token(table, a.table_size, recent, id);
            if (k >= 0)
                best[k] = float_bits(mean);
            else
                lower_logit(a.logits, row, id, strength * mean);
        }
        __syncthreads();
    }
    FOR_EACH (k, window)
        if (owner[k] == k && best[k] != 0)
            lower_logit(a.logits, row, recent[k], strength * bits_float(best[k]));
}

#endif
