/* Parses and loops of finished texts, for callers in C. */
#include <stdlib.h>

#include "../cpu/number.h"
#include "../text/text.h"
#include "api.h"

static int ascending_ids(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Replaces each id by its rank among those that there are. Returns 0, or -1 without memory. */
static int rank_ids(const int64_t *ids, int32_t n, int32_t *ranks)
{
    int64_t *sorted = malloc((size_t)n * sizeof *sorted);
    int32_t distinct = 0;
    if (!sorted)
        return -1;
    for (int32_t i = 0; i < n; i++)
        sorted[i] = ids[i];
    qsort(sorted, (size_t)n, sizeof *sorted, ascending_ids);
    for (int32_t i = 0; i < n; i++)
        if (distinct == 0 || sorted[distinct - 1] != sorted[i])
            sorted[distinct++] = sorted[i];
    for (int32_t i = 0; i < n; i++) {
        const int64_t *at = bsearch(&ids[i], sorted, (size_t)distinct, sizeof *sorted, ascending_ids);
        ranks[i] = (int32_t)(at - sorted);
    }
    free(sorted);
    return 0;
}

/* A copy of a text whose ids are less than its length, as the routines want it; to be freed. */
static int read_text(const lzpenalty_tensor *tokens, int32_t **ranks, int32_t *n)
{
    CHECK(api_check_tensor(tokens, 1, 1));
    WANT(tokens->dtype == LZPENALTY_INT32 || tokens->dtype == LZPENALTY_INT64, LZPENALTY_BAD_DTYPE);
    WANT(tokens->shape[0] <= TEXT_MOST, LZPENALTY_BAD_TOKENS);
    *n = (int32_t)tokens->shape[0];
    *ranks = malloc(((size_t)*n + 1) * sizeof **ranks);
    int64_t *ids = malloc(((size_t)*n + 1) * sizeof *ids);
    int are_ranks = 1, status = *ranks && ids ? 0 : -1;
    for (int32_t i = 0; status == 0 && i < *n; i++) {
        ids[i] = load_id(tokens->data, tokens->dtype == LZPENALTY_INT64, i * tokens->strides[0]);
        are_ranks &= ids[i] >= 0 && ids[i] < *n;
        (*ranks)[i] = (int32_t)(ids[i] & INT32_MAX);
    }
    if (status == 0 && !are_ranks)
        status = rank_ids(ids, *n, *ranks);
    free(ids);
    if (status == 0)
        return LZPENALTY_OK;
    free(*ranks);
    return LZPENALTY_NO_MEMORY;
}

/* The phrases of 1977 if there is a window of 0 or more, else those of 1978. */
static int factorize(const lzpenalty_tensor *tokens, int32_t window, lzpenalty_phrase *phrases, int64_t *count)
{
    int32_t *ranks, n, found = -1;
    WANT(tokens && count, LZPENALTY_NULL);
    CHECK(read_text(tokens, &ranks, &n));
    if (n > 0 && !phrases) {
        free(ranks);
        return LZPENALTY_NULL;
    }
    text_phrase *parsed = malloc(((size_t)n + 1) * sizeof *parsed);
    if (parsed)
        found = window >= 0 ? text_parse_lz77(ranks, n, window, parsed) : text_parse_lz78(ranks, n, parsed);
    for (int32_t i = 0; i < found; i++)
        phrases[i] = (lzpenalty_phrase){.source = parsed[i].source, .length = parsed[i].length};
    free(parsed);
    free(ranks);
    WANT(found >= 0, LZPENALTY_NO_MEMORY);
    *count = found;
    return LZPENALTY_OK;
}

int lzpenalty_factorize(const lzpenalty_tensor *tokens, int32_t window, lzpenalty_phrase *phrases, int64_t *count)
{
    WANT(window >= 0, LZPENALTY_BAD_WINDOW);
    return factorize(tokens, window, phrases, count);
}

int lzpenalty_factorize_lz78(const lzpenalty_tensor *tokens, lzpenalty_phrase *phrases, int64_t *count)
{
    return factorize(tokens, -1, phrases, count);
}

static int by_start(const void *a, const void *b)
{
    const text_loop *x = a, *y = b;
    return x->start != y->start ? (x->start > y->start) - (x->start < y->start)
                                : (x->period > y->period) - (x->period < y->period);
}

int lzpenalty_find_loops(const lzpenalty_tensor *tokens, const lzpenalty_loop_options *given, lzpenalty_loop *loops,
                         int64_t room, int64_t *count)
{
    enum { NEAR_PERIOD = 512 };
    lzpenalty_loop_options options;
    text_loop_options wanted;
    text_loops found = {0};
    int32_t *ranks, n;
    WANT(tokens && count && (loops || room <= 0), LZPENALTY_NULL);
    CHECK(api_read_loop_options(given, &options));
    WANT(options.reserved == 0, LZPENALTY_BAD_SIZE);
    WANT(options.min_repeats >= 2, LZPENALTY_BAD_MIN_REPEATS);
    WANT(options.max_period >= 0, LZPENALTY_BAD_MAX_PERIOD);
    WANT(options.tolerance >= 0 && text_set_tolerance(&wanted, options.tolerance), LZPENALTY_BAD_TOLERANCE);
    wanted.min_repeats = options.min_repeats;
    CHECK(read_text(tokens, &ranks, &n));
    const int32_t any = options.tolerance > 0 ? NEAR_PERIOD : n > 1 ? n : 1;
    wanted.max_period = options.max_period > 0 ? options.max_period : any;
    const int status = text_find_loops(ranks, n, &wanted, &found);
    free(ranks);
    if (status == 0) {
        *count = (int64_t)found.n;
        if (found.n > 0)
            qsort(found.items, found.n, sizeof *found.items, by_start);
        for (size_t i = 0; *count <= room && i < found.n; i++)
            loops[i] = (lzpenalty_loop){found.items[i].period, found.items[i].start, found.items[i].length};
    }
    free(found.items);
    WANT(status == 0, LZPENALTY_NO_MEMORY);
    return *count <= room ? LZPENALTY_OK : LZPENALTY_TOO_LITTLE_ROOM;
}
