#include "lz.h"
#include "../lz/scratch.h"

#include <math.h>
#include <string.h>

static int64_t at_most(int64_t value, int64_t most)
{
    return value < most ? value : most;
}

/* Lays arrays out in shared memory. */
static uint32_t carve(size_t *used, int64_t items, size_t item_size)
{
    size_t at = *used;
    *used += ((size_t)items * item_size + 15) & ~(size_t)15;
    return (uint32_t)at;
}

/* Two positions for each entry: the probes stay short. Positions are 16 bits wide. */
static int32_t table_size(int64_t entries)
{
    return (int32_t)(2 * entries + 2);
}

static const int64_t most_positions = 0xffff; /* one number is no position */

/* Tokens of a row that can count. */
static int64_t counting(const lz_tokens *tokens)
{
    return tokens->length - tokens->start;
}

/* Memory for this many grams. */
static void lay_out_grams(size_t *used, int64_t n, cuda_grams *g)
{
    g->table_size = table_size(n);
    g->cells = carve(used, n, sizeof(uint32_t));
    g->words = carve(used, (n + 31) / 32, sizeof(uint32_t));
    g->table = carve(used, g->table_size, sizeof(uint16_t));
    g->owner = carve(used, n, sizeof(uint16_t));
}

/* Fills in where everything is. Returns the bytes of shared memory, SIZE_MAX if positions don't fit their type. */
static size_t lay_out_lz(const lz_penalty *p, int64_t length, cuda_lz_args *a)
{
    const lz_sizes sizes = lz_penalty_sizes(p, length);
    const int32_t window = sizes.window;
    size_t used = 0, after;
    if (sizes.context > most_positions)
        return SIZE_MAX;
    a->window = window;
    a->context = sizes.context;
    a->table_size = table_size(window);
    carve(&used, sizes.context, sizeof(int32_t)); /* the tokens themselves, at 0 */
    after = used;
    a->best = carve(&used, window, sizeof(uint32_t));
    a->longest = p->cost == LZ_DISTANCE ? carve(&used, window, sizeof(uint32_t)) : 0;
    a->table = carve(&used, a->table_size, sizeof(uint16_t));
    a->owner = carve(&used, window, sizeof(uint16_t));
    a->lengths = carve(&used, window, sizeof(uint16_t));
    if (p->gate.to > 0 || p->release.n > 0) /* done before the rest begins, in the same place */
        lay_out_grams(&after, window, &a->grams);
    return used > after ? used : after;
}

static size_t lay_out_evidence(const lz_evidence *evidence, int64_t length, cuda_evidence_args *a)
{
    const int64_t window = at_most(evidence->window, length);
    size_t used = 0;
    if (window > most_positions)
        return SIZE_MAX;
    a->gram = evidence->gram;
    a->window = (int32_t)window;
    carve(&used, window, sizeof(int32_t));
    lay_out_grams(&used, window, &a->grams);
    return used;
}

static size_t lay_out_dry(const lz_dry *dry, int64_t length, cuda_dry_args *a)
{
    const int64_t window = at_most(dry->window, length);
    size_t used = 0;
    if (window > most_positions)
        return SIZE_MAX;
    a->window = (int32_t)window;
    a->table_size = table_size(window);
    carve(&used, window, sizeof(int32_t));
    a->longest = carve(&used, window, sizeof(uint32_t));
    a->breakers = carve(&used, dry->n_breakers, sizeof(int32_t));
    a->table = carve(&used, a->table_size, sizeof(uint16_t));
    a->owner = carve(&used, window, sizeof(uint16_t));
    return used;
}

static cuda_kernel dry_kernel(const lz_dry *dry)
{
    return dry->n_breakers > 0 ? CUDA_KERNEL_dry_penalize_breakers : CUDA_KERNEL_dry_penalize;
}

typedef size_t lay_out(const void *options, int32_t window, int64_t length);

static size_t lz_bytes(const void *options, int32_t window, int64_t length)
{
    lz_penalty p = *(const lz_penalty *)options;
    cuda_lz_args ignored;
    p.window = window;
    return lay_out_lz(&p, length, &ignored);
}

static size_t dry_bytes(const void *options, int32_t window, int64_t length)
{
    lz_dry dry = *(const lz_dry *)options;
    cuda_dry_args ignored;
    dry.window = window;
    return lay_out_dry(&dry, length, &ignored);
}

static size_t evidence_bytes(const void *options, int32_t window, int64_t length)
{
    lz_evidence evidence = *(const lz_evidence *)options;
    cuda_evidence_args ignored;
    evidence.window = window;
    return lay_out_evidence(&evidence, length, &ignored);
}

