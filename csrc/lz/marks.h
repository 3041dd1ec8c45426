/* Where marks stand in a text. Included once a level. */

/* The newest position in [0, to) of the n tokens at which any of the marks ends, else `to`. */
static int32_t newest_mark(const lz_marks *marks, const int32_t *recent, int32_t n, int32_t to)
{
    for (int32_t m = 0; m < marks->n; m++) {
        const lz_mark *mark = &marks->mark[m];
        int32_t i = find_token(recent, mark->id[mark->n - 1], 0, to);
        while (i < to && !ends_mark(mark, mark->n, recent, n, i))
            i = find_token(recent, mark->id[mark->n - 1], i + 1, to);
        to = i;
    }
    return to;
}

static int64_t token_at(const lz_tokens *tokens, int64_t row, int64_t i)
{
    return load_id(tokens->data, tokens->is_int64, row * tokens->row_stride + i * tokens->column_stride);
}

/* The first i in [from, to) at which the row has this id, else `to`. */
static int64_t find_in_row(const lz_tokens *tokens, int64_t row, int32_t id, int64_t from, int64_t to)
{
    enum { BLOCK = 256 };
    for (; tokens->column_stride == 1 && to - from >= BLOCK; from += BLOCK) {
        const int64_t first = row * tokens->row_stride + from;
        int64_t found = 0;
        if (tokens->is_int64)
            for (int32_t i = 0; i < BLOCK; i++)
                found |= ((const int64_t *)tokens->data)[first + i] == id;
        else
            for (int32_t i = 0; i < BLOCK; i++)
                found |= ((const int32_t *)tokens->data)[first + i] == id;
        if (found)
            break;
    }
    while (from < to && token_at(tokens, row, from) != id)
        from++;
    return from;
}

/* Whether any of the marks stands among all of the row's tokens that count. */
static int holds_mark(const lz_marks *marks, const lz_tokens *tokens, int64_t row)
{
    const int64_t start = tokens->starts ? tokens->starts[row] : tokens->start;
    for (int32_t m = 0; m < marks->n; m++) {
        const lz_mark *mark = &marks->mark[m];
        for (int64_t i = start; (i = find_in_row(tokens, row, mark->id[0], i, tokens->length)) < tokens->length; i++) {
            int32_t k = 1;
            while (k < mark->n && i + k < tokens->length && token_at(tokens, row, i + k) == mark->id[k])
                k++;
            if (k == mark->n)
                return 1;
        }
    }
    return 0;
}
