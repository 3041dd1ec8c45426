/* Attention of new tokens to a cache. Included once a level, after score.h.
 *
 *     out[h, i] = sum over t of w[h, i, t] * v[h / G, t]        w[h, i] = softmax over t of scale * <q[h, i], k[h / G, t]>
 *
 * What takes the time is to read keys and values, so all queries that share a key head, the *rows*, are served at once. The
 * entries are gone through in blocks: products of the rows with the keys of a block, the weights relative to the largest
 * product so far, and the weighted values on top of what came before, which shrinks when the largest product rises (the
 * online softmax of FlashAttention, arXiv 2205.14135). While the keys of a block are multiplied its values are fetched, and
 * the other way round. A long cache is cut into pieces, whose results are merged in the same way (Flash-Decoding); where it
 * is cut depends on sizes alone, so that the number of threads changes no bit.
 *
 * Numbers lie in lanes: a product is summed in the lanes of a vector, four of which are reduced together. Numbers come in
 * pairs of vectors; the pair of bfloat16 is the even and the odd numbers of 2 VEC_LANES, which one shift and one mask make,
 * and queries and outputs are laid out accordingly until they are written. */

enum {
    PAIR = 2 * VEC_LANES,
    MOST_ROWS = VEC_ROWS / 2, /* rows that are multiplied at once: with 4 keys or values that fills the registers */
    FEW = MOST_ROWS == 3,     /* registers: more rows at once then, with fewer keys or values */
    MOST_KEY_ROWS = FEW ? 4 : MOST_ROWS,          /* with 3 keys */
    MOST_SINGLE_ROWS = FEW ? 7 : 0,               /* with a single key */
    MOST_VALUE_ROWS = FEW ? VEC_ROWS : MOST_ROWS, /* with 2 vectors of a value */
    SINGLES = 16,                                 /* single keys that are multiplied before their sums are added up */
    BLOCK_BYTES = 32768,                          /* of keys, and of values: so much of both stays in a near cache */
    MOST_BLOCK = 128,                             /* entries, a multiple of all VEC_LANES */
    PRODUCTS = MOST_BLOCK + 16, /* numbers from row to row of products: some are written behind the last one */
    LINE_BYTES = 64
};

static int64_t padded(int64_t size)
{
    return (size + PAIR - 1) / PAIR * PAIR;
}

/* What is known of some rows when some of the entries have been seen. */
typedef struct {
    float *outputs; /* [rows, padded(Dv)], in pairs, not yet divided by the totals */
    float *maxima;  /* [rows], of the products times log2(e) */
    float *totals;  /* [rows], of the weights relative to the maximum */
} attend_partial;

static size_t partial_lay_out(const cache_decode *decode, int64_t rows, void *memory, attend_partial *p)
{
    const int64_t numbers = rows * padded(decode->out.size);
    p->outputs = memory;
    p->maxima = (float *)((uintptr_t)memory + (size_t)numbers * sizeof(float));
    p->totals = (float *)((uintptr_t)p->maxima + (size_t)rows * sizeof(float));
    return ((size_t)(numbers + 2 * rows) * sizeof(float) + 63) & ~(size_t)63;
}

static size_t partial_bytes(const cache_decode *decode, int64_t rows)
{
    attend_partial ignored;
    return partial_lay_out(decode, rows, NULL, &ignored);
}

/* What a thread works with. */
typedef struct {
    float *queries;  /* [rows, padded(D)] times what the products are multiplied with, in pairs */
    float *products; /* [rows, PRODUCTS] products, then weights */
    float *sums;     /* [SINGLES, MOST_SINGLE_ROWS, VEC_LANES] products that are not yet added up */
    float *wide;     /* [MOST_BLOCK, padded(D or Dv)] keys or values whose size isn't one of pairs */
    float *shrink;   /* [rows] what became of the outputs when the maximum rose */
    int64_t *seen;   /* [rows] entries of the block that a row sees */
} attend_scratch;

static size_t decode_lay_out(const cache_decode *decode, int64_t rows, void *memory, attend_scratch *s)
{
    const int64_t size = padded(decode->queries.size), value_size = padded(decode->out.size);
    const int64_t counts[5] = {rows * size, rows * PRODUCTS, SINGLES * MOST_SINGLE_ROWS * VEC_LANES,
                               MOST_BLOCK * (size > value_size ? size : value_size), rows};
    float **members[5] = {&s->queries, &s->products, &s->sums, &s->wide, &s->shrink};
    size_t used = 0;
    for (int i = 0; i < 5; i++) {
        *members[i] = (float *)((uintptr_t)memory + used);
        used += ((size_t)counts[i] * sizeof(float) + 63) & ~(size_t)63;
    }
    s->seen = (int64_t *)((uintptr_t)memory + used);
    return used + (((size_t)rows * sizeof(int64_t) + 63) & ~(size_t)63);
}

