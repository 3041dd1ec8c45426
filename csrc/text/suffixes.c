/* Suffix arrays in linear time, by induced sorting (SA-IS; Nong, Zhang, Chan 2011, doi:10.1109/TC.2010.188).
 *
 * A suffix is rising if it is smaller than the one that starts a token later, else falling; the last one falls, to the empty
 * suffix. A valley is a rising suffix after a falling one. The order of the valleys gives that of all falling suffixes in
 * one pass from the smallest on, and these give the rising ones in a pass back. The valleys are ordered by the same passes:
 * they are right for the stretches from valley to valley, whose ranks make a text of at most half the length. */
#include <stdlib.h>
#include <string.h>

#include "text.h"

typedef struct {
    const int32_t *text;
    int32_t n, alphabet;
    uint8_t *rising;
    int32_t *bucket;          /* [alphabet + 1] where the suffixes that start with each token begin in the suffix array */
    int32_t *cursor;          /* [alphabet] */
    int32_t *valleys, *ranks; /* [n / 2] */
} sorting;

static int is_valley(const sorting *v, int32_t i)
{
    return i > 0 && v->rising[i] && !v->rising[i - 1];
}

/* All suffixes, from valleys in some order. */
static void induce(const sorting *v, const int32_t *valleys, int32_t n_valleys, int32_t *sa)
{
    const int32_t *text = v->text, n = v->n;
    const size_t size = (size_t)v->alphabet * sizeof *v->cursor;
    int32_t *cursor = v->cursor;
    memset(sa, -1, (size_t)n * sizeof *sa);
    memcpy(cursor, v->bucket + 1, size);
    for (int32_t k = n_valleys - 1; k >= 0; k--)
        sa[--cursor[text[valleys[k]]]] = valleys[k];

    memcpy(cursor, v->bucket, size);
    sa[cursor[text[n - 1]]++] = n - 1; /* what the empty suffix would give */
    for (int32_t k = 0; k < n; k++) {
        int32_t i = sa[k] - 1;
        if (i >= 0 && !v->rising[i])
            sa[cursor[text[i]]++] = i;
    }
    memcpy(cursor, v->bucket + 1, size);
    for (int32_t k = n - 1; k >= 0; k--) {
        int32_t i = sa[k] - 1;
        if (i >= 0 && v->rising[i])
            sa[--cursor[text[i]]] = i;
    }
}

/* Whether the text from one valley to the next is the same at both. */
static int same_stretch(const sorting *v, int32_t a, int32_t b)
{
    const int32_t last = v->n - 1 - (a > b ? a : b);
    for (int32_t k = 0; k <= last; k++) {
        if (v->text[a + k] != v->text[b + k] || v->rising[a + k] != v->rising[b + k])
            return 0;
        if (k > 0 && is_valley(v, a + k))
            return 1;
    }
    return 0;
}

/* Ranks the stretches of valleys that induce() has sorted: v->ranks, in the order of the text. Returns how many differ. */
static int32_t rank_stretches(const sorting *v, int32_t n_valleys, int32_t *sa)
{
    int32_t distinct = 0, n = 0, *rank_at = sa + n_valleys; /* by half the position: no two valleys are neighbours */
    for (int32_t k = 0; k < v->n; k++)
        if (is_valley(v, sa[k]))
            sa[n++] = sa[k];
    memset(rank_at, -1, (size_t)(v->n - n) * sizeof *rank_at);
    for (int32_t k = 0; k < n; k++) {
        distinct += k == 0 || !same_stretch(v, sa[k - 1], sa[k]);
        rank_at[sa[k] / 2] = distinct - 1;
    }
    for (int32_t k = 0; k < n; k++)
        v->ranks[k] = rank_at[v->valleys[k] / 2];
    return distinct;
}

static int sort_by_valleys(sorting *v, int32_t *sa)
{
    const int32_t n = v->n;
    int32_t n_valleys = 0;
    for (int32_t i = n - 1; i >= 0; i--) {
        v->rising[i] = i < n - 1 && v->text[i] < v->text[i + 1] + v->rising[i + 1];
        v->bucket[v->text[i] + 1]++;
    }
    for (int32_t c = 0; c < v->alphabet; c++)
        v->bucket[c + 1] += v->bucket[c];
    for (int32_t i = 1; i < n; i++)
        if (is_valley(v, i))
            v->valleys[n_valleys++] = i;
    induce(v, v->valleys, n_valleys, sa);

    int32_t distinct = rank_stretches(v, n_valleys, sa);
    if (distinct == n_valleys)
        for (int32_t k = 0; k < n_valleys; k++)
            sa[v->ranks[k]] = k;
    else if (text_sort_suffixes(v->ranks, n_valleys, distinct, sa) < 0)
        return -1;
    for (int32_t k = 0; k < n_valleys; k++)
        v->ranks[k] = v->valleys[sa[k]];
    induce(v, v->ranks, n_valleys, sa);
    return 0;
}

int text_sort_suffixes(const int32_t *text, int32_t n, int32_t alphabet, int32_t *sa)
{
    if (n == 0)
        return 0;
    const size_t length = (size_t)n, half = length / 2 + 1, tokens = (size_t)alphabet + 1;
    sorting v = {text,
                 n,
                 alphabet,
                 calloc(length, 1),
                 calloc(tokens, sizeof *v.bucket),
                 calloc(tokens, sizeof *v.cursor),
                 calloc(half, sizeof *v.valleys),
                 calloc(half, sizeof *v.ranks)};
    int status = v.rising && v.bucket && v.cursor && v.valleys && v.ranks ? sort_by_valleys(&v, sa) : -1;
    free(v.rising);
    free(v.bucket);
    free(v.cursor);
    free(v.valleys);
    free(v.ranks);
    return status;
}
