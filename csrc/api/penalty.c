/* The LZ penalty, DRY and their readings of a text, for callers in C. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../lz/check.h"
#include "api.h"

lzpenalty_workspace *lzpenalty_workspace_create(void)
{
    return calloc(1, sizeof(lzpenalty_workspace));
}

void lzpenalty_workspace_destroy(lzpenalty_workspace *ws)
{
    if (ws)
        lz_workspace_clear(&ws->lz);
    free(ws);
}

/* ---- Options ---------------------------------------------------------------------------------------------------------- */

static int is_at_least_0(float x)
{
    return x >= 0 && isfinite(x);
}

/* The breakers as `dry` wants them, in the workspace. */
static int read_breakers(const lzpenalty_dry_options *given, lzpenalty_workspace *ws, lz_dry *dry)
{
    const int32_t n = given->n_sequence_breakers;
    WANT(n >= 0, LZPENALTY_BAD_BREAKERS);
    WANT(given->sequence_breakers || n == 0, LZPENALTY_NULL);
    for (int32_t i = 0; i < n; i++)
        WANT(given->sequence_breakers[i] >= 0 && given->sequence_breakers[i] < INT32_MAX, LZPENALTY_BAD_BREAKERS);
    if (n == 0)
        return LZPENALTY_OK;
    int32_t *list = lz_workspace_block(&ws->lz, LZ_IDS, (size_t)n * sizeof *list);
    WANT(list, LZPENALTY_NO_MEMORY);
    memcpy(list, given->sequence_breakers, (size_t)n * sizeof *list);
    dry->breakers = list;
    dry->n_breakers = lz_sort_ids(list, n);
    return LZPENALTY_OK;
}

int lzpenalty_context(const lzpenalty_options *options, int32_t *context)
{
    lz_penalty p;
    WANT(context, LZPENALTY_NULL);
    CHECK(api_read_penalty(options, INT64_MAX, &p));
    *context = lz_context(&p);
    return LZPENALTY_OK;
}

/* ---- Tensors ---------------------------------------------------------------------------------------------------------- */

static int read_tokens(const lzpenalty_tensor *t, int most_dims, lz_tokens *tokens)
{
    CHECK(api_check_tensor(t, 1, most_dims));
    WANT(t->dtype == LZPENALTY_INT32 || t->dtype == LZPENALTY_INT64, LZPENALTY_BAD_DTYPE);
    *tokens = lz_tokens_of(t->data, t->dtype == LZPENALTY_INT64, t->dims, t->shape, t->strides);
    return LZPENALTY_OK;
}

static int read_starts(const int64_t *starts, lz_tokens *tokens)
{
    for (int64_t row = 0; starts && row < tokens->rows; row++)
        WANT(lz_is_start(starts[row], tokens->length), LZPENALTY_BAD_STARTS);
    tokens->starts = starts;
    return LZPENALTY_OK;
}

static int read_logits(const lzpenalty_tensor *t, lz_logits *logits)
{
    CHECK(api_check_tensor(t, 1, 2));
    WANT(t->dtype <= LZPENALTY_FLOAT64, LZPENALTY_BAD_DTYPE);
    CHECK(api_check_distinct(t));
    *logits = lz_logits_of(t->data, (float_dtype)t->dtype, t->dims, t->shape, t->strides);
    WANT(logits->vocab >= 1, LZPENALTY_BAD_VOCAB);
    return LZPENALTY_OK;
}

/* What is written for each of a number of rows, or starts. */
static lzpenalty_tensor row_numbers(const int64_t *numbers, int64_t rows)
{
    return lzpenalty_vector(numbers, LZPENALTY_INT64, numbers ? rows : 0);
}