/* Whether these options fit a block's memory; if they don't, *most gets the largest window that would, -1 if none does. */
static int fits(lay_out *bytes, const void *options, int32_t window, const lz_tokens *tokens, size_t shared, int64_t *most)
{
    const int64_t length = counting(tokens);
    int64_t too_large = at_most(window, length);
    if (bytes(options, window, length) <= shared)
        return 1;
    for (*most = -1; too_large - *most > 1;) {
        const int32_t middle = (int32_t)((*most + too_large) / 2);
        if (bytes(options, middle, length) <= shared)
            *most = middle;
        else
            too_large = middle;
    }
    return 0;
}

int cuda_lz_fits(const cuda_device *d, const lz_penalty *p, const lz_tokens *tokens, int64_t *most)
{
    return fits(lz_bytes, p, p->window, tokens, d->kernels[CUDA_KERNEL_lz_penalize].most_shared, most);
}

int cuda_dry_fits(const cuda_device *d, const lz_dry *dry, const lz_tokens *tokens, int64_t *most)
{
    return fits(dry_bytes, dry, dry->window, tokens, d->kernels[dry_kernel(dry)].most_shared, most);
}

int cuda_evidence_fits(const cuda_device *d, const lz_evidence *evidence, const lz_tokens *tokens, int64_t *most)
{
    return fits(evidence_bytes, evidence, evidence->window, tokens, d->kernels[CUDA_KERNEL_loop_evidence].most_shared, most);
}

/* About two positions for each thread: more threads wait longer for each other than they save. */
static int threads_for(int64_t positions)
{
    int threads = 64;
    while (threads < CUDA_MOST_THREADS && 2 * threads < positions)
        threads *= 2;
    return threads;
}

static cuda_logits device_logits(const lz_logits *l)
{
    return (cuda_logits){l->data, l->row_stride, l->column_stride, (int32_t)l->dtype, (int32_t)l->vocab};
}

static cuda_tokens device_tokens(cuda_history h)
{
    const lz_tokens *t = h.tokens;
    return (cuda_tokens){.data = t->data,
                         .row_stride = t->row_stride,
                         .column_stride = t->column_stride,
                         .start = t->start,
                         .starts = h.starts,
                         .starts_stride = h.starts_stride,
                         .length = (int32_t)t->length,
                         .is_int64 = (int16_t)t->is_int64,
                         .starts_are_int64 = (int16_t)h.starts_are_int64};
}

cuda_status cuda_lz_penalize(const cuda_device *d, cu_stream stream, const lz_penalty *p, const lz_logits *logits,
                             cuda_history history, cuda_error *error)
{
    cuda_lz_args a = {.logits = device_logits(logits),
                      .tokens = device_tokens(history),
                      .log2 = (const float *)(uintptr_t)d->log2,
                      .literal = (float)log2((double)logits->vocab),
                      .options = *p};
    const size_t shared = lay_out_lz(p, counting(history.tokens), &a);
    return cuda_launch(d, CUDA_KERNEL_lz_penalize, stream, logits->rows, threads_for(a.window), shared, (void *[]){&a},
                       error);
}

cuda_status cuda_dry_penalize(const cuda_device *d, cu_stream stream, const lz_dry *dry, const lz_logits *logits,
                              cuda_history history, cuda_error *error)
{
    cuda_dry_args a = {.logits = device_logits(logits),
                       .tokens = device_tokens(history),
                       .multiplier = dry->multiplier,
                       .base = dry->base,
                       .allowed_length = dry->allowed_length};
    const size_t shared = lay_out_dry(dry, counting(history.tokens), &a);
    const int threads = threads_for(a.window);
    if (dry->n_breakers == 0)
        return cuda_launch(d, CUDA_KERNEL_dry_penalize, stream, logits->rows, threads, shared, (void *[]){&a}, error);
    cuda_ids breakers = {.n = dry->n_breakers};
    memcpy(breakers.id, dry->breakers, (size_t)dry->n_breakers * sizeof *dry->breakers);
    return cuda_launch(d, CUDA_KERNEL_dry_penalize_breakers, stream, logits->rows, threads, shared,
                       (void *[]){&a, &breakers}, error);
}

cuda_status cuda_periods(const cuda_device *d, cu_stream stream, const lz_loop *loop, cuda_history history, int64_t *periods,
                         cuda_error *error)
{
    cuda_period_args a = {device_tokens(history), periods, loop->ngram, loop->count, loop->max_period};
    return cuda_launch(d, CUDA_KERNEL_repetition_period, stream, history.tokens->rows, CUDA_PERIOD_THREADS, 0,
                       (void *[]){&a}, error);
}

cuda_status cuda_loop_evidence(const cuda_device *d, cu_stream stream, const lz_evidence *evidence, cuda_history history,
                               int64_t *lengths, cuda_error *error)
{
    cuda_evidence_args a = {.tokens = device_tokens(history), .lengths = lengths};
    const size_t shared = lay_out_evidence(evidence, counting(history.tokens), &a);
    return cuda_launch(d, CUDA_KERNEL_loop_evidence, stream, history.tokens->rows, threads_for(a.window), shared,
                       (void *[]){&a}, error);
}
