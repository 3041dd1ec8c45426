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

/* Memory for this many grams. */
static void lay_out_grams(size_t *used, int64_t n, cuda_grams *g)
{
    g->table_size = table_size(n);
    g->cells = carve(used, n, sizeof(uint32_t));
    g->words = carve(used, (n + 31) / 32, sizeof(uint32_t));
    g->table = carve(used, g->table_size, sizeof(uint16_t));
    g->owner = carve(used, n, sizeof(uint16_t));
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Fills in where everything is. Returns the bytes of shared memory, SIZE_MAX if positions don't fit their type. */
static size_t lay_out_lz(const lz_penalty *p, int64_t length, cuda_lz_args *a)
{
    const int64_t window = at_most(p->coder.window, length), keys = at_most((int64_t)p->horizon + p->coder.window, length);
    int64_t context = (int64_t)p->coder.window + p->coder.buffer;
    size_t used = 0, after;
    if (p->horizon > 0)
        context = larger(context, (int64_t)p->horizon + p->coder.window + 3);
    if (p->reset.n > 0) { /* what the CPU reads, so that the same marks are found */
        if (p->escalation > 0)
            context = larger(context, 2 * (int64_t)p->coder.window);
        context += LZ_MOST_MARK - 1;
    }
    context = at_most(context, length);
    if (context > most_positions)
        return SIZE_MAX;
    a->context = (int32_t)context;
    a->table_size = table_size(window);
    carve(&used, context, sizeof(int32_t)); /* the tokens themselves, at 0 */
    after = used;
    a->best = carve(&used, window, sizeof(uint32_t));
    a->tally = p->coder.min_count > 1 || p->coder.cost == LZ_DISTANCE ? carve(&used, window, sizeof(uint32_t)) : 0;
    a->table = carve(&used, a->table_size, sizeof(uint16_t));
    a->owner = carve(&used, window, sizeof(uint16_t));
    a->lengths = carve(&used, window, sizeof(uint16_t));
    if (p->horizon > 0 || p->gate_to > 0 || p->release.n > 0) /* done before the rest begins, in the same place */
        lay_out_grams(&after, keys, &a->grams);
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

/* How many numbers the penalty's lists are in a launch. */
int32_t cuda_lz_ids(const lz_penalty *p)
{
    int32_t n = p->n_neutral;
    const lz_marks *const all[] = {&p->release, &p->reset, &p->until};
    for (int i = 0; i < 3; i++)
        for (int32_t m = 0; m < all[i]->n; m++)
            n += 1 + all[i]->mark[m].n;
    return n;
}

static cuda_kernel lz_kernel(const lz_penalty *p)
{
    return cuda_lz_ids(p) > 0 ? CUDA_KERNEL_lz_penalize_listed : CUDA_KERNEL_lz_penalize;
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

int cuda_evidence_fits(const cuda_device *d, const lz_evidence *evidence, const lz_tokens *tokens, int64_t *most)
{
    const size_t shared = d->kernels[CUDA_KERNEL_loop_evidence].most_shared;
    cuda_evidence_args ignored;
    if (lay_out_evidence(evidence, counting(tokens), &ignored) <= shared)
        return 1;
    lz_evidence smaller = *evidence;
    int64_t fits = 0, too_large = at_most(evidence->window, counting(tokens));
    while (too_large - fits > 1) {
        smaller.window = (int32_t)((fits + too_large) / 2);
        if (lay_out_evidence(&smaller, counting(tokens), &ignored) <= shared)
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

static void append_ids(const int32_t *ids, int32_t n, cuda_ids *list)
{
    if (n > 0)
        memcpy(list->id + list->n, ids, (size_t)n * sizeof *ids);
    list->n += n;
}

/* Each mark is its number of ids, followed by them. */
static cuda_marks append_marks(const lz_marks *marks, cuda_ids *list)
{
    const cuda_marks there = {marks->n, list->n};
    for (int32_t m = 0; m < marks->n; m++) {
        append_ids(&marks->mark[m].n, 1, list);
        append_ids(marks->mark[m].id, marks->mark[m].n, list);
    }
    return there;
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
                      .gate_from = p->gate_from,
                      .gate_to = p->gate_to,
                      .release_rate = p->release_rate,
                      .release_after = p->release_after,
                      .n_neutral = p->n_neutral,
                      .cost = (int32_t)p->coder.cost,
                      .window = p->coder.window,
                      .buffer = p->coder.buffer,
                      .min_match = p->coder.min_match,
                      .min_count = p->coder.min_count,
                      .horizon = p->horizon};
    const int64_t length = counting(history.tokens);
    const size_t shared = lay_out_lz(p, length, &a);
    const int threads = threads_for(at_most(p->coder.window, length));
    if (lz_kernel(p) == CUDA_KERNEL_lz_penalize)
        return cuda_launch(d, CUDA_KERNEL_lz_penalize, stream, logits->rows, threads, shared, (void *[]){&a}, error);
    cuda_ids list = {0};
    append_ids(p->neutral, p->n_neutral, &list);
    a.release = append_marks(&p->release, &list);
    a.reset = append_marks(&p->reset, &list);
    a.until = append_marks(&p->until, &list);
    return cuda_launch(d, CUDA_KERNEL_lz_penalize_listed, stream, logits->rows, threads, shared, (void *[]){&a, &list},
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
    cuda_ids breakers = {0};
    append_ids(dry->breakers, dry->n_breakers, &breakers);
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
