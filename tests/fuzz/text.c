/* Fuzz target of the parses and loops of whole texts: against the definitions, in the plainest loops. */
#include "../../csrc/text/text.h"
#include "fuzz.h"

enum { MOST = 100 };

static int32_t shared(const int32_t *text, int32_t n, int32_t a, int32_t b)
{
    int32_t length = 0;
    while (a + length < n && b + length < n && text[a + length] == text[b + length])
        length++;
    return length;
}

static void check_suffixes(const int32_t *text, int32_t n, const int32_t *sa)
{
    uint8_t seen[MOST] = {0};
    for (int32_t k = 0; k < n; k++) {
        REQUIRE(sa[k] >= 0 && sa[k] < n && !seen[sa[k]]++);
        if (k == 0)
            continue;
        const int32_t before = sa[k - 1], length = shared(text, n, before, sa[k]);
        REQUIRE(before + length == n || (sa[k] + length < n && text[before + length] < text[sa[k] + length]));
    }
}

static void check_lz77(const int32_t *text, int32_t n, int32_t window, const text_phrase *phrases, int32_t count)
{
    int32_t at = 0;
    for (int32_t k = 0; k < count; at += phrases[k++].length) {
        text_phrase longest = {0, 0};
        for (int32_t distance = 1; distance <= window && distance <= at; distance++) {
            const int32_t length = shared(text, n, at - distance, at);
            if (length > longest.length)
                longest = (text_phrase){distance, length};
        }
        if (longest.length == 0)
            longest.length = 1;
        REQUIRE(phrases[k].source == longest.source && phrases[k].length == longest.length);
    }
    REQUIRE(at == n);
}

static void check_lz78(const int32_t *text, int32_t n, const text_phrase *phrases, int32_t count)
{
    int32_t at = 0, starts[MOST];
    for (int32_t k = 0; k < count; at += phrases[k++].length) {
        int32_t source = 0, length = 0;
        for (int32_t i = 0; i < k; i++) {
            const int32_t most = phrases[i].length;
            if (most > length && at + most <= n && shared(text, n, starts[i], at) >= most) {
                source = i + 1;
                length = most;
            }
        }
        starts[k] = at;
        length += at + length < n;
        /* The last phrase may be one that is known. */
        REQUIRE(phrases[k].length == length);
        REQUIRE(phrases[k].source == source || at + length == n);
    }
    REQUIRE(at == n);
}

static int is_run(const int32_t *text, int32_t n, text_loop loop)
{
    const int32_t end = loop.start + loop.length, p = loop.period;
    if ((loop.start > 0 && text[loop.start - 1] == text[loop.start - 1 + p]) || (end < n && text[end] == text[end - p]))
        return 0;
    for (int32_t shorter = 1; shorter <= p; shorter++)
        if (shared(text, end, loop.start, loop.start + shorter) == loop.length - shorter)
            return shorter == p;
    return 0;
}

static void check_loops(const int32_t *text, int32_t n, const text_loop_options *options, const text_loops *loops)
{
    size_t expected = 0;
    for (int32_t p = 1; p <= n / 2 && p <= options->max_period; p++) {
        for (int32_t start = 0, length; start + p < n; start += length + 1) {
            length = shared(text, n, start, start + p);
            const text_loop loop = {p, start, length + p};
            expected += length >= p && loop.length >= (int64_t)options->min_repeats * p && is_run(text, n, loop);
        }
    }
    REQUIRE(loops->n == expected);
    for (size_t i = 0; i < loops->n; i++) {
        const text_loop loop = loops->items[i];
        REQUIRE(loop.period >= 1 && loop.period <= options->max_period && loop.start >= 0 && loop.length <= n - loop.start);
        REQUIRE(loop.length >= (int64_t)options->min_repeats * loop.period && is_run(text, n, loop));
        for (size_t other = 0; other < i; other++)
            REQUIRE(loops->items[other].start != loop.start || loops->items[other].period != loop.period);
    }
}

static void check_near_loops(const int32_t *text, int32_t n, const text_loop_options *options, const text_loops *loops)
{
    for (size_t i = 0; i < loops->n; i++) {
        const text_loop loop = loops->items[i];
        int64_t mismatches = 0, comparisons = loop.length - loop.period;
        REQUIRE(loop.period >= 1 && loop.period <= options->max_period && loop.start >= 0 && loop.length <= n - loop.start);
        REQUIRE(loop.length >= (int64_t)options->min_repeats * loop.period);
        for (int32_t k = loop.start; k < loop.start + comparisons; k++)
            mismatches += text[k] != text[k + loop.period];
        REQUIRE(mismatches * TEXT_COMPARISONS <= comparisons * options->tolerance);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {data, size};
    text_loop_options options = {.max_period = take_size(&in, 1), .min_repeats = take_size(&in, 2)};
    const int32_t window = take_size(&in, 0), alphabet = take_number(&in, 1, 40);
    text_loops loops = {0}, near = {0};
    const int32_t tolerance = take_byte(&in) * 4112 + 1;
    const int32_t n = in.left < MOST ? (int32_t)in.left : MOST;
    const size_t room = (size_t)n;
    int32_t *text = malloc(room * sizeof *text), *sa = malloc(room * sizeof *sa), count;
    text_phrase *phrases = malloc(room * sizeof *phrases);
    REQUIRE(text && sa && phrases);
    for (int32_t i = 0; i < n; i++)
        text[i] = in.at[i] % alphabet % n;

    REQUIRE(text_sort_suffixes(text, n, n, sa) == 0);
    check_suffixes(text, n, sa);
    REQUIRE((count = text_parse_lz77(text, n, window, phrases)) >= 0);
    check_lz77(text, n, window, phrases, count);
    REQUIRE((count = text_parse_lz78(text, n, phrases)) >= 0);
    check_lz78(text, n, phrases, count);
    REQUIRE(text_find_loops(text, n, &options, &loops) == 0);
    check_loops(text, n, &options, &loops);
    options.tolerance = tolerance;
    REQUIRE(text_find_loops(text, n, &options, &near) == 0);
    check_near_loops(text, n, &options, &near);

    free(text), free(sa), free(phrases), free(loops.items), free(near.items);
    return 0;
}
