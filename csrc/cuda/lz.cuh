/* The LZ penalty on the device: one block a row, the window in shared memory. The formulas are those of lz/codelength.h and
 * lz/penalty.h, with the same roundings in the same order, so that results agree bit for bit with the CPU's.
 *
 * Every token of the window is stood for by one position (history.cuh), which collects the token's bits from all others; at
 * the end that position's thread does the one write. */
#ifndef LZPENALTY_CUDA_LZ_CUH
#define LZPENALTY_CUDA_LZ_CUH

#include "evidence.cuh"
#include "marks.cuh"

/* Length of the match at `distance`, of which `known` tokens are known, at most the window: read from the row itself, whose
 * last n tokens count, and of which shared memory may hold less. */
static __device__ int loop_length(const cuda_lz_args &a, int64_t row, int n, int distance, int known)
{
    __shared__ int end;
    const int limit = least(a.window, n - distance);
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

/* `total` tokens count; the last n of them are in shared memory. */
static __device__ void charge_row(const cuda_lz_args &a, const cuda_ids *list, int64_t row, int total, int n, float strength)
{
    __shared__ unsigned longest; /* length and nearness of the open match */
    __shared__ unsigned long long sums;
    int *recent = (int *)SHARED_MEMORY;
    unsigned short *table = (unsigned short *)(SHARED_MEMORY + a.table);
    unsigned short *owner = (unsigned short *)(SHARED_MEMORY + a.owner);
    unsigned short *lengths = (unsigned short *)(SHARED_MEMORY + a.lengths);
    unsigned *best = (unsigned *)(SHARED_MEMORY + a.best);
    unsigned *tally = (unsigned *)(SHARED_MEMORY + a.tally);
    const unsigned none = UINT_MAX;
    const int window = least(n, a.window), n_neutral = list ? a.n_neutral : 0;

    const bool tallied = a.min_count > 1 || a.cost == LZ_DISTANCE;
    if (threadIdx.x == 0) {
        longest = 0;
        sums = 0;
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
    if (n_neutral > 0) { /* in fixed point, so that no order of summation matters */
        const double unit = 1 << 24;
        long long sum = 0;
        FOR_EACH (k, window)
            sum += (long long)((double)bits_float(best[owner[k]]) * unit);
        sum = warp_sum(sum);
        if (lane_id() == 0)
            atomicAdd(&sums, (unsigned long long)sum);
        __syncthreads();
        mean = (float)((double)(long long)sums / unit / window);
    }
    if (a.escalation > 0 && open_length > 0) {
        const int turn = most(a.buffer, open_distance), length = loop_length(a, row, total, open_distance, open_length);
        if (threadIdx.x == 0 && length > turn) {
            unsigned *gain = &best[owner[open_distance - 1]];
            *gain = float_bits(bits_float(*gain) + a.escalation * a.literal * ((float)length / (float)turn - 1));
        }
        __syncthreads();
    }
    if (n_neutral > 0) {
        FOR_EACH (i, n_neutral) {
            const int id = list->id[i], k = find_token(table, a.table_size, recent, id);
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

static __device__ void release_row(const cuda_lz_args &a, const cuda_ids *list, int64_t row, int n, int steps)
{
    __shared__ int due[LZ_MOST_MARKS];
    const int *recent = (const int *)SHARED_MEMORY;
    const int me = threadIdx.x;
    if (steps == 0 || newest_mark(a.release, list, recent, n, steps) < steps)
        return;
    int m = 0;
    FOR_EACH_MARK(at, size, a.release, list)
    if (m++ == me)
        due[me] = due_id(list, at, size, a.logits.vocab, recent, n);
    __syncthreads(); /* the penalty has been written, too */
    if (me >= a.release.n || due[me] < 0)
        return;
    for (int earlier = 0; earlier < me; earlier++)
        if (due[earlier] == due[me])
            return;
    lower_logit(a.logits, row, due[me], -least(LZ_MOST_RELEASE, a.release_rate * (float)steps));
}

static __device__ void penalize_row(const cuda_lz_args &a, const cuda_ids *list)
{
    const int64_t row = blockIdx.x;
    int *recent = (int *)SHARED_MEMORY;
    if (list && a.until.n > 0 && holds_mark(a.until, list, a.tokens, row))
        return;
    int n = read_recent(a.tokens, row, a.context, recent), total = counting(a.tokens, row);
    __syncthreads(); /* lz/penalty.h, step for step, from here on */
    if (list && a.reset.n > 0) {
        const int newest = newest_mark(a.reset, list, recent, n, n);
        total = newest < n ? newest : total;
        n = newest;
    }
    const int window = least(n, a.window);
    if (window == 0)
        return;
    circling found = {0, 0};
    if (a.gate_to > 0 || a.release.n > 0)
        found = find_circling(a.grams, recent, window, LZ_GRAM, a.release_after);
    float strength = a.strength;
    if (a.horizon > 0)
        strength = 2 * strength * ((float)count_repeated(a.grams, recent, n, a.window, a.horizon) / (float)a.horizon);
    if (a.gate_to > 0) {
        const float share = ((float)found.length - a.gate_from) / (a.gate_to - a.gate_from);
        strength *= share < 0 ? 0 : share > 1 ? 1 : share;
    }
    if (strength != 0)
        charge_row(a, list, row, total, n, strength);
    if (list && a.release.n > 0)
        release_row(a, list, row, n, found.steps);
}

#endif
