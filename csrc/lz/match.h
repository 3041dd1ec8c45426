/* Suffix matches: which earlier positions were preceded by the text that now ends the history?
 *
 * Included once a level. With the history h[0..m-1] and recent[i] = h[m-1-i], a match at distance d of length u says that
 * h[..m-d-1] and h[..m-1] share a suffix of u >= 1 tokens, i.e. recent[0..u-1] == recent[d..d+u-1]. Finding all of them is
 * the Z-function of the reversed history, whose "boxes" keep the worst case, a tight loop, linear. Only positions that
 * match are listed, and in ordinary text they are few: the search for the next one is what takes the time. */

static inline int32_t capped(int32_t length, int32_t most)
{
    return length < most ? length : most;
}

/* The first i in [from, to) with a[i] == token, else to. */
static int32_t find_token(const int32_t *a, int32_t token, int32_t from, int32_t to)
{
    enum { BLOCK = 64 };
    for (; to - from >= BLOCK; from += BLOCK) {
        const int32_t *block = a + from;
        int32_t found = 0;
        for (int32_t i = 0; i < BLOCK; i++)
            found |= block[i] == token;
        if (found)
            break;
    }
    while (from < to && a[from] != token)
        from++;
    return from;
}

/* How many of the first n tokens of a and b agree before the first that differs, given that `agreed` do. */
static int32_t common_prefix(const int32_t *a, const int32_t *b, int32_t agreed, int32_t n)
{
    enum { BLOCK = 16 };
    for (; n - agreed >= BLOCK; agreed += BLOCK) {
        const int32_t *x = a + agreed, *y = b + agreed;
        int32_t differ = 0;
        for (int32_t i = 0; i < BLOCK; i++)
            differ |= x[i] ^ y[i];
        if (differ)
            break;
    }
    while (agreed < n && a[agreed] == b[agreed])
        agreed++;
    return agreed;
}

/* Lists the matches at distances 1..window, nearest first; lengths are bounded by the n tokens alone. Returns how many. */
static int32_t find_matches(const int32_t *recent, int32_t n, int32_t window, lz_match *matches)
{
    int32_t found = 0, last = window < n ? window : n - 1;
    for (int32_t d = 1; (d = find_token(recent, recent[0], d, last + 1)) <= last;) {
        int32_t box = d, end = d + common_prefix(recent, recent + d, 1, n - d);
        matches[found++] = (lz_match){d, end - d};
        /* recent[box..end) repeats the beginning of recent, so the matches up to the box come again, a box further, as often
         * as there is room. Only one that ends together with the box may go on behind it, and is the next box then. */
        for (int32_t i = 0, listed = found, turn = box;; i++) {
            if (i == listed) {
                i = 0;
                turn += box;
            }
            d = turn + matches[i].distance;
            if (d >= end || d > last)
                break;
            lz_match again = {d, capped(matches[i].length, end - d)};
            if (matches[i].length == end - d && end < n) {
                again.length = common_prefix(recent, recent + d, again.length, n - d);
                if (d + again.length > end) {
                    box = turn = d;
                    end = d + again.length;
                    listed = found + 1;
                    i = -1;
                }
            }
            matches[found++] = again;
        }
        d = end;
    }
    return found;
}
