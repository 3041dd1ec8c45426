/* Loops: stretches of text that repeat themselves.
 *
 * Exact ones are the runs of the literature (Kolmogorov, Kucherov 1999): p is the smallest period of the stretch, it stands
 * at least twice, and the stretch is as long as it can be. They are found where the text is halved, and its halves are, and
 * so on (Main, Lorentz 1984): with period p, a run across the middle goes on from there as far as the text agrees with
 * itself p tokens off, to the left and to the right, and Z-functions tell how far for all p at once. That is O(n log n).
 *
 * Near ones allow mismatches, and are found period by period: O(n * max_period). */
#include <stdlib.h>
#include <string.h>

#include "text.h"

static int add_loop(text_loops *loops, text_loop loop)
{
    if (loops->n == loops->room) {
        const size_t room = loops->room > 0 ? 2 * loops->room : 64;
        text_loop *items = realloc(loops->items, room * sizeof *items);
        if (!items)
            return -1;
        loops->items = items;
        loops->room = room;
    }
    loops->items[loops->n++] = loop;
    return 0;
}

static int is_long_enough(const text_loop_options *options, text_loop loop)
{
    return loop.length >= (int64_t)options->min_repeats * loop.period;
}

/* ---- exact ---------------------------------------------------------------------------------------------------------- */

typedef struct {
    const int32_t *text;
    int32_t *mirrored;
    int32_t n;
    int32_t *end_of;                       /* [n] where the last run that starts here ends */
    int32_t *ahead, *back, *within, *over; /* [n] see find_across */
    const text_loop_options *options;
    text_loops *loops;
} run_search;

/* lengths[i] = tokens that the pattern and text[i..n) share, for i in [from, to). `own` is the same of the pattern in
 * itself, from 1 on; it may be what is computed. */
static void match_pattern(const int32_t *pattern, int32_t m, const int32_t *text, int32_t n, int32_t from, int32_t to,
                          const int32_t *own, int32_t *lengths)
{
    for (int32_t i = from, box = 0, end = 0; i < to; i++) {
        int32_t length = 0;
        if (i < end)
            length = own[i - box] < end - i ? own[i - box] : end - i;
        if (i + length >= end) {
            while (length < m && i + length < n && pattern[length] == text[i + length])
                length++;
            box = i;
            end = i + length;
        }
        lengths[i] = length;
    }
}

/* Shorter periods come first, so a run that is met again has a multiple of its period. */
static int add_run(run_search *r, int32_t start, int32_t end, int32_t period)
{
    const int32_t *text = r->text;
    const text_loop run = {period, start, end - start};
    if ((start > 0 && text[start - 1] == text[start - 1 + period]) || (end < r->n && text[end] == text[end - period]))
        return 0; /* cut off where an earlier halving found all of it */
    if (r->end_of[start] == end)
        return 0;
    r->end_of[start] = end;
    return is_long_enough(r->options, run) ? add_loop(r->loops, run) : 0;
}

/* The runs that have tokens on both sides of the middle. */
static int find_across(run_search *r, int32_t from, int32_t middle, int32_t to)
{
    const int32_t left = middle - from, right = to - middle, *text = r->text, *mirrored = r->mirrored + (r->n - to);
    int32_t most = left > right ? left : right;
    if (most > r->options->max_period)
        most = r->options->max_period;
    /* ahead: the text from the middle against itself p tokens later; within: against what starts in the left half;
     * back, over: the same in the mirror. */
    match_pattern(text + middle, right, text + middle, right, 1, right, r->ahead, r->ahead);
    match_pattern(text + middle, right, text + from, left + right, 0, left, r->ahead, r->within);
    match_pattern(mirrored + right, left, mirrored + right, left, 1, left, r->back, r->back);
    match_pattern(mirrored + right, left, mirrored, left + right, 0, right, r->back, r->over);
    for (int32_t p = 1; p <= most; p++) {
        if (p <= right) { /* a whole turn on the right */
            int32_t before = r->over[right - p], after = p < right ? r->ahead[p] : 0;
            if (before > 0 && before + after >= p && add_run(r, middle - before, middle + p + after, p) < 0)
                return -1;
        }
        if (p <= left) { /* less than one on the right */
            int32_t before = p < left ? r->back[p] : 0, after = r->within[left - p];
            if (after > 0 && after < p && before + after >= p && add_run(r, middle - p - before, middle + after, p) < 0)
                return -1;
        }
    }
    return 0;
}

static int find_between(run_search *r, int32_t from, int32_t to)
{
    const int32_t middle = from + (to - from) / 2;
    if (to - from < 2)
        return 0;
    return find_between(r, from, middle) < 0 || find_between(r, middle, to) < 0 ? -1 : find_across(r, from, middle, to);
}

