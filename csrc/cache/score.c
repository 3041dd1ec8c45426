/* Attention scores from the sums of the groups: threads, aggregation, smoothing. */
#include <math.h>
#include <stdlib.h>

#include "../cpu/target.h"
#include "../cpu/threads.h"
#include "levels.h"

/* Below about a millisecond of work, starting threads costs more than they save. */
static const double parallel_work = 3e7;

const cache_kernels *cache_current_kernels(void)
{
    switch (cpu_current_level()) {
#if CPU_HAS_X86_LEVELS
    case CPU_AVX2:
        return &cache_kernels_avx2;
    case CPU_AVX512:
        return &cache_kernels_avx512;
#endif
#if CPU_HAS_AVX512_BF16
    case CPU_AVX512_BF16:
        return &cache_kernels_avx512_bf16;
#endif
#if CPU_HAS_AMX
    case CPU_AMX:
        return &cache_kernels_amx;
#endif
#if CPU_HAS_NEON
    case CPU_NEON:
        return &cache_kernels_neon;
#endif
#if CPU_HAS_NEON_BF16
    case CPU_NEON_BF16:
        return &cache_kernels_neon_bf16;
#endif
    default:
        return &cache_kernels_scalar;
    }
}

cache_split cache_split_queries(int64_t heads, int64_t queries)
{
    enum { FULL = 32, PARTS = 32 }; /* queries that fill the widest vectors, and parts of all heads that are enough */
    const int64_t most = (queries + FULL - 1) / FULL, wanted = (PARTS + heads - 1) / heads;
    const int64_t size = most > wanted ? (most + wanted - 1) / wanted * FULL : FULL;
    return (cache_split){queries, size, (queries + size - 1) / size};
}

cache_part cache_part_at(const cache_split *split, int64_t number)
{
    const int64_t from = number * split->size, left = split->queries - from;
    return (cache_part){.from = from, .to = from + (left < split->size ? left : split->size)};
}

typedef struct {
    const cache_attention *attn;
    const cache_kernels *kernels;
    cache_split split;
    float *sums; /* [B, Hkv, parts, n] */
    char *scratch;
    size_t thread_bytes;
} score_job;

static void run_part(void *argument, int64_t unit, int thread)
{
    score_job *job = argument;
    const cache_attention *attn = job->attn;
    const int64_t head = unit / job->split.parts;
    cache_part part = cache_part_at(&job->split, unit % job->split.parts);
    part.b = head / attn->keys.heads;
    part.head = head % attn->keys.heads;
    job->kernels->part_sums(attn, &part, job->sums + unit * (attn->stop - attn->start),
                            job->scratch + (size_t)thread * job->thread_bytes);
}

/* scores[t] = (1 / w) * sum of mean[t - (w-1)/2 .. t + (w-1)/2], with zeros outside of [0, n). */
static int smooth(const float *mean, int64_t n, int64_t width, float *scores)
{
    int64_t reach = width / 2;
    const float share = 1 / (float)width;
    int nan = 0;
    for (int64_t t = 0; t < n; t++) {
        int64_t from = t < reach ? 0 : t - reach, to = t + reach < n ? t + reach : n - 1;
        float sum = 0;
        for (int64_t i = from; i <= to; i++)
            sum += mean[i];
        scores[t] = sum * share;
        nan |= isnan(sum);
    }
    return nan != 0;
}

int cache_attention_scores(const cache_attention *attn)
{
    const int64_t n = attn->stop - attn->start, batch = attn->keys.batch, heads = attn->keys.heads;
    const int64_t queries = attn->queries.heads / heads * attn->queries.tokens;
    const cache_split split = cache_split_queries(batch * heads, queries);
    const int64_t units = batch * heads * split.parts;
    const double work = (double)(batch * heads) * (double)queries * (double)n * (double)attn->keys.size;
    const int threads = cpu_threads_for(work < parallel_work ? 1 : attn->threads, units);
    int nan = 0;

    score_job job = {.attn = attn, .kernels = cache_current_kernels(), .split = split};
    job.thread_bytes = job.kernels->thread_bytes(attn);
    size_t sums_bytes = ((size_t)(units * n) * sizeof(float) + 63) & ~(size_t)63;
    char *memory = malloc(sums_bytes + (size_t)threads * job.thread_bytes + 64);
    if (!memory)
        return -1;
    job.sums = (float *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    job.scratch = (char *)job.sums + sums_bytes;
    cpu_fork_join(threads, units, run_part, &job);

    const int64_t rows = attn->by_group ? batch * heads : batch, together = units / rows;
    const float share = 1 / (float)(queries * (attn->by_group ? 1 : heads));
    for (int64_t row = 0; row < rows; row++) {
        float *mean = job.sums + row * together * n;
        for (int64_t part = 1; part < together; part++)
            for (int64_t t = 0; t < n; t++)
                mean[t] += mean[part * n + t];
        for (int64_t t = 0; t < n; t++)
            mean[t] *= share;
        nan |= smooth(mean, n, attn->width, attn->scores + row * n);
    }
    free(memory);
    return nan;
}
