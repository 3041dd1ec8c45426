/* Products of bfloat16 keys and queries by instructions that multiply pairs of numbers: in a lane two of a query, and two of
 * a key in all lanes. Nothing is widened. Products of bfloat16 numbers are exact in float32, and their sums are rounded
 * after each pair, or by some processors once a pair; numbers that float32 has as denormals count as zeros. */

static int has_pairs_of_numbers(const cache_attention *attn)
{
    return attn->keys.dtype == BFLOAT16 && attn->keys.size % 2 == 0;
}

/* Queries [first, first + lanes) of a key head as packed[D / 2][SCORE_LANES][2], zeros where there is no query. */
static void pairs_pack_queries(const cache_attention *attn, int64_t b, int64_t key_head, int64_t first, int64_t lanes,
                               float *memory)
{
    uint16_t *packed = (uint16_t *)memory;
    for (int64_t lane = 0; lane < SCORE_LANES; lane++) {
        const uint16_t *query = lane < lanes ? query_at(attn, b, key_head, first + lane) : NULL;
        for (int64_t d = 0; d < attn->keys.size; d++)
            packed[(d / 2 * SCORE_LANES + lane) * 2 + d % 2] = query ? query[d] : 0;
    }
}

/* Multiplies products by `scale` and adds to what is known of them: their largest, and whether they are finite. */
static inline void scale_products(float *products, int64_t keys, vec scale, vec max[2], vec odd[2])
{
    for (int64_t i = 0; i < keys; i++) {
        for (int side = 0; side < 2; side++) {
            float *at = products + i * SCORE_LANES + side * VEC_LANES;
            const vec product = vec_mul(vec_load(at), scale);
            vec_store(at, product);
            max[side] = vec_max(max[side], product);
            odd[side] = vec_fma(product, vec_set(0), odd[side]);
        }
    }
}

/* What multiply_block does. */
static void pairs_multiply_block(const cache_attention *attn, int64_t b, int64_t key_head, int64_t from, int64_t to,
                                 const score_scratch *s, vec max[2], vec odd[2])
{
    enum { LINE = 32 }; /* numbers of a cache line */
    const uint16_t *queries = (const uint16_t *)s->queries;
    const vec scale = vec_set(attn->scale * CACHE_LOG2E);
    const int64_t size = attn->keys.size;
    for (int64_t t = from; t < to; t += VEC_ROWS) {
        float *products = s->products + t * SCORE_LANES;
        const uint16_t *rows[VEC_ROWS], *next[VEC_ROWS];
        vec left[VEC_ROWS], right[VEC_ROWS];
        for (int i = 0; i < VEC_ROWS; i++) {
            rows[i] = key_at(attn, b, key_head, t + i);
            next[i] = key_at(attn, b, key_head, t + VEC_ROWS + i);
            left[i] = right[i] = vec_set(0);
        }
        for (int64_t line = 0; line < size; line += LINE) {
            for (int i = 0; i < VEC_ROWS; i++)
                PREFETCH(next[i] + line);
            for (int64_t d = line; d < size && d < line + LINE; d += 2) {
                const VEC_PAIRS q0 = vec_load_pairs(queries + d * SCORE_LANES);
                const VEC_PAIRS q1 = vec_load_pairs(queries + d * SCORE_LANES + 2 * VEC_LANES);
                for (int i = 0; i < VEC_ROWS; i++) {
                    const VEC_PAIRS k = vec_set_pair(rows[i] + d);
                    left[i] = vec_dot(left[i], k, q0);
                    right[i] = vec_dot(right[i], k, q1);
                }
            }
        }
        for (int i = 0; i < VEC_ROWS; i++) {
            vec_store(products + i * SCORE_LANES, left[i]);
            vec_store(products + i * SCORE_LANES + VEC_LANES, right[i]);
        }
        scale_products(products, VEC_ROWS, scale, max, odd);
    }
}
