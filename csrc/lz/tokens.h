/* The end of a row's history as 32-bit ids, newest first. Included once a level. */

/* Ids beyond 32 bits can't be in any vocabulary, but still take part in matching: each distinct id that is not a token of
 * some vocabulary gets a negative code of its own. Quadratic, and never met in practice. */
static void encode_wide_ids(const int64_t *newest, int64_t stride, int32_t n, int32_t *recent)
{
    for (int32_t i = 0; i < n; i++) {
        int64_t id = newest[-i * stride];
        int32_t first = 0;
        if (id >= 0 && id <= INT32_MAX) {
            recent[i] = (int32_t)id;
            continue;
        }
        while (first < i && newest[-first * stride] != id) /* no end to rely on: others may write to the tokens meanwhile */
            first++;
        recent[i] = -1 - first;
    }
}

static void reverse_int64(const int64_t *newest, int64_t stride, int32_t n, int32_t *recent)
{
    uint64_t high = 0;
    if (stride == 1) { /* two loops that compilers vectorise, where they give up on one that does both */
        const int64_t *oldest = newest - (n - 1);
        for (int32_t i = 0; i < n; i++)
            high |= ((uint64_t)oldest[i] + 0x80000000u) >> 32;
        for (int32_t i = 0; i < n; i++)
            recent[n - 1 - i] = (int32_t)oldest[i];
    } else {
        for (int32_t i = 0; i < n; i++) {
            int64_t id = newest[-i * stride];
            high |= ((uint64_t)id + 0x80000000u) >> 32;
            recent[i] = (int32_t)id;
        }
    }
    if (high)
        encode_wide_ids(newest, stride, n, recent);
}

static void reverse_int32(const int32_t *newest, int64_t stride, int32_t n, int32_t *recent)
{
    if (stride == 1)
        for (int32_t i = 0; i < n; i++)
            recent[i] = newest[-i];
    else
        for (int32_t i = 0; i < n; i++)
            recent[i] = newest[-i * stride];
}

static int64_t start_of(const lz_tokens *tokens, int64_t row)
{
    return tokens->starts ? tokens->starts[row] : tokens->start;
}

/* Copies the last `context` of the row's tokens from position `begin` on. Returns how many there were to copy. */
static int32_t read_since(const lz_tokens *tokens, int64_t row, int64_t begin, int32_t context, int32_t *recent)
{
    int64_t counting = tokens->length - begin;
    int32_t n = counting < context ? (int32_t)counting : context;
    int64_t stride = tokens->column_stride, newest = row * tokens->row_stride + (tokens->length - 1) * stride;
    if (n == 0)
        return 0;
    if (tokens->is_int64)
        reverse_int64((const int64_t *)tokens->data + newest, stride, n, recent);
    else
        reverse_int32((const int32_t *)tokens->data + newest, stride, n, recent);
    return n;
}

/* The same of those that count. */
static int32_t read_recent(const lz_tokens *tokens, int64_t row, int32_t context, int32_t *recent)
{
    return read_since(tokens, row, start_of(tokens, row), context, recent);
}
