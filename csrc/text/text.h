/* What a finished text is made of: phrases that stood before, and loops.
 *
 * Everything here works on plain memory, allocates what it needs for the call, and returns -1 without memory:
 *   suffixes.c   the suffix array
 *   phrases.c    the Lempel-Ziv parses of 1977 and 1978
 *   loops.c      stretches of text that repeat themselves, exactly or nearly
 *
 * A text is n tokens in [0, n): their ranks do. With at most TEXT_MOST of them, sums of two positions fit 32 bits. */
#ifndef LZPENALTY_TEXT_TEXT_H
#define LZPENALTY_TEXT_TEXT_H

#include <stddef.h>
#include <stdint.h>

enum { TEXT_MOST = (1 << 30) - 1 };

/* The suffixes in ascending order, sa[0..n). Returns 0 or -1. */
int text_sort_suffixes(const int32_t *text, int32_t n, int32_t alphabet, int32_t *sa);

/* Its source: how many tokens back it stood, or 0 for a token that stands alone (1977); the phrase that it begins with,
 * counted from 1, or 0 for none (1978). */
typedef struct {
    int32_t source, length;
} text_phrase;

/* The parses into phrases[0..n). Return how many there are, or -1. */
int32_t text_parse_lz77(const int32_t *text, int32_t n, int32_t window, text_phrase *phrases);
int32_t text_parse_lz78(const int32_t *text, int32_t n, text_phrase *phrases);

typedef struct {
    int32_t period, start, length;
} text_loop;

/* A list that grows. Zero-initialised; its items are freed by whoever asked for it. */
typedef struct {
    text_loop *items;
    size_t n, room;
} text_loops;

typedef struct {
    int32_t max_period;  /* >= 1 */
    int32_t min_repeats; /* >= 2 */
    int32_t tolerance;   /* mismatches among TEXT_COMPARISONS comparisons, less than all; 0 for exact loops */
} text_loop_options;

enum { TEXT_COMPARISONS = 1 << 20 };

/* Sets the tolerance to a share of comparisons, from 0. Returns whether that is less than all. */
static inline int text_set_tolerance(text_loop_options *options, float share)
{
    options->tolerance = share < 1 ? (int32_t)((double)share * TEXT_COMPARISONS + 0.5) : TEXT_COMPARISONS;
    return options->tolerance < TEXT_COMPARISONS;
}

/* The loops in no particular order. Returns 0 or -1. */
int text_find_loops(const int32_t *text, int32_t n, const text_loop_options *options, text_loops *loops);

#endif
