/* The sections of a row's text, for CPU and CUDA alike. Whoever includes this has defined
 *
 *   section_text    what a text is
 *   newest_of       the newest position in [from, to) at which a mark of either list ends that begins at `first` or later,
 *                   from - 1 if there is none; of one that ends both lists' marks the first list's counts
 *
 *       int64_t newest_of(section_text, const lz_marks *, const lz_marks *, int64_t first, int64_t from, int64_t to,
 *                         int *is_of_first)
 *
 * Texts are read from their ends: what decides is mostly near. */
#ifndef LZPENALTY_LZ_SECTION_H
#define LZPENALTY_LZ_SECTION_H

#include "mark.h"

typedef struct {
    int64_t begin; /* what stands before it doesn't count */
    int is_open;   /* whether it is one of thinking */
} lz_section;

/* Whether the last mark of the `length` tokens says that nothing is changed. */
SHARED_FUNCTION int is_skipped(const lz_penalty *p, section_text text, int64_t length)
{
    int skips = 0;
    return p->skip.n > 0 && newest_of(text, &p->skip, &p->resume, 0, 0, length, &skips) >= 0 && skips;
}

/* The section that a text of `length` tokens ends in. It begins behind the oldest of the marks of its own kind that no mark
 * of the other kind follows; where that is, makes no difference before `start`. */
SHARED_FUNCTION lz_section last_section(const lz_penalty *p, section_text text, int64_t start, int64_t length)
{
    const int is_opened = p->open.n > 0;
    const int64_t first = is_opened ? 0 : start;
    lz_section section = {start, p->release.n > 0 && !is_opened};
    int64_t edge = length + 1, at = length;
    if (p->release.n == 0)
        return section;
    for (;;) {
        int opens = 0;
        at = newest_of(text, &p->open, &p->release, first, first, at, &opens);
        if (at < first || (edge <= length && opens != section.is_open))
            break;
        section.is_open = opens;
        edge = at + 1;
        if (edge <= start)
            break;
    }
    /* Closing tags before which nothing was opened are text. */
    if (edge > start && edge <= length && (section.is_open || at >= first || !is_opened))
        section.begin = edge;
    return section;
}

#endif
