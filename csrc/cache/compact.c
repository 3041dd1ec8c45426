/* Moving the kept keys and values together, in place: positions ascend, so nothing is overwritten before it has moved. */
#include <string.h>

#include "../cpu/threads.h"
#include "cache.h"

static char *token_at(const cache_array *a, int64_t b, int64_t head, int64_t token)
{
    int64_t at = b * a->batch_stride + head * a->head_stride + token * a->token_stride;
    return (char *)a->data + at * float_size(a->dtype);
}

/* Moves `count` tokens of one head down, in one piece where they lie side by side. */
static void move_tokens(const cache_array *a, int64_t b, int64_t head, int64_t from, int64_t to, int64_t count)
{
    const size_t bytes = (size_t)(a->size * float_size(a->dtype));
    if (from == to)
        return;
    if (a->token_stride == a->size) {
        memmove(token_at(a, b, head, to), token_at(a, b, head, from), (size_t)count * bytes);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        memmove(token_at(a, b, head, to + i), token_at(a, b, head, from + i), bytes);
}

static void compact_head(void *job, int64_t unit, int thread)
{
    const cache_compaction *c = job;
    const int64_t heads = c->keys.heads, b = unit / heads, head = unit % heads;
    const int64_t first_position = b * c->position_batch_stride + head * c->position_head_stride;
    const int64_t *positions = c->kept > 0 ? c->positions + first_position : NULL;
    (void)thread;
    for (int64_t first = 0, next; first < c->kept; first = next) {
        for (next = first + 1; next < c->kept && positions[next] == positions[next - 1] + 1;)
            next++;
        move_tokens(&c->keys, b, head, c->start + positions[first], c->start + first, next - first);
        move_tokens(&c->values, b, head, c->start + positions[first], c->start + first, next - first);
    }
    move_tokens(&c->keys, b, head, c->stop, c->start + c->kept, c->length - c->stop);
    move_tokens(&c->values, b, head, c->stop, c->start + c->kept, c->length - c->stop);
}

void cache_compact(const cache_compaction *c)
{
    /* Some ten milliseconds of copying are worth a thread; the copies of one head are not. */
    const int64_t units = c->keys.batch * c->keys.heads;
    const double bytes = (double)units * (double)(c->length - c->start) * (double)c->keys.size * 2;
    if (bytes == 0) /* there may be any number of heads of no tokens */
        return;
    cpu_fork_join(bytes < 4e6 ? 1 : c->threads, units, compact_head, (void *)c);
}

void cache_append_runs(const cache_array *cache, const cache_array *added, const cache_span *runs)
{
    const size_t bytes = (size_t)(cache->size * float_size(cache->dtype));
    for (int64_t unit = 0; added->tokens > 0 && unit < added->batch * added->heads; unit++) {
        const int64_t b = unit / added->heads, head = unit % added->heads, first = runs[unit].value + runs[unit].length;
        for (int64_t i = 0; i < added->tokens; i++)
            memcpy(token_at(cache, 0, 0, first + i), token_at(added, b, head, i), bytes);
    }
}

void cache_append(const cache_array *cache, const cache_array *added, int64_t position)
{
    const size_t bytes = (size_t)(cache->size * float_size(cache->dtype));
    for (int64_t b = 0; added->tokens > 0 && b < cache->batch; b++)
        for (int64_t head = 0; head < cache->heads; head++)
            for (int64_t i = 0; i < added->tokens; i++)
                memcpy(token_at(cache, b, head, position + i), token_at(added, b, head, i), bytes);
}
