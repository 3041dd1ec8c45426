/* Cache selection and decode attention for callers in C. */
#include "../cache/check.h"

#include <math.h>
#include <stdlib.h>

#include "api.h"

/* A cache's [batch, heads, tokens, size], with at least one of all but tokens, of the type of `like` if there is one. */
static int read_array(const lzpenalty_tensor *t, const lzpenalty_tensor *like, cache_array *a)
{
    CHECK(api_check_tensor(t, 4, 4));
    WANT(t->dtype <= LZPENALTY_BFLOAT16 && (!like || t->dtype == like->dtype), LZPENALTY_BAD_DTYPE);
    WANT(t->shape[0] >= 1 && t->shape[1] >= 1 && t->shape[3] >= 1, LZPENALTY_BAD_SHAPE);
    CHECK(api_check_contiguous(t));
    *a = cache_array_of(t->data, (float_dtype)t->dtype, t->shape, t->strides);
    return LZPENALTY_OK;
}

/* Keys and values of one cache, to be written. */
static int read_cache(const lzpenalty_tensor *k, const lzpenalty_tensor *v, cache_array *keys, cache_array *values)
{
    WANT(k && v, LZPENALTY_NULL);
    CHECK(read_array(k, NULL, keys));
    CHECK(read_array(v, k, values));
    CHECK(api_check_distinct(k));
    CHECK(api_check_distinct(v));
    WANT(values->batch == keys->batch && values->heads == keys->heads && values->tokens == keys->tokens, LZPENALTY_DISAGREE);
    return api_check_apart(v, k);
}

/* A scale that isn't given is that of the paper. */
static int read_scale(float given, int64_t size, float *scale)
{
    WANT(isfinite(given), LZPENALTY_BAD_SCALE);
    *scale = given != 0 ? given : 1 / sqrtf((float)size);
    return LZPENALTY_OK;
}

int lzpenalty_attention_scores(const lzpenalty_tensor *queries, const lzpenalty_tensor *keys, int64_t start, int64_t stop,
                               const lzpenalty_score_options *given, float *scores)
{
    lzpenalty_score_options options;
    cache_attention attn = {.start = start, .stop = stop, .scores = scores};
    WANT(queries && keys && scores, LZPENALTY_NULL);
    CHECK(api_read_score_options(given, &options));
    CHECK(read_array(keys, NULL, &attn.keys));
    CHECK(read_array(queries, keys, &attn.queries));
    WANT(attn.queries.tokens >= 1 && attn.keys.tokens >= 1, LZPENALTY_BAD_SHAPE);
    WANT(attn.queries.batch == attn.keys.batch && attn.queries.size == attn.keys.size &&
             attn.queries.heads % attn.keys.heads == 0,
         LZPENALTY_DISAGREE);
    WANT(start >= 0 && start < stop && stop <= attn.keys.tokens, LZPENALTY_BAD_REGION);
    WANT(options.kernel >= 1 && options.kernel % 2 == 1, LZPENALTY_BAD_KERNEL);
    WANT(options.aggregation == LZPENALTY_BY_LAYER || options.aggregation == LZPENALTY_BY_GROUP, LZPENALTY_BAD_AGGREGATION);
    CHECK(read_scale(options.scale, attn.keys.size, &attn.scale));
    CHECK(api_threads(options.threads, &attn.threads));
    attn.width = options.kernel;
    attn.by_group = options.aggregation == LZPENALTY_BY_GROUP;
    const int64_t shape[3] = {attn.keys.batch, attn.by_group ? attn.keys.heads : 1, stop - start};
    const lzpenalty_tensor written = lzpenalty_contiguous(scores, LZPENALTY_FLOAT32, 3, shape);
    CHECK(api_check_tensor(&written, 3, 3));
    CHECK(api_check_apart(&written, queries));
    CHECK(api_check_apart(&written, keys));
    const int status = cache_attention_scores(&attn);
    return status < 0 ? LZPENALTY_NO_MEMORY : status > 0 ? LZPENALTY_NOT_FINITE : LZPENALTY_OK;
}

int lzpenalty_select_top(const lzpenalty_tensor *scores, int64_t k, int64_t *positions)
{
    WANT(scores && positions, LZPENALTY_NULL);
    CHECK(api_check_tensor(scores, 3, 3));
    WANT(scores->dtype == LZPENALTY_FLOAT32, LZPENALTY_BAD_DTYPE);
    CHECK(api_check_contiguous(scores));
    const int64_t rows = scores->shape[1], n = scores->shape[2], shape[3] = {scores->shape[0], rows, k};
    WANT(k >= 1 && k <= n, LZPENALTY_BAD_K);
    const lzpenalty_tensor written = lzpenalty_contiguous(positions, LZPENALTY_INT64, 3, shape);
    CHECK(api_check_tensor(&written, 3, 3));
    CHECK(api_check_apart(&written, scores));
    for (int64_t b = 0; rows > 0 && b < shape[0]; b++)
        cache_select_top((const float *)scores->data + b * scores->strides[0], rows, n, scores->strides[1], k,
                         positions + b * rows * k);
    return LZPENALTY_OK;
}

