/* How long a string of the recent text stands for the third time. Included once a level.
 *
 * Gram i is recent[i .. i + size), named by its newest token. A hash table with linear probing maps each distinct gram
 * to where it was last seen; it is filled oldest first, so the work is linear. */

static const uint32_t gram_multiplier = 0x9e3779b1u;

typedef struct {
    const int32_t *recent;
    uint32_t *hashes, *table; /* a slot holds 0, or a position + 1, and SEEN_TWICE */
    uint32_t mask;
    int32_t shift;
    int32_t next; /* where the gram to come stood before, if it goes on with what the last one repeated; or -1 */
} lz_grams;

#define SEEN_TWICE 0x80000000u

ALWAYS_INLINE void hash_grams_of(int32_t size, const int32_t *restrict recent, int32_t n, uint32_t *restrict hashes)
{
    for (int32_t i = 0; i < n; i++) {
        const int32_t *tokens = recent + i;
        uint32_t hash = (uint32_t)tokens[0] * gram_multiplier;
        for (int32_t k = 1; k < size; k++)
            hash = (hash ^ (uint32_t)tokens[k]) * gram_multiplier;
        hashes[i] = hash;
    }
}

/* Hashes of the n newest grams. Of a hash the upper bits are good. */
static void hash_grams(const lz_scratch *s, int32_t n, int32_t size)
{
    if (size == LZ_GRAM) /* of a size that is known, many at once */
        hash_grams_of(LZ_GRAM, s->recent, n, s->hashes);
    else
        hash_grams_of(size, s->recent, n, s->hashes);
}

/* The fewest slots, a power of two and at most the table's, that are `times` as many as n; how far to shift a hash. */
static int32_t slots_for(const lz_scratch *s, int32_t n, int32_t times, int32_t *shift)
{
    int32_t slots = 8;
    for (*shift = 29; slots < times * (int64_t)n && slots < s->n_table; slots *= 2)
        --*shift;
    return slots;
}

/* Gets ready to read the n newest grams, which have been hashed. */
static lz_grams begin_grams(const lz_scratch *s, int32_t n)
{
    lz_grams g = {.recent = s->recent, .hashes = s->hashes, .table = s->table, .next = -1};
    const int32_t slots = slots_for(s, n, 4, &g.shift);
    g.mask = (uint32_t)slots - 1;
    memset(s->table, 0, (size_t)slots * sizeof *s->table);
    return g;
}

/* Puts gram i into the table, after all older ones, and returns what was there: its last position + 1, and SEEN_TWICE if it
 * stood twice before; 0 if it is new. */
static inline uint32_t enter_gram(lz_grams *g, int32_t i, int32_t size)
{
    const int32_t *recent = g->recent;
    uint32_t slot = g->hashes[i] >> g->shift, found;
    for (; (found = g->table[slot]) != 0; slot = (slot + 1) & g->mask) {
        const int32_t k = (int32_t)(found & ~SEEN_TWICE) - 1;
        /* Of a gram that goes on with a repetition, all tokens but the newest were compared with the gram before. */
        if (recent[k] == recent[i] &&
            (k == g->next || memcmp(recent + k + 1, recent + i + 1, (size_t)(size - 1) * sizeof *recent) == 0)) {
            g->next = k - 1;
            g->table[slot] = ((uint32_t)i + 1) | SEEN_TWICE;
            return found;
        }
    }
    g->next = -1;
    g->table[slot] = (uint32_t)i + 1;
    return 0;
}

/* How many grams a string of so many tokens has; a shorter one is taken to have one. */
static inline int32_t grams_of(int32_t tokens, int32_t size)
{
    return tokens > size ? tokens - size + 1 : 1;
}

/* What a text that is in a loop shows, and no quotation does: strings that stand for the third time. */
typedef struct {
    int32_t length; /* of the longest string all of whose grams stood at least twice before, in tokens; 0 if there is none */
    int32_t steps;  /* tokens since the first string of at least `wanted` tokens was there, counting the one that completed
                       it; 0 if there is none */
} lz_circling;

/* Reads the last n tokens, and nothing before them: a gram stands for the third time if two others of these tokens' grams,
 * both older, are equal to it. Stops at a string of `enough` tokens, at least `wanted`: in a loop that is soon. */
static inline lz_circling read_grams(const lz_scratch *s, int32_t n, int32_t size, int32_t wanted, int32_t enough)
{
    const int32_t grams = n - size + 1, wanted_grams = grams_of(wanted, size), enough_grams = grams_of(enough, size);
    int32_t run = 0, longest = 0, steps = 0;
    lz_grams g = begin_grams(s, grams);
    for (int32_t i = grams - 1; i >= 0; i--) {
        run = enter_gram(&g, i, size) & SEEN_TWICE ? run + 1 : 0;
        longest = run > longest ? run : longest;
        if (run >= wanted_grams && steps == 0)
            steps = i + 1;
        if (run >= enough_grams)
            break;
    }
    return (lz_circling){longest > 0 ? longest + size - 1 : 0, steps};
}

/* Whether a string of at least `least` tokens may stand for the third time. Grams whose hashes begin alike share a counter,
 * so this is seldom said where there is none, and always where there is one. Counting has no branch that depends on the
 * tokens; reading them has, and is left out where the answer is no. */
static int may_circle(const lz_scratch *s, int32_t grams, int32_t size, int32_t least)
{
    const uint32_t *hashes = s->hashes;
    const int32_t least_grams = grams_of(least, size);
    uint8_t *counts = (uint8_t *)s->table; /* up to 2 */
    int32_t shift, run = 0;
    memset(counts, 0, (size_t)slots_for(s, grams, 8, &shift));
    for (int32_t i = grams - 1; i >= 0; i--) {
        uint8_t *count = &counts[hashes[i] >> shift];
        const int32_t twice = *count >> 1;
        *count = (uint8_t)(*count + 1 - twice);
        run = (run + 1) & -twice;
        if (run >= least_grams)
            return 1;
    }
    return 0;
}

/* Of a text whose longest string is shorter than `least` it may say that there is none. */
static lz_circling find_circling(const lz_scratch *s, int32_t n, int32_t size, int32_t least, int32_t wanted, int32_t enough)
{
    const int32_t grams = n - size + 1;
    if (grams < 3)
        return (lz_circling){0, 0};
    hash_grams(s, grams, size);
    if (least > size && !may_circle(s, grams, size, least))
        return (lz_circling){0, 0};
    /* The comparisons of a known size are a few instructions. */
    return size == LZ_GRAM ? read_grams(s, n, LZ_GRAM, wanted, enough) : read_grams(s, n, size, wanted, enough);
}

static void evidence(const lz_evidence *e, const lz_tokens *tokens, int64_t *lengths, lz_workspace *ws)
{
    lz_sizes sizes = lz_evidence_sizes(e, tokens->length);
    lz_scratch s;
    lz_lay_out(ws->blocks[LZ_SCRATCH].memory, sizes, &s);
    for (int64_t b = 0; b < tokens->rows; b++)
        lengths[b] = find_circling(&s, read_recent(tokens, b, sizes.context, s.recent), e->gram, 1, 1, INT32_MAX).length;
}
