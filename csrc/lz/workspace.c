/* Working memory: sizes, growth, and the table of logarithms. */
#include <math.h>
#include <stdlib.h>

#include "scratch.h"

static int32_t clip(int64_t value, int64_t most)
{
    return (int32_t)(value < most ? value : most);
}

lz_sizes lz_penalty_sizes(const lz_penalty *p, int64_t length)
{
    const int32_t window = clip(p->window, length);
    return (lz_sizes){clip((int64_t)p->window + p->buffer, length), window, clip((int64_t)window + p->release.n, INT32_MAX),
                      window};
}

int32_t lz_context(const lz_penalty *p)
{
    return lz_is_off(p) ? 0 : p->release.n > 0 || p->skip.n > 0 ? INT32_MAX : lz_penalty_sizes(p, INT32_MAX).context;
}

lz_sizes lz_dry_sizes(const lz_dry *dry, int64_t length)
{
    int32_t window = clip(dry->window, length);
    return (lz_sizes){window, window, window, window};
}

lz_sizes lz_loop_sizes(const lz_loop *loop, int64_t length)
{
    int64_t context = lz_loop_match(loop->ngram, loop->count, loop->max_period) + loop->max_period;
    return (lz_sizes){.context = clip(context, length), .window = clip(loop->max_period, length)};
}

lz_sizes lz_evidence_sizes(const lz_evidence *evidence, int64_t length)
{
    int32_t window = clip(evidence->window, length);
    return (lz_sizes){.context = window, .keys = window};
}

static size_t carve(size_t *used, int64_t items, size_t item_size)
{
    size_t at = *used;
    *used += ((size_t)items * item_size + 63) & ~(size_t)63;
    return at;
}

size_t lz_lay_out(void *block, lz_sizes sizes, lz_scratch *s)
{
    uintptr_t base = (uintptr_t)block;
    size_t used = 0;
    /* At an eighth of its capacity a table of tokens has few collisions and still fits the first-level cache. */
    int64_t n_table = 8;
    while (n_table < 8 * (int64_t)sizes.keys && n_table < 1 << 30)
        n_table *= 2;
    s->n_table = (int32_t)n_table;
#define ARRAY(member, items) s->member = (void *)(base + carve(&used, items, sizeof *s->member))
    ARRAY(recent, sizes.context);
    ARRAY(matches, sizes.window);
    ARRAY(ids, sizes.list);
    ARRAY(gains, sizes.list);
    ARRAY(saved, sizes.list);
    ARRAY(bits, sizes.window);
    ARRAY(tokens, sizes.window);
    ARRAY(longest, sizes.window);
    ARRAY(first, sizes.window + LZ_SLACK);
    ARRAY(owner, sizes.window + LZ_SLACK);
    ARRAY(pending, sizes.window + LZ_SLACK);
    ARRAY(table, n_table);
    ARRAY(hashes, sizes.keys);
#undef ARRAY
    return used;
}

void *lz_workspace_block(lz_workspace *ws, int which, size_t size)
{
    if (ws->blocks[which].size < size || !ws->blocks[which].memory) {
        free(ws->blocks[which].memory);
        ws->blocks[which].memory = malloc(size > 0 ? size : 1);
        ws->blocks[which].size = ws->blocks[which].memory ? size : 0;
    }
    return ws->blocks[which].memory;
}

static int reserve(lz_workspace *ws, lz_sizes sizes, size_t n_log2)
{
    lz_scratch counted;
    if (sizes.context > LZ_MOST || sizes.window > LZ_MOST || sizes.list > LZ_MOST || sizes.keys > LZ_MOST)
        return -1;
    if (!lz_workspace_block(ws, LZ_SCRATCH, lz_lay_out(NULL, sizes, &counted)))
        return -1;
    if (ws->n_log2 < n_log2) {
        float *grown = realloc(ws->log2, n_log2 * sizeof *grown);
        if (!grown)
            return -1;
        ws->log2 = grown;
        for (; ws->n_log2 < n_log2; ws->n_log2++)
            grown[ws->n_log2] = ws->n_log2 > 0 ? (float)log2((double)ws->n_log2) : 0; /* no length or distance is 0 */
    }
    return 0;
}

int lz_reserve(lz_workspace *ws, const lz_penalty *p, int64_t length)
{
    lz_sizes sizes = lz_penalty_sizes(p, length);
    size_t window = (size_t)sizes.window, longest = (size_t)clip(p->buffer, length) + 1;
    return reserve(ws, sizes, (window > longest ? window : longest) + 1);
}

int lz_reserve_dry(lz_workspace *ws, const lz_dry *dry, int64_t length)
{
    return reserve(ws, lz_dry_sizes(dry, length), 0);
}

int lz_reserve_loop(lz_workspace *ws, const lz_loop *loop, int64_t length)
{
    return reserve(ws, lz_loop_sizes(loop, length), 0);
}

int lz_reserve_evidence(lz_workspace *ws, const lz_evidence *evidence, int64_t length)
{
    return reserve(ws, lz_evidence_sizes(evidence, length), 0);
}

void lz_workspace_clear(lz_workspace *ws)
{
    for (int i = 0; i < LZ_BLOCKS; i++)
        free(ws->blocks[i].memory);
    free(ws->log2);
    *ws = (lz_workspace){0};
}
