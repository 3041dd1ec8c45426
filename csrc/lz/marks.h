/* Where marks stand in a text. Included once a level. */

typedef struct {
    const lz_tokens *tokens;
    int64_t row;
} row_text;

static int64_t token_at(row_text text, int64_t i)
{
    const lz_tokens *tokens = text.tokens;
    return load_id(tokens->data, tokens->is_int64, text.row * tokens->row_stride + i * tokens->column_stride);
}

/* Whether any of the marks ends at position i and begins at `first` or later. */
static int ends_any(const lz_marks *marks, row_text text, int64_t first, int64_t i)
{
    for (int32_t m = 0; m < marks->n; m++) {
        const lz_mark *mark = &marks->mark[m];
        int32_t k = 0;
        while (k < mark->n && i - k >= first && token_at(text, i - k) == mark->id[mark->n - 1 - k])
            k++;
        if (k == mark->n)
            return 1;
    }
    return 0;
}

/* Ids that marks end with, in ranges that hold few others: tags that belong together are mostly neighbours. */
enum { RANGE_GAP = 16 };
typedef struct {
    int32_t n;
    uint32_t low[4 * LZ_MOST_MARKS], width[4 * LZ_MOST_MARKS];
} mark_ends;

static void add_end(mark_ends *ends, uint32_t id)
{
    for (int32_t r = 0; r < ends->n; r++) {
        const uint32_t high = ends->low[r] + ends->width[r];
        const uint32_t low = id < ends->low[r] ? id : ends->low[r], width = (id > high ? id : high) - low;
        if (width <= ends->width[r] + RANGE_GAP) {
            ends->low[r] = low;
            ends->width[r] = width;
            return;
        }
    }
    ends->low[ends->n] = id;
    ends->width[ends->n++] = 0;
}

static void add_ends(mark_ends *ends, const lz_marks *marks)
{
    for (int32_t m = 0; m < marks->n; m++)
        add_end(ends, (uint32_t)marks->mark[m].id[marks->mark[m].n - 1]);
}

/* Whether any of n words is in one of the ranges. Numbers are compared as signed ones, which all processors do many at once.
 */
static int holds_end(const uint32_t *words, int64_t n, const mark_ends *ends)
{
    enum { UNROLLED = 64 };
    for (int32_t r = 0; r < ends->n; r++) {
        const uint32_t least = ends->low[r] + 0x80000000u;
        const int32_t beyond = (int32_t)(ends->width[r] + 0x80000001u);
        int32_t found = 0;
        int64_t i = 0;
        for (; i + UNROLLED <= n; i += UNROLLED)
            for (int32_t k = 0; k < UNROLLED; k++)
                found |= (int32_t)(words[i + k] - least) < beyond;
        for (; i < n; i++)
            found |= (int32_t)(words[i] - least) < beyond;
        if (found)
            return 1;
    }
    return 0;
}

/* A search from a text's end. From `near` on blocks are small, since one of their neighbours holds something. */
typedef struct {
    const uint32_t *row;
    int words, is_contiguous;
    int64_t near;
    mark_ends ends;
} mark_search;

static void begin_search(mark_search *s, row_text text, int64_t to)
{
    const lz_tokens *tokens = text.tokens;
    s->words = tokens->is_int64 ? 2 : 1;
    s->row = (const uint32_t *)tokens->data + text.row * tokens->row_stride * s->words;
    s->is_contiguous = tokens->column_stride == 1;
    s->near = to;
    s->ends.n = 0;
}

/* Blocks of a text are looked at for what marks end with, those that hold it in smaller ones, of which the last that does
 * ends at what is returned; `from` if none does. Ids of 64 bits are two words, of which the upper one is mostly 0. */
enum { LARGE_BLOCK = 512, SMALL_BLOCK = 32 };
static int64_t pass_by_blocks(mark_search *s, int64_t from, int64_t to)
{
    while (s->is_contiguous && to > from) {
        const int64_t most = to > s->near ? SMALL_BLOCK : LARGE_BLOCK, size = to - from < most ? to - from : most;
        if (!holds_end(s->row + (to - size) * s->words, size * s->words, &s->ends))
            to -= size;
        else if (size > SMALL_BLOCK)
            s->near = to - size;
        else
            break;
    }
    return to;
}

static int64_t newest_of(row_text text, const lz_marks *one, const lz_marks *other, int64_t first, int64_t from, int64_t to,
                         int *is_of_first)
{
    mark_search s;
    begin_search(&s, text, to);
    add_ends(&s.ends, one);
    add_ends(&s.ends, other);
    while ((to = pass_by_blocks(&s, from, to)) > from) {
        for (const int64_t end = to - from < SMALL_BLOCK ? from : to - SMALL_BLOCK; to > end; to--) {
            *is_of_first = ends_any(one, text, first, to - 1);
            if (*is_of_first || ends_any(other, text, first, to - 1))
                return to - 1;
        }
    }
    return from - 1;
}

/* A length of the text behind which no mark of any kind ends: a long text is read once for all of them. */
static int64_t marked_length(const lz_penalty *p, row_text text, int64_t length)
{
    if (p->skip.n == 0 || p->release.n == 0)
        return length;
    mark_search s;
    begin_search(&s, text, length);
    add_ends(&s.ends, &p->open);
    add_ends(&s.ends, &p->release);
    add_ends(&s.ends, &p->skip);
    add_ends(&s.ends, &p->resume);
    return pass_by_blocks(&s, 0, length);
}

#define section_text row_text
#include "section.h"
