/* Exact loops at the end of a text. Included once a level. */

static void periods(const lz_loop *loop, const lz_tokens *tokens, int64_t *periods, lz_workspace *ws)
{
    lz_sizes sizes = lz_loop_sizes(loop, tokens->length);
    lz_scratch s;
    lz_lay_out(ws->blocks[LZ_SCRATCH].memory, sizes, &s);
    for (int64_t b = 0; b < tokens->rows; b++) {
        int32_t n = read_recent(tokens, b, sizes.context, s.recent);
        int32_t n_matches = n > 0 ? find_matches(s.recent, n, sizes.window, s.matches) : 0;
        periods[b] = 0;
        for (int32_t i = 0; i < n_matches; i++) {
            int64_t period = s.matches[i].distance;
            if (s.matches[i].length >= lz_loop_match(loop->ngram, loop->count, period)) {
                periods[b] = period;
                break;
            }
        }
    }
}
