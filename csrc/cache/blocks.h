/* A request's keys and values in the blocks of an engine's cache, [blocks, heads, tokens of a block, size] with any strides:
 * some layouts put tokens last, so that a key's numbers lie apart. Strides are in elements. */
#ifndef LZPENALTY_CACHE_BLOCKS_H
#define LZPENALTY_CACHE_BLOCKS_H

#include "cache.h"

typedef struct {
    void *data;
    float_dtype dtype; /* of 2 or 4 bytes */
    int64_t blocks, heads, tokens, size;
    int64_t block_stride, head_stride, token_stride, size_stride;
} cache_blocks;

/* As cache_compaction, of one request whose token t lies in block table[t / tokens] at t % tokens. The blocks that hold the
 * tokens [start, length) are distinct. Of one head there may be `evidence`, of size 1, which moves along; else it has no
 * data. */
typedef struct {
    cache_blocks keys, values, evidence;
    const int64_t *table, *positions;
    int64_t position_head_stride, kept;
    int64_t start, stop, length;
    int threads;
} cache_block_compaction;

void cache_compact_blocks(const cache_block_compaction *);

/* out[0, head, i] = token start + i. */
typedef struct {
    cache_blocks cache;
    cache_array out;
    const int64_t *table;
    int64_t start;
    int threads;
} cache_gathering;

void cache_gather_blocks(const cache_gathering *);

/* As for caches in one piece: some ten milliseconds of copying are worth a thread. */
int cache_threads_to_copy(int threads, double numbers);

/* As cache_echo, of one request whose heads have blocks of their own: entry t of head h lies in block
 * tables[h, t / tokens] at t % tokens. Evidence [blocks, tokens] rises for the entries from `start` on. */
typedef struct {
    cache_array queries, asked; /* [1, Hq, q, D] */
    cache_blocks keys;          /* of one head */
    float *shares;              /* `share_stride` numbers from one block to the next */
    int64_t share_stride;
    const int64_t *tables, *lengths; /* [H, width] and [H] */
    int64_t heads, width, start, window;
    float scale;
    int threads;
} cache_block_echo;

/* Returns 0, 1 if a product is not finite, or -1 without memory; shares stay as they are then. */
int cache_echo_in_blocks(const cache_block_echo *);

#endif
