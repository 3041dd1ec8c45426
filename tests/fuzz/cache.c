/* Fuzz target of the cache's kernels: scores are those of plain C at every level, to rounding; the selection is right by
 * definition; what is moved arrives, and nothing else changes. */
#include <math.h>

#include "../../csrc/cache/cache.h"
#include "../../csrc/cpu/half.h"
#include "fuzz.h"

enum { MOST_TOKENS = 120, MOST_WORK = 3000 };

/* Numbers as bytes spell them: up to 2, for whose products rounding makes little difference, but for the last few. */
static float number_of(uint8_t byte)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, 1e-40f, -1e-40f, -0.0f};
    return byte < 250 ? (float)(byte - 125) / 64 : odd[byte - 250];
}

static void fill(span *s, float_dtype dtype)
{
    for (size_t i = 0, size = (size_t)float_size(dtype); i < s->bytes; i += size) {
        const float number = number_of(s->memory[i]);
        const uint16_t half = dtype == FLOAT16 ? float_to_f16(number) : float_to_bf16(number);
        memcpy(s->memory + i, dtype == FLOAT32 ? (const void *)&number : &half, size);
    }
    memcpy(s->before, s->memory, s->bytes);
}

static cache_array take_array(input *in, float_dtype dtype, const int64_t sizes[4], span *s)
{
    int64_t strides[4];
    take_strides(in, 4, sizes, 1, strides);
    *s = new_span(in, 4, sizes, strides, (size_t)float_size(dtype));
    fill(s, dtype);
    return (cache_array){s->data, dtype, sizes[0], sizes[1], sizes[2], sizes[3], strides[0], strides[1], strides[2]};
}

static uint8_t *token_at(const cache_array *a, const span *s, uint8_t *memory, int64_t b, int64_t head, int64_t token)
{
    const int64_t at = b * a->batch_stride + head * a->head_stride + token * a->token_stride;
    return memory + ((uint8_t *)s->data - s->memory) + at * float_size(a->dtype);
}

static int higher(const float *scores, int64_t a, int64_t b)
{
    if (isnan(scores[a]) || isnan(scores[b]))
        return isnan(scores[a]) && isnan(scores[b]) ? a < b : isnan(scores[b]);
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
}

/* All that are chosen are higher than all that are not. */
static void check_selection(const float *scores, int64_t n, int64_t k, const int64_t *positions)
{
    int64_t lowest = -1, highest = -1;
    for (int64_t t = 0, i = 0; t < n; t++) {
        const int chosen = i < k && positions[i] == t;
        int64_t *extreme = chosen ? &lowest : &highest;
        if (*extreme < 0 || (chosen ? higher(scores, *extreme, t) : higher(scores, t, *extreme)))
            *extreme = t;
        i += chosen;
        REQUIRE(t < n - 1 || i == k);
    }
    REQUIRE(lowest < 0 || highest < 0 || higher(scores, lowest, highest));
}

static void check_scores(const cache_attention *attn, int64_t rows, int64_t n, const float *reference)
{
    for (int64_t row = 0; row < rows; row++) {
        double sum = 0;
        for (int64_t t = 0; t < n; t++) {
            const float score = attn->scores[row * n + t], wanted = reference[row * n + t];
            REQUIRE(isnan(score) == isnan(wanted) && (isnan(score) || fabsf(score - wanted) <= 1e-3f * wanted + 1e-7f));
            REQUIRE(!(score < 0));
            sum += score;
        }
        REQUIRE(isnan(sum) || sum <= 1.001);
    }
}

/* Keys or values after a compaction, or after tokens were added at `position`. */
static void check_moved(const cache_array *a, span *s, const cache_compaction *c, const cache_array *added,
                        const span *added_span, int64_t position)
{
    const size_t bytes = (size_t)(a->size * float_size(a->dtype));
    uint8_t *expected = malloc(s->bytes + 1);
    memcpy(expected, s->before, s->bytes);
    for (int64_t b = 0; b < a->batch; b++) {
        for (int64_t head = 0; head < a->heads; head++) {
            const int64_t *positions = c->positions + b * c->position_batch_stride + head * c->position_head_stride;
            const int64_t moved = added ? added->tokens : c->kept + c->length - c->stop;
            for (int64_t i = 0; i < moved; i++) {
                const int64_t from = i < c->kept ? c->start + positions[i] : c->stop + i - c->kept;
                const int64_t to = (added ? position : c->start) + i;
                const uint8_t *token = added ? token_at(added, added_span, added_span->memory, b, head, i)
                                             : token_at(a, s, s->before, b, head, from);
                memcpy(token_at(a, s, expected, b, head, to), token, bytes);
            }
        }
    }
    REQUIRE(memcmp(expected, s->memory, s->bytes) == 0);
    free(expected);
    restore(s);
}