static int read_batch(const lzpenalty_tensor *logits_tensor, const lzpenalty_tensor *tokens_tensor, const int64_t *starts,
                      lz_logits *logits, lz_tokens *tokens)
{
    CHECK(read_logits(logits_tensor, logits));
    CHECK(read_tokens(tokens_tensor, 2, tokens));
    WANT(logits->rows == tokens->rows && logits_tensor->dims == tokens_tensor->dims, LZPENALTY_DISAGREE);
    CHECK(read_starts(starts, tokens));
    CHECK(api_check_apart(logits_tensor, tokens_tensor));
    const lzpenalty_tensor all_starts = row_numbers(starts, tokens->rows);
    return api_check_apart(logits_tensor, &all_starts);
}

/* ---- Functions -------------------------------------------------------------------------------------------------------- */

int lzpenalty_penalize(lzpenalty_workspace *ws, const lzpenalty_options *options, const lzpenalty_tensor *logits,
                       const lzpenalty_tensor *tokens, const int64_t *starts)
{
    lz_logits rows;
    lz_tokens texts;
    lz_penalty p;
    WANT(ws && options && logits && tokens, LZPENALTY_NULL);
    CHECK(read_batch(logits, tokens, starts, &rows, &texts));
    CHECK(api_read_penalty(options, rows.vocab, &p));
    if (lz_is_off(&p))
        return LZPENALTY_OK;
    WANT(lz_reserve(&ws->lz, &p, texts.length) == 0, LZPENALTY_NO_MEMORY);
    lz_current_kernels()->penalize(&p, &rows, &texts, &ws->lz);
    return LZPENALTY_OK;
}

int lzpenalty_penalize_row(lzpenalty_workspace *ws, const lzpenalty_options *options, float *logits, int32_t vocab,
                           const int32_t *tokens, int64_t n)
{
    const lzpenalty_tensor row = lzpenalty_vector(logits, LZPENALTY_FLOAT32, vocab);
    const lzpenalty_tensor text = lzpenalty_vector(tokens, LZPENALTY_INT32, n);
    WANT(vocab >= 1, LZPENALTY_BAD_VOCAB);
    return lzpenalty_penalize(ws, options, &row, &text, NULL);
}

static int read_text(lzpenalty_workspace *ws, const lzpenalty_options *given, int32_t vocab, const lzpenalty_tensor *tokens,
                     lz_penalty *p, lz_tokens *text)
{
    WANT(ws, LZPENALTY_NULL);
    CHECK(api_read_penalty(given, INT64_MAX, p));
    WANT(vocab >= 1, LZPENALTY_BAD_VOCAB);
    CHECK(read_tokens(tokens, 1, text));
    WANT(lz_reserve(&ws->lz, p, text->length) == 0, LZPENALTY_NO_MEMORY);
    return LZPENALTY_OK;
}

int lzpenalty_code_lengths(lzpenalty_workspace *ws, const lzpenalty_options *options, int32_t vocab,
                           const lzpenalty_tensor *tokens, int32_t *ids, float *bits, int64_t room, int64_t *count)
{
    lz_penalty p;
    lz_tokens text;
    int32_t *found;
    float *found_bits;
    WANT(count && ((ids && bits) || room <= 0), LZPENALTY_NULL);
    CHECK(read_text(ws, options, vocab, tokens, &p, &text));
    *count = lz_current_kernels()->deltas(&p, vocab, &text, &ws->lz, &found, &found_bits);
    WANT(*count <= room, LZPENALTY_TOO_LITTLE_ROOM);
    for (int64_t i = 0; i < *count; i++) {
        ids[i] = found[i];
        bits[i] = found_bits[i];
    }
    return LZPENALTY_OK;
}

int lzpenalty_token_bits(lzpenalty_workspace *ws, const lzpenalty_options *options, int32_t vocab,
                         const lzpenalty_tensor *tokens, double *bits)
{
    lz_penalty p;
    lz_tokens text;
    CHECK(read_text(ws, options, vocab, tokens, &p, &text));
    const lzpenalty_tensor written = lzpenalty_vector(bits, LZPENALTY_FLOAT64, text.length);
    CHECK(api_check_tensor(&written, 1, 1));
    CHECK(api_check_apart(&written, tokens));
    lz_current_kernels()->token_bits(&p, vocab, &text, &ws->lz, bits);
    return LZPENALTY_OK;
}

