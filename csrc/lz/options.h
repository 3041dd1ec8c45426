/* The options of the penalty as the routines take them, compiled from what callers give; the list is options.def. For CUDA,
 * too: a launch carries this very struct. */
#ifndef LZPENALTY_LZ_OPTIONS_H
#define LZPENALTY_LZ_OPTIONS_H

#include <stdint.h>
#include <string.h>

/* What the coder charges for a token that the window holds. */
typedef enum { LZ_LZSS, LZ_PAIR, LZ_DISTANCE } lz_cost;

typedef struct {
    float from, to;
} lz_range;

/* Short strings of ids, such as "</think>", that mark a place: it is where the last of them ends. */
enum { LZ_MOST_MARKS = 16, LZ_MOST_MARK = 8 };
typedef struct {
    int32_t n, id[LZ_MOST_MARK]; /* 1..LZ_MOST_MARK ids, >= 0; zeros behind them */
} lz_mark;
typedef struct {
    int32_t n;
    lz_mark mark[LZ_MOST_MARKS]; /* distinct, in the order of their bytes; zeros behind them */
} lz_marks;

/* How each kind of option is kept, and its default. */
#define LZ_TYPE_FLOAT float
#define LZ_TYPE_INT int32_t
#define LZ_TYPE_COST int32_t
#define LZ_TYPE_RANGE lz_range
#define LZ_TYPE_MARKS lz_marks
#define LZ_DEFAULT_FLOAT(value) (float)(value)
#define LZ_DEFAULT_INT(value) value
#define LZ_DEFAULT_COST(value) value
#define LZ_DEFAULT_RANGE(value) {0, 0}
#define LZ_DEFAULT_MARKS(value) {0}

/* Every option is made of 32-bit words and nothing lies between them, so that equal options are equal bytes. */
typedef struct {
#define OPTION(kind, name, standard, least, most, asked, unit, sentence) LZ_TYPE_##kind name;
#include "options.def"
} lz_penalty;

enum {
#define OPTION(kind, name, ...) LZ_OPTION_##name,
#include "options.def"
    LZ_OPTIONS
};

#ifndef __cplusplus
enum {
#define OPTION(kind, name, ...) +sizeof(LZ_TYPE_##kind)
    LZ_OPTIONS_SIZE = 0
#include "options.def"
};
_Static_assert(sizeof(lz_penalty) == LZ_OPTIONS_SIZE, "equality and hash are those of the bytes");

static const lz_penalty lz_default_penalty = {
#define OPTION(kind, name, standard, ...) .name = LZ_DEFAULT_##kind(standard),
#include "options.def"
};

static inline int lz_is_off(const lz_penalty *p)
{
    return p->strength == 0 || p->window == 0;
}

/* Take a number as float32 has it. Whether it is in its range, and not a number that float32 makes 0. */
static inline int lz_read_float(double number, double least, double most, float *out)
{
    *out = (float)number + 0.0f; /* -0 becomes 0 */
    return number >= least && number <= most && (*out != 0 || number == 0);
}

static inline int lz_read_range(double from, double to, double most, lz_range *out)
{
    return lz_read_float(from, 0, most, &out->from) && lz_read_float(to, 0, most, &out->to) && out->from < out->to;
}

/* Puts a mark where it belongs in the order of its bytes, if it isn't there. */
static inline void lz_add_mark(lz_marks *marks, const lz_mark *mark)
{
    int32_t at = marks->n;
    while (at > 0 && memcmp(&marks->mark[at - 1], mark, sizeof *mark) > 0)
        at--;
    if (at > 0 && memcmp(&marks->mark[at - 1], mark, sizeof *mark) == 0)
        return;
    memmove(&marks->mark[at + 1], &marks->mark[at], (size_t)(marks->n - at) * sizeof *mark);
    marks->mark[at] = *mark;
    marks->n++;
}

/* The largest id of any, -1 without marks. */
static inline int32_t lz_largest_id(const lz_marks *marks)
{
    int32_t largest = -1;
    for (int32_t m = 0; m < marks->n; m++)
        for (int32_t k = 0; k < marks->mark[m].n; k++)
            largest = marks->mark[m].id[k] > largest ? marks->mark[m].id[k] : largest;
    return largest;
}

/* The first option with an id beyond a vocabulary, LZ_OPTIONS if there is none. */
static inline int lz_beyond(const lz_penalty *p, int64_t vocab)
{
#define LZ_BEYOND_FLOAT(name)
#define LZ_BEYOND_INT(name)
#define LZ_BEYOND_COST(name)
#define LZ_BEYOND_RANGE(name)
#define LZ_BEYOND_MARKS(name)                                                                                               \
    if (lz_largest_id(&p->name) >= vocab)                                                                                   \
        return LZ_OPTION_##name;
#define OPTION(kind, name, ...) LZ_BEYOND_##kind(name)
#include "options.def"
    return LZ_OPTIONS;
}
#endif

#endif
