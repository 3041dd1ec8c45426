/* How much of the recent text stood before, as 4-grams. Included once a level. */

/* How many of the last `horizon` tokens end a 4-gram that also ended at most `window` tokens earlier. Oldest first, a hash
 * table maps each distinct 4-gram to where it was last seen, so the work is linear. */
static int32_t count_repeated(const lz_scratch *s, int32_t n, int32_t window, int32_t horizon)
{
    const int32_t *recent = s->recent;
    uint32_t mask = (uint32_t)s->n_table - 1;
    int32_t repeated = 0, first = n - 4;
    if (first > horizon - 1 + (int64_t)window)
        first = horizon - 1 + window;
    memset(s->table, 0, (size_t)s->n_table * sizeof *s->table);
    for (int32_t i = first; i >= 0; i--) {
        const uint64_t mix = 0x9e3779b97f4a7c15u;
        uint64_t hash = 0;
        for (int32_t k = 0; k < 4; k++)
            hash = (hash ^ (uint32_t)recent[i + k]) * mix;
        uint32_t slot = (uint32_t)(hash >> 32) & mask;
        while (s->table[slot] && memcmp(recent + s->table[slot] - 1, recent + i, 4 * sizeof *recent) != 0)
            slot = (slot + 1) & mask;
        repeated += i < horizon && s->table[slot] && (int32_t)s->table[slot] - 1 - i <= window;
        s->table[slot] = (uint32_t)i + 1;
    }
    return repeated;
}
