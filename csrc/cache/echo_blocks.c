/* Evidence of a request whose cache lies in an engine's blocks: its keys are laid side by side, a copy that costs little
 * beside the products with them, and what is found is brought back to where they lie. */
#include <stdlib.h>

#include "../cpu/threads.h"
#include "blocks.h"

typedef struct {
    const cache_block_echo *echo;
    const cache_span *spans;
    char *keys;
} lay_job;

static void lay_head(void *argument, int64_t head, int thread)
{
    const lay_job *job = argument;
    const cache_blocks *blocks = &job->echo->keys;
    const cache_span *span = &job->spans[head];
    (void)thread;
    cache_gather_blocks(&(cache_gathering){.cache = *blocks,
                                           .out = {.data = job->keys + span->key * float_size(blocks->dtype),
                                                   .dtype = blocks->dtype,
                                                   .batch = 1,
                                                   .heads = 1,
                                                   .tokens = span->length,
                                                   .size = blocks->size,
                                                   .token_stride = blocks->size},
                                           .table = job->echo->tables + head * job->echo->width,
                                           .threads = 1});
}

int cache_echo_in_blocks(const cache_block_echo *echo)
{
    const cache_blocks *blocks = &echo->keys;
    int64_t total = 0;
    cache_span *spans = malloc((size_t)echo->heads * sizeof *spans + 1);
    if (!spans)
        return -1;
    for (int64_t head = 0; head < echo->heads; head++) {
        spans[head] = (cache_span){.key = total * blocks->size, .value = total, .length = echo->lengths[head]};
        total += echo->lengths[head];
    }
    char *keys = malloc((size_t)total * (size_t)(blocks->size * float_size(blocks->dtype)) + 1);
    float *found = calloc((size_t)total + 1, sizeof *found);
    int status = -1;
    if (keys && found) {
        lay_job job = {echo, spans, keys};
        cpu_fork_join(cpu_threads_for(cache_threads_to_copy(echo->threads, (double)(total * blocks->size)), echo->heads),
                      echo->heads, lay_head, &job);
        status = cache_echo_scores(&(cache_echo){.queries = echo->queries,
                                                 .asked = echo->asked,
                                                 .keys = {.data = keys,
                                                          .dtype = blocks->dtype,
                                                          .batch = 1,
                                                          .heads = 1,
                                                          .tokens = total,
                                                          .size = blocks->size,
                                                          .token_stride = blocks->size},
                                                 .shares = found,
                                                 .heads = echo->heads,
                                                 .spans = spans,
                                                 .start = echo->start,
                                                 .window = echo->window,
                                                 .scale = echo->scale,
                                                 .threads = echo->threads});
    }
    for (int64_t head = 0; head < echo->heads && status == 0; head++) {
        const int64_t *table = echo->tables + head * echo->width;
        for (int64_t t = echo->start; t < spans[head].length; t++) {
            float *kept = &echo->shares[table[t / blocks->tokens] * echo->share_stride + t % blocks->tokens];
            const float share = found[spans[head].value + t];
            *kept = share > *kept ? share : *kept;
        }
    }
    free(found);
    free(keys);
    free(spans);
    return status;
}
