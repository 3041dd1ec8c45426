/* Attention scores. Included once a level.
 *
 *     a[h, r, t] = softmax over t in [start, stop) of scale * <q[h, r], k[h / G, t]>        G = Hq / Hkv
 *
 * and their sums over the queries of a group of heads that share keys. Lanes of a vector are queries: keys are read where
 * they lie, a number at a time broadcast to all lanes, and the softmax of each lane runs down the keys. The exponentials
 * need the largest product of a lane before the last key has been seen, so they are taken block by block, relative to the
 * largest so far, and each block is weighted at the end by how far the maximum rose since. */

enum {
    SCORE_LANES = 2 * VEC_LANES,
    SCORE_BLOCK = 8 * VEC_ROWS, /* products of so many keys stay in the nearest cache */
    SCORE_TILE = 32,            /* keys that are widened, copied or taken apart at once, at most */
    SCORE_SPARE = 32            /* products that may be written behind those of the last key */
};

/* What a thread works with: all for SCORE_LANES of the queries that a key head serves. */
typedef struct {
    float *queries;  /* [D, SCORE_LANES] times scale * log2(e), zeros where there is no query */
    float *tile;     /* [SCORE_TILE, D] keys widened to float32, or copied or in two parts of 16 bits */
    float *products; /* [n + SCORE_SPARE, SCORE_LANES] products, then exponentials */
    float *maxima;   /* [blocks, SCORE_LANES] the maximum that a block's exponentials are relative to */
    int sides;       /* 1 if the right half of the lanes has no query, else 2 */
} score_scratch;

typedef void (*pack_function)(const cache_attention *attn, int64_t b, int64_t key_head, int64_t first, int64_t lanes,
                              float *packed);
typedef void (*multiply_function)(const cache_attention *attn, int64_t b, int64_t key_head, int64_t from, int64_t to,
                                  const score_scratch *s, vec max[2], vec odd[2]);

static size_t score_lay_out(const cache_attention *attn, void *memory, score_scratch *s)
{
    int64_t n = attn->stop - attn->start, size = attn->keys.size, blocks = (n + SCORE_BLOCK - 1) / SCORE_BLOCK;
    int64_t counts[4] = {size * SCORE_LANES, size * SCORE_TILE, (n + SCORE_SPARE) * SCORE_LANES, blocks * SCORE_LANES};
    float **members[4] = {&s->queries, &s->tile, &s->products, &s->maxima};
    size_t used = 0;
    for (int i = 0; i < 4; i++) {
        *members[i] = (float *)((uintptr_t)memory + used);
        used += ((size_t)counts[i] * sizeof(float) + 63) & ~(size_t)63;
    }
    return used;
}

static size_t score_bytes(const cache_attention *attn)
{
    score_scratch ignored;
    return score_lay_out(attn, NULL, &ignored);
}

static void *row_at(const cache_array *a, int64_t b, int64_t head, int64_t token)
{
    int64_t at = b * a->batch_stride + head * a->head_stride + token * a->token_stride;
    return (char *)a->data + at * float_size(a->dtype);
}

/* The queries of a key head, counted through all heads that share it: a few of each would leave most lanes empty. */
static const void *query_at(const cache_attention *attn, int64_t b, int64_t key_head, int64_t i)
{
    const int64_t group = attn->queries.heads / attn->keys.heads, recent = attn->queries.tokens;
    return row_at(&attn->queries, b, key_head * group + i / recent, i % recent);
}

/* Queries [first, first + lanes) of a key head, transposed and scaled. */
static void pack_queries(const cache_attention *attn, int64_t b, int64_t key_head, int64_t first, int64_t lanes,
                         float *packed)
{
    const float scale = attn->scale * CACHE_LOG2E;
    for (int64_t lane = 0; lane < SCORE_LANES; lane++) {
        const void *query = lane < lanes ? query_at(attn, b, key_head, first + lane) : NULL;
        for (int64_t d = 0; d < attn->keys.size; d++)
            packed[d * SCORE_LANES + lane] = query ? load_number(query, attn->queries.dtype, d) * scale : 0;
    }
}

static void widen_row(const void *row, float_dtype dtype, int64_t size, float *wide)
{
    const uint16_t *narrow = row;
    int64_t d = 0;
    if (dtype == BFLOAT16)
        for (; d + VEC_LANES <= size; d += VEC_LANES)
            vec_store(wide + d, vec_load_bf16(narrow + d));
    else
        for (; d + VEC_LANES <= size; d += VEC_LANES)
            vec_store(wide + d, vec_load_f16(narrow + d));
    for (; d < size; d++)
        wide[d] = load_number(row, dtype, d);
}

