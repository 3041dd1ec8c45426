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
    cache_split split;
    const int64_t *offsets; /* of a head's numbers, of which each part has as many */
    float *logarithms;
    char *scratch;
    size_t thread_bytes;
} echo_job;

/* One head as what attention_scores works on, with a region of all that is no padding. */
static cache_attention head_alone(const cache_echo *echo, int64_t head)
{
    const cache_span *span = &echo->spans[head];
    const int64_t b = head / echo->heads, group = echo->queries.heads / echo->heads, first = head % echo->heads * group;
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
    const int64_t parts = job->split.parts, head = unit / parts, number = unit % parts;
    const int64_t n = job->offsets[head + 1] - job->offsets[head];
    const cache_part part = cache_part_at(&job->split, number);
    const cache_attention attn = head_alone(job->echo, head);
    if (n)
        job->kernels->part_maxima(&attn, &part, job->logarithms + job->offsets[head] * parts + number * n,
                                  job->scratch + (size_t)thread * job->thread_bytes);
}

/* Raises the logarithms of a head's first part to the largest of all its parts. A NaN stays at the front. */
static void merge_parts(float *logarithms, int64_t parts, int64_t n)
{
    for (int64_t part = 1; part < parts; part++) {
        const float *others = logarithms + part * n;
        for (int64_t t = 0; t < n; t++)
            logarithms[t] = others[t] > logarithms[t] ? others[t] : logarithms[t];
        if (isnan(others[0]))
            logarithms[0] = NAN;
    }
}

int cache_echo_scores(const cache_echo *echo)
{
    const int64_t heads = echo->queries.batch * echo->heads;
    const int64_t queries = echo->queries.heads / echo->heads * echo->queries.tokens;
    const cache_split split = cache_split_queries(heads, queries);
    const int64_t parts = split.parts, units = heads * parts;
    echo_job job = {.echo = echo, .kernels = cache_current_kernels(), .split = split};
    int64_t *offsets = malloc((size_t)(heads + 1) * sizeof *offsets);
    if (!offsets)
        return -1;
    offsets[0] = 0;
    for (int64_t head = 0; head < heads; head++) {
        const cache_attention attn = head_alone(echo, head);
        const int64_t n = attn.start < attn.stop ? attn.stop - attn.start : 0;
        const size_t bytes = n ? job.kernels->thread_bytes(&attn) : 0;
        offsets[head + 1] = offsets[head] + n;
        job.thread_bytes = bytes > job.thread_bytes ? bytes : job.thread_bytes;
    }
    job.offsets = offsets;

    const double work = (double)offsets[heads] * (double)queries * (double)echo->keys.size;
    const int threads = cpu_threads_for(work < parallel_work ? 1 : echo->threads, units);
    const size_t logarithms_bytes = ((size_t)(offsets[heads] * parts) * sizeof(float) + 63) & ~(size_t)63;
    char *memory = malloc(64 + logarithms_bytes + (size_t)threads * job.thread_bytes);
    if (!memory) {
        free(offsets);
        return -1;
    }
    job.logarithms = (float *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    job.scratch = (char *)job.logarithms + logarithms_bytes;
    cpu_fork_join(threads, units, find_maxima, &job);

    int odd = 0;
    for (int64_t head = 0; head < heads; head++) {
        const int64_t n = offsets[head + 1] - offsets[head];
        float *logarithms = job.logarithms + offsets[head] * parts;
        if (n) {
            merge_parts(logarithms, parts, n);
            odd |= isnan(logarithms[0]);
        }
    }
    for (int64_t head = 0; head < heads && !odd; head++) {
        const int64_t n = offsets[head + 1] - offsets[head];
        float *maxima = job.logarithms + offsets[head] * parts;
        float *shares = echo->shares + echo->spans[head].value + echo->spans[head].first;
        job.kernels->powers(maxima, n);
        for (int64_t t = 0; t < n; t++)
            if (maxima[t] > shares[t])
                shares[t] = maxima[t];
    }
    free(memory);
    free(offsets);
    return odd;
}
