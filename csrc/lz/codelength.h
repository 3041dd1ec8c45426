/* Code lengths: the bits that a sliding-window coder pays for each possible next token. Included once a level.
 *
 * The coder is LZSS with window W and buffer n over a vocabulary of V ids, on which arXiv 2504.20131 builds its penalty: a
 * literal costs log2 V, a match of x tokens at distance d costs log2 d + log2 x. D(a) is what the code grows by when token
 * a comes next; it never exceeds log2 V, which is what every token outside the window costs.
 *
 * u is a match's length capped at n; l the largest u and dl the nearest distance that has it: the open match. */

static inline float smaller(float a, float b)
{
    return a < b ? a : b;
}

/* The open match, {0, 0} if the text ends in none. */
static lz_match open_match(const lz_match *matches, int32_t n, int32_t buffer)
{
    lz_match open = {0, 0};
    for (int32_t i = 0; i < n && open.length < buffer; i++) {
        int32_t u = capped(matches[i].length, buffer);
        if (u > open.length)
            open = (lz_match){matches[i].distance, u};
    }
    return open;
}

/* Cuts the matches down to those with min_match tokens, counting the one that follows, which goes to s->tokens. In a loop
 * the same token follows all of them: what is further away and no longer than the open match decides nothing, so it goes
 * too. */
static int32_t keep_long_matches(const lz_penalty *p, lz_match open, lz_match *matches, int32_t n_matches, lz_scratch *s)
{
    const int nearest_decides = p->cost == LZ_LZSS;
    int32_t n = 0;
    for (int32_t i = 0; i < n_matches; i++) {
        const lz_match match = matches[i];
        const int32_t token = s->recent[match.distance - 1];
        if (capped(match.length, p->buffer) < p->min_match - 1 ||
            (nearest_decides && n > 0 && token == s->tokens[n - 1] &&
             (match.length < open.length || matches[n - 1].length >= open.length)))
            continue;
        matches[n] = match;
        s->tokens[n++] = token;
    }
    return n;
}

/* Makes every position of the window a match, if only of length 0. */
static int32_t add_empty_matches(lz_match *matches, int32_t n_matches, int32_t window)
{
    for (int32_t k = window - 1, i = n_matches - 1; k >= 0; k--)
        matches[k] = i >= 0 && matches[i].distance == k + 1 ? matches[i--] : (lz_match){k + 1, 0};
    return window;
}

/* D of the window's distinct tokens: s->ids and s->bits. Returns how many tokens; s->owner maps the positions that count
 * to them: all of the window, or with min_match > 1 the entries of `matches`, which is cut down to these. Tokens
 * outside [0, vocab) cost a literal. */
static int32_t code_tokens(const lz_penalty *p, lz_match open, lz_match *matches, int32_t n_matches, int32_t window,
                           int32_t vocab, const float *log2, float literal, lz_scratch *s)
{
    int whole_window = p->min_match == 1;
    if (!whole_window)
        n_matches = keep_long_matches(p, open, matches, n_matches, s);
    else if (p->cost != LZ_LZSS)
        n_matches = add_empty_matches(matches, n_matches, window);

    const int32_t *tokens = whole_window ? s->recent : s->tokens;
    int32_t n = whole_window ? window : n_matches, distinct = list_distinct(tokens, n, s);
    for (int32_t c = 0; c < distinct; c++)
        s->ids[c] = tokens[s->first[c]];

    if (p->cost == LZ_LZSS) {
        for (int32_t c = 0; c < distinct; c++)
            s->bits[c] = log2[whole_window ? (int32_t)s->first[c] + 1 : matches[s->first[c]].distance];
        for (int32_t i = 0, before = -1; i < n_matches; i++) {
            uint32_t c = s->owner[whole_window ? matches[i].distance - 1 : i];
            if (matches[i].length < open.length || (int32_t)c == before)
                continue; /* in a loop, nearer positions have prolonged with the same token for less */
            before = (int32_t)c;
            s->bits[c] = smaller(s->bits[c], prolonging_bits(open.length, open.distance, matches[i].distance, log2));
        }
    } else {
        for (int32_t c = 0; c < distinct; c++) {
            s->bits[c] = FLT_MAX;
            s->longest[c] = -1;
        }
        for (int32_t i = 0; i < n_matches; i++) { /* all the positions that count are matches now */
            int32_t d = matches[i].distance, u = capped(matches[i].length, p->buffer);
            uint32_t c = s->owner[i];
            if (p->cost == LZ_PAIR)
                s->bits[c] = smaller(s->bits[c], pair_bits(d, u, log2));
            else if (u > s->longest[c]) {
                s->bits[c] = log2[d];
                s->longest[c] = u;
            }
        }
    }

    for (int32_t c = 0; c < distinct; c++)
        s->bits[c] = (uint32_t)s->ids[c] < (uint32_t)vocab ? smaller(s->bits[c], literal) : literal;
    return distinct;
}