static size_t decode_bytes(const cache_decode *decode, int64_t rows)
{
    attend_scratch ignored;
    return decode_lay_out(decode, rows, NULL, &ignored);
}

/* Vector `j` of a row of numbers in pairs. */
ALWAYS_INLINE vec load_part(const char *row, float_dtype dtype, int j)
{
    const int pair = j / 2 * PAIR, right = j % 2;
    const uint16_t *narrow = (const uint16_t *)(const void *)row;
    if (dtype == FLOAT32)
        return vec_load((const float *)(const void *)row + pair + right * VEC_LANES);
    if (dtype == FLOAT16)
        return vec_load_f16(narrow + pair + right * VEC_LANES);
    return right ? vec_load_bf16_odd(narrow + pair) : vec_load_bf16_even(narrow + pair);
}

/* The same where what widens has time to load a mask, but shifts are in the way of multiplications. */
ALWAYS_INLINE vec load_part_masked(const char *row, float_dtype dtype, int j)
{
    if (dtype == BFLOAT16 && j % 2)
        return vec_load_bf16_odd_masked((const uint16_t *)(const void *)row + j / 2 * PAIR);
    return load_part(row, dtype, j);
}

/* What is read next, fetched while other numbers are multiplied, so that the memory is never idle: at every (mask + 1)th of
 * the entries that are gone through some lines, `step` bytes further for each entry. */
typedef struct {
    const char *start;
    int64_t step, lines, mask;
} fetching;

/* n entries of so many bytes, dealt out among passes. Those that lie side by side are fetched in their order, as memory
 * likes it best, of others a part of each in each pass. */
typedef struct {
    fetching next;
    int64_t advance;              /* bytes from share to share */
    int64_t shares, passes, owed; /* which of the passes have one */
} fetch_plan;

static fetch_plan plan_fetches(const char *entries, int64_t stride, int64_t bytes, int64_t n, int64_t passes)
{
    const int64_t all = (bytes + LINE_BYTES - 1) / LINE_BYTES, lines = (all + passes - 1) / passes;
    int64_t shares = (all + lines - 1) / lines, mask = 0;
    if (stride != bytes)
        return (fetch_plan){{entries, stride, lines, 0}, lines * LINE_BYTES, shares, passes, 0};
    for (; 2 * shares <= passes; shares *= 2)
        mask = 2 * mask + 1;
    const int64_t step = lines * LINE_BYTES / (mask + 1);
    return (fetch_plan){{entries, step, lines, mask}, n * step, shares, passes, 0};
}

/* That of the next pass. */
static inline fetching next_share(fetch_plan *plan)
{
    fetching next = plan->next;
    plan->owed += plan->shares;
    if (plan->owed >= plan->passes) {
        plan->owed -= plan->passes;
        plan->next.start += plan->advance;
    } else {
        next.lines = 0;
    }
    return next;
}

ALWAYS_INLINE void fetch(const fetching *f, int64_t entry)
{
    for (int64_t line = 0; line < f->lines && !(entry & f->mask); line++)
        PREFETCH(f->start + entry * f->step + line * LINE_BYTES);
}

/* Keys or values of a block, or a part of each, and what is fetched while they are multiplied. */
typedef struct {
    const char *first;
    int64_t stride, n; /* bytes from one to the next, and how many */
    fetching next;
} block_part;

/* products[r, t] = <query r, key t>. The processor may have fewer loads a cycle than multiply-adds: what is in
 * registers is used as often as they allow. */
