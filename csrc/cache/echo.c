/* Evidence from the maxima of the groups: which thread reads what. */
#include <math.h>
#include <stdlib.h>

#include "../cpu/target.h"
#include "../cpu/threads.h"
#include "levels.h"

/* Below so many multiplications, some ten microseconds, other threads come too late. */
static const double parallel_work = 1e6;

typedef struct {
    const cache_echo *echo;
    const cache_kernels *kernels;
    const int64_t *offsets; /* of a head's numbers in `maxima` */
    float *maxima;
    char *scratch;
    size_t thread_bytes;
} echo_job;

/* One head as what attention_scores works on, with a region of all that is no padding. */
static cache_attention head_alone(const cache_echo *echo, int64_t unit)
{
    const cache_span *span = &echo->spans[unit];
    const int64_t b = unit / echo->heads, group = echo->queries.heads / echo->heads, first = unit % echo->heads * group;
    cache_attention attn = {.queries = echo->queries, .keys = echo->keys, .scale = echo->scale};
    const int64_t at = b * echo->queries.batch_stride + first * echo->queries.head_stride;
    attn.queries.data = (char *)echo->queries.data + at * float_size(echo->queries.dtype);
    attn.queries.batch = attn.keys.batch = attn.keys.heads = 1;
    attn.queries.heads = group;
    attn.keys.data = (char *)echo->keys.data + span->key * float_size(echo->keys.dtype);
    attn.start = span->first;
    attn.stop = span->length;
    return attn;
}

static void find_maxima(void *argument, int64_t unit, int thread)
{
    const echo_job *job = argument;
    const cache_attention attn = head_alone(job->echo, unit);
    if (attn.start < attn.stop)
        job->kernels->group_maxima(&attn, 0, 0, job->maxima + job->offsets[unit],
                                   job->scratch + (size_t)thread * job->thread_bytes);
}

int cache_echo_scores(const cache_echo *echo)
{
    const int64_t units = echo->queries.batch * echo->heads;
    echo_job job = {.echo = echo, .kernels = cache_current_kernels()};
    int64_t *offsets = malloc((size_t)(units + 1) * sizeof *offsets);
    if (!offsets)
        return -1;
    offsets[0] = 0;
    for (int64_t unit = 0; unit < units; unit++) {
        const cache_attention attn = head_alone(echo, unit);
        const int64_t n = attn.start < attn.stop ? attn.stop - attn.start : 0;
        const size_t bytes = n ? job.kernels->thread_bytes(&attn) : 0;
        offsets[unit + 1] = offsets[unit] + n;
        job.thread_bytes = bytes > job.thread_bytes ? bytes : job.thread_bytes;
    }
    job.offsets = offsets;

    const double rows = (double)(echo->queries.heads / echo->heads * echo->queries.tokens);
    int threads = (double)offsets[units] * rows * (double)echo->keys.size < parallel_work ? 1 : echo->threads;
    if (threads > CPU_MAX_THREADS)
        threads = CPU_MAX_THREADS;
    if (threads > units)
        threads = (int)units;
    const size_t maxima_bytes = ((size_t)offsets[units] * sizeof(float) + 63) & ~(size_t)63;
    char *memory = malloc(64 + maxima_bytes + (size_t)threads * job.thread_bytes);
    if (!memory) {
        free(offsets);
        return -1;
    }
    job.maxima = (float *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    job.scratch = (char *)job.maxima + maxima_bytes;
    cpu_fork_join(threads, units, find_maxima, &job);

    int odd = 0;
    for (int64_t unit = 0; unit < units; unit++)
        odd |= offsets[unit] < offsets[unit + 1] && isnan(job.maxima[offsets[unit]]);
    for (int64_t unit = 0; unit < units && !odd; unit++) {
        float *evidence = echo->evidence + echo->spans[unit].value + echo->spans[unit].first;
        for (int64_t t = offsets[unit]; t < offsets[unit + 1]; t++, evidence++)
            if (job.maxima[t] > *evidence)
                *evidence = job.maxima[t];
    }
    free(memory);
    free(offsets);
    return odd;
}
