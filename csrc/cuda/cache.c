#include "cache.h"

#include <math.h>

static int64_t over(int64_t items, int64_t each)
{
    return (items + each - 1) / each;
}

/* ---- scores --------------------------------------------------------------------------------------------------------- */

static cuda_array device_array(const cache_array *a)
{
    return (cuda_array){a->data, a->batch_stride, a->head_stride, a->token_stride};
}

/* All but where the results go. */
static cuda_score_args score_args(const cache_attention *attn)
{
    const int64_t n = attn->stop - attn->start, group = attn->queries.heads / attn->keys.heads;
    const int64_t units = attn->keys.batch * attn->keys.heads, queries = group * attn->queries.tokens;
    return (cuda_score_args){.queries = device_array(&attn->queries),
                             .keys = device_array(&attn->keys),
                             .units = units,
                             .dtype = (int32_t)attn->keys.dtype,
                             .size = (int32_t)attn->keys.size,
                             .heads = (int32_t)attn->keys.heads,
                             .group = (int32_t)group,
                             .recent = (int32_t)attn->queries.tokens,
                             .start = (int32_t)attn->start,
                             .n = (int32_t)n,
                             .scale = attn->scale * CACHE_LOG2E,
                             .query_tiles = (int32_t)over(queries, CUDA_TILE),
                             .chunks = (int32_t)over(n, CUDA_CHUNK)};
}

int64_t cuda_scores_scratch(const cache_attention *attn)
{
    const double units = (double)(attn->keys.batch * attn->keys.heads), n = (double)(attn->stop - attn->start);
    const int64_t group = attn->queries.heads / attn->keys.heads;
    const double queries = (double)(group * attn->queries.tokens);
    const double numbers = units * queries * (ceil(n / CUDA_CHUNK) + 1) * 2 + units * n;
    return queries <= CUDA_MOST_SIZE && numbers < 0x1p53 ? (int64_t)numbers : -1;
}

cuda_status cuda_attention_scores(const cuda_device *d, cu_stream stream, const cache_attention *attn, float *scratch,
                                  cuda_error *error)
{
    cuda_score_args a = score_args(attn);
    const int64_t queries = a.units * a.group * a.recent, averaged = attn->by_group ? 1 : a.heads;
    a.partial = scratch;
    a.totals = a.partial + queries * a.chunks * 2;
    a.sums = a.totals + queries * 2;
    const int64_t reach = attn->width / 2 < a.n ? attn->width / 2 : a.n;
    cuda_smooth_args s = {.sums = a.sums,
                          .scores = attn->scores,
                          .rows = a.units / averaged,
                          .heads = (int32_t)averaged,
                          .n = a.n,
                          .reach = (int32_t)reach,
                          .head_share = 1 / (float)(averaged * a.recent * a.group),
                          .position_share = 1 / (float)attn->width};
    const struct {
        cuda_kernel kernel;
        int64_t blocks;
        void *args;
    } launches[] = {
        {CUDA_KERNEL_score_maxima, a.units * a.query_tiles * a.chunks, &a},
        {CUDA_KERNEL_score_totals, over(queries, CUDA_TILE_THREADS / 32), &a},
        {CUDA_KERNEL_score_weights, a.units * over(a.n, CUDA_TILE), &a},
        {CUDA_KERNEL_score_smooth, over(s.rows * s.n, CUDA_TILE_THREADS), &s},
    };
    cuda_status status = CUDA_OK;
    for (size_t i = 0; i < sizeof launches / sizeof *launches && status == CUDA_OK; i++)
        status = cuda_launch(d, launches[i].kernel, stream, launches[i].blocks, CUDA_TILE_THREADS, 0,
                             (void *[]){launches[i].args}, error);
    return status;
}

cuda_status cuda_select_top(const cuda_device *d, cu_stream stream, const cuda_selection *s, cuda_error *error)
{
    cuda_select_args a = {s->scores,         s->positions,  s->batch_stride, s->head_stride,
                          (int32_t)s->heads, (int32_t)s->n, (int32_t)s->k};
    int threads = 64;
    while (threads < CUDA_MOST_THREADS && threads < s->n)
        threads *= 2;
    return cuda_launch(d, CUDA_KERNEL_select_top, stream, s->batch * s->heads, threads, 0, (void *[]){&a}, error);
}

/* ---- moving --------------------------------------------------------------------------------------------------------- */

/* Whether all rows of an array begin and end at multiples of so many bytes. What the stride of a single item is does not
 * matter. */
static int is_multiple(const cache_array *a, int64_t bytes)
{
    const int64_t size = float_size(a->dtype);
    return (uintptr_t)a->data % (uintptr_t)bytes == 0 && a->size * size % bytes == 0 &&
           (a->batch == 1 || a->batch_stride * size % bytes == 0) && (a->heads == 1 || a->head_stride * size % bytes == 0) &&
           (a->tokens == 1 || a->token_stride * size % bytes == 0);
}

/* The largest unit that all arrays are made of. */
static int64_t unit_of(const cache_array *const *arrays, int n)
{
    static const int64_t units[] = {16, 4};
    for (int u = 0; u < 2; u++) {
        int all = 1;
        for (int i = 0; i < n; i++)
            all &= is_multiple(arrays[i], units[u]);
        if (all)
            return units[u];
    }
    return 2;
}