ALWAYS_INLINE void multiply_keys(const int rows, const float_dtype dtype, const float *queries, int64_t size,
                                 const block_part *keys, float *products)
{
    const int at_once = rows <= MOST_ROWS ? 4 : 3;
    const int64_t n = keys->n;
    for (int64_t t = 0; t < n; t += at_once) {
        vec sum[MOST_KEY_ROWS][4];
        const char *key[4];
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < 4; i++)
                sum[r][i] = vec_set(0);
        for (int i = 0; i < at_once; i++) {
            key[i] = keys->first + (t + i < n ? t + i : n - 1) * keys->stride;
            fetch(&keys->next, t + i);
        }
        for (int64_t d = 0; d < size; d += PAIR) {
            const int64_t at = d * float_size(dtype);
#if defined(VEC_PAIRS)
            if (dtype == BFLOAT16) {
                VEC_PAIRS query[MOST_KEY_ROWS];
                for (int r = 0; r < rows; r++)
                    query[r] = vec_load_pairs((const uint16_t *)(const void *)(queries + r * size) + d);
                for (int i = 0; i < at_once; i++) {
                    const VEC_PAIRS numbers = vec_load_pairs(key[i] + at);
                    for (int r = 0; r < rows; r++)
                        sum[r][i] = vec_dot(sum[r][i], numbers, query[r]);
                }
                continue;
            }
#endif
            for (int side = 0; side < 2; side++) {
                vec query[MOST_KEY_ROWS];
                for (int r = 0; r < rows; r++)
                    query[r] = vec_load(queries + r * size + d + side * VEC_LANES);
                for (int i = 0; i < at_once; i++) {
                    const vec numbers = load_part(key[i] + at, dtype, side);
                    for (int r = 0; r < rows; r++)
                        sum[r][i] = vec_fma(numbers, query[r], sum[r][i]);
                }
            }
        }
        for (int r = 0; r < rows; r++)
            vec_sum_4(products + r * PRODUCTS + t, sum[r][0], sum[r][1], sum[r][2], sum[r][3]);
    }
}

/* The same, a key at a time for all rows: a bfloat16 key is loaded and widened once. The registers hold two vectors a row,
 * whose sums wait in memory: one after the other they would all wait for the last product. */
ALWAYS_INLINE void multiply_single_keys(const int rows, const float_dtype dtype, const float *queries, int64_t size,
                                        const block_part *keys, float *sums, float *products)
{
    const int64_t n = keys->n;
    for (int64_t from = 0; from < n; from += SINGLES) {
        for (int64_t t = 0; t < SINGLES; t++) {
            vec sum[MOST_SINGLE_ROWS + 1][2];
            const char *key = keys->first + (from + t < n ? from + t : n - 1) * keys->stride;
            fetch(&keys->next, from + t);
            const vec first_left = load_part(key, dtype, 0), first_right = load_part(key, dtype, 1);
            for (int r = 0; r < rows; r++) {
                sum[r][0] = vec_mul(first_left, vec_load(queries + r * size));
                sum[r][1] = vec_mul(first_right, vec_load(queries + r * size + VEC_LANES));
            }
            for (int64_t d = PAIR; d < size; d += PAIR) {
                const vec left = load_part(key + d * float_size(dtype), dtype, 0);
                const vec right = load_part(key + d * float_size(dtype), dtype, 1);
                for (int r = 0; r < rows; r++) {
                    sum[r][0] = vec_fma(left, vec_load(queries + r * size + d), sum[r][0]);
                    sum[r][1] = vec_fma(right, vec_load(queries + r * size + d + VEC_LANES), sum[r][1]);
                }
            }
            for (int r = 0; r < rows; r++)
                vec_store(sums + (r * SINGLES + t) * VEC_LANES, vec_add(sum[r][0], sum[r][1]));
        }
        for (int r = 0; r < rows; r++) {
            for (int t = 0; t < SINGLES; t += 4) {
                const float *four = sums + (r * SINGLES + t) * VEC_LANES;
                vec_sum_4(products + r * PRODUCTS + from + t, vec_load(four), vec_load(four + VEC_LANES),
                          vec_load(four + 2 * VEC_LANES), vec_load(four + 3 * VEC_LANES));
            }
        }
    }
}

