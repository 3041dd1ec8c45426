/* Products of bfloat16 keys and queries by the tile unit: 16 keys times 16 queries at once, 32 numbers of each. Products of
 * bfloat16 numbers are exact in float32, and their sums are rounded as elsewhere. */

enum { TILE_ROWS = 16, TILE_NUMBERS = 32 };

static int has_tiles(const cache_attention *attn)
{
    return attn->keys.dtype == BFLOAT16 && attn->keys.size % TILE_NUMBERS == 0;
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
    for (int i = 0; i < 5; i++)
        config.bytes[i] = 64, config.rows[i] = TILE_ROWS;
    finish_writes();
    _tile_loadconfig(&config);
}

static void tiles_end(void)
{
    _tile_release();
}

static void tiles_pack_queries(const cache_attention *attn, int64_t b, int64_t key_head, int64_t first, int64_t lanes,
                               float *memory)
{
    pairs_pack_queries(attn, b, key_head, first, lanes, memory);
    finish_writes();
}

/* The products of TILE_ROWS keys, which lie `stride` bytes apart, and the packed queries. */
static void tiles_multiply(const char *keys, int64_t stride, const void *queries, int64_t size, float *products)
{
    _tile_zero(0);
    _tile_zero(1);
    for (int64_t d = 0; d < size; d += TILE_NUMBERS) {
        const char *packed = (const char *)queries + 2 * d * SCORE_LANES;
        _tile_loadd(2, keys + 2 * d, stride);
        _tile_loadd(3, packed, 4 * SCORE_LANES);
        _tile_loadd(4, packed + 4 * TILE_ROWS, 4 * SCORE_LANES);
        _tile_dpbf16ps(0, 2, 3);
        _tile_dpbf16ps(1, 2, 4);
    }
    _tile_stored(0, products, 4 * SCORE_LANES);
    _tile_stored(1, products + TILE_ROWS, 4 * SCORE_LANES);
}

/* What multiply_block does. */
static void tiles_multiply_block(const cache_attention *attn, int64_t b, int64_t key_head, int64_t from, int64_t to,
                                 const score_scratch *s, vec max[2], vec odd[2])
{
    const vec scale = vec_set(attn->scale * CACHE_LOG2E);
    const int64_t size = attn->keys.size;
    for (int64_t t = from; t < to; t += TILE_ROWS) {
        float *products = s->products + t * SCORE_LANES;
        if (t + TILE_ROWS <= to)
            tiles_multiply(key_at(attn, b, key_head, t), 2 * attn->keys.token_stride, s->queries, size, products);
        else {
            char *copy = (char *)s->tile; /* what lies behind the last key may not be memory */
            for (int64_t i = 0; i < TILE_ROWS; i++)
                memcpy(copy + i * 2 * size, key_at(attn, b, key_head, t + i), (size_t)(2 * size));
            finish_writes();
            tiles_multiply(copy, 2 * size, s->queries, size, products);
        }
        scale_products(products, TILE_ROWS, scale, max, odd);
    }
}
