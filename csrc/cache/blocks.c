/* A cache in blocks, as engines that serve many requests keep it: compaction in place, and tokens gathered side by side.
 *
 * Token t of a request lies in block table[t / tokens] at t % tokens. Tokens only move down and keep their order, so that
 * none is overwritten before it has moved; groups of tokens that move from one block to one other are moved together,
 * because keys that are stored with tokens last are moved a number of all tokens at a time. */
#include <string.h>

#include "../cpu/threads.h"
#include "blocks.h"

enum { GROUP = 64 };

/* `count` tokens at offsets `from` of one place to consecutive ones at another. Where both are in one block, no token goes
 * up. Strides are in numbers. */
typedef struct {
    char *to;
    const char *source;
    int64_t to_token, to_size, from_token, from_size; /* strides */
    int64_t size, bytes;                              /* numbers of a token, bytes of a number */
    const int64_t *from;
    int64_t count;
} token_group;

static void copy_tokens(const token_group *g)
{
    if (g->to_size == 1 && g->from_size == 1) {
        for (int64_t i = 0; i < g->count; i++)
            memmove(g->to + i * g->to_token * g->bytes, g->source + g->from[i] * g->from_token * g->bytes,
                    (size_t)(g->size * g->bytes));
        return;
    }
#define COPY(number)                                                                                                        \
    for (int64_t d = 0; d < g->size; d++) {                                                                                 \
        number *to = (number *)g->to + d * g->to_size;                                                                      \
        const number *from = (const number *)g->source + d * g->from_size;                                                  \
        for (int64_t i = 0; i < g->count; i++)                                                                              \
            to[i * g->to_token] = from[g->from[i] * g->from_token];                                                         \
    }
    if (g->bytes == 4)
        COPY(uint32_t)
    else
        COPY(uint16_t)
#undef COPY
}

static char *block_at(const cache_blocks *a, int64_t block, int64_t head)
{
    return (char *)a->data + (block * a->block_stride + head * a->head_stride) * float_size(a->dtype);
}

/* The token that comes to start + i. */
static int64_t source_of(const cache_block_compaction *c, const int64_t *positions, int64_t i)
{
    return i < c->kept ? c->start + positions[i] : c->stop + i - c->kept;
}

static void compact_array(const cache_block_compaction *c, const cache_blocks *a, int64_t head, const int64_t *positions)
{
    const int64_t moved = c->kept + c->length - c->stop, bytes = float_size(a->dtype);
    int64_t from[GROUP];
    for (int64_t first = 0, count; first < moved; first += count) {
        const int64_t to = c->start + first, to_block = to / a->tokens, token = source_of(c, positions, first);
        const int64_t from_block = token / a->tokens;
        int64_t room = a->tokens - to % a->tokens;
        room = room < GROUP ? room : GROUP;
        room = room < moved - first ? room : moved - first;
        count = 0;
        for (int64_t next = token; next / a->tokens == from_block;) {
            from[count++] = next % a->tokens;
            if (count == room)
                break;
            next = source_of(c, positions, first + count);
        }
        if (token == to && from[count - 1] - from[0] == count - 1)
            continue; /* they are where they should be */
        copy_tokens(&(token_group){.to = block_at(a, c->table[to_block], head) + to % a->tokens * a->token_stride * bytes,
                                   .source = block_at(a, c->table[from_block], head),
                                   .to_token = a->token_stride,
                                   .to_size = a->size_stride,
                                   .from_token = a->token_stride,
                                   .from_size = a->size_stride,
                                   .size = a->size,
                                   .bytes = bytes,
                                   .from = from,
                                   .count = count});
    }
}

static void compact_head(void *job, int64_t head, int thread)
{
    const cache_block_compaction *c = job;
    const int64_t *positions = c->kept > 0 ? c->positions + head * c->position_head_stride : NULL;
    (void)thread;
    compact_array(c, &c->keys, head, positions);
    compact_array(c, &c->values, head, positions);
    if (c->evidence.data)
        compact_array(c, &c->evidence, head, positions);
}

int cache_threads_to_copy(int threads, double numbers)
{
    return numbers < 2e6 ? 1 : threads;
}

void cache_compact_blocks(const cache_block_compaction *c)
{
    const double tokens = (double)(c->kept + c->length - c->stop) * (double)c->keys.heads;
    const double numbers = tokens * (double)(c->keys.size + c->values.size);
    cpu_fork_join(cache_threads_to_copy(c->threads, numbers), c->keys.heads, compact_head, (void *)c);
}

static void gather_head(void *job, int64_t head, int thread)
{
    const cache_gathering *g = job;
    const cache_blocks *a = &g->cache;
    const cache_array *out = &g->out;
    const int64_t bytes = float_size(a->dtype);
    (void)thread;
    int64_t from[GROUP];
    for (int64_t done = 0, count; done < out->tokens; done += count) {
        const int64_t token = g->start + done, offset = token % a->tokens;
        count = a->tokens - offset;
        count = count < GROUP ? count : GROUP;
        count = count < out->tokens - done ? count : out->tokens - done;
        for (int64_t i = 0; i < count; i++)
            from[i] = offset + i;
        copy_tokens(&(token_group){.to = (char *)out->data + (head * out->head_stride + done * out->token_stride) * bytes,
                                   .source = block_at(a, g->table[token / a->tokens], head),
                                   .to_token = out->token_stride,
                                   .to_size = 1,
                                   .from_token = a->token_stride,
                                   .from_size = a->size_stride,
                                   .size = a->size,
                                   .bytes = bytes,
                                   .from = from,
                                   .count = count});
    }
}

void cache_gather_blocks(const cache_gathering *g)
{
    const double numbers = (double)g->cache.heads * (double)g->out.tokens * (double)g->cache.size;
    cpu_fork_join(cache_threads_to_copy(g->threads, numbers), g->cache.heads, gather_head, (void *)g);
}
