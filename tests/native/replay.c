/* Runs the kernels on recorded cases at every level of this machine and compares bit for bit, but for attention scores,
 * whose rounding depends on the level: under valgrind, or on another processor (tests/native/record.py writes the cases).
 * Prints a line and exits with 1 on the first difference. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/cache/cache.h"
#include "../../csrc/cpu/half.h"
#include "../../csrc/lz/lz.h"
#include "../../csrc/text/text.h"

static FILE *file;

/* Numbers of `size` bytes, which the file has in little-endian order. */
static void *read_items(size_t count, size_t size)
{
    static const uint16_t one = 1;
    const int is_little = *(const uint8_t *)&one;
    uint8_t *items = malloc(count * size + 1);
    if (!items || fread(items, size, count, file) != count) {
        fprintf(stderr, "replay: the file ends early\n");
        exit(2);
    }
    for (size_t i = 0; i < count && !is_little; i++) {
        for (size_t k = 0; k < size / 2; k++) {
            uint8_t *item = items + i * size, byte = item[k];
            item[k] = item[size - 1 - k];
            item[size - 1 - k] = byte;
        }
    }
    return items;
}

static int32_t read_int(void)
{
    int32_t *item = read_items(1, sizeof *item), value = *item;
    free(item);
    return value;
}

static float read_float(void)
{
    float *item = read_items(1, sizeof *item), value = *item;
    free(item);
    return value;
}

static void *copy_of(const void *items, size_t size)
{
    void *copy = malloc(size);
    return memcpy(copy, items, size);
}

static void fail(const char *what, int at)
{
    fprintf(stderr, "replay: case %d: %s differs at level %s\n", at, what, cpu_level_name(cpu_current_level()));
    exit(1);
}

static void expect(const char *what, int at, const void *got, const void *wanted, size_t size)
{
    if (memcmp(got, wanted, size) != 0)
        fail(what, at);
}

static lz_marks read_marks(void)
{
    lz_marks marks = {.n = read_int()};
    for (int m = 0; m < marks.n; m++) {
        marks.mark[m].n = read_int();
        for (int k = 0; k < marks.mark[m].n; k++)
            marks.mark[m].id[k] = read_int();
    }
    return marks;
}

static void replay_penalties(void)
{
    static const int32_t breakers[] = {3};
    for (int at = 0, cases = read_int(); at < cases; at++) {
        int32_t length = read_int(), vocab = read_int();
        int64_t *ids64 = read_items((size_t)length, sizeof *ids64);
        size_t row_size = (size_t)vocab * sizeof(float);
        float *before = read_items((size_t)vocab, sizeof *before), *row = malloc(row_size);
        lz_penalty p = {.cost = read_int()};
        p.window = read_int(), p.buffer = read_int(), p.min_match = read_int();
        p.strength = read_float();
        p.gate.from = read_float(), p.gate.to = read_float(), p.section_gate.from = read_float(),
        p.section_gate.to = read_float(), p.release_rate = read_float(), p.release_after = read_int();
        p.release = read_marks(), p.open = read_marks(), p.skip = read_marks(), p.resume = read_marks();
        float *penalized = read_items((size_t)vocab, sizeof *penalized);
        int32_t n = read_int(), *ids = read_items((size_t)n, sizeof *ids);
        float *bits = read_items((size_t)n, sizeof *bits);
        lz_dry dry = {.breakers = breakers};
        dry.multiplier = read_float(), dry.base = read_float();
        dry.allowed_length = read_int(), dry.window = read_int(), dry.n_breakers = read_int();
        float *dried = read_items((size_t)vocab, sizeof *dried);
        lz_loop loop;
        loop.ngram = read_int(), loop.count = read_int(), loop.max_period = read_int();
        int64_t period = read_int(), got_period;
        lz_evidence evidence;
        evidence.gram = read_int(), evidence.window = read_int();
        int64_t circling = read_int(), got_circling;

        lz_tokens tokens = {.data = ids64, .is_int64 = 1, .rows = 1, .length = length, .column_stride = 1};
        lz_logits logits = {.data = row, .dtype = FLOAT32, .rows = 1, .vocab = vocab, .column_stride = 1};
        for (int level = 0; level < CPU_LEVELS; level++) {
            if (cpu_set_level((cpu_level)level) < 0)
                continue;
            const lz_kernels *kernels = lz_current_kernels();
            lz_workspace ws = {0};
            int32_t *got_ids;
            float *got_bits;
            if (lz_reserve(&ws, &p, length) < 0 || lz_reserve_dry(&ws, &dry, length) < 0 ||
                lz_reserve_loop(&ws, &loop, length) < 0 || lz_reserve_evidence(&ws, &evidence, length) < 0)
                exit(2);
            memcpy(row, before, row_size);
            if (p.window > 0)
                kernels->penalize(&p, &logits, &tokens, &ws);
            expect("penalize", at, row, penalized, row_size);
            int32_t got_n = kernels->deltas(&p, vocab, &tokens, &ws, &got_ids, &got_bits);
            expect("the number of deltas", at, &got_n, &n, sizeof n);
            expect("ids of deltas", at, got_ids, ids, (size_t)n * sizeof *ids);
            expect("bits of deltas", at, got_bits, bits, (size_t)n * sizeof *bits);
            memcpy(row, before, row_size);
            if (dry.window > 0)
                kernels->dry(&dry, &logits, &tokens, &ws);
            expect("dry", at, row, dried, row_size);
            kernels->periods(&loop, &tokens, &got_period, &ws);
            expect("the period", at, &got_period, &period, sizeof period);
            kernels->evidence(&evidence, &tokens, &got_circling, &ws);
            expect("the evidence", at, &got_circling, &circling, sizeof circling);
            lz_workspace_clear(&ws);
        }
        free(ids64), free(before), free(row), free(penalized), free(ids), free(bits), free(dried);
    }
}

