/* What kernels are launched with: plain structures, passed by value, that C and CUDA lay out alike.
 *
 * Positions within a block's shared memory are computed by the host, which also has to say how much there is. */
#ifndef LZPENALTY_CUDA_ARGS_H
#define LZPENALTY_CUDA_ARGS_H

#include <stdint.h>

#include "../cpu/dtype.h"
#include "../lz/options.h"

/* Threads of a block: as many as a row has work for, or the number that the tiles of a kernel are cut for. */
enum { CUDA_MOST_THREADS = 1024, CUDA_PERIOD_THREADS = 256, CUDA_TILE_THREADS = 256, CUDA_MOVE_THREADS = 256 };

/* Keys and queries are multiplied in square tiles; one block of the first pass sees several tiles of keys. */
enum { CUDA_TILE = 64, CUDA_CHUNK = 4 * CUDA_TILE };

/* Sizes of what is cached or queried, so that sums of two fit the int that kernels count with. */
enum { CUDA_MOST_SIZE = 1 << 30 };

/* Items that a thread holds while the compaction moves them, and how many bytes of a token's row one block moves. */
enum { CUDA_MOVE_HELD = 4, CUDA_MOVE_SLICE = 64 };

typedef struct {
    void *data;
    int64_t row_stride, column_stride; /* in elements */
    int32_t dtype, vocab;              /* dtype is a float_dtype */
} cuda_logits;

/* Row b counts from starts[b * starts_stride], clamped to [0, length], or from start where starts is NULL. */
typedef struct {
    const void *data;
    int64_t row_stride, column_stride;
    int64_t start;
    const void *starts;
    int64_t starts_stride;
    int32_t length;
    int16_t is_int64, starts_are_int64;
} cuda_tokens;

/* A short list of ids, passed with the launch. All parameters of a kernel have to fit 4 KB. */
enum { CUDA_MOST_IDS = 896 };
typedef struct {
    int32_t n, id[CUDA_MOST_IDS];
} cuda_ids;

/* Memory for n-grams: where it is, in bytes. */
typedef struct {
    int32_t table_size; /* entries of the hash table */
    uint32_t table, owner, cells, words;
} cuda_grams;

typedef struct {
    cuda_logits logits;
    cuda_tokens tokens;
    const float *log2; /* lz_workspace.log2, on the device */
    float literal;     /* log2 V */
    lz_penalty options;
    int32_t window;                                /* that of the options, or all tokens if that is less */
    int32_t context;                               /* tokens of a row that are read */
    int32_t table_size;                            /* entries of the hash table */
    uint32_t table, owner, lengths, best, longest; /* where they are, in bytes; recent tokens are at 0 */
    cuda_grams grams;
} cuda_lz_args;

typedef struct {
    cuda_tokens tokens;
    int64_t *lengths;
    int32_t gram, window;
    cuda_grams grams;
} cuda_evidence_args;

typedef struct {
    cuda_logits logits;
    cuda_tokens tokens;
    float multiplier, base;
    int32_t allowed_length, window;
    int32_t table_size;
    uint32_t table, owner, longest, breakers;
} cuda_dry_args;

typedef struct {
    cuda_tokens tokens;
    int64_t *periods;
    int32_t ngram, count, max_period;
} cuda_period_args;

/* [batch, heads, tokens, size] with a contiguous last dimension; strides in elements. */
typedef struct {
    const void *data;
    int64_t batch_stride, head_stride, token_stride;
} cuda_array;

/* One key head and the queries that share it, `group * recent` of them, are a unit of work; units are counted over batch
 * and key heads. */
typedef struct {
    cuda_array queries, keys;
    int64_t units;
    int32_t dtype, size, heads, group, recent;
    int32_t start, n; /* the region: n tokens from start on */
    float scale;      /* times log2(e): exponentials are powers of two */
    int32_t query_tiles, chunks;
    float
        *partial;  /* [units, queries, chunks, 2] the maximum of a query's products in a chunk, and the sum relative to it */
    float *totals; /* [units, queries, 2] the maximum of all, and 1 / the sum */
    float *sums;   /* [units, n] weights summed over the queries */
} cuda_score_args;

typedef struct {
    const float *sums; /* [rows * heads, n] */
    float *scores;     /* [rows, n] */
    int64_t rows;
    int32_t heads, n, reach; /* heads that are averaged; positions to each side that are */
    float head_share, position_share;
} cuda_smooth_args;

typedef struct {
    const float *scores;
    int64_t *positions; /* [batch * heads, k] */
    int64_t batch_stride, head_stride;
    int32_t heads, n, k;
} cuda_select_args;

/* Rows in units of 16, 4 or 2 bytes; strides in these units. */
typedef struct {
    void *data;
    int64_t batch_stride, head_stride, token_stride;
    int32_t units, slices; /* of a token's row; blocks that share them */
} cuda_rows;

typedef struct {
    cuda_rows arrays[2]; /* keys and values */
    const int64_t *positions;
    int64_t position_batch_stride, position_head_stride;
    int64_t units;                             /* batch * heads */
    int32_t heads, start, region, kept, moved; /* of `moved` tokens the first `kept` are at start + positions */
} cuda_compact_args;

/* Where a request's tokens are in a cache of blocks, whose batch stride is that of blocks: token t in block ids[t / tokens]
 * at t % tokens. */
typedef struct {
    const void *ids;
    int64_t stride;
    int32_t blocks, tokens, is_int64;
} cuda_table;

typedef struct {
    cuda_rows to[2], from[2];
    int64_t items[2]; /* units in all */
    int32_t heads, tokens, position;
} cuda_append_args;

/* `tokens` of a cache in blocks, from `start` on, side by side. */
typedef struct {
    cuda_rows to, from;
    int64_t items; /* units in all */
    int32_t tokens, start;
} cuda_gather_args;

#endif