/* Whether the positions of each row and head ascend and are below `most`. */
static int check_positions(const lzpenalty_tensor *t, int64_t most)
{
    for (int64_t b = 0; b < t->shape[0]; b++) {
        for (int64_t head = 0; head < t->shape[1]; head++) {
            const int64_t *row = (const int64_t *)t->data + b * t->strides[0] + head * t->strides[1];
            WANT(cache_misplaced(row, t->shape[2], most) == t->shape[2], LZPENALTY_BAD_POSITIONS);
        }
    }
    return LZPENALTY_OK;
}

int lzpenalty_compact(const lzpenalty_tensor *keys, const lzpenalty_tensor *values, const lzpenalty_tensor *positions,
                      int64_t start, int64_t stop, int64_t length, int32_t threads)
{
    cache_compaction c = {.start = start, .stop = stop, .length = length};
    CHECK(read_cache(keys, values, &c.keys, &c.values));
    CHECK(api_check_tensor(positions, 3, 3));
    WANT(positions->dtype == LZPENALTY_INT64, LZPENALTY_BAD_DTYPE);
    CHECK(api_check_contiguous(positions));
    WANT(positions->shape[0] == c.keys.batch && (positions->shape[1] == 1 || positions->shape[1] == c.keys.heads),
         LZPENALTY_DISAGREE);
    WANT(start >= 0 && start <= stop && stop <= length && length <= c.keys.tokens, LZPENALTY_BAD_REGION);
    CHECK(api_threads(threads, &c.threads));
    CHECK(api_check_apart(keys, positions));
    CHECK(api_check_apart(values, positions));
    CHECK(check_positions(positions, stop - start));
    c.positions = positions->data;
    c.position_batch_stride = positions->strides[0];
    c.position_head_stride = positions->shape[1] == 1 ? 0 : positions->strides[1];
    c.kept = positions->shape[2];
    cache_compact(&c);
    return LZPENALTY_OK;
}

int lzpenalty_append(const lzpenalty_tensor *keys, const lzpenalty_tensor *values, const lzpenalty_tensor *new_keys,
                     const lzpenalty_tensor *new_values, int64_t position)
{
    const lzpenalty_tensor *cache[2] = {keys, values}, *added[2] = {new_keys, new_values};
    cache_array to[2], from[2];
    CHECK(read_cache(keys, values, &to[0], &to[1]));
    for (int i = 0; i < 2; i++) {
        CHECK(read_array(added[i], keys, &from[i]));
        WANT(from[i].batch == to[i].batch && from[i].heads == to[i].heads && from[i].size == to[i].size &&
                 from[i].tokens == from[0].tokens && from[i].tokens <= to[i].tokens,
             LZPENALTY_DISAGREE);
    }
    WANT(position >= 0 && position <= to[0].tokens - from[0].tokens, LZPENALTY_BAD_REGION);
    for (int i = 0; from[0].tokens > 0 && i < 2; i++) {
        lzpenalty_tensor written = *cache[i];
        written.data = (char *)written.data + position * written.strides[2] * api_item_size(written.dtype);
        written.shape[2] = from[0].tokens;
        CHECK(api_check_apart(&written, new_keys));
        CHECK(api_check_apart(&written, new_values));
    }
    for (int i = 0; i < 2; i++)
        cache_append(&to[i], &from[i], position);
    return LZPENALTY_OK;
}

/* ---- Decode attention ------------------------------------------------------------------------------------------------- */

/* Entries [S, size] that heads share out among themselves, as one row of one head. */
static int read_slots(const lzpenalty_tensor *t, const lzpenalty_tensor *like, cache_array *a)
{
    CHECK(api_check_tensor(t, 2, 2));
    WANT(t->dtype == like->dtype, LZPENALTY_BAD_DTYPE);
    WANT(t->shape[1] >= 1, LZPENALTY_BAD_SHAPE);
    CHECK(api_check_contiguous(t));
    *a = cache_slots_of(t->data, t->shape, t->strides);
    return LZPENALTY_OK;
}

/* Counts for each row, and if there are two dimensions for each head. */
static int check_counts(const lzpenalty_tensor *t, int least_dims, int most_dims, int64_t batch, int64_t heads)
{
    CHECK(api_check_tensor(t, least_dims, most_dims));
    WANT(t->dtype == LZPENALTY_INT64, LZPENALTY_BAD_DTYPE);
    WANT(t->shape[0] == batch && (t->dims == 1 || t->shape[1] == heads), LZPENALTY_DISAGREE);
    return LZPENALTY_OK;
}

static int64_t count_at(const lzpenalty_tensor *t, int64_t b, int64_t head, int64_t otherwise)
{
    return t ? ((const int64_t *)t->data)[b * t->strides[0] + (t->dims == 2 ? head * t->strides[1] : 0)] : otherwise;
}

