#include "lz.h"

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

/* Fills in where everything is. Returns the bytes of shared memory, SIZE_MAX if positions don't fit their type. */
static size_t lay_out_lz(const lz_penalty *p, int64_t length, cuda_lz_args *a)
{
    const int64_t window = at_most(p->coder.window, length), keys = at_most((int64_t)p->horizon + p->coder.window, length);
    int64_t context = (int64_t)p->coder.window + p->coder.buffer;
    size_t used = 0, after;
    if (p->horizon > 0 && context < (int64_t)p->horizon + p->coder.window + 3)
        context = (int64_t)p->horizon + p->coder.window + 3;
    context = at_most(context, length);
    if (context > most_positions)
        return SIZE_MAX;
    a->context = (int32_t)context;
    a->table_size = table_size(window);
    a->grams_size = table_size(keys);
    carve(&used, context, sizeof(int32_t)); /* the tokens themselves, at 0 */
    after = used;
    a->best = carve(&used, window, sizeof(uint32_t));
    a->tally = p->coder.min_count > 1 || p->coder.cost == LZ_DISTANCE ? carve(&used, window, sizeof(uint32_t)) : 0;
    a->table = carve(&used, a->table_size, sizeof(uint16_t));
    a->owner = carve(&used, window, sizeof(uint16_t));
    a->lengths = carve(&used, window, sizeof(uint16_t));
    if (p->horizon > 0) { /* done before the rest begins, in the same place */
        a->latest = carve(&after, keys, sizeof(uint32_t));
        a->grams = carve(&after, a->grams_size, sizeof(uint16_t));
    }
    return used > after ? used : after;
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

static cuda_kernel lz_kernel(const lz_penalty *p)
{
    return p->n_neutral > 0 ? CUDA_KERNEL_lz_penalize_neutral : CUDA_KERNEL_lz_penalize;
}

static cuda_kernel dry_kernel(const lz_dry *dry)
{
    return dry->n_breakers > 0 ? CUDA_KERNEL_dry_penalize_breakers : CUDA_KERNEL_dry_penalize;
}

int cuda_lz_fits(const cuda_device *d, const lz_penalty *p, const lz_tokens *tokens, int64_t *most)
{
    const size_t shared = d->kernels[lz_kernel(p)].most_shared;
    cuda_lz_args ignored;
    if (lay_out_lz(p, counting(tokens), &ignored) <= shared)
        return 1;
    lz_penalty smaller = *p;
    int64_t fits = -1, too_large = at_most(p->coder.window, counting(tokens));
    while (too_large - fits > 1) {
        smaller.coder.window = (int32_t)((fits + too_large) / 2);
        if (lay_out_lz(&smaller, counting(tokens), &ignored) <= shared)
            fits = smaller.coder.window;
        else
            too_large = smaller.coder.window;
    }
    *most = fits;
    return 0;
}

int cuda_dry_fits(const cuda_device *d, const lz_dry *dry, const lz_tokens *tokens, int64_t *most)
{
    const size_t shared = d->kernels[dry_kernel(dry)].most_shared;
    cuda_dry_args ignored;
    if (lay_out_dry(dry, counting(tokens), &ignored) <= shared)
        return 1;
    lz_dry smaller = *dry;
    int64_t fits = 0, too_large = at_most(dry->window, counting(tokens));
    while (too_large - fits > 1) {
        smaller.window = (int32_t)((fits + too_large) / 2);
        if (lay_out_dry(&smaller, counting(tokens), &ignored) <= shared)
            fits = smaller.window;
        else
            too_large = smaller.window;
    }
    *most = fits;
    return 0;
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

static void copy_ids(const int32_t *ids, int32_t n, cuda_ids *list)
{
    list->n = n;
    memcpy(list->id, ids, (size_t)n * sizeof *ids);
}

cuda_status cuda_lz_penalize(const cuda_device *d, cu_stream stream, const lz_penalty *p, const lz_logits *logits,
                             cuda_history history, cuda_error *error)
{
    cuda_lz_args a = {.logits = device_logits(logits),
                      .tokens = device_tokens(history),
                      .log2 = (const float *)(uintptr_t)d->log2,
                      .literal = (float)log2((double)logits->vocab),
                      .strength = p->strength,
                      .escalation = p->escalation,
                      .cost = (int32_t)p->coder.cost,
                      .window = p->coder.window,
                      .buffer = p->coder.buffer,
                      .min_match = p->coder.min_match,
                      .min_count = p->coder.min_count,
                      .horizon = p->horizon};
    const int64_t length = counting(history.tokens);
    const size_t shared = lay_out_lz(p, length, &a);
    const int threads = threads_for(at_most(p->coder.window, length));
    if (p->n_neutral == 0)
        return cuda_launch(d, CUDA_KERNEL_lz_penalize, stream, logits->rows, threads, shared, (void *[]){&a}, error);
    cuda_ids neutral;
    copy_ids(p->neutral, p->n_neutral, &neutral);
    return cuda_launch(d, CUDA_KERNEL_lz_penalize_neutral, stream, logits->rows, threads, shared, (void *[]){&a, &neutral},
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
    cuda_ids breakers;
    copy_ids(dry->breakers, dry->n_breakers, &breakers);
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
