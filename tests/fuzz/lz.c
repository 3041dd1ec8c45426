/* Fuzz target of the LZ routines: any options on any text give what the formula says, the same at every level of this
 * machine, and only lower the logits of tokens in the window. */
#include <math.h>

#include "../../csrc/cpu/half.h"
#include "../../csrc/lz/scratch.h"
#include "fuzz.h"

enum { MOST_ROWS = 3, MOST_TOKENS = 160, MOST_VOCAB = 80, MOST_IDS = 4, MOST_QUADRATIC = 24 };

typedef struct {
    lz_penalty penalty;
    lz_dry dry;
    lz_loop loop;
    lz_evidence evidence;
    lz_logits logits;
    lz_tokens tokens;
    int32_t breakers[MOST_IDS];
    int64_t starts[MOST_ROWS];
    span logits_span, tokens_span;
} job;

/* Ascending, distinct. */
static int32_t take_ids(input *in, int32_t *ids)
{
    int32_t n = take_number(in, 0, MOST_IDS);
    for (int32_t i = 0; i < n; i++)
        ids[i] = take_number(in, 0, 20) + (i > 0 ? ids[i - 1] + 1 : 0);
    return n;
}

static lz_marks take_marks(input *in)
{
    lz_marks marks = {0};
    for (int32_t m = take_number(in, 0, 3); m > 0; m--) {
        lz_mark mark = {.n = take_number(in, 1, 3)};
        for (int32_t k = 0; k < mark.n; k++)
            mark.id[k] = take_number(in, 0, 20);
        lz_add_mark(&marks, &mark);
    }
    return marks;
}

static void take_options(input *in, job *j)
{
    lz_penalty *p = &j->penalty;
    *p = (lz_penalty){.cost = take_number(in, LZ_LZSS, LZ_DISTANCE),
                      .window = take_size(in, 1),
                      .buffer = take_size(in, 1),
                      .min_match = take_size(in, 1)};
    take_size(in, 1); /* of an option that went: most of the corpus goes on meaning what it did */
    p->strength = take_positive(in);
    const int extras = take_byte(in);
    p->min_match = extras & 1 ? p->min_match : 1;
    if (extras & 64) {
        p->gate.from = (float)take_number(in, 0, 30);
        p->gate.to = p->gate.from + (float)take_number(in, 1, 20);
    }
    p->release_after = extras & 128 ? take_size(in, 1) : 1;
    if (extras & 128) {
        p->release = take_marks(in);
        p->release_rate = take_positive(in);
        p->open = take_marks(in);
        p->skip = take_marks(in);
        p->resume = take_marks(in);
    }
    j->dry = (lz_dry){.multiplier = take_positive(in),
                      .base = take_positive(in),
                      .allowed_length = take_size(in, 1),
                      .window = take_size(in, 1),
                      .breakers = j->breakers};
    j->dry.n_breakers = extras & 32 ? take_ids(in, j->breakers) : 0;
    j->loop = (lz_loop){.ngram = take_size(in, 1), .count = take_size(in, 2), .max_period = take_size(in, 1)};
    j->evidence = (lz_evidence){.gram = take_number(in, 1, LZ_MOST_GRAM), .window = take_size(in, 0)};
}

