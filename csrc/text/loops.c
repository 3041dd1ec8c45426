/* Loops: stretches of text that repeat themselves.
 *
 * Exact ones are the runs of the literature (Kolmogorov, Kucherov 1999): p is the smallest period of the stretch, it stands
 * at least twice, and the stretch is as long as it can be. Suppose that the token after it is less than the one p before
 * that, as the end of the text is less than all tokens. Then wherever the least rotation of the period begins at i and all
 * of it is left, the first suffix after i that is smaller is that at i + p (Bannai et al. 2017). The other runs have this
 * with the order of tokens turned round. So it is enough to know, in both orders, each suffix's next smaller one and how far
 * the text agrees around the two. That is O(n), without a suffix array (Ellert, Fischer 2021).
 *
 * Near ones allow mismatches, and are found period by period: O(n * max_period). */
#include <stdlib.h>

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
    int32_t n;
    int is_descending; /* whether greater tokens count as less */
    int32_t *smaller;  /* [n] the next smaller suffix; of one on the stack, and that stays there, the previous, or -1 */
    int32_t *ahead;    /* [n] how many tokens it shares with the next smaller one */
    int32_t *behind;   /* [n] with the previous one; in add_runs, how many before the two places are the same */
} run_search;

static int32_t pop(run_search *r, int32_t top, int32_t i, int32_t shared)
{
    const int32_t below = r->smaller[top];
    r->smaller[top] = i;
    r->ahead[top] = shared;
    return below;
}

/* On the stack each suffix is smaller than those above it; that at i goes on top when all larger ones are off.
 *
 * `reach` is as far as tokens were ever found to be the same as those `distance` earlier, which was for the sake of one
 * suffix. Since then this one and those above it on the stack have gone the way of those distance earlier, but for
 * comparisons that get to reach: only these are made, from reach on, and then that at i is the one. Nothing else takes the
 * old one off. Below it, two suffixes that share more than the upper one shares with that at i both differ from it alike;
 * where they share less, the lower one is smaller; where as much, there are tokens to compare, and they begin at reach. So
 * no token is found to be the same twice: O(n). */
static void find_smaller(run_search *r)
{
    const int32_t *text = r->text, n = r->n;
    int32_t *smaller = r->smaller, *ahead = r->ahead, *behind = r->behind;
    smaller[0] = behind[0] = -1;
    for (int32_t i = 1, reach = 0, distance = 0; i < n; i++) {
        int32_t top = i - 1, shared = 0;
        for (; i < reach; top = pop(r, top, i, shared)) {
            const int32_t earlier = top - distance;
            const int is_popped = smaller[earlier] == i - distance;
            shared = is_popped ? ahead[earlier] : behind[i - distance];
            if (!is_popped || i + shared >= reach)
                break;
        }
        if (i + shared >= reach) {
            int32_t common;
            reach = reach > i ? reach : i;
            do {
                while (reach < n && text[reach] == text[top + (reach - i)])
                    reach++;
                common = shared = reach - i;
                distance = i - top;
                if (reach < n && (text[top + shared] < text[reach]) != r->is_descending)
                    break;
                do {
                    common = behind[top];
                    top = pop(r, top, i, shared);
                } while (common > shared);
            } while (common == shared);
            shared = common;
        }
        smaller[i] = top;
        behind[i] = shared;
    }
}

/* How far the text agrees before each place and its next smaller suffix's, as a Z-function from right to left. What is the
 * same `distance` later, down to `lowest`, has its next smaller suffixes the same distance later: where the copy had one
 * sooner, the text from the place to its next smaller suffix would end as it begins, but it is a Lyndon word, and none
 * does. */
