/* The end of a row's history, and how it repeats itself: what lz/tokens.h, match.h and distinct.h are on the CPU, with a
 * block of threads for each row. Positions count backwards: recent[0] is the newest token. */
#ifndef LZPENALTY_CUDA_HISTORY_CUH
#define LZPENALTY_CUDA_HISTORY_CUH

#include "block.cuh"

/* The id `back` tokens before the newest. */
static __device__ int64_t id_at(const cuda_tokens &t, int64_t row, int back)
{
    return load_id(t.data, t.is_int64, row * t.row_stride + (int64_t)(t.length - 1 - back) * t.column_stride);
}

/* Where a row's tokens that count begin. The host can't have looked at starts that are on the device. */
static __device__ int start_of(const cuda_tokens &t, int64_t row)
{
    const int64_t start = t.starts ? load_id(t.starts, t.starts_are_int64, row * t.starts_stride) : t.start;
    return (int)least(most(start, (int64_t)0), (int64_t)t.length);
}

/* Copies up to `context` of the row's newest tokens from position `begin` on; returns how many. Ids beyond 32 bits get
 * codes, as on the CPU. */
static __device__ int read_since(const cuda_tokens &t, int64_t row, int begin, int context, int *recent)
{
    const int n = least(t.length - begin, context);
    int wide = 0;
    FOR_EACH (i, n) {
        int64_t id = id_at(t, row, i);
        recent[i] = (int)id;
        wide |= recent[i] != id;
    }
    if (__syncthreads_or(wide)) {
        FOR_EACH (i, n) {
            int64_t id = id_at(t, row, i);
            int first = 0;
            if (id >= 0 && id <= INT_MAX)
                continue;
            ONE_AT_A_TIME
            while (id_at(t, row, first) != id)
                first++;
            recent[i] = -1 - first;
        }
        __syncthreads();
    }
    return n;
}

/* The same of those that count. */
static __device__ int read_recent(const cuda_tokens &t, int64_t row, int context, int *recent)
{
    return read_since(t, row, start_of(t, row), context, recent);
}

/* Length, at most `longest`, of the match at a distance. */
static __device__ int match_length(const int *recent, int distance, int longest)
{
    int length = 0;
    while (length < longest && recent[length] == recent[length + distance])
        length++;
    return length;
}

/* A hash table with linear probing: of the positions that hold the same key, the one that came first, whichever that is,
 * stands for all. Positions fit 16 bits, since the tokens themselves fit shared memory. */
static const unsigned short no_position = 0xffff;

/* Twice as many slots as entries; `hash` is spread over all its bits. */
static __device__ unsigned slot_of(unsigned hash, unsigned size)
{
    return __umulhi(hash, size);
}

/* Looks for the key of position k, and puts k there if it is new. Returns the position that stands for it. */
template <typename same_key>
static __device__ int enter(unsigned short *table, unsigned size, unsigned hash, int k, same_key same)
{
    unsigned slot = slot_of(hash, size);
    for (;;) {
        /* Most find their key there: a plain look spares the queue at the slot of a token that a loop is made of. */
        unsigned short there = *(volatile unsigned short *)&table[slot];
        if (there == no_position)
            there = atomicCAS(&table[slot], no_position, (unsigned short)k);
        if (there == no_position)
            return k;
        if (same(there, k))
            return there;
        slot = slot + 1 < size ? slot + 1 : 0;
    }
}

static __device__ unsigned token_hash(int token)
{
    return (unsigned)token * 0x9e3779b1u;
}

static __device__ int enter_token(unsigned short *table, unsigned size, const int *recent, int k)
{
    return enter(table, size, token_hash(recent[k]), k, [recent](int a, int b) { return recent[a] == recent[b]; });
}

/* Lowers *cell. Looking first spares the queue of a token that a loop is made of. */
static __device__ void lower_cell(unsigned *cell, unsigned value)
{
    if (value < *(volatile unsigned *)cell)
        atomicMin(cell, value);
}

static __device__ void raise_cell(unsigned *cell, unsigned value)
{
    if (value > *(volatile unsigned *)cell)
        atomicMax(cell, value);
}

/* One read, one sum and one write of the logit of a token that pays and gains so many nats; as on the CPU in double
 * precision where it gains. Ids outside the vocabulary have none. */
static __device__ void change_logit(const cuda_logits &l, int64_t row, int token, float paid, float gained)
{
    if ((unsigned)token >= (unsigned)l.vocab)
        return;
    const int64_t i = row * l.row_stride + token * l.column_stride;
    const double change = (double)gained - (double)paid;
    if (l.dtype == FLOAT64) {
        ((double *)l.data)[i] += change;
        return;
    }
    const float old = load_number(l.data, l.dtype, i);
    store_number(l.data, l.dtype, i, gained > 0 ? (float)(old + change) : old - paid);
}

#endif