/* products[i, lane] = <key i, query of the lane> for VEC_ROWS keys. max[lane] rises to the largest of them, and odd[lane]
 * becomes NaN if one is not finite. Meanwhile the keys of the next tile are fetched: so many short rows at once are more
 * than the processor foresees. */
static void multiply_tile(const float *const rows[VEC_ROWS], const char *const next[VEC_ROWS], const score_scratch *s,
                          const cache_array *keys, float *products, vec max[2], vec odd[2])
{
    enum { LINE = 16 }; /* numbers of a cache line */
    const int64_t size = keys->size, next_line = LINE * float_size(keys->dtype);
    vec left[VEC_ROWS], right[VEC_ROWS];
    for (int i = 0; i < VEC_ROWS; i++)
        left[i] = right[i] = vec_set(0);
    for (int64_t from = 0; from < size; from += LINE) {
        const int64_t to = from + LINE < size ? from + LINE : size;
        for (int i = 0; i < VEC_ROWS; i++)
            PREFETCH(next[i] + from / LINE * next_line);
        for (int64_t d = from; d < to && s->sides == 1; d++) {
            const vec q = vec_load(s->queries + d * SCORE_LANES);
            for (int i = 0; i < VEC_ROWS; i++)
                left[i] = vec_fma(vec_set(rows[i][d]), q, left[i]);
        }
        for (int64_t d = from; d < to && s->sides == 2; d++) {
            const vec q0 = vec_load(s->queries + d * SCORE_LANES), q1 = vec_load(s->queries + d * SCORE_LANES + VEC_LANES);
            for (int i = 0; i < VEC_ROWS; i++) {
                const vec k = vec_set(rows[i][d]);
                left[i] = vec_fma(k, q0, left[i]);
                right[i] = vec_fma(k, q1, right[i]);
            }
        }
    }
    for (int i = 0; i < VEC_ROWS; i++) {
        vec_store(products + i * SCORE_LANES, left[i]);
        vec_store(products + i * SCORE_LANES + VEC_LANES, right[i]);
        max[0] = vec_max(max[0], left[i]);
        max[1] = vec_max(max[1], right[i]);
        odd[0] = vec_fma(left[i], vec_set(0), odd[0]);
        odd[1] = vec_fma(right[i], vec_set(0), odd[1]);
    }
}

/* The key at `t` in the region, or the last one. */
static const void *key_at(const cache_attention *attn, int64_t b, int64_t key_head, int64_t t)
{
    return row_at(&attn->keys, b, key_head, attn->start + t < attn->stop ? attn->start + t : attn->stop - 1);
}

/* The products of keys [from, to), their largest, and whether they are finite, as multiply_tile does it. */
static void multiply_block(const cache_attention *attn, int64_t b, int64_t key_head, int64_t from, int64_t to,
                           const score_scratch *s, vec max[2], vec odd[2])
{
    for (int64_t t = from; t < to; t += VEC_ROWS) {
        const float *rows[VEC_ROWS];
        const char *next[VEC_ROWS];
        for (int64_t i = 0; i < VEC_ROWS; i++) {
            const void *key = key_at(attn, b, key_head, t + i);
            next[i] = key_at(attn, b, key_head, t + VEC_ROWS + i);
            rows[i] = key;
            if (attn->keys.dtype != FLOAT32) {
                widen_row(key, attn->keys.dtype, attn->keys.size, s->tile + i * attn->keys.size);
                rows[i] = s->tile + i * attn->keys.size;
            }
        }
        multiply_tile(rows, next, s, &attn->keys, s->products + t * SCORE_LANES, max, odd);
    }
}

#if defined(VEC_PAIRS)
#include "pairs.h"
#endif
#if defined(LEVEL_AMX)
#include "tiles.h"
#endif

/* The products of the packed queries with all keys, block by block, and for each lane their largest and, relative to it, the
 * sum of their exponentials; NaN where a product is not finite. With `keep` the exponentials take the place of the products,
 * relative to the largest until the end of the block. */
