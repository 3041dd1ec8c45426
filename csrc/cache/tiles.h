/* Products of keys and queries by the tile unit: 16 keys times 16 queries at once, 32 bfloat16 numbers of each. Products of
 * bfloat16 numbers are exact in float32, and their sums are rounded as elsewhere. A sum has to wait for the one before it
 * about three times as long as the unit works on it, so four are under way: 32 keys times 32 queries.
 *
 * A float16 number is the sum of two of bfloat16, its first 8 digits and the other 3. Keys and queries of float16 are taken
 * apart, and all four products are added: they are as exact, and the tile unit still does them in a fraction of the time
 * that float32 takes. Half precision's own instructions (AVX512_FP16) would round each sum to 11 digits. */

enum { TILE_ROWS = 16, TILE_NUMBERS = 32, TILE_KEYS = 2 * TILE_ROWS, TILES = 8 };

static int has_tiles(const cache_attention *attn)
{
    return attn->keys.dtype != FLOAT32 && attn->keys.size % TILE_NUMBERS == 0;
}

/* The intrinsics don't tell compilers that they read memory. */
static inline void finish_writes(void)
{
    atomic_signal_fence(memory_order_seq_cst);
}

static void tiles_begin(void)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < TILES; i++)
        config.bytes[i] = 64, config.rows[i] = TILE_ROWS;
    finish_writes();
    _tile_loadconfig(&config);
}

static void tiles_end(void)
{
    _tile_release();
}

/* 32 float16 numbers as the first and second parts of each. Infinity leaves NaN in the second, as its products would be. */
static void tiles_part(const uint16_t *numbers, void *first, void *second)
{
    const __m512 first_digits = _mm512_castsi512_ps(_mm512_set1_epi32((int32_t)0xffff0000));
    const vec low = vec_load_f16(numbers), high = vec_load_f16(numbers + VEC_LANES);
    const vec low_first = _mm512_and_ps(low, first_digits), high_first = _mm512_and_ps(high, first_digits);
    _mm512_storeu_si512(first, (__m512i)_mm512_cvtne2ps_pbh(high_first, low_first));
    _mm512_storeu_si512(second, (__m512i)_mm512_cvtne2ps_pbh(vec_sub(high, high_first), vec_sub(low, low_first)));
}

/* As pairs_pack_queries. Of float16 the second parts lie behind the first. */
static void tiles_pack_queries(const cache_attention *attn, int64_t b, int64_t key_head, int64_t first, int64_t lanes,
                               float *memory)
{
    pairs_pack_queries(attn, b, key_head, first, lanes, memory);
    if (attn->keys.dtype == FLOAT16) {
        uint16_t *packed = (uint16_t *)memory;
        const int64_t numbers = attn->keys.size * SCORE_LANES;
        for (int64_t i = 0; i < numbers; i += TILE_NUMBERS)
            tiles_part(packed + i, packed + i, packed + numbers + i);
    }
    finish_writes();
}

static void tiles_zero(void)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* Adds the products of TILE_KEYS keys, which lie `stride` bytes apart, and the packed queries. */
static void tiles_add(const void *keys, int64_t stride, const void *queries, int64_t size)
{
    for (int64_t d = 0; d < size; d += TILE_NUMBERS) {
        const char *key = (const char *)keys + 2 * d, *query = (const char *)queries + 2 * d * SCORE_LANES;
        _tile_loadd(4, key, stride);
        _tile_loadd(5, key + TILE_ROWS * stride, stride);
        _tile_loadd(6, query, 4 * SCORE_LANES);
        _tile_loadd(7, query + 4 * TILE_ROWS, 4 * SCORE_LANES);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

static void tiles_store(float *products)
{
    _tile_stored(0, products, 4 * SCORE_LANES);
    _tile_stored(1, products + TILE_ROWS, 4 * SCORE_LANES);
    _tile_stored(2, products + TILE_ROWS * SCORE_LANES, 4 * SCORE_LANES);
    _tile_stored(3, products + TILE_ROWS * SCORE_LANES + TILE_ROWS, 4 * SCORE_LANES);
}

/* What multiply_block does with bfloat16. */
static void tiles_multiply_block(const cache_attention *attn, int64_t b, int64_t key_head, int64_t from, int64_t to,
                                 const score_scratch *s, vec max[2], vec odd[2])
{
    const vec scale = vec_set(attn->scale * CACHE_LOG2E);
    const int64_t size = attn->keys.size;
    for (int64_t t = from; t < to; t += TILE_KEYS) {
        float *products = s->products + t * SCORE_LANES;
        const void *keys = key_at(attn, b, key_head, t);
        int64_t stride = 2 * attn->keys.token_stride;
        if (t + TILE_KEYS > to) { /* what lies behind the last key may not be memory */
            uint16_t *copy = (uint16_t *)s->tile;
            for (int64_t i = 0; i < TILE_KEYS; i++)
                memcpy(copy + i * size, key_at(attn, b, key_head, t + i), (size_t)(2 * size));
            finish_writes();
            keys = copy;
            stride = 2 * size;
        }
        tiles_zero();
        tiles_add(keys, stride, s->queries, size);
        tiles_store(products);
        scale_products(products, TILE_KEYS, scale, max, odd);
    }
}

/* What multiply_block does with float16. The smallest products come first. */
static void tiles_multiply_block_f16(const cache_attention *attn, int64_t b, int64_t key_head, int64_t from, int64_t to,
                                     const score_scratch *s, vec max[2], vec odd[2])
{
    const vec scale = vec_set(attn->scale * CACHE_LOG2E);
    const int64_t size = attn->keys.size, stride = 2 * size;
    uint16_t *first = (uint16_t *)s->tile, *second = first + TILE_KEYS * size;
    const uint16_t *first_queries = (const uint16_t *)s->queries, *second_queries = first_queries + size * SCORE_LANES;
    for (int64_t t = from; t < to; t += TILE_KEYS) {
        float *products = s->products + t * SCORE_LANES;
        for (int64_t i = 0; i < TILE_KEYS; i++) {
            const uint16_t *key = key_at(attn, b, key_head, t + i);
            for (int64_t d = 0; d < size; d += TILE_NUMBERS)
                tiles_part(key + d, first + i * size + d, second + i * size + d);
        }
        finish_writes();
        tiles_zero();
        tiles_add(second, stride, second_queries, size);
        tiles_add(second, stride, first_queries, size);
        tiles_add(first, stride, second_queries, size);
        tiles_add(first, stride, first_queries, size);
        tiles_store(products);
        scale_products(products, TILE_KEYS, scale, max, odd);
    }
}