static void run_attention(cache_attention *attn, span *queries, span *keys, cpu_level level, float *scores)
{
    const int64_t n = attn->stop - attn->start, rows = attn->keys.batch * (attn->by_group ? attn->keys.heads : 1);
    attn->scores = scores;
    cpu_set_level(CPU_SCALAR);
    const int nan = cache_attention_scores(attn);
    REQUIRE(nan == 0 || nan == 1);
    float *reference = malloc((size_t)(rows * n) * sizeof *reference);
    memcpy(reference, scores, (size_t)(rows * n) * sizeof *reference);
    if (cpu_set_level(level) == 0) {
        REQUIRE(cache_attention_scores(attn) == nan);
        check_scores(attn, rows, n, reference);
    }
    REQUIRE(is_unchanged(queries) && is_unchanged(keys));
    free(reference);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {data, size};
    const cpu_level level = (cpu_level)take_number(&in, CPU_SCALAR, CPU_AMX);
    const float_dtype dtype = (float_dtype)take_number(&in, FLOAT32, BFLOAT16);
    const int64_t batch = take_number(&in, 1, 2), heads = take_number(&in, 1, 3), tokens = take_number(&in, 1, MOST_TOKENS);
    const int64_t group = take_number(&in, 1, 3), added_tokens = take_byte(&in) % (tokens + 1);
    int64_t width = take_number(&in, 1, 70), recent = take_number(&in, 1, 40);
    const int64_t value_width = take_number(&in, 1, 9);
    while (recent > 1 && batch * heads * group * recent * tokens * width > MOST_WORK)
        recent /= 2;
    while (width > 1 && batch * heads * group * recent * tokens * width > MOST_WORK)
        width /= 2;

    cache_attention attn = {.threads = 1};
    span queries, keys, values, new_keys, new_values;
    attn.stop = 1 + take_byte(&in) % tokens;
    attn.start = take_byte(&in) % attn.stop;
    const int64_t length = attn.stop + take_byte(&in) % (tokens - attn.stop + 1);
    const int64_t n = attn.stop - attn.start, k = take_byte(&in) % (n + 1);
    const int64_t position = take_byte(&in) % (tokens - added_tokens + 1);
    const int options = take_byte(&in);
    attn.width = 2 * (take_size(&in, 0) / 2) + 1;
    attn.by_group = options & 1;
    attn.scale = options & 2 ? (float)take_number(&in, -64, 64) / 64 : 1 / sqrtf((float)width);
    const int64_t query_sizes[4] = {batch, heads * group, recent, width}, key_sizes[4] = {batch, heads, tokens, width};
    const int64_t value_sizes[4] = {batch, heads, tokens, value_width};
    const int64_t new_sizes[2][4] = {{batch, heads, added_tokens, width}, {batch, heads, added_tokens, value_width}};
    attn.queries = take_array(&in, dtype, query_sizes, &queries);
    attn.keys = take_array(&in, dtype, key_sizes, &keys);
    const cache_array value_array = take_array(&in, dtype, value_sizes, &values);
    const cache_array added[2] = {take_array(&in, dtype, new_sizes[0], &new_keys),
                                  take_array(&in, dtype, new_sizes[1], &new_values)};

    const int64_t score_heads = attn.by_group ? heads : 1, rows = batch * score_heads;
    float *scores = malloc((size_t)(rows * n) * sizeof *scores);
    int64_t *positions = malloc((size_t)(rows * k) * sizeof *positions);
    REQUIRE(scores && positions);
    run_attention(&attn, &queries, &keys, level, scores);

    if (options & 4) /* other scores than attention gives */
        for (int64_t i = 0; i < rows * n; i++)
            scores[i] = in.left > 0 ? number_of(in.at[(size_t)i % in.left]) : 0;
    cache_select_top(scores, rows, n, n, k, positions);
    for (int64_t row = 0; row < rows; row++)
        check_selection(scores + row * n, n, k, positions + row * k);

    cache_compaction c = {attn.keys, value_array, positions, score_heads * k, attn.by_group ? k : 0,
                          k,         attn.start,  attn.stop, length,          1};
    cache_compact(&c);
    check_moved(&attn.keys, &keys, &c, NULL, NULL, 0);
    check_moved(&value_array, &values, &c, NULL, NULL, 0);
    cache_append(&attn.keys, &added[0], position);
    cache_append(&value_array, &added[1], position);
    check_moved(&attn.keys, &keys, &c, &added[0], &new_keys, position);
    check_moved(&value_array, &values, &c, &added[1], &new_values, position);

    free(scores), free(positions);
    free_span(&queries), free_span(&keys), free_span(&values), free_span(&new_keys), free_span(&new_values);
    return 0;
}