int text_find_loops(const int32_t *text, int32_t n, const text_loop_options *options, text_loops *loops)
{
    enum { ARRAYS = 6 };
    const size_t length = (size_t)n + 1;
    int32_t *block = calloc(length, ARRAYS * sizeof *block);
    run_search r = {.text = text, .n = n, .options = options, .loops = loops};
    if (!block)
        return -1;
    int32_t **arrays[ARRAYS] = {&r.mirrored, &r.end_of, &r.ahead, &r.back, &r.within, &r.over};
    for (size_t k = 0; k < ARRAYS; k++)
        *arrays[k] = block + k * length;
    for (int32_t i = 0; i < n; i++)
        r.mirrored[i] = text[n - 1 - i];
    int status = find_between(&r, 0, n);
    free(block);
    return status;
}

/* ---- near ----------------------------------------------------------------------------------------------------------- */

/* Comparisons [start, end) of text[k] with text[k + p], with the score, a match's tolerance minus what a mismatch costs, of
 * all before and of all up to the end. */
typedef struct {
    int32_t start, end;
    int32_t lower; /* the last stretch before whose `before` is lower, or -1 */
    int64_t before, after;
} stretch;

typedef struct {
    stretch *stretches;
    int32_t *furthest; /* a Fenwick tree of maxima: by start of a loop, where it ends, each with a turn more */
    int32_t n;
    const text_loop_options *options;
    text_loops *loops;
} near_search;

static void widen(near_search *s, text_loop loop)
{
    int32_t start = loop.start > loop.period ? loop.start - loop.period : 0;
    int32_t end = loop.start + loop.length + loop.period;
    for (int32_t k = start + 1; k <= s->n; k += k & -k)
        if (s->furthest[k] < end)
            s->furthest[k] = end;
}

static int is_widely_covered(const near_search *s, text_loop loop)
{
    for (int32_t k = loop.start + 1; k > 0; k -= k & -k)
        if (s->furthest[k] >= loop.start + loop.length)
            return 1;
    return 0;
}

static int add_stretches(near_search *s, int32_t n_stretches, int32_t period)
{
    for (int32_t i = 0; i < n_stretches; i++) {
        const stretch *found = &s->stretches[i];
        const text_loop loop = {period, found->start, found->end - found->start + period};
        if (is_long_enough(s->options, loop) && !is_widely_covered(s, loop) && add_loop(s->loops, loop) < 0)
            return -1;
    }
    return 0;
}

/* The first k in [from, to) where a[k] == b[k], else to. */
static int32_t find_match(const int32_t *a, const int32_t *b, int32_t from, int32_t to)
{
    enum { BLOCK = 32 };
    for (; to - from >= BLOCK; from += BLOCK) {
        int32_t found = 0;
        for (int32_t k = 0; k < BLOCK; k++)
            found |= a[from + k] == b[from + k];
        if (found)
            break;
    }
    while (from < to && a[from] != b[from])
        from++;
    return from;
}

/* The maximal scoring stretches of one period, by the algorithm of Ruzzo and Tompa (ISMB 1999). */
static int find_of_period(near_search *s, const int32_t *text, int32_t period)
{
    const int32_t n = s->n - period, gain = s->options->tolerance, loss = TEXT_COMPARISONS - gain;
    int32_t top = 0;
    int64_t score = 0;
    for (int32_t k = 0;;) {
        int32_t match = find_match(text, text + period, k, n), end = match;
        while (end < n && text[end] == text[end + period])
            end++;
        if (match == end)
            return add_stretches(s, top, period);
        score -= (int64_t)(match - k) * loss;
        stretch found = {match, end, top - 1, score, score + (int64_t)(end - match) * gain};
        k = end;
        score = found.after;
        for (;;) {
            while (found.lower >= 0 && s->stretches[found.lower].before >= found.before)
                found.lower = s->stretches[found.lower].lower;
            if (found.lower < 0 || s->stretches[found.lower].after >= found.after)
                break;
            top = found.lower; /* together they score more */
            found = (stretch){s->stretches[top].start, end, s->stretches[top].lower, s->stretches[top].before, found.after};
        }
        if (found.lower < 0) { /* nothing before can grow any more */
            if (add_stretches(s, top, period) < 0)
                return -1;
            top = 0;
        }
        s->stretches[top++] = found;
    }
}

int text_find_near_loops(const int32_t *text, int32_t n, const text_loop_options *options, text_loops *loops)
{
    near_search s = {.n = n, .options = options, .loops = loops};
    int status = -1;
    s.stretches = calloc((size_t)n / 2 + 1, sizeof *s.stretches);
    s.furthest = calloc((size_t)n + 1, sizeof *s.furthest);
    if (s.stretches && s.furthest) {
        status = 0;
        for (int32_t p = 1; status == 0 && p <= options->max_period && p <= n / options->min_repeats; p++) {
            const size_t known = loops->n;
            status = find_of_period(&s, text, p);
            for (size_t i = known; i < loops->n; i++) /* loops of one period don't hide each other */
                widen(&s, loops->items[i]);
        }
    }
    free(s.stretches);
    free(s.furthest);
    return status;
}