static void take_arrays(input *in, job *j)
{
    const int64_t rows = take_number(in, 0, MOST_ROWS), vocab = take_number(in, 1, MOST_VOCAB);
    const int64_t shape[2] = {rows, vocab};
    int64_t strides[2];
    take_strides(in, 2, shape, 0, strides);
    j->logits = (lz_logits){.dtype = (float_dtype)take_number(in, FLOAT32, FLOAT64),
                            .rows = rows,
                            .vocab = vocab,
                            .row_stride = strides[0],
                            .column_stride = strides[1]};

    const int layout = take_byte(in);
    j->tokens.is_int64 = layout & 1;
    j->tokens.rows = rows;
    for (int i = 0; i < MOST_ROWS; i++)
        j->starts[i] = take_byte(in);
    const int64_t row_step = take_number(in, -4, 4), column_step = layout & 2 ? take_number(in, -2, 2) : 1;
    /* The text is what remains, and the memory of logits and tokens is filled with it. */
    j->tokens.length = in->left < MOST_TOKENS ? (int64_t)in->left : MOST_TOKENS;
    j->tokens.row_stride = row_step;
    j->tokens.column_stride = column_step;
    if (layout & 4)
        j->tokens.starts = j->starts;
    for (int i = 0; i < MOST_ROWS; i++)
        j->starts[i] = j->starts[i] % (j->tokens.length + 1);
    j->tokens.start = j->starts[0];

    j->logits_span = new_span(in, 2, shape, strides, (size_t)float_size(j->logits.dtype));
    j->logits.data = j->logits_span.data;
    const size_t item = j->tokens.is_int64 ? sizeof(int64_t) : sizeof(int32_t);
    const int64_t text_shape[2] = {rows, j->tokens.length}, text_strides[2] = {row_step, column_step};
    j->tokens_span = new_span(in, 2, text_shape, text_strides, item);
    j->tokens.data = j->tokens_span.data;
    for (size_t i = 0; i < j->tokens_span.bytes / item; i++) {
        const int64_t id = id_of(in->at[i % in->left], 100);
        if (j->tokens.is_int64)
            memcpy(j->tokens_span.memory + i * item, &id, item);
        else
            memcpy(j->tokens_span.memory + i * item, &(int32_t){(int32_t)id}, item);
    }
    memcpy(j->tokens_span.before, j->tokens_span.memory, j->tokens_span.bytes);
}

/* Callers refuse ids that the logits don't have. */
static void bound_marks(lz_marks *marks, int64_t vocab)
{
    lz_marks bounded = {0};
    for (int32_t m = 0; m < marks->n; m++) {
        lz_mark mark = marks->mark[m];
        for (int32_t k = 0; k < mark.n; k++)
            mark.id[k] %= (int32_t)vocab;
        lz_add_mark(&bounded, &mark);
    }
    *marks = bounded;
}

static int64_t start_of(const job *j, int64_t row)
{
    return j->tokens.starts ? j->tokens.starts[row] : j->tokens.start;
}

static int64_t id_at(const job *j, int64_t row, int64_t i)
{
    const int64_t at = row * j->tokens.row_stride + i * j->tokens.column_stride;
    return j->tokens.is_int64 ? ((const int64_t *)j->tokens.data)[at] : ((const int32_t *)j->tokens.data)[at];
}

static double number_at(const void *number, float_dtype dtype)
{
    uint16_t half;
    float single;
    double wide;
    switch (dtype) {
    case FLOAT32:
        return memcpy(&single, number, sizeof single), single;
    case FLOAT64:
        return memcpy(&wide, number, sizeof wide), wide;
    default:
        memcpy(&half, number, sizeof half);
        return dtype == FLOAT16 ? f16_to_float(half) : bf16_to_float(half);
    }
}

static int is_released(const lz_marks *release, int64_t id)
{
    for (int32_t m = 0; release && m < release->n; m++)
        for (int32_t k = 0; k < release->mark[m].n; k++)
            if (release->mark[m].id[k] == id)
                return 1;
    return 0;
}

/* Only the logits of the last `window` tokens may have changed, and they have not risen; what is released may be anything.
 */
static void check_logits(const job *j, int64_t window, const lz_marks *release)
{
    const size_t size = (size_t)float_size(j->logits.dtype);
    uint8_t *expected = malloc(j->logits_span.bytes + 1);
    memcpy(expected, j->logits_span.before, j->logits_span.bytes);
    for (int64_t row = 0; row < j->logits.rows; row++) {
        const int64_t oldest = j->tokens.length - window, start = start_of(j, row);
        const int64_t first = oldest > start ? oldest : start;
        for (int64_t i = first; i < j->tokens.length; i++) {
            const int64_t id = id_at(j, row, i);
            if (id < 0 || id >= j->logits.vocab)
                continue;
            const uint8_t *logit =
                (uint8_t *)j->logits.data + (row * j->logits.row_stride + id * j->logits.column_stride) * (int64_t)size;
            const size_t at = (size_t)(logit - j->logits_span.memory);
            REQUIRE(is_released(release, id) ||
                    !(number_at(logit, j->logits.dtype) > number_at(j->logits_span.before + at, j->logits.dtype)));
            memcpy(expected + at, logit, size);
        }
        for (int64_t id = 0; id < j->logits.vocab; id++) {
            const uint8_t *logit =
                (uint8_t *)j->logits.data + (row * j->logits.row_stride + id * j->logits.column_stride) * (int64_t)size;
            if (is_released(release, id))
                memcpy(expected + (logit - j->logits_span.memory), logit, size);
        }
    }
    REQUIRE(memcmp(expected, j->logits_span.memory, j->logits_span.bytes) == 0);
    free(expected);
}

