/* One row of logits of one dtype. Included once a level and dtype, with
 *   ROW(name)   the name of a function for this dtype
 *   NUMBER      the type in memory
 *   LOAD, STORE its conversions from and to the type that is computed in
 * Only the logits of listed tokens are read or written. */

/* row[tokens[k]] -= strength * gains[k]; of several entries with the same token the first one counts.
 *
 * All reads come before all writes, so every entry starts from the token's old value, kept in saved[k] for what follows;
 * the first entry is written last and wins. That spares the search for equal tokens. */
static void ROW(subtract)(const lz_row *row, const int32_t *tokens, const float *gains, int32_t n, float strength,
                          void *saved)
{
    NUMBER *logits = row->logits, *old = saved;
    const uint32_t vocab = row->vocab;
    const int64_t stride = row->stride;
    for (int32_t k = 0; k < n; k++)
        if ((uint32_t)tokens[k] < vocab)
            old[k] = logits[tokens[k] * stride];
    for (int32_t k = n - 1; k >= 0; k--)
        if ((uint32_t)tokens[k] < vocab)
            logits[tokens[k] * stride] = STORE(LOAD(old[k]) - strength * gains[k]);
}

/* The same for entry k alone, after subtract, if that lowers the logit further. */
static void ROW(lower)(const lz_row *row, const int32_t *tokens, int32_t k, float gain, float strength, const void *saved)
{
    const NUMBER *old = saved;
    if ((uint32_t)tokens[k] < row->vocab) {
        NUMBER *logit = (NUMBER *)row->logits + tokens[k] * row->stride, lowered = STORE(LOAD(old[k]) - strength * gain);
        if (LOAD(lowered) < LOAD(*logit))
            *logit = lowered;
    }
}

/* After subtract: makes the logit of entry k, a token below vocab, what it was and so many nats more: one sum, which is
 * rounded once. */
static void ROW(change)(const lz_row *row, const int32_t *tokens, int32_t k, double nats, const void *saved)
{
    const NUMBER *old = saved;
    ((NUMBER *)row->logits)[tokens[k] * row->stride] = STORE((double)LOAD(old[k]) + nats);
}

static const lz_row_ops ROW(ops) = {ROW(subtract), ROW(lower), ROW(change)};

#undef ROW
#undef NUMBER
#undef LOAD
#undef STORE
