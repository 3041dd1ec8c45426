/* DRY: a token that would prolong a repetition of u >= allowed_length tokens pays multiplier * base^(u - allowed_length)
 * nats (p-e-w's sampler, arXiv 2608.22761). Included once a level.
 *
 * Only the last `window` tokens exist; no repetition reaches across a breaker, and breakers themselves are free. */

static void dry(const lz_dry *dry, const lz_logits *logits, const lz_tokens *tokens, lz_workspace *ws)
{
    lz_sizes sizes = lz_dry_sizes(dry, tokens->length);
    lz_scratch scratch, *s = &scratch;
    int32_t n_prices = 0;
    double price = dry->multiplier;
    lz_lay_out(ws->blocks[LZ_SCRATCH].memory, sizes, s);

    for (int64_t b = 0; b < logits->rows; b++) {
        int32_t have = read_recent(tokens, b, sizes.context, s->recent), limit = 0, n = 0;
        lz_row row = row_of(logits, b);
        while (limit < have && !is_listed(dry->breakers, dry->n_breakers, s->recent[limit]))
            limit++;
        if (limit < dry->allowed_length)
            continue;
        int32_t n_matches = find_matches(s->recent, have, have, s->matches);
        for (int32_t i = 0; i < n_matches; i++) {
            int32_t u = capped(s->matches[i].length, limit), id = s->recent[s->matches[i].distance - 1];
            s->matches[n].length = u;
            s->tokens[n] = id;
            n += u >= dry->allowed_length && !is_listed(dry->breakers, dry->n_breakers, id);
        }
        int32_t distinct = list_distinct(s->tokens, n, s);
        memset(s->longest, 0, (size_t)distinct * sizeof *s->longest);
        for (int32_t k = 0; k < n; k++) {
            int32_t *longest = &s->longest[s->owner[k]], over = s->matches[k].length - dry->allowed_length;
            *longest = over > *longest ? over : *longest;
        }
        for (int32_t c = 0; c < distinct; c++) {
            /* The list of prices grows with the longest repetition that this call has met. */
            for (; n_prices <= s->longest[c]; price *= dry->base)
                s->bits[n_prices++] = price < FLT_MAX ? (float)price : FLT_MAX;
            s->ids[c] = s->tokens[s->first[c]];
            s->gains[c] = s->bits[s->longest[c]];
        }
        row_ops[logits->dtype]->subtract(&row, s->ids, s->gains, distinct, 1, s->saved);
    }
}