static float log2_of(int64_t x)
{
    static float known[MOST_TOKENS + 2];
    if (x > 1 && known[x] == 0)
        known[x] = (float)log2((double)x);
    return known[x];
}

static float smaller(float a, float b)
{
    return a < b ? a : b;
}

/* The bits of each id after the tokens of a row from `start` on, as the coder's definition has them. */
static void find_bits(const job *j, int64_t row, int64_t start, float bits[MOST_VOCAB])
{
    const lz_penalty *p = &j->penalty;
    const int64_t last = j->tokens.length - 1, n = j->tokens.length - start, vocab = j->logits.vocab;
    const int64_t window = p->window < n ? p->window : n;
    int64_t lengths[MOST_TOKENS + 1], longest[MOST_VOCAB], open = 0, nearest = 0;
    for (int64_t d = 1; d <= window; d++) {
        int64_t u = 0;
        while (u < p->buffer && d + u < n && id_at(j, row, last - u) == id_at(j, row, last - d - u))
            u++;
        lengths[d] = u;
        nearest = u > open ? d : nearest;
        open = u > open ? u : open;
    }
    for (int64_t a = 0; a < vocab; a++) {
        bits[a] = log2_of(vocab);
        longest[a] = -1;
    }
    for (int64_t d = 1; d <= window; d++) {
        const int64_t a = id_at(j, row, last + 1 - d), u = lengths[d];
        float own = log2_of(d);
        if (a < 0 || a >= vocab || u < p->min_match - 1)
            continue;
        if (p->cost == LZ_PAIR)
            own = (own + log2_of(u + 1)) / (float)(u + 1);
        else if (p->cost == LZ_LZSS && u == open && open > 0) {
            const float prolonging = (own - log2_of(nearest)) + (log2_of(open + 1) - log2_of(open));
            own = smaller(own, prolonging > 0 ? prolonging : 0);
        }
        if (p->cost != LZ_DISTANCE)
            bits[a] = smaller(bits[a], own);
        else if (u > longest[a]) {
            bits[a] = smaller(log2_of(vocab), own);
            longest[a] = u;
        }
    }
}

static void check_deltas(const job *j, int32_t n, const int32_t *ids, const float *got)
{
    float bits[MOST_VOCAB];
    int32_t expected = 0;
    find_bits(j, 0, 0, bits);
    for (int64_t a = 0; a < j->logits.vocab; a++)
        expected += bits[a] < log2_of(j->logits.vocab);
    REQUIRE(n == expected);
    for (int32_t i = 0; i < n; i++)
        REQUIRE(ids[i] >= 0 && ids[i] < j->logits.vocab && got[i] == bits[ids[i]]);
}

/* Where the penalty is no more than its formula, and float32. */
static void check_penalties(const job *j)
{
    const lz_penalty *p = &j->penalty;
    const float literal = log2_of(j->logits.vocab);
    float bits[MOST_VOCAB], old;
    if (j->logits.dtype != FLOAT32 || p->gate.to > 0 || p->release.n > 0 || p->skip.n > 0)
        return;
    for (int64_t row = 0; row < j->logits.rows; row++) {
        find_bits(j, row, start_of(j, row), bits);
        for (int64_t a = 0; a < j->logits.vocab; a++) {
            const float *logit = (const float *)j->logits.data + row * j->logits.row_stride + a * j->logits.column_stride;
            memcpy(&old, j->logits_span.before + ((const uint8_t *)logit - j->logits_span.memory), sizeof old);
            const float wanted = bits[a] < literal ? old - p->strength * (literal - bits[a]) : old;
            REQUIRE(*logit == wanted || (isnan(*logit) && isnan(wanted)));
        }
    }
}