static void add_up(const cache_attention *attn, int64_t b, int64_t key_head, int keep, const score_scratch *s,
                   multiply_function multiply, vec max[2], vec total[2])
{
    const int64_t n = attn->stop - attn->start;
    vec odd[2] = {vec_set(0), vec_set(0)};
    for (int side = 0; side < 2; side++)
        max[side] = vec_set(-INFINITY), total[side] = vec_set(0);
    for (int64_t from = 0, block = 0; from < n; from += SCORE_BLOCK, block++) {
        const int64_t to = from + SCORE_BLOCK < n ? from + SCORE_BLOCK : n;
        const vec before[2] = {max[0], max[1]};
        multiply(attn, b, key_head, from, to, s, max, odd);
        vec_store(s->maxima + block * SCORE_LANES, max[0]);
        vec_store(s->maxima + block * SCORE_LANES + VEC_LANES, max[1]);
        vec sum[2] = {vec_set(0), vec_set(0)};
        for (int64_t t = from; t < to; t++) {
            for (int side = 0; side < s->sides; side++) {
                float *at = s->products + t * SCORE_LANES + side * VEC_LANES;
                const vec weight = vec_exp2(vec_sub(vec_load(at), max[side]));
                if (keep)
                    vec_store(at, weight);
                sum[side] = vec_add(sum[side], weight);
            }
        }
        for (int side = 0; side < 2; side++)
            total[side] = vec_fma(total[side], vec_exp2(vec_sub(before[side], max[side])), sum[side]);
    }
    for (int side = 0; side < 2; side++)
        total[side] = vec_add(total[side], odd[side]);
}

/* Adds the attention weights of the packed queries to sums[n]. */
static void add_weights(const cache_attention *attn, int64_t b, int64_t key_head, int64_t lanes, float *sums,
                        const score_scratch *s, multiply_function multiply)
{
    const int64_t n = attn->stop - attn->start;
    float share[SCORE_LANES];
    vec max[2], total[2];
    add_up(attn, b, key_head, 1, s, multiply, max, total);
    vec_store(share, total[0]);
    vec_store(share + VEC_LANES, total[1]);
    for (int64_t r = 0; r < SCORE_LANES; r++)
        share[r] = r < lanes ? 1 / share[r] : 0;
    const vec share0 = vec_load(share), share1 = vec_load(share + VEC_LANES);
    for (int64_t from = 0, block = 0; from < n; from += SCORE_BLOCK, block++) {
        const int64_t to = from + SCORE_BLOCK < n ? from + SCORE_BLOCK : n;
        const float *maxima = s->maxima + block * SCORE_LANES;
        const vec weight0 = vec_mul(share0, vec_exp2(vec_sub(vec_load(maxima), max[0])));
        const vec weight1 = vec_mul(share1, vec_exp2(vec_sub(vec_load(maxima + VEC_LANES), max[1])));
        for (int64_t t = from; t < to; t++) {
            const float *at = s->products + t * SCORE_LANES;
            vec sum = vec_fma(vec_load(at), weight0, vec_mul(vec_load(at + VEC_LANES), weight1));
            sums[t] += vec_sum(sum);
        }
    }
}

/* The logarithms, to the base of 2, of the sums of exponentials over what the packed queries look at where they stand, which
 * is where the last keys of the region are: all keys up to a query's own. NaN where a product is not finite, minus infinity
 * where there is no key. */
static void add_up_rivals(const cache_attention *rivals, int64_t b, int64_t key_head, int64_t first, int64_t lanes,
                          const score_scratch *s, multiply_function multiply, float *logarithms)
{
    const int64_t n = rivals->stop - rivals->start, tokens = rivals->queries.tokens;
    float sums[SCORE_LANES], largest[SCORE_LANES];
    vec max[2] = {vec_set(0), vec_set(0)}, odd[2] = {vec_set(0), vec_set(0)};
    for (int64_t from = 0; from < n; from += SCORE_BLOCK)
        multiply(rivals, b, key_head, from, from + SCORE_BLOCK < n ? from + SCORE_BLOCK : n, s, max, odd);
    for (int64_t r = 0; r < lanes; r++) {
        const int64_t end = n - tokens + 1 + (first + r) % tokens;
        for (int64_t t = end > 0 ? end : 0; t < n; t++)
            s->products[t * SCORE_LANES + r] = -INFINITY;
    }
    for (int side = 0; side < 2; side++) {
        vec top = vec_set(-FLT_MAX), total = odd[side];
        for (int64_t t = 0; t < n && side < s->sides; t++)
            top = vec_max(top, vec_load(s->products + t * SCORE_LANES + side * VEC_LANES));
        for (int64_t t = 0; t < n && side < s->sides; t++)
            total = vec_add(total, vec_exp2(vec_sub(vec_load(s->products + t * SCORE_LANES + side * VEC_LANES), top)));
        vec_store(sums + side * VEC_LANES, total);
        vec_store(largest + side * VEC_LANES, top);
    }
    for (int64_t r = 0; r < SCORE_LANES; r++)
        logarithms[r] = sums[r] == 0 ? -INFINITY : largest[r] + log2f(sums[r]);
}