int lzpenalty_dry(lzpenalty_workspace *ws, const lzpenalty_dry_options *given, const lzpenalty_tensor *logits,
                  const lzpenalty_tensor *tokens, const int64_t *starts)
{
    lzpenalty_dry_options options;
    lz_logits rows;
    lz_tokens texts;
    WANT(ws && given && logits && tokens, LZPENALTY_NULL);
    CHECK(read_batch(logits, tokens, starts, &rows, &texts));
    CHECK(api_read_dry_options(given, &options));
    WANT(options.reserved == 0, LZPENALTY_BAD_SIZE);
    WANT(is_at_least_0(options.multiplier), LZPENALTY_BAD_MULTIPLIER);
    WANT(is_at_least_0(options.base) && options.base > 0, LZPENALTY_BAD_BASE);
    WANT(options.allowed_length >= 1, LZPENALTY_BAD_ALLOWED_LENGTH);
    WANT(options.window >= 0, LZPENALTY_BAD_WINDOW);
    lz_dry dry = {.multiplier = options.multiplier,
                  .base = options.base,
                  .allowed_length = options.allowed_length,
                  .window = options.window};
    CHECK(read_breakers(&options, ws, &dry));
    if (dry.multiplier == 0 || dry.window == 0)
        return LZPENALTY_OK;
    WANT(lz_reserve_dry(&ws->lz, &dry, texts.length) == 0, LZPENALTY_NO_MEMORY);
    lz_current_kernels()->dry(&dry, &rows, &texts, &ws->lz);
    return LZPENALTY_OK;
}

/* Tokens, and one number for each of their rows that is written. */
static int read_rows(lzpenalty_workspace *ws, const lzpenalty_tensor *tokens, const int64_t *starts, const int64_t *numbers,
                     lz_tokens *texts)
{
    WANT(ws, LZPENALTY_NULL);
    CHECK(read_tokens(tokens, 2, texts));
    CHECK(read_starts(starts, texts));
    WANT(numbers || texts->rows == 0, LZPENALTY_NULL);
    const lzpenalty_tensor written = row_numbers(numbers, texts->rows), read = row_numbers(starts, texts->rows);
    CHECK(api_check_tensor(&written, 1, 1));
    CHECK(api_check_apart(&written, tokens));
    return api_check_apart(&written, &read);
}

int lzpenalty_loop_evidence(lzpenalty_workspace *ws, const lzpenalty_tensor *tokens, const int64_t *starts, int32_t gram,
                            int32_t window, int64_t *lengths)
{
    lz_tokens texts;
    CHECK(read_rows(ws, tokens, starts, lengths, &texts));
    WANT(lz_is_gram(gram), LZPENALTY_BAD_GRAM);
    WANT(window >= 0, LZPENALTY_BAD_WINDOW);
    const lz_evidence evidence = {.gram = gram, .window = window};
    WANT(lz_reserve_evidence(&ws->lz, &evidence, texts.length) == 0, LZPENALTY_NO_MEMORY);
    lz_current_kernels()->evidence(&evidence, &texts, lengths, &ws->lz);
    return LZPENALTY_OK;
}

int lzpenalty_repetition_period(lzpenalty_workspace *ws, const lzpenalty_tensor *tokens, const int64_t *starts,
                                int32_t ngram, int32_t count, int32_t max_period, int64_t *periods)
{
    lz_tokens texts;
    CHECK(read_rows(ws, tokens, starts, periods, &texts));
    WANT(ngram >= 1, LZPENALTY_BAD_NGRAM);
    WANT(count >= 2, LZPENALTY_BAD_COUNT);
    WANT(max_period >= 1, LZPENALTY_BAD_MAX_PERIOD);
    const lz_loop loop = {.ngram = ngram, .count = count, .max_period = max_period};
    WANT(lz_reserve_loop(&ws->lz, &loop, texts.length) == 0, LZPENALTY_NO_MEMORY);
    lz_current_kernels()->periods(&loop, &texts, periods, &ws->lz);
    return LZPENALTY_OK;
}
