/* Cache selection: which keys and values of a generated text do its latest queries still look at?
 *
 * Reasoning Path Compression (arXiv 2505.13866): score.c and score.h compute how much attention the last R queries pay to
 * each position of a region, select.c picks the k best, compact.c moves their keys and values together, in place. All arrays
 * are [batch, heads, tokens, size] with a contiguous last dimension; other strides are in elements. */
#ifndef LZPENALTY_CACHE_CACHE_H
#define LZPENALTY_CACHE_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "../cpu/dtype.h"
#include "../cpu/level.h"

typedef struct {
    void *data;
    float_dtype dtype;
    int64_t batch, heads, tokens, size;
    int64_t batch_stride, head_stride, token_stride;
} cache_array;

/* Attention of queries [B, Hq, R, D] to keys [B, Hkv, s, D] at [start, stop); Hq is a multiple of Hkv. */
typedef struct {
    cache_array queries, keys;
    int64_t start, stop;
    float scale;
    int64_t width; /* positions that the scores are averaged over, odd */
    int by_group;  /* scores for each key head, instead of one row for all */
    float *scores; /* [B, 1 or Hkv, stop - start] */
    int threads;
} cache_attention;

/* Exponentials are powers of two, on all devices: products are scaled with this as well. */
#define CACHE_LOG2E 1.44269504089f

/* Where the entries of one key head of one row lie, and which of them are looked at: [first, length), and by query i of q
 * only those before length - q + 1 + i. */
typedef struct {
    int64_t key, value; /* the entry 0, in numbers from the start of keys and of values */
    int64_t first, length;
} cache_span;

/* The attention of new tokens to a cache, out[h, i] = softmax over t of scale * <q[h, i], k[h / G, t]>, times v[h / G, t]. A
 * query that sees no entry gets zeros. `lse`, if it has data, is the natural logarithm of each softmax's sum: with it the
 * attention to parts of a cache adds up to that of the whole. */
typedef struct {
    cache_array queries; /* [B, Hq, q, D] */
    cache_array out;     /* [B, Hq, q, Dv], of the same dtype and strides of its own */
    cache_array lse;     /* [B, Hq, q, 1], float32 */
    const void *keys, *values;
    int64_t heads, key_stride, value_stride; /* Hkv, and numbers from entry to entry */
    const cache_span *spans;                 /* [B, Hkv] */
    float scale, softcap;                    /* softcap * tanh(product / softcap), if not 0 */
    int threads;
} cache_decode;

/* One piece of that: the rows [row, row + rows) of those that share a key head, counted through its query heads within each
 * of the q tokens, and the entries [from, to). */
typedef struct {
    int64_t head; /* b * Hkv + key head */
    int64_t row, rows, from, to;
    int64_t pieces, first; /* how many there are of the same rows, and the number of the first of them */
} cache_piece;

/* The queries [from, to) of those that key head `head` of row `b` serves, counted through its query heads. */
typedef struct {
    int64_t b, head, from, to;
} cache_part;

typedef struct {
    /* Bytes that one thread needs for the job. */
    size_t (*thread_bytes)(const cache_attention *);
    /* The sums of attention weights over the queries of a part: sums[stop - start]. */
    void (*part_sums)(const cache_attention *, const cache_part *, float *sums, void *scratch);
    /* The logarithms of their maxima to the base of 2; the first of them is NaN if a product is not finite. `rivals`, if
     * not NULL, is what the same queries look at where they stand: a part of each softmax that gets no weight. */
    void (*part_maxima)(const cache_attention *, const cache_attention *rivals, const cache_part *, float *logarithms,
                        void *scratch);
    /* Two to the power of each of n numbers, in place. */
    void (*powers)(float *numbers, int64_t n);
    /* Bytes that one thread needs for a decode whose pieces have at most so many rows, and what a piece comes to. */
    size_t (*decode_thread_bytes)(const cache_decode *, int64_t rows);
    size_t (*partial_bytes)(const cache_decode *, int64_t rows);
    /* Computes one piece into `partial`, and the output from the partial results of all pieces of the same rows, `stride`
     * bytes apart. */
    void (*attend_piece)(const cache_decode *, const cache_piece *, void *partial, void *scratch);
    void (*merge_pieces)(const cache_decode *, const cache_piece *, void *partials, size_t stride);
} cache_kernels;

const cache_kernels *cache_current_kernels(void);

/* How the queries of each head are split into parts, so that there is enough for threads to share evenly: not at all if
 * there are many heads. It is the same for any number of threads, and so is what parts add up to. */
typedef struct {
    int64_t queries, size, parts;
} cache_split;
cache_split cache_split_queries(int64_t heads, int64_t queries);

/* The part of that number, of the first head of the first row. */
cache_part cache_part_at(const cache_split *split, int64_t number);

/* Computes attn->scores. Returns 0, 1 if a score is NaN, or -1 without memory. */
int cache_attention_scores(const cache_attention *attn);

/* Attention of queries [B, Hq, q, D] to heads with runs of slots of their own, without a causal mask: shares[slot] rises
 * to the largest weight that a query of the head's group gives it. `asked` are the same queries as they were asked, where
 * the newest q entries stand, or have no data: the products with the entries up to each one's own, from `start` on and at
 * most `window` before the first of them, are in the sum that weights are divided by. */
typedef struct {
    cache_array queries, keys; /* the slots as one head, [1, 1, S, D] */
    cache_array asked;         /* [B, Hq, q, D] */
    int64_t start, window;
    float *shares;           /* [S] */
    int64_t heads;           /* Hkv */
    const cache_span *spans; /* [B, Hkv]; `key` in numbers, `value` in slots of `shares` */
    float scale;
    int threads;
} cache_echo;

/* Returns 0, 1 if a product is not finite, or -1 without memory; shares stay as they are then. */
int cache_echo_scores(const cache_echo *echo);

/* Computes decode->out. Returns 0, or -1 without memory. */
int cache_attend(const cache_decode *decode);

/* positions[rows, k]: the k <= n highest of n scores in each row, ties to the lower position, ascending. NaN is lowest. */
void cache_select_top(const float *scores, int64_t rows, int64_t n, int64_t row_stride, int64_t k, int64_t *positions);

/* Of the tokens [start, stop) only those at start + positions[..., kept] stay; these and the tokens [stop, length) move down
 * to start. Positions ascend and are below stop - start; a position_head_stride of 0 gives all heads the same. */
typedef struct {
    cache_array keys, values;
    const int64_t *positions;
    int64_t position_batch_stride, position_head_stride, kept;
    int64_t start, stop, length;
    int threads;
} cache_compaction;

void cache_compact(const cache_compaction *compaction);

/* Writes the tokens of `added` into the cache from `position` on. */
void cache_append(const cache_array *cache, const cache_array *added, int64_t position);

/* Writes the tokens of `added` [B, H, q, D] behind the runs of slots [B, H]; the cache is one head of all slots. */
void cache_append_runs(const cache_array *cache, const cache_array *added, const cache_span *runs);

#endif
