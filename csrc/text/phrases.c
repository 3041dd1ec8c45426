/* Lempel-Ziv parses: the text as phrases that stood before.
 *
 * 1977 (doi:10.1109/TIT.1977.1055714, with the literals of LZSS): the longest text that also starts at most `window` tokens
 * earlier, overlap allowed, from the nearest such place; or one token that doesn't. In the order of all suffixes those that
 * share most with suffix i are its neighbours, among the ones that start in the window; those that share as much as the best
 * stand together, and the one that starts last among them is the nearest. Trees over that order answer both questions, so
 * the work is O(n log n) for every window.
 *
 * 1978 (doi:10.1109/TIT.1978.1055934): the longest earlier phrase, and one token more. */
#include <stdlib.h>

#include "text.h"

/* The largest of each aligned range of numbers: node[1] of all, node[size + k] the k-th number itself. */
typedef struct {
    int32_t *node;
    int64_t size; /* a power of two, more than the numbers */
} tree;

enum { NOWHERE = -1 };

/* The last of the numbers before the k-th that is at least so large. */
static int64_t last_before(const tree *t, int64_t k, int32_t least)
{
    for (k += t->size; k > 1; k /= 2) {
        if (k % 2 == 0 || t->node[k - 1] < least)
            continue;
        for (k--; k < t->size;)
            k = 2 * k + (t->node[2 * k + 1] >= least);
        return k - t->size;
    }
    return NOWHERE;
}

/* The first of the numbers after the k-th that is at least so large. */
static int64_t first_after(const tree *t, int64_t k, int32_t least)
{
    for (k += t->size; k > 1; k /= 2) {
        if (k % 2 == 1 || t->node[k + 1] < least)
            continue;
        for (k++; k < t->size;)
            k = 2 * k + (t->node[2 * k] < least);
        return k - t->size;
    }
    return NOWHERE;
}

/* The largest of the numbers from..to-1. */
static int32_t largest(const tree *t, int64_t from, int64_t to)
{
    int32_t most = INT32_MIN;
    for (from += t->size, to += t->size; from < to; from /= 2, to /= 2) {
        if (from % 2 == 1 && t->node[from++] > most)
            most = t->node[from - 1];
        if (to % 2 == 1 && t->node[--to] > most)
            most = t->node[to];
    }
    return most;
}

typedef struct {
    const int32_t *text;
    int32_t n;
    int32_t *rank; /* of each suffix */
    tree newest;   /* by rank: where the suffix starts, if before the phrase, else -1 */
    tree apart;    /* by rank: minus the tokens shared with the suffix before it, 1 for the first */
} suffix_index;

static int32_t common_prefix(const int32_t *text, int32_t n, int32_t a, int32_t b, int32_t agreed)
{
    while (b + agreed < n && text[a + agreed] == text[b + agreed])
        agreed++;
    return agreed;
}

static int build_index(suffix_index *x, int32_t *sa)
{
    const int32_t n = x->n;
    const int64_t size = x->apart.size;
    if (text_sort_suffixes(x->text, n, n, sa) < 0)
        return -1;
    for (int32_t k = 0; k < n; k++)
        x->rank[sa[k]] = k;
    for (int64_t k = 0; k < 2 * size; k++) {
        x->newest.node[k] = -1;
        x->apart.node[k] = INT32_MIN;
    }
    /* Kasai et al. 2001: a suffix shares at most one token less than the one that starts a token earlier. */
    for (int32_t i = 0, shared = 0; i < n; i++) {
        int32_t k = x->rank[i];
        if (k == 0) {
            x->apart.node[size] = 1;
            shared = 0;
            continue;
        }
        int32_t a = sa[k - 1] < i ? sa[k - 1] : i, b = sa[k - 1] < i ? i : sa[k - 1];
        shared = common_prefix(x->text, n, a, b, shared > 0 ? shared - 1 : 0);
        x->apart.node[size + k] = -shared;
    }
    for (int64_t k = size - 1; k > 0; k--)
        x->apart.node[k] = x->apart.node[2 * k] > x->apart.node[2 * k + 1] ? x->apart.node[2 * k] : x->apart.node[2 * k + 1];
    return 0;
}

/* The phrase that starts at i, with all earlier positions in x->newest. */
static text_phrase find_phrase(const suffix_index *x, int32_t i, int32_t window)
{
    const int64_t rank = x->rank[i];
    const int32_t oldest = i > window ? i - window : 0;
    const int64_t beside[2] = {last_before(&x->newest, rank, oldest), first_after(&x->newest, rank, oldest)};
    int32_t length = 0;
    for (int k = 0; k < 2; k++) {
        if (beside[k] == NOWHERE)
            continue;
        int32_t shared = common_prefix(x->text, x->n, x->newest.node[x->newest.size + beside[k]], i, 0);
        length = shared > length ? shared : length;
    }
    if (length == 0)
        return (text_phrase){0, 1};
    int64_t from = last_before(&x->apart, rank + 1, 1 - length), to = first_after(&x->apart, rank, 1 - length);
    return (text_phrase){i - largest(&x->newest, from, to == NOWHERE ? x->n : to), length};
}

static int32_t parse_index(suffix_index *x, int32_t window, text_phrase *phrases)
{
    int32_t count = 0;
    for (int32_t i = 0; i < x->n; count++) {
        phrases[count] = find_phrase(x, i, window);
        for (int32_t end = i + phrases[count].length; i < end; i++)
            for (int64_t k = x->newest.size + x->rank[i]; k > 0; k /= 2)
                x->newest.node[k] = i; /* larger than all before */
    }
    return count;
}

int32_t text_parse_lz77(const int32_t *text, int32_t n, int32_t window, text_phrase *phrases)
{
    int64_t size = 1;
    while (size <= n)
        size *= 2;
    int32_t *sa = calloc((size_t)n + 1, sizeof *sa), count = -1;
    suffix_index x = {text,
                      n,
                      calloc((size_t)n + 1, sizeof *x.rank),
                      {calloc((size_t)size, 2 * sizeof *x.newest.node), size},
                      {calloc((size_t)size, 2 * sizeof *x.apart.node), size}};
    if (sa && x.rank && x.newest.node && x.apart.node && build_index(&x, sa) == 0)
        count = parse_index(&x, window, phrases);
    free(sa);
    free(x.rank);
    free(x.newest.node);
    free(x.apart.node);
    return count;
}

int32_t text_parse_lz78(const int32_t *text, int32_t n, text_phrase *phrases)
{
    /* The phrases are a tree of words; a hash table finds the child of a phrase by the token that it adds. */
    int32_t count = 0, at = 0;
    size_t size = 2;
    while (size < 2 * (size_t)n)
        size *= 2;
    int32_t *table = calloc(size, sizeof *table), *added = calloc((size_t)n + 1, sizeof *added);
    if (!table || !added)
        count = -1;
    while (count >= 0 && at < n) {
        int32_t phrase = 0, length = 0, child = 1;
        while (at < n && child > 0) {
            const uint64_t mix = 0x9e3779b97f4a7c15u;
            size_t slot = (size_t)((((uint64_t)phrase << 32 | (uint32_t)text[at]) * mix) >> 32) & (size - 1);
            while ((child = table[slot]) > 0 && (phrases[child - 1].source != phrase || added[child - 1] != text[at]))
                slot = (slot + 1) & (size - 1);
            if (child > 0)
                phrase = child;
            else
                table[slot] = count + 1;
            added[count] = text[at++];
            length++;
        }
        phrases[count++] = (text_phrase){phrase, length};
    }
    free(table);
    free(added);
    return count;
}