/* outputs[r] = shrink[r] * outputs[r] + sum over t of weights[r, t] * values[t], for `parts` vectors of each. */
ALWAYS_INLINE void add_values(const int rows, const int parts, const float_dtype dtype, const float *weights,
                              const float *shrink, const block_part *values, float *outputs, int64_t size)
{
    vec sum[MOST_VALUE_ROWS][4];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < parts; j++)
            sum[r][j] = vec_mul(vec_load(outputs + r * size + j * VEC_LANES), vec_set(shrink[r]));
    const char *value_at = values->first;
    for (int64_t t = 0; t < values->n; t++, value_at += values->stride) {
        vec weight[MOST_VALUE_ROWS];
        fetch(&values->next, t);
        for (int r = 0; r < rows; r++)
            weight[r] = vec_set(weights[r * PRODUCTS + t]);
        for (int j = 0; j < parts; j++) {
            const vec value = load_part_masked(value_at, dtype, j);
            for (int r = 0; r < rows; r++)
                sum[r][j] = vec_fma(weight[r], value, sum[r][j]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < parts; j++)
            vec_store(outputs + r * size + j * VEC_LANES, sum[r][j]);
}

/* Calls one of the two with a number of rows that the compiler knows. */
#define WITH_ROWS(rows, most, call)                                                                                         \
    switch (rows) {                                                                                                         \
        WITH_(1, most, call)                                                                                                \
        WITH_(2, most, call)                                                                                                \
        WITH_(3, most, call)                                                                                                \
        WITH_(4, most, call)                                                                                                \
        WITH_(5, most, call)                                                                                                \
        WITH_(6, most, call)                                                                                                \
        WITH_(7, most, call)                                                                                                \
    }
#define WITH_(n, most, call)                                                                                                \
    case n:                                                                                                                 \
        if ((n) <= (most))                                                                                                  \
            call((n) <= (most) ? (n) : 1);                                                                                  \
        break;

/* How many of so many rows are to be multiplied at once: about as many each time. */
static inline int64_t rows_at_once(int64_t rows, int64_t most)
{
    const int64_t times = (rows + most - 1) / most;
    return (rows + times - 1) / times;
}

/* In how many passes the values are added, if all rows see the same. */
static int64_t passes_of_values(int64_t rows, int64_t value_size)
{
    int64_t passes = 0;
    for (int64_t r = 0, n; r < rows; r += n) {
        n = rows_at_once(rows - r, MOST_VALUE_ROWS);
        passes += n <= MOST_ROWS ? (value_size + 2 * PAIR - 1) / (2 * PAIR) : value_size / PAIR;
    }
    return passes;
}

/* The weight of a product relative to the largest: 2^x for x <= 0, and 0 for what a float32 can't tell from it. */
static inline vec weight_of(vec x)
{
    return vec_sub(vec_exp2(x), vec_set(0x1p-126f));
}

static inline float weight_of_number(float x)
{
    float lanes[VEC_LANES];
    vec_store(lanes, weight_of(vec_set(x)));
    return lanes[0];
}

/* softcap * tanh(product / softcap) * log2(e) of products that are multiplied by 2 * log2(e) / softcap already. */
static inline vec cap_products(vec x, float softcap)
{
    const vec one = vec_set(1), power = vec_exp2(vec_sub(vec_set(0), vec_max(vec_sub(vec_set(0), x), x)));
    const vec tanh = vec_div(vec_sub(one, power), vec_add(one, power));
    return vec_mul(vec_copysign(tanh, x), vec_set(softcap * CACHE_LOG2E));
}

/* Products of a row and n entries become weights; the row's maximum and total go on, and *shrink is what the former weights
 * are now worth. Behind the n, what fills the last vector becomes 0. */
static void weigh_products(const cache_decode *decode, float *products, int64_t n, float *maximum, float *total,
                           float *shrink)
{
    vec largest = vec_set(-FLT_MAX), sum = vec_set(0);
    float max = *maximum;
    if (decode->softcap != 0)
        for (int64_t t = 0; t < n; t += VEC_LANES)
            vec_store(products + t, cap_products(vec_load(products + t), decode->softcap));
    for (int64_t t = n; t % VEC_LANES != 0; t++)
        products[t] = -INFINITY;
    for (int64_t t = 0; t < n; t += VEC_LANES)
        largest = vec_max(largest, vec_load(products + t));
    const float top = vec_top(largest);
    max = top > max ? top : max;
    for (int64_t t = 0; t < n; t += VEC_LANES) {
        const vec weight = weight_of(vec_sub(vec_load(products + t), vec_set(max)));
        vec_store(products + t, weight);
        sum = vec_add(sum, weight);
    }
    *shrink = *maximum == max ? 1 : weight_of_number(*maximum - max);
    *total = *total * *shrink + vec_sum(sum);
    *maximum = max;
}

static void widen_block(const char *rows, float_dtype dtype, int64_t stride, int64_t n, int64_t size, float *wide)
{
    for (int64_t t = 0; t < n; t++) {
        float *to = wide + t * padded(size);
        for (int64_t d = 0; d < size; d++)
            to[d] = load_number(rows + t * stride, dtype, d);
        for (int64_t d = size; d < padded(size); d++)
            to[d] = 0;
    }
}

static const char *decode_query(const cache_decode *decode, const cache_piece *piece, int64_t row)
{
    const int64_t group = decode->queries.heads / decode->heads, b = piece->head / decode->heads;
    return row_at(&decode->queries, b, piece->head % decode->heads * group + row % group, row / group);
}

/* How many entries a row sees: those before this one. */
static int64_t end_of_row(const cache_decode *decode, const cache_piece *piece, int64_t row)
{
    const int64_t group = decode->queries.heads / decode->heads, tokens = decode->queries.tokens;
    return decode->spans[piece->head].length - tokens + 1 + row / group;
}

static int has_pairs(const cache_decode *decode)
{
    return decode->queries.size % PAIR == 0 && decode->out.size % PAIR == 0;
}

/* What products are to be multiplied with. */
static float factor_of(const cache_decode *decode)
{
    return decode->scale * CACHE_LOG2E * (decode->softcap != 0 ? 2 / decode->softcap : 1);
}

/* The blocks of a piece. Its numbers are of `dtype` in the end, as they are or widened. */
ALWAYS_INLINE void attend_blocks(const cache_decode *decode, const cache_piece *piece, const attend_partial *p,
                                 const attend_scratch *s, const float_dtype dtype)
{
    const cache_span *span = &decode->spans[piece->head];
    const float_dtype stored = decode->queries.dtype;
    const int is_wide = !has_pairs(decode);
    const int64_t size = padded(decode->queries.size), value_size = padded(decode->out.size);
    const int64_t key_stride = decode->key_stride * float_size(stored);
    const int64_t value_stride = decode->value_stride * float_size(stored);
    const char *keys = decode->keys, *values = decode->values;
    if (span->length) { /* without entries there may be no memory */
        keys += span->key * float_size(stored);
        values += span->value * float_size(stored);
    }
    int64_t block = BLOCK_BYTES / ((size > value_size ? size : value_size) * float_size(dtype)) / VEC_LANES * VEC_LANES;
    block = block < 16 ? 16 : block > MOST_BLOCK ? MOST_BLOCK : block;

    for (int64_t from = piece->from, to, first = 0; from < piece->to; from = to) {
        to = from + block < piece->to ? from + block : piece->to;
        for (int64_t r = first; r < piece->rows; r++) {
            const int64_t end = end_of_row(decode, piece, piece->row + r);
            s->seen[r] = end <= from ? 0 : (end < to ? end : to) - from;
            first += s->seen[r] == 0; /* those that have seen all are the first ones */
        }

        const char *block_keys = keys + from * key_stride, *block_values = values + from * value_stride;
        const char *next_keys = keys + (to < piece->to ? to : from) * key_stride;
        int64_t block_key_stride = key_stride, block_value_stride = value_stride;
        if (is_wide) {
            widen_block(block_keys, stored, key_stride, to - from, decode->queries.size, s->wide);
            block_keys = (const char *)s->wide;
            block_key_stride = size * float_size(FLOAT32);
        }
        const int64_t rows_left = piece->rows - first;
        const int is_single = dtype == BFLOAT16 && MOST_SINGLE_ROWS > 0 && rows_left > MOST_ROWS;
        const int64_t key_rows = is_single ? MOST_SINGLE_ROWS : MOST_KEY_ROWS;
        fetch_plan values_next = plan_fetches(block_values, value_stride, decode->out.size * float_size(stored), to - from,
                                              (rows_left + key_rows - 1) / key_rows);
        for (int64_t r = first, rows; r < piece->rows; r += rows) {
            rows = rows_at_once(piece->rows - r, is_single ? MOST_SINGLE_ROWS : MOST_KEY_ROWS);
            const block_part part = {block_keys, block_key_stride, to - from, next_share(&values_next)};
#define MULTIPLY(n) multiply_keys(n, dtype, s->queries + r * size, size, &part, s->products + r * PRODUCTS)
#define MULTIPLY_SINGLE(n)                                                                                                  \
    multiply_single_keys(n, dtype, s->queries + r * size, size, &part, s->sums, s->products + r * PRODUCTS)
            if (is_single) {
                WITH_ROWS(rows, MOST_SINGLE_ROWS, MULTIPLY_SINGLE)
            } else {
                WITH_ROWS(rows, MOST_KEY_ROWS, MULTIPLY)
            }
        }
#if defined(VEC_PAIRS)
        const vec factor = vec_set(factor_of(decode));
        for (int64_t r = first; r < piece->rows && dtype == BFLOAT16; r++)
            for (float *at = s->products + r * PRODUCTS, *end = at + (to - from); at < end; at += VEC_LANES)
                vec_store(at, vec_mul(vec_load(at), factor));
#endif
        for (int64_t r = first; r < piece->rows; r++)
            weigh_products(decode, s->products + r * PRODUCTS, s->seen[r], &p->maxima[r], &p->totals[r], &s->shrink[r]);

        if (is_wide) {
            widen_block(block_values, stored, value_stride, to - from, decode->out.size, s->wide);
            block_values = (const char *)s->wide;
            block_value_stride = value_size * float_size(FLOAT32);
        }
        const int64_t value_passes = passes_of_values(rows_left, value_size);
        fetch_plan keys_next =
            plan_fetches(next_keys, key_stride, decode->queries.size * float_size(stored), to - from, value_passes);
        for (int64_t r = first, rows; r < piece->rows; r += rows) {
            int64_t equal = 1; /* rows that see as much as this one */
            while (r + equal < piece->rows && s->seen[r + equal] == s->seen[r])
                equal++;
            rows = rows_at_once(equal, MOST_VALUE_ROWS);
            for (int64_t d = 0, numbers; d < value_size; d += numbers) {
                numbers = rows <= MOST_ROWS && d + 2 * PAIR <= value_size ? 2 * PAIR : PAIR;
                const float *weights = s->products + r * PRODUCTS;
                float *outputs = p->outputs + r * value_size + d;
                const block_part part = {block_values + d * float_size(dtype), block_value_stride, s->seen[r],
                                         next_share(&keys_next)};
#define ADD(n, parts) add_values(n, parts, dtype, weights, s->shrink + r, &part, outputs, value_size)
#define ADD_PAIR(n) ADD(n, 2)
#define ADD_TWO_PAIRS(n) ADD(n, 4)
                if (numbers == PAIR) {
                    WITH_ROWS(rows, MOST_VALUE_ROWS, ADD_PAIR)
                } else {
                    WITH_ROWS(rows, MOST_ROWS, ADD_TWO_PAIRS)
                }
            }
        }
    }
}

static void attend_float32(const cache_decode *decode, const cache_piece *piece, const attend_partial *p,
                           const attend_scratch *s)
{
    attend_blocks(decode, piece, p, s, FLOAT32);
}

static void attend_float16(const cache_decode *decode, const cache_piece *piece, const attend_partial *p,
                           const attend_scratch *s)
{
    attend_blocks(decode, piece, p, s, FLOAT16);
}

static void attend_bfloat16(const cache_decode *decode, const cache_piece *piece, const attend_partial *p,
                            const attend_scratch *s)
{
    attend_blocks(decode, piece, p, s, BFLOAT16);
}

static void pack_query(const cache_decode *decode, const char *query, float factor, float *packed)
{
    const float_dtype dtype = decode->queries.dtype;
    const int64_t size = decode->queries.size, pair_bytes = PAIR * float_size(dtype);
#if defined(VEC_PAIRS)
    if (has_pairs(decode) && dtype == BFLOAT16) { /* as it is: the products are multiplied with the factor */
        memcpy(packed, query, (size_t)size * sizeof(uint16_t));
        return;
    }
#endif
    if (!has_pairs(decode)) {
        for (int64_t d = 0; d < padded(size); d++)
            packed[d] = d < size ? load_number(query, dtype, d) * factor : 0;
        return;
    }
    for (int64_t d = 0; d < size; d += PAIR, query += pair_bytes)
        for (int side = 0; side < 2; side++)
            vec_store(packed + d + side * VEC_LANES, vec_mul(load_part(query, dtype, side), vec_set(factor)));
}

static void attend_piece(const cache_decode *decode, const cache_piece *piece, void *partial, void *scratch)
{
    const int64_t size = padded(decode->queries.size), value_size = padded(decode->out.size);
    const float_dtype dtype = decode->queries.dtype;
    const float factor = factor_of(decode);
    attend_partial p;
    attend_scratch s;
    partial_lay_out(decode, piece->rows, partial, &p);
    decode_lay_out(decode, piece->rows, scratch, &s);
    for (int64_t r = 0; r < piece->rows; r++) {
        const char *query = decode_query(decode, piece, piece->row + r);
        pack_query(decode, query, factor, s.queries + r * size);
        memset(p.outputs + r * value_size, 0, (size_t)value_size * sizeof(float));
        p.maxima[r] = -FLT_MAX;
        p.totals[r] = 0;
    }
    if (!has_pairs(decode) || dtype == FLOAT32)
        attend_float32(decode, piece, &p, &s);
    else if (dtype == FLOAT16)
        attend_float16(decode, piece, &p, &s);
    else
        attend_bfloat16(decode, piece, &p, &s);
}

/* Writes a row of outputs, divided by `total`, as its dtype has it. */
static void store_row(const cache_decode *decode, float *outputs, float total, void *to)
{
    const float_dtype dtype = decode->out.dtype;
    const int64_t size = decode->out.size;
    int64_t j = 0;
    for (; j < padded(size); j += VEC_LANES)
        vec_store(outputs + j, vec_div(vec_load(outputs + j), vec_set(total)));
    if (dtype == FLOAT32) {
        memcpy(to, outputs, (size_t)size * sizeof(float));
    } else if (dtype == FLOAT16) {
        uint16_t *narrow = to;
        for (j = 0; j + VEC_LANES <= size; j += VEC_LANES)
            vec_store_f16(narrow + j, vec_load(outputs + j));
        for (; j < size; j++)
            narrow[j] = float_to_f16(outputs[j]);
    } else if (has_pairs(decode)) {
        uint16_t *narrow = to;
        for (j = 0; j < size; j += PAIR)
            for (int i = 0; i < VEC_LANES; i++) {
                narrow[j + 2 * i] = float_to_bf16(outputs[j + i]);
                narrow[j + 2 * i + 1] = float_to_bf16(outputs[j + VEC_LANES + i]);
            }
    } else {
        for (j = 0; j < size; j++)
            ((uint16_t *)to)[j] = float_to_bf16(outputs[j]);
    }
}

/* Everything goes into the first partial result, and from there into the output. */
static void merge_pieces(const cache_decode *decode, const cache_piece *piece, void *partials, size_t stride)
{
    const int64_t group = decode->queries.heads / decode->heads, b = piece->head / decode->heads;
    const int64_t value_size = padded(decode->out.size);
    attend_partial sum, other;
    partial_lay_out(decode, piece->rows, partials, &sum);
    for (int64_t r = 0; r < piece->rows; r++) {
        float *outputs = sum.outputs + r * value_size;
        for (int64_t i = 1; i < piece->pieces; i++) {
            partial_lay_out(decode, piece->rows, (char *)partials + (size_t)i * stride, &other);
            const float max = other.maxima[r] > sum.maxima[r] ? other.maxima[r] : sum.maxima[r];
            const float weight = weight_of_number(other.maxima[r] - max);
            const float shrink = weight_of_number(sum.maxima[r] - max);
            for (int64_t j = 0; j < value_size; j += VEC_LANES) {
                const vec added = vec_mul(vec_set(weight), vec_load(other.outputs + r * value_size + j));
                vec_store(outputs + j, vec_fma(vec_set(shrink), vec_load(outputs + j), added));
            }
            sum.totals[r] = shrink * sum.totals[r] + weight * other.totals[r];
            sum.maxima[r] = max;
        }
        const int64_t row = piece->row + r, head = piece->head % decode->heads * group + row % group;
        float *lse = decode->lse.data ? row_at(&decode->lse, b, head, row / group) : NULL;
        if (lse) /* where nothing is seen, the logarithm of 0 */
            *lse = (sum.maxima[r] + log2f(sum.totals[r])) / CACHE_LOG2E;
        if (end_of_row(decode, piece, row) <= decode->spans[piece->head].first)
            sum.totals[r] = 1; /* nothing is seen: zeros, where a sum of weights of 0 gives NaN */
        store_row(decode, outputs, sum.totals[r], row_at(&decode->out, b, head, row / group));
    }
}

const cache_kernels KERNELS = {.thread_bytes = score_bytes,
                               .part_sums = part_sums,
                               .part_maxima = part_maxima,
                               .powers = powers,
                               .decode_thread_bytes = decode_bytes,
                               .partial_bytes = partial_bytes,
                               .attend_piece = attend_piece,
                               .merge_pieces = merge_pieces};
