/* Options of callers that are older or newer than this library. */
#include <stdlib.h>
#include <string.h>

#include "api.h"
#include "export.h"

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

/* What lzpenalty_..._options_init and api_read_... do, with the defaults of a struct. */
#define FUNCTIONS(type, read)                                                                                               \
    int type##_init(type *options, size_t size)                                                                             \
    {                                                                                                                       \
        return init(options, size, &type##_defaults, sizeof *options);                                                      \
    }                                                                                                                       \
    int read(const type *given, type *options)                                                                              \
    {                                                                                                                       \
        return take(given, options, &type##_defaults, sizeof *options);                                                     \
    }
#define OPTIONS(type, read, ...)                                                                                            \
    static const type type##_defaults = {.size = sizeof(type), __VA_ARGS__};                                                \
    FUNCTIONS(type, read)

/* clang-format off */
OPTIONS(lzpenalty_dry_options, api_read_dry_options,
        .multiplier = 0.8f, .base = 1.75f, .allowed_length = 2, .window = 1024)
OPTIONS(lzpenalty_loop_options, api_read_loop_options, .min_repeats = 2)
OPTIONS(lzpenalty_score_options, api_read_score_options, .kernel = 7, .aggregation = LZPENALTY_BY_LAYER)
OPTIONS(lzpenalty_attend_options, api_read_attend_options, .lengths = NULL)
/* clang-format on */

/* ---- The penalty ------------------------------------------------------------------------------------------------------ */

static const lzpenalty_options lzpenalty_options_defaults = {
    .size = sizeof(lzpenalty_options),
#define STANDARD_FLOAT(value) value
#define STANDARD_INT(value) value
#define STANDARD_COST(value) value
#define STANDARD_RANGE(value) {0, 0}
#define STANDARD_MARKS(value) {NULL, 0}
#define OPTION(kind, name, standard, ...) .name = STANDARD_##kind(standard),
#include "../lz/options.def"
};
FUNCTIONS(lzpenalty_options, api_read_options)

/* Marks, each once. */
static int read_marks(const lzpenalty_marks *given, int status, lz_marks *marks)
{
    WANT(given->n <= LZ_MOST_MARKS, status);
    WANT(given->mark || given->n == 0, LZPENALTY_NULL);
    marks->n = 0;
    for (size_t i = 0; i < given->n; i++) {
        lz_mark mark = {.n = given->mark[i].n};
        WANT(mark.n >= 1 && mark.n <= LZ_MOST_MARK, status);
        for (int32_t k = 0; k < mark.n; k++) {
            WANT(given->mark[i].ids[k] >= 0, status);
            mark.id[k] = given->mark[i].ids[k];
        }
        lz_add_mark(marks, &mark);
    }
    return LZPENALTY_OK;
}

/* The status of an option, by its place in the list. */
#define STATUS(name) (LZPENALTY_BAD_STRENGTH + LZ_OPTION_##name)
#define READ_FLOAT(name, least, most) WANT(lz_read_float(options.name, least, most, &p->name), STATUS(name));
#define READ_INT(name, least, most)                                                                                         \
    WANT(options.name >= least && options.name <= most, STATUS(name));                                                      \
    p->name = (int32_t)options.name;
#define READ_COST(name, least, most) READ_INT(name, least, most)
#define READ_RANGE(name, least, most)                                                                                       \
    p->name = (lz_range){0, 0};                                                                                             \
    WANT((options.name.from == 0 && options.name.to == 0) ||                                                                \
             lz_read_range(options.name.from, options.name.to, most, &p->name),                                             \
         STATUS(name));
#define READ_MARKS(name, least, most) CHECK(read_marks(&options.name, STATUS(name), &p->name));

int api_read_penalty(const lzpenalty_options *given, int64_t vocab, lz_penalty *p)
{
    lzpenalty_options options;
    CHECK(api_read_options(given, &options));
#define OPTION(kind, name, standard, least, most, ...) READ_##kind(name, least, most)
#include "../lz/options.def"
    const int beyond = lz_beyond(p, vocab);
    return beyond == LZ_OPTIONS ? LZPENALTY_OK : LZPENALTY_BAD_STRENGTH + beyond;
}

lzpenalty_options *lzpenalty_options_copy(const lzpenalty_options *options, int32_t vocab)
{
    struct {
        lzpenalty_options options; /* first: what the caller destroys */
        lz_penalty compiled;
    } *copy = calloc(1, sizeof *copy);
    if (copy && api_read_penalty(options, vocab, &copy->compiled) == LZPENALTY_OK) {
        export_options(&copy->compiled, &copy->options);
        return &copy->options;
    }
    free(copy);
    return NULL;
}

void lzpenalty_options_destroy(lzpenalty_options *options)
{
    free(options);
}

const char *api_option_error(int status)
{
    static const char *const texts[] = {
#define TEXT_FLOAT(name, least, most) #name ": expected a number from " #least " to " #most
#define TEXT_INT(name, least, most) #name ": expected an integer from " #least " to " #most
#define TEXT_COST(name, least, most) #name ": expected LZPENALTY_LZSS, LZPENALTY_PAIR or LZPENALTY_DISTANCE"
#define TEXT_RANGE(name, least, most) #name ": expected numbers 0 <= from < to <= " #most ", or 0 and 0"
#define TEXT_MARKS(name, least, most) #name ": expected 0 to 16 marks, each of 1 to 8 ids in [0, vocab)"
#define OPTION(kind, name, standard, least, most, ...) TEXT_##kind(name, least, most),
#include "../lz/options.def"
    };
    const int at = status - LZPENALTY_BAD_STRENGTH;
    return at >= 0 && at < LZ_OPTIONS ? texts[at] : NULL;
}
