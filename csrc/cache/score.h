/* Attention scores. Included once a level.
 *
 *     a[h, r, t] = softmax over t in [start, stop) of scale * <q[h, r], k[h / G, t]>        G = Hq / Hkv
 *
 * and their sums over the queries of a group of heads that share keys. Lanes of a vector are queries: keys are read where
 * they lie, a number at a time broadcast to all lanes, and the softmax of each lane runs down the keys. The exponentials
 * need the largest product of a lane before the last key has been seen, so they are taken block by block, relative to the
 * largest so far, and each block is weighted at the end by how far the maximum rose since. */

enum { SCORE_LANES = 2 * VEC_LANES, SCORE_BLOCK = 32 * VEC_ROWS };

/* What a thread works with: all for SCORE_LANES queries of one head. */
typedef struct {
    float *queries;  /* [D, SCORE_LANES] times scale * log2(e), zeros where there is no query */
    float *tile;     /* [VEC_ROWS, D] keys widened to float32 */
    float *products; /* [n rounded up to VEC_ROWS, SCORE_LANES] products, then exponentials */
    float *maxima;   /* [blocks, SCORE_LANES] the maximum that a block's exponentials are relative to */
} score_scratch;

static size_t score_lay_out(const cache_attention *attn, void *memory, score_scratch *s)
{
    int64_t n = attn->stop - attn->start, size = attn->keys.size, blocks = (n + SCORE_BLOCK - 1) / SCORE_BLOCK;
    int64_t counts[4] = {size * SCORE_LANES, size * VEC_ROWS, (n + VEC_ROWS) * SCORE_LANES, blocks * SCORE_LANES};
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

static inline float load_number(const void *row, float_dtype dtype, int64_t i)
{
    switch (dtype) {
    case FLOAT16:
        return f16_to_float(((const uint16_t *)row)[i]);
    case BFLOAT16:
        return bf16_to_float(((const uint16_t *)row)[i]);
    default:
        return ((const float *)row)[i];
    }
}

static const void *row_at(const cache_array *a, int64_t b, int64_t head, int64_t token)
{
    int64_t at = b * a->batch_stride + head * a->head_stride + token * a->token_stride;
    return (const char *)a->data + at * (a->dtype == FLOAT32 ? 4 : 2);
}

/* Queries [first, first + count) of a head, transposed and scaled. */
static void pack_queries(const cache_attention *attn, int64_t b, int64_t head, int64_t first, int64_t count, float *packed)
{
    const float scale = attn->scale * 1.44269504089f; /* log2(e): exponentials are powers of two */
    for (int64_t r = 0; r < SCORE_LANES; r++) {
        const void *query = r < count ? row_at(&attn->queries, b, head, first + r) : NULL;
        for (int64_t d = 0; d < attn->keys.size; d++)
            packed[d * SCORE_LANES + r] = query ? load_number(query, attn->queries.dtype, d) * scale : 0;
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

/* products[i, lane] = <key i, query of the lane> for VEC_ROWS keys. */
static void multiply_tile(const float *const rows[VEC_ROWS], const float *queries, int64_t size, float *products)
{
    vec left[VEC_ROWS], right[VEC_ROWS];
    for (int i = 0; i < VEC_ROWS; i++)
        left[i] = right[i] = vec_set(0);
    for (int64_t d = 0; d < size; d++) {
        const vec q0 = vec_load(queries + d * SCORE_LANES), q1 = vec_load(queries + d * SCORE_LANES + VEC_LANES);
        for (int i = 0; i < VEC_ROWS; i++) {
            const vec k = vec_set(rows[i][d]);
            left[i] = vec_fma(k, q0, left[i]);
            right[i] = vec_fma(k, q1, right[i]);
        }
    }
    for (int i = 0; i < VEC_ROWS; i++) {
        vec_store(products + i * SCORE_LANES, left[i]);
        vec_store(products + i * SCORE_LANES + VEC_LANES, right[i]);
    }
}

/* Adds the attention weights of up to SCORE_LANES queries of one head to sums[n]. */
static void add_weights(const cache_attention *attn, int64_t b, int64_t key_head, int64_t lanes, float *sums,
                        const score_scratch *s)
{
    const int64_t n = attn->stop - attn->start, size = attn->keys.size;
    const float_dtype dtype = attn->keys.dtype;
    vec max0 = vec_set(-INFINITY), max1 = max0, total0 = vec_set(0), total1 = total0;

    for (int64_t from = 0, block = 0; from < n; from += SCORE_BLOCK, block++) {
        const int64_t to = from + SCORE_BLOCK < n ? from + SCORE_BLOCK : n;
        vec before0 = max0, before1 = max1;
        for (int64_t t = from; t < to; t += VEC_ROWS) {
            const float *rows[VEC_ROWS];
            for (int64_t i = 0; i < VEC_ROWS; i++) {
                const void *key = row_at(&attn->keys, b, key_head, attn->start + (t + i < to ? t + i : to - 1));
                rows[i] = key;
                if (dtype != FLOAT32) {
                    widen_row(key, dtype, size, s->tile + i * size);
                    rows[i] = s->tile + i * size;
                }
            }
            multiply_tile(rows, s->queries, size, s->products + t * SCORE_LANES);
        }
        for (int64_t t = from; t < to; t++) {
            max0 = vec_max(max0, vec_load(s->products + t * SCORE_LANES));
            max1 = vec_max(max1, vec_load(s->products + t * SCORE_LANES + VEC_LANES));
        }
        vec_store(s->maxima + block * SCORE_LANES, max0);
        vec_store(s->maxima + block * SCORE_LANES + VEC_LANES, max1);
        if (block > 0) {
            total0 = vec_mul(total0, vec_exp2(vec_sub(before0, max0)));
            total1 = vec_mul(total1, vec_exp2(vec_sub(before1, max1)));
        }
        for (int64_t t = from; t < to; t++) {
            float *at = s->products + t * SCORE_LANES;
            vec e0 = vec_exp2(vec_sub(vec_load(at), max0)), e1 = vec_exp2(vec_sub(vec_load(at + VEC_LANES), max1));
            vec_store(at, e0);
            vec_store(at + VEC_LANES, e1);
            total0 = vec_add(total0, e0);
            total1 = vec_add(total1, e1);
        }
    }

    float share[SCORE_LANES];
    vec_store(share, total0);
    vec_store(share + VEC_LANES, total1);
    for (int64_t r = 0; r < SCORE_LANES; r++)
        share[r] = r < lanes ? 1 / share[r] : 0;
    const vec share0 = vec_load(share), share1 = vec_load(share + VEC_LANES);
    for (int64_t from = 0, block = 0; from < n; from += SCORE_BLOCK, block++) {
        const int64_t to = from + SCORE_BLOCK < n ? from + SCORE_BLOCK : n;
        const float *maxima = s->maxima + block * SCORE_LANES;
        const vec weight0 = vec_mul(share0, vec_exp2(vec_sub(vec_load(maxima), max0)));
        const vec weight1 = vec_mul(share1, vec_exp2(vec_sub(vec_load(maxima + VEC_LANES), max1)));
        for (int64_t t = from; t < to; t++) {
            const float *at = s->products + t * SCORE_LANES;
            vec sum = vec_fma(vec_load(at), weight0, vec_mul(vec_load(at + VEC_LANES), weight1));
            sums[t] += vec_sum(sum);
        }
    }
}

static void group_sums(const cache_attention *attn, int64_t b, int64_t key_head, float *sums, void *memory)
{
    const int64_t group = attn->queries.heads / attn->keys.heads, recent = attn->queries.tokens;
    score_scratch s;
    score_lay_out(attn, memory, &s);
    memset(sums, 0, (size_t)(attn->stop - attn->start) * sizeof *sums);
    for (int64_t head = key_head * group; head < (key_head + 1) * group; head++) {
        for (int64_t first = 0; first < recent; first += SCORE_LANES) {
            int64_t lanes = recent - first < SCORE_LANES ? recent - first : SCORE_LANES;
            pack_queries(attn, b, head, first, lanes, s.queries);
            add_weights(attn, b, key_head, lanes, sums, &s);
        }
    }
}

const cache_kernels KERNELS = {.thread_bytes = score_bytes, .group_sums = group_sums};