static cache_array contiguous(float_dtype dtype, int64_t batch, int64_t heads, int64_t tokens, int64_t size)
{
    return (cache_array){NULL, dtype, batch, heads, tokens, size, heads * tokens * size, tokens * size, size};
}

static void replay_caches(void)
{
    for (int at = 0, cases = read_int(); at < cases; at++) {
        cache_attention attn = {.threads = 1};
        cache_array *q = &attn.queries, *k = &attn.keys, values, added[2];
        const float_dtype dtype = (const float_dtype[]){FLOAT32, FLOAT16, BFLOAT16}[read_int()];
        const size_t item = dtype == FLOAT32 ? 4 : 2;
        int64_t batch = read_int(), query_heads = read_int(), heads = read_int(), recent = read_int(), capacity = read_int();
        int64_t size = read_int();
        attn.start = read_int(), attn.stop = read_int(), attn.width = read_int(), attn.by_group = read_int();
        int64_t kept = read_int(), n = attn.stop - attn.start, rows = attn.by_group ? batch * heads : batch;
        attn.scale = read_float();
        *q = contiguous(dtype, batch, query_heads, recent, size);
        *k = contiguous(dtype, batch, heads, capacity, size);
        values = contiguous(dtype, batch, heads, capacity, size + 1);
        size_t n_keys = (size_t)(batch * k->batch_stride), key_bytes = n_keys * item;
        size_t n_values = (size_t)(batch * values.batch_stride), value_bytes = n_values * item;
        q->data = read_items((size_t)(batch * q->batch_stride), item);
        void *keys_before = read_items(n_keys, item), *values_before = read_items(n_values, item);
        float *scores = read_items((size_t)(rows * n), sizeof *scores);
        int64_t *positions = read_items((size_t)(rows * kept), sizeof *positions);
        void *keys_after = read_items(n_keys, item), *values_after = read_items(n_values, item);

        for (int level = 0; level < CPU_LEVELS; level++) {
            if (cpu_set_level((cpu_level)level) < 0)
                continue;
            attn.scores = malloc((size_t)(rows * n) * sizeof *scores);
            int64_t *got = malloc((size_t)(rows * kept) * sizeof *got);
            k->data = copy_of(keys_before, key_bytes), values.data = copy_of(values_before, value_bytes);
            if (cache_attention_scores(&attn) != 0)
                fail("the status of scores", at);
            for (int64_t i = 0; i < rows * n; i++)
                if (!(fabsf(attn.scores[i] - scores[i]) <= 1e-5f * scores[i]))
                    fail("a score", at);
            cache_select_top(scores, rows, n, n, kept, got);
            expect("the selection", at, got, positions, (size_t)(rows * kept) * sizeof *got);
            cache_compact(&(cache_compaction){*k, values, got, rows / batch * kept, attn.by_group ? kept : 0, kept,
                                              attn.start, attn.stop, capacity - 1, 1});
            added[0] = *k, added[0].data = keys_before, added[0].tokens = 1;
            added[1] = values, added[1].data = values_before, added[1].tokens = 1;
            cache_append(k, &added[0], capacity - 1 - n + kept);
            cache_append(&values, &added[1], capacity - 1 - n + kept);
            expect("keys", at, k->data, keys_after, key_bytes);
            expect("values", at, values.data, values_after, value_bytes);
            free(attn.scores), free(got), free(k->data), free(values.data);
        }
        free(q->data), free(keys_before), free(values_before), free(scores), free(positions), free(keys_after);
        free(values_after);
    }
}

static int by_all(const void *a, const void *b)
{
    const int32_t *x = a, *y = b;
    for (int i = 0; i < 3; i++)
        if (x[i] != y[i])
            return x[i] < y[i] ? -1 : 1;
    return 0;
}