/* The logarithm of the sum of two numbers whose logarithms are given, to the base of 2. */
static float add_logarithms(float a, float b)
{
    const float larger = a > b ? a : b, smaller = a > b ? b : a;
    return isnan(a + b) ? NAN : larger + log2f(1 + exp2f(smaller - larger));
}

/* Raises logarithms[n], to the base of 2, to the largest of the attention weights of the packed queries: a product less that
 * of the sum of all exponentials, those of `rivals` included. Those beyond `lanes` are infinitely small. */
static void raise_logarithms(const cache_attention *attn, int64_t b, int64_t key_head, int64_t lanes, const float *rivals,
                             float *logarithms, const score_scratch *s, multiply_function multiply)
{
    const int64_t n = attn->stop - attn->start;
    float sums[SCORE_LANES], largest[SCORE_LANES];
    vec max[2], total[2];
    add_up(attn, b, key_head, 0, s, multiply, max, total);
    for (int side = 0; side < 2; side++) {
        vec_store(sums + side * VEC_LANES, total[side]);
        vec_store(largest + side * VEC_LANES, max[side]);
    }
    int odd = 0;
    for (int64_t r = 0; r < SCORE_LANES; r++) {
        sums[r] = r < lanes ? largest[r] + log2f(sums[r]) : INFINITY;
        if (r < lanes && rivals)
            sums[r] = add_logarithms(sums[r], rivals[r]);
        odd |= isnan(sums[r]);
    }
    const vec sum0 = vec_load(sums), sum1 = vec_load(sums + VEC_LANES);
    for (int64_t t = 0; t < n; t++) {
        const float *at = s->products + t * SCORE_LANES;
        const float top = vec_top(vec_max(vec_sub(vec_load(at), sum0), vec_sub(vec_load(at + VEC_LANES), sum1)));
        logarithms[t] = top > logarithms[t] ? top : logarithms[t];
    }
    if (odd)
        logarithms[0] = NAN; /* and so it stays: nothing is above it */
}

static void score_part(const cache_attention *attn, const cache_attention *rivals, const cache_part *part, int largest,
                       float *row, void *memory)
{
    score_scratch s;
    float sums[SCORE_LANES];
    score_lay_out(attn, memory, &s);
    for (int64_t t = 0; t < attn->stop - attn->start; t++)
        row[t] = largest ? -INFINITY : 0;
    pack_function pack = pack_queries;
    multiply_function multiply = multiply_block;
#if defined(VEC_PAIRS)
    if (has_pairs_of_numbers(attn)) {
        pack = pairs_pack_queries;
        multiply = pairs_multiply_block;
    }
#endif
#if defined(LEVEL_AMX)
    if (has_tiles(attn)) {
        pack = tiles_pack_queries;
        multiply = attn->keys.dtype == FLOAT16 ? tiles_multiply_block_f16 : tiles_multiply_block;
        tiles_begin();
    }
#endif
    for (int64_t first = part->from; first < part->to; first += SCORE_LANES) {
        const int64_t lanes = part->to - first < SCORE_LANES ? part->to - first : SCORE_LANES;
        s.sides = lanes > VEC_LANES ? 2 : 1;
        if (rivals) { /* before the others, whose products take the place of theirs */
            pack(rivals, part->b, part->head, first, lanes, s.queries);
            add_up_rivals(rivals, part->b, part->head, first, lanes, &s, multiply, sums);
        }
        pack(attn, part->b, part->head, first, lanes, s.queries);
        if (largest)
            raise_logarithms(attn, part->b, part->head, lanes, rivals ? sums : NULL, row, &s, multiply);
        else
            add_weights(attn, part->b, part->head, lanes, row, &s, multiply);
    }
#if defined(LEVEL_AMX)
    if (has_tiles(attn))
        tiles_end();
#endif
}

static void part_sums(const cache_attention *attn, const cache_part *part, float *sums, void *memory)
{
    score_part(attn, NULL, part, 0, sums, memory);
}

static void part_maxima(const cache_attention *attn, const cache_attention *rivals, const cache_part *part,
                        float *logarithms, void *memory)
{
    score_part(attn, rivals, part, 1, logarithms, memory);
}

static void powers(float *numbers, int64_t n)
{
    int64_t t = 0;
    for (; t + VEC_LANES <= n; t += VEC_LANES)
        vec_store(numbers + t, vec_exp2(vec_load(numbers + t)));
    for (; t < n; t++)
        numbers[t] = exp2f(numbers[t]);
}
