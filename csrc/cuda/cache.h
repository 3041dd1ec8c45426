/* Cache selection on a device: launches that return at once. The structures are those of the CPU's routines, with device
 * memory in them. */
#ifndef LZPENALTY_CUDA_CACHE_H
#define LZPENALTY_CUDA_CACHE_H

#include "../cache/blocks.h"
#include "../cache/cache.h"
#include "args.h"
#include "device.h"

/* Numbers of scratch memory, float32 on the device, that the scores need; -1 if that, or the queries that share a key head,
 * are too many to count. */
int64_t cuda_scores_scratch(const cache_attention *);
cuda_status cuda_attention_scores(const cuda_device *, cu_stream, const cache_attention *, float *scratch, cuda_error *);

typedef struct {
    const float *scores; /* [batch, heads, n] */
    int64_t batch, heads, n, batch_stride, head_stride, k;
    int64_t *positions; /* [batch, heads, k] */
} cuda_selection;
cuda_status cuda_select_top(const cuda_device *, cu_stream, const cuda_selection *, cuda_error *);

cuda_status cuda_compact(const cuda_device *, cu_stream, const cache_compaction *, cuda_error *);

/* With a table on the device in place of the structure's; sizes have no stride. */
cuda_status cuda_compact_blocks(const cuda_device *, cu_stream, const cache_block_compaction *, cuda_table, cuda_error *);
cuda_status cuda_gather_blocks(const cuda_device *, cu_stream, const cache_gathering *, cuda_table, cuda_error *);

/* Writes added[0] and added[1] into cache[0] and cache[1] from `position` on. */
cuda_status cuda_append(const cuda_device *, cu_stream, const cache_array cache[2], const cache_array added[2],
                        int64_t position, cuda_error *);

#endif
