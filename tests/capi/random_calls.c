/* Calls of the C interface with arguments that chance makes up, some of them wrong: `random_calls N [SEED]`.
 *
 * Every array has memory of just its size, so that a sanitizer sees the first byte beyond. What is required: a call whose
 * arguments are right succeeds, one with something wrong doesn't, and then nothing has been written. */
#include <lzpenalty.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition)                                                                                                  \
    do {                                                                                                                    \
        if (!(condition)) {                                                                                                 \
            fprintf(stderr, "%s:%d: call %lld: %s\n", __FILE__, __LINE__, calls, #condition);                               \
            abort();                                                                                                        \
        }                                                                                                                   \
    } while (0)

static long long calls;
static uint64_t state = 1;

static uint64_t next_random(void)
{
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* In [least, most]. */
static int64_t number(int64_t least, int64_t most)
{
    return least + (int64_t)(next_random() % (uint64_t)(most - least + 1));
}

static int chance(int one_in)
{
    return next_random() % (uint64_t)one_in == 0;
}

/* A size from `least` on: small, or one of the largest. */
static int32_t size_from(int32_t least)
{
    return (int32_t)(chance(8) ? number(INT32_MAX - 9, INT32_MAX) : number(least, least + 40));
}

/* ---- Memory ------------------------------------------------------------------------------------------------------------
 */

enum { MOST_SPANS = 12 };
static struct {
    unsigned char *memory, *before;
    size_t bytes;
} spans[MOST_SPANS];
static int n_spans;

static void *new_memory(size_t bytes)
{
    unsigned char *memory = malloc(bytes), *before = malloc(bytes + 1);
    REQUIRE((memory || bytes == 0) && before && n_spans < MOST_SPANS);
    for (size_t i = 0; i < bytes; i++)
        memory[i] = (unsigned char)number(0, 255);
    spans[n_spans].memory = memory;
    spans[n_spans].before = before;
    spans[n_spans++].bytes = bytes;
    return memory;
}

static void remember(void)
{
    for (int i = 0; i < n_spans; i++)
        if (spans[i].bytes > 0)
            memcpy(spans[i].before, spans[i].memory, spans[i].bytes);
}

static int is_unchanged(void)
{
    for (int i = 0; i < n_spans; i++)
        if (spans[i].bytes > 0 && memcmp(spans[i].memory, spans[i].before, spans[i].bytes) != 0)
            return 0;
    return 1;
}

static void free_memory(void)
{
    for (int i = 0; i < n_spans; i++) {
        free(spans[i].memory);
        free(spans[i].before);
    }
    n_spans = 0;
}

static size_t item_size(int32_t dtype)
{
    return dtype == LZPENALTY_FLOAT32 || dtype == LZPENALTY_INT32 ? 4 : dtype <= LZPENALTY_BFLOAT16 ? 2 : 8;
}

/* With strides in any order and direction, with gaps; the last dimension may have to be contiguous. */
static lzpenalty_tensor new_tensor(int32_t dtype, int dims, const int64_t *shape, int contiguous)
{
    lzpenalty_tensor t = lzpenalty_contiguous(NULL, (lzpenalty_dtype)dtype, dims, shape);
    int64_t step = 1, first = 0, last = 0, items = 1;
    int done = 0;
    if (contiguous) {
        step = shape[dims - 1] > 0 ? shape[dims - 1] : 1;
        t.strides[dims - 1] = 1;
        done = 1 << (dims - 1);
    }
    while (done != (1 << dims) - 1) {
        int i = (int)number(0, dims - 1);
        if (done >> i & 1)
            continue;
        step += chance(4) ? number(0, 3) : 0;
        t.strides[i] = chance(4) ? -step : step;
        step *= shape[i] > 0 ? shape[i] : 1;
        done |= 1 << i;
    }
    for (int i = 0; i < dims; i++) {
        const int64_t reach = (shape[i] - 1) * t.strides[i];
        items *= shape[i];
        *(reach < 0 ? &first : &last) += reach;
    }
    if (items == 0)
        first = last = -1;
    char *memory = new_memory((size_t)(items == 0 ? 0 : last - first + 1) * item_size(dtype));
    t.data = items == 0 ? (void *)memory : memory - first * (int64_t)item_size(dtype);
    return t;
}

/* Finite numbers of any type. */
static void fill_numbers(const lzpenalty_tensor *t)
{
    unsigned char *memory = spans[n_spans - 1].memory;
    const size_t size = item_size(t->dtype);
    for (size_t i = 0; i + size <= spans[n_spans - 1].bytes; i += size) {
        const float single = (float)number(-64, 64) / 16;
        const double wide = single;
        const uint16_t half = (uint16_t)(number(0, 1) << 15 | number(0x3000, 0x4000));
        memcpy(memory + i,
               t->dtype == LZPENALTY_FLOAT32 ? (const void *)&single
               : size == 8                   ? (const void *)&wide
                                             : &half,
               size);
    }
}

/* Mostly few different ids, some of no vocabulary; texts like to repeat themselves. */
static void fill_ids(const lzpenalty_tensor *t)
{
    unsigned char *memory = spans[n_spans - 1].memory;
    const size_t size = item_size(t->dtype), period = (size_t)number(1, 40) * size;
    for (size_t i = 0; i + size <= spans[n_spans - 1].bytes; i += size) {
        const int64_t id = chance(50) ? number(-3, 3) * INT32_MAX : number(0, 30);
        const int32_t narrow = (int32_t)id;
        if (i >= period && !chance(12))
            memcpy(memory + i, memory + i - period, size);
        else
            memcpy(memory + i, size == 8 ? (const void *)&id : &narrow, size);
    }
}

static lzpenalty_tensor new_text(int dims, int64_t rows, int64_t most)
{
    const int64_t length = number(0, most), shape[2] = {dims == 2 ? rows : length, length};
    const lzpenalty_tensor t = new_tensor((int32_t)number(LZPENALTY_INT32, LZPENALTY_INT64), dims, shape, 0);
    fill_ids(&t);
    return t;
}

/* ---- What is wrong ------------------------------------------------------------------------------------------------------
 */

static int wrong; /* something is */

/* Spoils a description in a way that can be seen. */
static void spoil_tensor(lzpenalty_tensor *t)
{
    wrong = 1;
    switch (number(0, 6)) {
    case 0:
        t->dims = (int32_t)number(0, 1) * 5;
        break;
    case 1:
        t->dtype = chance(2) ? -1 : 6;
        break;
    case 2:
        t->dtype = t->dtype >= LZPENALTY_INT32 ? LZPENALTY_FLOAT32 : LZPENALTY_INT32;
        break;
    case 3:
        t->shape[number(0, t->dims - 1)] = chance(2) ? -1 : (int64_t)INT32_MAX + 1;
        break;
    case 4:
        t->strides[number(0, t->dims - 1)] = chance(2) ? INT64_MIN : INT64_MAX;
        break;
    case 5:
        t->data = (char *)t->data + 1;
        break;
    default:
        t->dims = t->dims == 4 ? 3 : t->dims + 2;
        if (t->dims == 3)
            t->shape[2] = t->shape[3] = 1;
    }
}

/* Whether this argument is to be wrong; of one call at most one. */
static int spoils(void)
{
    if (wrong || !chance(12))
        return 0;
    wrong = 1;
    return 1;
}

static void maybe_spoil(lzpenalty_tensor *t)
{
    if (spoils())
        spoil_tensor(t);
}

static size_t spoil_size(size_t size)
{
    static const size_t sizes[] = {0, 1, 4, 4104, (size_t)-8, 20};
    return spoils() ? sizes[number(0, 5)] : size;
}

static void settle(int status)
{
    const char *text = lzpenalty_strerror(status);
    REQUIRE(text && text[0] && strcmp(text, "an unknown status") != 0);
    REQUIRE((status != LZPENALTY_OK) == wrong);
    if (wrong)
        REQUIRE(is_unchanged());
}

/* ---- Calls --------------------------------------------------------------------------------------------------------------
 */

static lzpenalty_workspace *ws;

static int32_t new_ids(const int32_t **ids, int64_t vocab)
{
    const int32_t n = (int32_t)number(0, 5);
    int32_t *memory = new_memory((size_t)n * sizeof *memory);
    for (int32_t i = 0; i < n; i++)
        memory[i] = (int32_t)number(0, vocab - 1);
    if (n > 0 && spoils())
        memory[number(0, n - 1)] = -1;
    *ids = memory;
    return n;
}

static lzpenalty_marks new_marks(int64_t vocab)
{
    const int32_t n = (int32_t)number(0, 3);
    lzpenalty_mark *memory = new_memory((size_t)n * sizeof *memory);
    for (int32_t i = 0; i < n; i++) {
        memory[i].n = (int32_t)number(1, LZPENALTY_MOST_MARK_IDS);
        for (int32_t k = 0; k < memory[i].n; k++)
            memory[i].ids[k] = (int32_t)number(0, vocab - 1);
    }
    if (n > 0 && spoils())
        memory[0].n = chance(2) ? 0 : LZPENALTY_MOST_MARK_IDS + 1;
    return (lzpenalty_marks){memory, (size_t)n};
}

static lzpenalty_options new_options(int64_t vocab)
{
    lzpenalty_options o = lzpenalty_options_default();
    o.strength = (float)number(0, 32) / 16;
    o.window = size_from(0);
    o.buffer = size_from(1);
    o.cost = (int32_t)number(LZPENALTY_LZSS, LZPENALTY_DISTANCE);
    o.min_match = chance(2) ? 1 : size_from(1);
    o.gate.to = chance(2) ? 0 : (double)number(1, 40);
    o.gate.from = o.gate.to > 0 ? (double)number(0, (int64_t)o.gate.to - 1) : 0;
    o.release_after = size_from(1);
    if (chance(2))
        o.release = new_marks(vocab);
    if (chance(4))
        o.open = new_marks(vocab);
    if (chance(4))
        o.skip = new_marks(vocab);
    if (chance(2))
        o.resume = new_marks(vocab);
    o.section_gate.to = chance(2) ? 0 : (double)number(1, 40);
    if (spoils()) {
        static const double odd[] = {-1.0f, INFINITY, NAN};
        switch (number(0, 7)) {
        case 0:
            o.strength = odd[number(0, 2)];
            break;
        case 1:
            o.window = -1;
            break;
        case 2:
            o.buffer = 0;
            break;
        case 3:
            o.cost = chance(2) ? -1 : 3;
            break;
        case 4:
            o.min_match = INT32_MIN;
            break;
        case 5:
            o.gate.from = o.gate.to + 1;
            break;
        case 6:
            o.release_after = 0;
            break;
        default:
            o.release.n = (size_t)-1;
        }
    }
    o.size = spoil_size(sizeof o);
    return o;
}

static const int64_t *new_starts(int64_t rows, int64_t length)
{
    int64_t *starts;
    if (chance(2))
        return NULL;
    starts = new_memory((size_t)rows * sizeof *starts);
    for (int64_t i = 0; i < rows; i++)
        starts[i] = number(0, length);
    if (rows > 0 && spoils())
        starts[number(0, rows - 1)] = chance(2) ? -1 : length + 1;
    return starts;
}

static void call_penalize(void)
{
    const int dims = (int)number(1, 2);
    const int64_t rows = dims == 2 ? number(0, 3) : 1, vocab = number(1, 60), shape[2] = {dims == 2 ? rows : vocab, vocab};
    lzpenalty_tensor logits = new_tensor((int32_t)number(LZPENALTY_FLOAT32, LZPENALTY_FLOAT64), dims, shape, 0);
    lzpenalty_tensor tokens = new_text(dims, rows, 200);
    lzpenalty_options options = new_options(vocab);
    lzpenalty_dry_options dry = lzpenalty_dry_options_default();
    const int64_t *starts = new_starts(rows, tokens.shape[dims - 1]);
    dry.window = size_from(0);
    dry.allowed_length = size_from(1);
    if (wrong || chance(2)) {
        maybe_spoil(&logits);
        maybe_spoil(&tokens);
        if (rows > 0 && tokens.shape[dims - 1] > 0 && spoils())
            tokens.data = (char *)logits.data - (uintptr_t)logits.data % 8; /* shared memory, if it can be told */
        remember();
        settle(lzpenalty_penalize(spoils() ? NULL : ws, &options, &logits, &tokens, starts));
        return;
    }
    dry.n_sequence_breakers = new_ids(&dry.sequence_breakers, 100);
    dry.size = spoil_size(sizeof dry);
    maybe_spoil(&logits);
    remember();
    settle(lzpenalty_dry(ws, &dry, &logits, &tokens, starts));
}

static void call_code_lengths(void)
{
    const int32_t vocab = (int32_t)(spoils() ? 0 : number(1, 60));
    lzpenalty_tensor tokens = new_text(1, 1, 60);
    lzpenalty_options options = lzpenalty_options_default();
    options.window = size_from(0);
    options.buffer = size_from(1);
    options.size = spoil_size(sizeof options);
    const int64_t room = options.window < tokens.shape[0] ? options.window : tokens.shape[0];
    int32_t *ids = new_memory((size_t)room * sizeof *ids);
    float *bits = new_memory((size_t)room * sizeof *bits);
    double *all = new_memory((size_t)tokens.shape[0] * sizeof *all);
    int64_t count = -1;
    maybe_spoil(&tokens);
    remember();
    if (chance(2)) {
        settle(lzpenalty_code_lengths(ws, &options, vocab, &tokens, ids, bits, room, &count));
        REQUIRE(wrong ? count == -1 : count >= 0 && count <= room);
        if (count > 0)
            REQUIRE(lzpenalty_code_lengths(ws, &options, vocab, &tokens, ids, bits, count - 1, &count) ==
                    LZPENALTY_TOO_LITTLE_ROOM);
    } else
        settle(lzpenalty_token_bits(ws, &options, vocab, &tokens, all));
}

static void call_loops(void)
{
    const int dims = (int)number(1, 2);
    const int64_t rows = dims == 2 ? number(0, 3) : 1;
    lzpenalty_tensor tokens = new_text(dims, rows, 300);
    const int64_t *starts = new_starts(rows, tokens.shape[dims - 1]);
    int64_t *results = new_memory((size_t)rows * sizeof *results);
    maybe_spoil(&tokens);
    remember();
    if (chance(2)) {
        const int32_t gram = spoils() ? 65 : (int32_t)number(1, 64), window = spoils() ? -1 : size_from(0);
        settle(lzpenalty_loop_evidence(ws, &tokens, starts, gram, window, results));
    } else {
        const int32_t ngram = spoils() ? 0 : size_from(1), count = spoils() ? 1 : size_from(2);
        const int32_t most = spoils() ? 0 : size_from(1);
        settle(lzpenalty_repetition_period(ws, &tokens, starts, ngram, count, most, results));
    }
}

static void call_text(void)
{
    lzpenalty_tensor tokens = new_text(1, 1, 120);
    const int64_t n = tokens.shape[0];
    lzpenalty_phrase *phrases = new_memory((size_t)n * sizeof *phrases);
    lzpenalty_loop *loops = new_memory((size_t)(4 * n) * sizeof *loops);
    lzpenalty_loop_options options = lzpenalty_loop_options_default();
    int64_t count = -1, sum = 0;
    options.min_repeats = spoils() ? 1 : (int32_t)number(2, 4);
    options.max_period = (int32_t)number(0, 90);
    options.tolerance = spoils() ? 1 : chance(2) ? 0 : (float)number(0, 9) / 10;
    options.size = spoil_size(sizeof options);
    if (wrong || chance(2)) {
        maybe_spoil(&tokens);
        remember();
        const int status = lzpenalty_find_loops(&tokens, &options, loops, 4 * n, &count);
        REQUIRE(status != LZPENALTY_TOO_LITTLE_ROOM);
        settle(status);
        for (int64_t i = 0; i < count; i++)
            REQUIRE(loops[i].period > 0 && loops[i].start >= 0 && loops[i].length <= n - loops[i].start);
        return;
    }
    maybe_spoil(&tokens);
    remember();
    if (chance(2))
        settle(lzpenalty_factorize(&tokens, spoils() ? -1 : size_from(0), phrases, &count));
    else
        settle(lzpenalty_factorize_lz78(&tokens, phrases, &count));
    for (int64_t i = 0; i < count; i++)
        sum += phrases[i].length;
    REQUIRE(wrong || sum == n);
}

static void call_cache(void)
{
    const int32_t dtype = (int32_t)number(LZPENALTY_FLOAT32, LZPENALTY_BFLOAT16);
    const int64_t batch = number(1, 2), heads = number(1, 3), group = number(1, 3), tokens = number(1, 40);
    const int64_t size = number(1, 40), value_size = number(1, 9), recent = number(1, 5);
    const int64_t key_shape[4] = {batch, heads, tokens, size}, value_shape[4] = {batch, heads, tokens, value_size};
    const int64_t query_shape[4] = {batch, heads * group, recent, size};
    const int64_t out_shape[4] = {batch, heads * group, recent, value_size};
    lzpenalty_tensor keys = new_tensor(dtype, 4, key_shape, 1), values, queries, out;
    fill_numbers(&keys);
    values = new_tensor(dtype, 4, value_shape, 1);
    fill_numbers(&values);
    queries = new_tensor(dtype, 4, query_shape, 1);
    fill_numbers(&queries);
    const int64_t stop = number(1, tokens), start = number(0, stop - 1), n = stop - start, k = number(1, n);
    const int by_group = chance(2);
    const int64_t rows = by_group ? heads : 1, score_shape[3] = {batch, rows, n}, position_shape[3] = {batch, rows, k};
    maybe_spoil(&keys);
    switch (number(0, 2)) {
    case 0: {
        lzpenalty_score_options options = lzpenalty_score_options_default();
        float *scores = new_memory((size_t)(batch * rows * n) * sizeof *scores);
        int64_t *positions = new_memory((size_t)(batch * rows * k) * sizeof *positions);
        const lzpenalty_tensor all = lzpenalty_contiguous(scores, LZPENALTY_FLOAT32, 3, score_shape);
        const lzpenalty_tensor chosen = lzpenalty_contiguous(positions, LZPENALTY_INT64, 3, position_shape);
        options.aggregation = by_group;
        options.kernel = spoils() ? 2 : (int32_t)(2 * number(0, 5) + 1);
        options.threads = 1;
        options.size = spoil_size(sizeof options);
        maybe_spoil(&queries);
        remember();
        settle(lzpenalty_attention_scores(&queries, &keys, start, spoils() ? tokens + 1 : stop, &options, scores));
        if (wrong)
            return;
        remember();
        settle(lzpenalty_select_top(&all, spoils() ? n + 1 : k, positions));
        if (wrong)
            return;
        if (spoils())
            positions[number(0, batch * rows * k - 1)] = chance(2) ? -1 : n;
        remember();
        settle(lzpenalty_compact(&keys, &values, &chosen, start, stop, number(stop, tokens), 1));
        break;
    }
    case 1: {
        const int64_t added = number(0, tokens), position = number(0, tokens - added);
        const int64_t shapes[2][4] = {{batch, heads, added, size}, {batch, heads, added, value_size}};
        lzpenalty_tensor new_keys = new_tensor(dtype, 4, shapes[0], 1), new_values = new_tensor(dtype, 4, shapes[1], 1);
        maybe_spoil(&new_values);
        if (added > 0 && spoils())
            new_keys.data = keys.data, new_keys.strides[2] = keys.strides[2];
        remember();
        if (!wrong || new_keys.data != keys.data) /* else it is for the library to say whether they meet */
            settle(lzpenalty_append(&keys, &values, &new_keys, &new_values, spoils() ? tokens - added + 1 : position));
        break;
    }
    default: {
        lzpenalty_attend_options options = lzpenalty_attend_options_default();
        const int64_t count_shape[2] = {batch, heads};
        lzpenalty_tensor lengths, pads, lse;
        out = new_tensor(dtype, 4, out_shape, 1);
        lengths = new_tensor(LZPENALTY_INT64, (int)number(1, 2), count_shape, 0);
        for (size_t i = 0; i * 8 < spans[n_spans - 1].bytes; i++)
            ((int64_t *)(void *)spans[n_spans - 1].memory)[i] = number(0, tokens);
        if (spoils())
            for (size_t i = 0; i * 8 < spans[n_spans - 1].bytes; i++)
                ((int64_t *)(void *)spans[n_spans - 1].memory)[i] = chance(2) ? -1 : tokens + 1;
        pads = new_tensor(LZPENALTY_INT64, 1, count_shape, 0);
        for (size_t i = 0; i * 8 < spans[n_spans - 1].bytes; i++)
            ((int64_t *)(void *)spans[n_spans - 1].memory)[i] = number(0, tokens);
        options.lengths = &lengths;
        options.pads = chance(2) ? &pads : NULL;
        lse = new_tensor(LZPENALTY_FLOAT32, 3, out_shape, 1);
        if (chance(2)) {
            maybe_spoil(&lse);
            options.lse = &lse;
        }
        options.softcap = spoils() ? -1 : chance(2) ? 0 : 3;
        options.threads = spoils() ? -1 : 1;
        options.size = spoil_size(sizeof options);
        maybe_spoil(&out);
        if (spoils())
            out = queries;
        remember();
        settle(lzpenalty_attend(&queries, &keys, &values, &options, &out));
    }
    }
}

int main(int argc, char **argv)
{
    static void (*const functions[])(void) = {call_penalize, call_penalize, call_code_lengths,
                                              call_loops,    call_text,     call_cache};
    static const char *const levels[] = {"scalar", "neon", "neon_bf16", "avx2", "avx512", "avx512_bf16", "amx", NULL};
    const long long n = argc > 1 ? atoll(argv[1]) : 1000;
    state = argc > 2 ? (uint64_t)atoll(argv[2]) : 1;
    for (calls = 0; calls < n; calls++) {
        if (chance(500)) {
            lzpenalty_workspace_destroy(ws);
            ws = NULL;
            lzpenalty_set_cpu_level(levels[number(0, 7)]); /* or not */
        }
        if (!ws)
            ws = lzpenalty_workspace_create();
        wrong = 0;
        functions[number(0, 5)]();
        free_memory();
    }
    lzpenalty_workspace_destroy(ws);
    return 0;
}