static cuda_rows rows_of(const cache_array *a, int64_t unit)
{
    const int64_t size = float_size(a->dtype), units = a->size * size / unit;
    return (cuda_rows){.data = a->data,
                       .batch_stride = a->batch_stride * size / unit,
                       .head_stride = a->head_stride * size / unit,
                       .token_stride = a->token_stride * size / unit,
                       .units = (int32_t)units,
                       .slices = (int32_t)over(units, CUDA_MOVE_SLICE / unit)};
}

/* Of three kernels that follow each other, the one for a unit. */
static cuda_kernel for_unit(cuda_kernel first, int64_t unit)
{
    return first + (unit == 16 ? 0 : unit == 4 ? 1 : 2);
}

/* The tokens of `c`, with which the first of three kernels is launched; with a table in blocks, which are its rows. */
static cuda_status launch_compact(const cuda_device *d, cuda_kernel first, cu_stream stream, const cache_compaction *c,
                                  int64_t rows, cuda_table *table, cuda_error *error)
{
    const int64_t unit = unit_of((const cache_array *const[]){&c->keys, &c->values}, 2);
    const int64_t units = rows * c->keys.heads;
    cuda_compact_args a = {.arrays = {rows_of(&c->keys, unit), rows_of(&c->values, unit)},
                           .positions = c->positions,
                           .position_batch_stride = c->position_batch_stride,
                           .position_head_stride = c->position_head_stride,
                           .units = units,
                           .heads = (int32_t)c->keys.heads,
                           .start = (int32_t)c->start,
                           .region = (int32_t)(c->stop - c->start),
                           .kept = (int32_t)c->kept,
                           .moved = (int32_t)(c->kept + c->length - c->stop)};
    if (a.moved == 0)
        return CUDA_OK;
    return cuda_launch(d, for_unit(first, unit), stream, units * (a.arrays[0].slices + a.arrays[1].slices),
                       CUDA_MOVE_THREADS, 0, (void *[]){&a, table}, error);
}

cuda_status cuda_compact(const cuda_device *d, cu_stream stream, const cache_compaction *c, cuda_error *error)
{
    return launch_compact(d, CUDA_KERNEL_compact_16, stream, c, c->keys.batch, NULL, error);
}

static cache_array array_of(const cache_blocks *a)
{
    return (cache_array){a->data, a->dtype,        a->blocks,      a->heads,       a->tokens,
                         a->size, a->block_stride, a->head_stride, a->token_stride};
}

cuda_status cuda_compact_blocks(const cuda_device *d, cu_stream stream, const cache_block_compaction *c, cuda_table table,
                                cuda_error *error)
{
    cache_compaction move = {.keys = array_of(&c->keys),
                             .values = array_of(&c->values),
                             .positions = c->positions,
                             .position_head_stride = c->position_head_stride,
                             .kept = c->kept,
                             .start = c->start,
                             .stop = c->stop,
                             .length = c->length};
    const cuda_status status = launch_compact(d, CUDA_KERNEL_compact_blocks_16, stream, &move, 1, &table, error);
    if (status != CUDA_OK || !c->evidence.data)
        return status;
    move.keys = move.values = array_of(&c->evidence);
    move.values.size = 0; /* nothing of these is moved */
    return launch_compact(d, CUDA_KERNEL_compact_blocks_16, stream, &move, 1, &table, error);
}

/* Blocks of threads for so many items: each thread takes several where there are very many. */
static int64_t blocks_for(int64_t items)
{
    const int64_t blocks = over(items, CUDA_MOVE_THREADS), most = 4096;
    return blocks < most ? blocks : most;
}

cuda_status cuda_gather_blocks(const cuda_device *d, cu_stream stream, const cache_gathering *g, cuda_table table,
                               cuda_error *error)
{
    const cache_array from = array_of(&g->cache);
    const int64_t unit = unit_of((const cache_array *const[]){&g->out, &from}, 2);
    cuda_gather_args a = {.to = rows_of(&g->out, unit),
                          .from = rows_of(&from, unit),
                          .tokens = (int32_t)g->out.tokens,
                          .start = (int32_t)g->start};
    a.items = g->out.heads * g->out.tokens * a.to.units;
    return cuda_launch(d, for_unit(CUDA_KERNEL_gather_blocks_16, unit), stream, blocks_for(a.items), CUDA_MOVE_THREADS, 0,
                       (void *[]){&a, &table}, error);
}

cuda_status cuda_append(const cuda_device *d, cu_stream stream, const cache_array cache[2], const cache_array added[2],
                        int64_t position, cuda_error *error)
{
    const int64_t unit = unit_of((const cache_array *const[]){&cache[0], &cache[1], &added[0], &added[1]}, 4);
    const int64_t rows = added->batch * added->heads * added->tokens;
    cuda_append_args a = {.heads = (int32_t)added->heads, .tokens = (int32_t)added->tokens, .position = (int32_t)position};
    int64_t items = 0;
    for (int i = 0; i < 2; i++) {
        a.to[i] = rows_of(&cache[i], unit);
        a.from[i] = rows_of(&added[i], unit);
        a.items[i] = rows * a.to[i].units;
        items = a.items[i] > items ? a.items[i] : items;
    }
    return cuda_launch(d, for_unit(CUDA_KERNEL_append_16, unit), stream, 2 * blocks_for(items), CUDA_MOVE_THREADS, 0,
                       (void *[]){&a}, error);
}