static int has_period(const job *j, int64_t row, int64_t period)
{
    const int64_t wanted = j->loop.ngram + (j->loop.count - 1) * period, last = j->tokens.length - 1;
    if (wanted > j->tokens.length - start_of(j, row))
        return 0;
    for (int64_t i = 0; i + period < wanted; i++)
        if (id_at(j, row, last - i) != id_at(j, row, last - i - period))
            return 0;
    return 1;
}

static void check_periods(const job *j, const int64_t *periods)
{
    for (int64_t row = 0; row < j->tokens.rows; row++) {
        int64_t period = 1;
        while (period <= j->loop.max_period && period <= j->tokens.length && !has_period(j, row, period))
            period++;
        REQUIRE(periods[row] == (period <= j->loop.max_period && period <= j->tokens.length ? period : 0));
    }
}

/* How often the gram that ends at token i ends before, from token `first` on. */
static int times_before(const job *j, int64_t row, int64_t first, int64_t i)
{
    const int64_t size = j->evidence.gram;
    int times = 0;
    for (int64_t k = first + size - 1; k < i; k++) {
        int64_t same = 0;
        while (same < size && id_at(j, row, i - same) == id_at(j, row, k - same))
            same++;
        times += same == size;
    }
    return times;
}

static void check_evidence(const job *j, const int64_t *lengths)
{
    const int64_t size = j->evidence.gram;
    for (int64_t row = 0; row < j->tokens.rows; row++) {
        const int64_t oldest = j->tokens.length - j->evidence.window, start = start_of(j, row);
        const int64_t first = oldest > start ? oldest : start;
        int64_t run = 0, longest = 0;
        for (int64_t i = first + size - 1; i < j->tokens.length; i++) {
            run = times_before(j, row, first, i) >= 2 ? run + 1 : 0;
            longest = run > longest ? run : longest;
        }
        REQUIRE(lengths[row] == (longest > 0 ? longest + size - 1 : 0));
    }
}

/* Everything that the routines give, to be the same at every level. */
typedef struct {
    uint8_t *penalized, *dried;
    int64_t periods[MOST_ROWS], evidence[MOST_ROWS];
    int32_t n, ids[MOST_TOKENS];
    float bits[MOST_TOKENS];
    double token_bits[MOST_QUADRATIC];
} results;

static uint8_t *copy_of(const span *s)
{
    uint8_t *copy = malloc(s->bytes + 1);
    return memcpy(copy, s->memory, s->bytes);
}

/* Lists share one block: what rounds their sizes up is not for use. */
static void guard(const lz_workspace *ws, lz_sizes sizes)
{
    lz_scratch s;
    char *const block = ws->blocks[LZ_SCRATCH].memory;
    lz_lay_out(block, sizes, &s);
    const char *const ends[] = {(char *)(s.recent + sizes.context),
                                (char *)(s.matches + sizes.window),
                                (char *)(s.ids + sizes.list),
                                (char *)(s.gains + sizes.list),
                                (char *)(s.saved + sizes.list),
                                (char *)(s.bits + sizes.window),
                                (char *)(s.tokens + sizes.window),
                                (char *)(s.longest + sizes.window),
                                (char *)(s.first + sizes.window + LZ_SLACK),
                                (char *)(s.owner + sizes.window + LZ_SLACK),
                                (char *)(s.pending + sizes.window + LZ_SLACK),
                                (char *)(s.hashes + sizes.keys)};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        ASAN_POISON_MEMORY_REGION(ends[i], (size_t)(block - ends[i]) % 64);
}