static int find_spans(const lzpenalty_attend_options *options, const cache_array *keys, const cache_array *values,
                      int64_t batch, int64_t heads, cache_span *spans)
{
    const int64_t tokens = keys->tokens;
    for (int64_t b = 0; b < batch; b++) {
        for (int64_t head = 0; head < heads; head++) {
            const int64_t start = count_at(options->starts, b, head, 0);
            WANT(start >= 0 && start <= tokens, LZPENALTY_BAD_STARTS);
            const int64_t length = count_at(options->lengths, b, head, tokens), first = count_at(options->pads, b, head, 0);
            WANT(length >= 0 && length <= tokens - start, LZPENALTY_BAD_LENGTHS);
            WANT(first >= 0 && first <= tokens, LZPENALTY_BAD_PADS);
            spans[b * heads + head] =
                (cache_span){.key = b * keys->batch_stride + head * keys->head_stride + start * keys->token_stride,
                             .value = b * values->batch_stride + head * values->head_stride + start * values->token_stride,
                             .first = first,
                             .length = length};
        }
    }
    return LZPENALTY_OK;
}

/* A number for each of decode->queries, written. */
static int read_lse(const lzpenalty_tensor *t, cache_decode *decode)
{
    const cache_array *queries = &decode->queries;
    CHECK(api_check_tensor(t, 3, 3));
    WANT(t->dtype == LZPENALTY_FLOAT32, LZPENALTY_BAD_DTYPE);
    WANT(t->shape[0] == queries->batch && t->shape[1] == queries->heads && t->shape[2] == queries->tokens,
         LZPENALTY_DISAGREE);
    CHECK(api_check_distinct(t));
    decode->lse = cache_numbers_of(t->data, t->shape, t->strides);
    return LZPENALTY_OK;
}

int lzpenalty_attend(const lzpenalty_tensor *queries, const lzpenalty_tensor *keys, const lzpenalty_tensor *values,
                     const lzpenalty_attend_options *given, const lzpenalty_tensor *out)
{
    lzpenalty_attend_options options;
    cache_decode decode = {.softcap = 0};
    cache_array k, v;
    WANT(queries && keys && values && out, LZPENALTY_NULL);
    CHECK(api_read_attend_options(given, &options));
    WANT(options.reserved == 0, LZPENALTY_BAD_SIZE);
    CHECK(read_array(queries, NULL, &decode.queries));
    CHECK(read_array(out, queries, &decode.out));
    CHECK(api_check_distinct(out));
    WANT(decode.queries.tokens >= 1, LZPENALTY_BAD_SHAPE);
    const int is_ragged = keys->dims == 2;
    const int64_t batch = decode.queries.batch;
    if (is_ragged) {
        CHECK(read_slots(keys, queries, &k));
        CHECK(read_slots(values, queries, &v));
        WANT(options.starts, LZPENALTY_BAD_STARTS);
        WANT(options.lengths, LZPENALTY_BAD_LENGTHS);
        CHECK(api_check_tensor(options.starts, 2, 2));
        decode.heads = options.starts->shape[1];
        CHECK(check_counts(options.starts, 2, 2, batch, decode.heads));
    } else {
        CHECK(read_array(keys, queries, &k));
        CHECK(read_array(values, queries, &v));
        WANT(!options.starts, LZPENALTY_BAD_STARTS);
        WANT(k.batch == batch && v.batch == batch && v.heads == k.heads, LZPENALTY_DISAGREE);
        decode.heads = k.heads;
    }
    WANT(v.tokens == k.tokens && k.size == decode.queries.size && decode.heads >= 1 &&
             decode.queries.heads % decode.heads == 0 && decode.out.batch == batch &&
             decode.out.heads == decode.queries.heads && decode.out.tokens == decode.queries.tokens &&
             decode.out.size == v.size,
         LZPENALTY_DISAGREE);
    if (options.lengths)
        CHECK(check_counts(options.lengths, is_ragged ? 2 : 1, 2, batch, decode.heads));
    if (options.pads)
        CHECK(check_counts(options.pads, 1, 1, batch, decode.heads));
    if (options.lse)
        CHECK(read_lse(options.lse, &decode));
    CHECK(read_scale(options.scale, k.size, &decode.scale));
    WANT(options.softcap >= 0 && isfinite(options.softcap), LZPENALTY_BAD_SOFTCAP);
    decode.softcap = options.softcap;
    CHECK(api_threads(options.threads, &decode.threads));
    const lzpenalty_tensor *read[] = {queries, keys, values, options.lengths, options.starts, options.pads};
    for (size_t i = 0; i < sizeof read / sizeof *read; i++) {
        if (read[i])
            CHECK(api_check_apart(out, read[i]));
        if (read[i] && options.lse)
            CHECK(api_check_apart(options.lse, read[i]));
    }
    if (options.lse)
        CHECK(api_check_apart(options.lse, out));
    decode.keys = k.data;
    decode.values = v.data;
    decode.key_stride = k.token_stride;
    decode.value_stride = v.token_stride;
    cache_span *spans = malloc((size_t)(batch * decode.heads) * sizeof *spans);
    WANT(spans, LZPENALTY_NO_MEMORY);
    decode.spans = spans;
    int status = find_spans(&options, &k, &v, batch, decode.heads, spans);
    if (status == LZPENALTY_OK && cache_attend(&decode) < 0)
        status = LZPENALTY_NO_MEMORY;
    free(spans);
    return status;
}