static int add_runs(run_search *r, const text_loop_options *options, text_loops *loops)
{
    const int32_t *text = r->text, *smaller = r->smaller;
    int32_t *behind = r->behind;
    for (int32_t i = r->n - 1, lowest = r->n, distance = 0; i >= 0; i--) {
        const int32_t period = smaller[i] - i;
        if (period < 0) /* none is smaller */
            continue;
        if (i > lowest && i - behind[i + distance] > lowest) {
            behind[i] = behind[i + distance];
        } else {
            lowest = lowest < i ? lowest : i;
            while (lowest > 0 && text[lowest - 1] == text[lowest - 1 + period])
                lowest--;
            behind[i] = i - lowest;
            distance = period;
        }
        const text_loop run = {period, i - behind[i], behind[i] + period + r->ahead[i]};
        if (behind[i] >= period || (r->is_descending && run.start + run.length == r->n))
            continue; /* found a turn earlier, or in the other order */
        if (period <= options->max_period && is_long_enough(options, run) && add_loop(loops, run) < 0)
            return -1;
    }
    return 0;
}

static int find_exact_loops(const int32_t *text, int32_t n, const text_loop_options *options, text_loops *loops)
{
    const size_t length = (size_t)n + 1;
    int32_t *block = calloc(length, 3 * sizeof *block);
    int status = 0;
    if (!block)
        return -1;
    for (int is_descending = 0; status == 0 && is_descending < 2; is_descending++) {
        run_search r = {text, n, is_descending, block, block + length, block + 2 * length};
        find_smaller(&r);
        status = add_runs(&r, options, loops);
    }
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

/* The first k where `count` such matches begin, else to. */
static int32_t find_matches(const int32_t *a, const int32_t *b, int32_t from, int32_t to, int32_t count)
{
    enum { FEW = 8 }; /* from so many on, a look at the last of them is faster than blocks of all */
    for (;;) {
        if (count < FEW)
            from = find_match(a, b, from, to);
        else
            while (from <= to - count && a[from + count - 1] != b[from + count - 1])
                from += count;
        if (from > to - count)
            return to;
        int32_t k = from + count;
        while (k > from && a[k - 1] == b[k - 1])
            k--;
        if (k == from)
            return from;
        from = k;
    }
}

/* The maximal scoring stretches of one period, by the algorithm of Ruzzo and Tompa (ISMB 1999), wherever one that is long
 * enough can begin: with so many matches that the first mismatch doesn't use them up, or with matches alone. */
static int find_of_period(near_search *s, const int32_t *text, int32_t period)
{
    const int32_t n = s->n - period, gain = s->options->tolerance, loss = TEXT_COMPARISONS - gain;
    const int64_t shortest = (s->options->min_repeats - 1) * (int64_t)period;
    const int32_t count = shortest < loss / gain + 1 ? (int32_t)shortest : loss / gain + 1;
    for (int32_t k = 0; (k = find_matches(text, text + period, k, n, count)) < n;) {
        int32_t top = 0;
        int64_t score = 0;
        do {
            int32_t end = k;
            while (end < n && text[end] == text[end + period])
                end++;
            stretch found = {k, end, top - 1, score, score + (int64_t)(end - k) * gain};
            for (score = found.after;;) {
                while (found.lower >= 0 && s->stretches[found.lower].before >= found.before)
                    found.lower = s->stretches[found.lower].lower;
                if (found.lower < 0 || s->stretches[found.lower].after >= found.after)
                    break;
                top = found.lower; /* together they score more */
                found =
                    (stretch){s->stretches[top].start, end, s->stretches[top].lower, s->stretches[top].before, found.after};
            }
            s->stretches[top++] = found;
            for (k = end; k < n && score > 0 && text[k] != text[k + period]; k++)
                score -= loss;
        } while (k < n && score > 0); /* else nothing before can grow any more */
        if (add_stretches(s, top, period) < 0)
            return -1;
    }
    return 0;
}

static int find_near_loops(const int32_t *text, int32_t n, const text_loop_options *options, text_loops *loops)
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

int text_find_loops(const int32_t *text, int32_t n, const text_loop_options *options, text_loops *loops)
{
    return options->tolerance > 0 ? find_near_loops(text, n, options, loops) : find_exact_loops(text, n, options, loops);
}