static void expect_loops(const char *what, int at, text_loops *got)
{
    int32_t n = read_int();
    text_loop *loops = read_items(3 * (size_t)n, sizeof(int32_t));
    if (got->n != (size_t)n)
        fail(what, at);
    if (n > 0)
        qsort(got->items, got->n, sizeof *got->items, by_all);
    expect(what, at, got->items, loops, (size_t)n * sizeof *loops);
    free(loops), free(got->items);
}

static void expect_phrases(const char *what, int at, const text_phrase *got, int32_t got_n)
{
    int32_t n = read_int();
    text_phrase *phrases = read_items(2 * (size_t)n, sizeof(int32_t));
    if (got_n != n)
        fail(what, at);
    expect(what, at, got, phrases, (size_t)n * sizeof *phrases);
    free(phrases);
}

static void replay_texts(void)
{
    for (int at = 0, cases = read_int(); at < cases; at++) {
        int32_t n = read_int(), window = read_int();
        int32_t *text = read_items((size_t)n, sizeof *text);
        text_loop_options options = {.max_period = read_int(), .min_repeats = read_int(), .tolerance = read_int()};
        text_loop_options exact = options;
        exact.tolerance = 0;
        text_phrase *phrases = malloc((size_t)n * sizeof *phrases + 1);
        text_loops loops = {0}, near = {0};
        expect_phrases("the parse of 1977", at, phrases, text_parse_lz77(text, n, window, phrases));
        expect_phrases("the parse of 1978", at, phrases, text_parse_lz78(text, n, phrases));
        if (text_find_loops(text, n, &exact, &loops) < 0 || text_find_loops(text, n, &options, &near) < 0)
            exit(2);
        expect_loops("a loop", at, &loops);
        expect_loops("a near loop", at, &near);
        free(text), free(phrases);
    }
}

static float number_at(const void *numbers, float_dtype dtype, int64_t i)
{
    if (dtype == FLOAT32)
        return ((const float *)numbers)[i];
    return dtype == FLOAT16 ? f16_to_float(((const uint16_t *)numbers)[i]) : bf16_to_float(((const uint16_t *)numbers)[i]);
}

static void replay_attention(void)
{
    for (int at = 0, cases = read_int(); at < cases; at++) {
        const float_dtype dtype = (const float_dtype[]){FLOAT32, FLOAT16, BFLOAT16}[read_int()];
        const float precision = dtype == FLOAT32 ? 2e-5f : dtype == FLOAT16 ? 2e-3f : 2e-2f;
        const size_t item = dtype == FLOAT32 ? 4 : 2;
        int64_t batch = read_int(), query_heads = read_int(), heads = read_int(), q = read_int(), tokens = read_int();
        int64_t size = read_int();
        cache_span *spans = malloc((size_t)(batch * heads) * sizeof *spans);
        for (int64_t i = 0; i < batch * heads; i++)
            spans[i] = (cache_span){i * tokens * size, i * tokens * size, 0, read_int()};
        for (int64_t b = 0; b < batch; b++) {
            const int64_t pad = read_int();
            for (int64_t head = 0; head < heads; head++)
                spans[b * heads + head].first = pad;
        }
        cache_decode decode = {.queries = contiguous(dtype, batch, query_heads, q, size),
                               .heads = heads,
                               .key_stride = size,
                               .value_stride = size,
                               .spans = spans,
                               .threads = 2};
        decode.scale = read_float(), decode.softcap = read_float();
        decode.out = decode.queries;
        const size_t count = (size_t)(batch * query_heads * q * size), cached = (size_t)(batch * heads * tokens * size);
        void *queries = read_items(count, item), *keys = read_items(cached, item), *values = read_items(cached, item);
        void *wanted = read_items(count, item);
        decode.queries.data = queries, decode.keys = keys, decode.values = values;
        decode.out.data = malloc(count * item);
        for (int level = 0; level < CPU_LEVELS; level++) {
            if (cpu_set_level((cpu_level)level) < 0)
                continue;
            memset(decode.out.data, 0xff, count * item);
            if (cache_attend(&decode) != 0)
                fail("the status of attention", at);
            for (int64_t i = 0; i < (int64_t)count; i++) {
                const float x = number_at(wanted, dtype, i), got = number_at(decode.out.data, dtype, i);
                if (!(fabsf(got - x) <= precision * (1 + fabsf(x))))
                    fail("attention", at);
            }
        }
        free(queries), free(keys), free(values), free(wanted), free(decode.out.data), free(spans);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2 || !(file = fopen(argv[1], "rb"))) {
        fprintf(stderr, "usage: replay FILE\n");
        return 2;
    }
    replay_penalties();
    replay_caches();
    replay_attention();
    replay_texts();
    fclose(file);
    printf("replay: all cases agree at");
    for (int level = 0; level < CPU_LEVELS; level++)
        if (cpu_level_available((cpu_level)level))
            printf(" %s", cpu_level_name((cpu_level)level));
    printf("\n");
    return 0;
}