static void run(job *j, results *r)
{
    const lz_kernels *kernels = lz_current_kernels();
    lz_workspace ws = {0};
    const int32_t vocab = (int32_t)j->logits.vocab;
    const double literal = log2((double)vocab);
    int32_t *ids;
    float *bits;

    REQUIRE(lz_reserve(&ws, &j->penalty, j->tokens.length) == 0);
    guard(&ws, lz_penalty_sizes(&j->penalty, j->tokens.length));
    kernels->penalize(&j->penalty, &j->logits, &j->tokens, &ws);
    check_logits(j, j->penalty.window, &j->penalty.release);
    check_penalties(j);
    r->penalized = copy_of(&j->logits_span);
    restore(&j->logits_span);
    lz_workspace_clear(&ws);

    REQUIRE(lz_reserve_dry(&ws, &j->dry, j->tokens.length) == 0);
    guard(&ws, lz_dry_sizes(&j->dry, j->tokens.length));
    kernels->dry(&j->dry, &j->logits, &j->tokens, &ws);
    check_logits(j, j->dry.window, NULL);
    r->dried = copy_of(&j->logits_span);
    restore(&j->logits_span);
    lz_workspace_clear(&ws);

    REQUIRE(lz_reserve_loop(&ws, &j->loop, j->tokens.length) == 0);
    guard(&ws, lz_loop_sizes(&j->loop, j->tokens.length));
    kernels->periods(&j->loop, &j->tokens, r->periods, &ws);
    check_periods(j, r->periods);
    lz_workspace_clear(&ws);

    REQUIRE(lz_reserve_evidence(&ws, &j->evidence, j->tokens.length) == 0);
    guard(&ws, lz_evidence_sizes(&j->evidence, j->tokens.length));
    kernels->evidence(&j->evidence, &j->tokens, r->evidence, &ws);
    check_evidence(j, r->evidence);
    lz_workspace_clear(&ws);

    if (j->tokens.rows > 0) {
        lz_tokens text = j->tokens;
        text.rows = 1, text.start = 0, text.starts = NULL;
        REQUIRE(lz_reserve(&ws, &j->penalty, text.length) == 0);
        guard(&ws, lz_penalty_sizes(&j->penalty, text.length));
        r->n = kernels->deltas(&j->penalty, vocab, &text, &ws, &ids, &bits);
        check_deltas(j, r->n, ids, bits);
        memcpy(r->ids, ids, (size_t)r->n * sizeof *ids);
        memcpy(r->bits, bits, (size_t)r->n * sizeof *bits);
        lz_workspace_clear(&ws);

        text.length = text.length < MOST_QUADRATIC ? text.length : MOST_QUADRATIC;
        REQUIRE(lz_reserve(&ws, &j->penalty, text.length) == 0);
        guard(&ws, lz_penalty_sizes(&j->penalty, text.length));
        kernels->token_bits(&j->penalty, vocab, &text, &ws, r->token_bits);
        for (int64_t i = 0; i < text.length; i++)
            REQUIRE(r->token_bits[i] >= 0 && r->token_bits[i] <= literal);
        lz_workspace_clear(&ws);
    }
    REQUIRE(is_unchanged(&j->tokens_span));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {data, size};
    results baseline = {0}, r = {0};
    job j = {0};
    const cpu_level level = (cpu_level)take_number(&in, CPU_SCALAR, CPU_AVX512);
    take_options(&in, &j);
    take_arrays(&in, &j);
    bound_marks(&j.penalty.release, j.logits.vocab);
    bound_marks(&j.penalty.open, j.logits.vocab);
    bound_marks(&j.penalty.skip, j.logits.vocab);
    bound_marks(&j.penalty.resume, j.logits.vocab);
    cpu_set_level(CPU_SCALAR);
    run(&j, &baseline);
    if (cpu_set_level(level) == 0) {
        run(&j, &r);
        REQUIRE(memcmp(r.penalized, baseline.penalized, j.logits_span.bytes) == 0);
        REQUIRE(memcmp(r.dried, baseline.dried, j.logits_span.bytes) == 0);
        free(r.penalized), free(r.dried);
        r.penalized = baseline.penalized, r.dried = baseline.dried;
        REQUIRE(memcmp(&r, &baseline, sizeof r) == 0);
    }
    free(baseline.penalized), free(baseline.dried);
    free_span(&j.logits_span), free_span(&j.tokens_span);
    return 0;
}
