/* Options of callers that are older or newer than this library. */
#include <string.h>

#include "api.h"

/* No struct of options will ever be larger: a size beyond is none. */
enum { MOST_SIZE = 4096 };

/* Fields come in words of this size, so that a smaller size cuts none in two. */
static int is_size(size_t size)
{
    return size >= sizeof(size_t) && size <= MOST_SIZE && size % sizeof(size_t) == 0;
}

/* Writes the defaults of the fields that both know, and zeros to others. */
static int init(void *options, size_t size, const void *defaults, size_t known)
{
    WANT(options, LZPENALTY_NULL);
    WANT(is_size(size), LZPENALTY_BAD_SIZE);
    memset(options, 0, size);
    memcpy(options, defaults, size < known ? size : known);
    memcpy(options, &size, sizeof size);
    return LZPENALTY_OK;
}

/* Takes the fields that both know; the others of a newer caller have to be zero. */
static int take(const void *given, void *options, const void *defaults, size_t known)
{
    size_t size;
    WANT(given, LZPENALTY_NULL);
    memcpy(&size, given, sizeof size);
    WANT(is_size(size), LZPENALTY_BAD_SIZE);
    for (size_t i = known; i < size; i++)
        WANT(((const unsigned char *)given)[i] == 0, LZPENALTY_BAD_SIZE);
    memcpy(options, defaults, known);
    memcpy(options, given, size < known ? size : known);
    return LZPENALTY_OK;
}

#define OPTIONS(type, read, ...)                                                                                            \
    static const type type##_defaults = {.size = sizeof(type), __VA_ARGS__};                                                \
    int type##_init(type *options, size_t size)                                                                             \
    {                                                                                                                       \
        return init(options, size, &type##_defaults, sizeof *options);                                                      \
    }                                                                                                                       \
    int read(const type *given, type *options)                                                                              \
    {                                                                                                                       \
        return take(given, options, &type##_defaults, sizeof *options);                                                     \
    }

/* clang-format off */
OPTIONS(lzpenalty_options, api_read_options,
        .strength = 0.15f, .window = 512, .buffer = 32, .cost = LZPENALTY_LZSS, .min_match = 1, .min_count = 1,
        .release_rate = 2, .release_after = 24)
OPTIONS(lzpenalty_dry_options, api_read_dry_options,
        .multiplier = 0.8f, .base = 1.75f, .allowed_length = 2, .window = 1024)
OPTIONS(lzpenalty_loop_options, api_read_loop_options, .min_repeats = 2)
OPTIONS(lzpenalty_score_options, api_read_score_options, .kernel = 7, .aggregation = LZPENALTY_BY_LAYER)
OPTIONS(lzpenalty_attend_options, api_read_attend_options, .lengths = NULL)
/* clang-format on */
