/* The distinct tokens of a list. Included once a level.
 *
 * A hash table without probing that needs no clearing: each position is written to the slot of its token's hash, first
 * positions last, so that one of them stays. Positions that then read another token there have collided; the next round
 * has only these few, and another hash. */

static const uint32_t first_multiplier = 0x9e3779b1u;

/* One round for the n positions in `pending`. Leaves those that have collided there and returns how many they are. */
static size_t list_round(const uint32_t *restrict tokens, size_t n, uint32_t multiplier, int shift, uint32_t *distinct,
                         const lz_scratch *s)
{
    uint32_t *restrict table = s->table, *restrict first = s->first, *restrict owner = s->owner;
    uint32_t *restrict pending = s->pending, listed = *distinct;
    size_t collided = 0;
    for (size_t i = n; i-- > 0;)
        table[tokens[pending[i]] * multiplier >> shift] = pending[i];
    for (size_t i = 0; i < n; i++) {
        uint32_t k = pending[i], token = tokens[k], found = table[token * multiplier >> shift];
        first[listed] = k;
        owner[k] = listed; /* right for a first position, which is the first to look */
        owner[k] = owner[found];
        listed += found == k;
        pending[collided] = k;
        collided += tokens[found] != token;
    }
    *distinct = listed;
    return collided;
}

#ifdef LEVEL_AVX512
/* The first round, in which all positions are pending, sixteen at a time: 1.8 times as fast as the plain one. */
static size_t list_round_avx512(const uint32_t *tokens, size_t n, uint32_t multiplier, int shift, uint32_t *distinct,
                                const lz_scratch *s)
{
    const __m512i step = _mm512_set1_epi32(16);
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i turned = _mm512_sub_epi32(_mm512_set1_epi32(15), lanes);
    const __m512i multipliers = _mm512_set1_epi32((int)multiplier);
    const __m128i shifts = _mm_cvtsi32_si128(shift);
    size_t last = (n - 1) / 16 * 16, collided = 0, listed = 0;
    const __mmask16 last_lanes = (__mmask16)(0xffffu >> (16 - (n - last)));
    __m512i position = _mm512_add_epi32(lanes, _mm512_set1_epi32((int)last));

    /* Of equal lanes the highest is stored last, so they are turned round: first positions are to win. */
    for (size_t i = last + 16; i > 0; i -= 16, position = _mm512_sub_epi32(position, step)) {
        __mmask16 live = i > last ? last_lanes : 0xffff;
        __m512i token = _mm512_maskz_loadu_epi32(live, tokens + i - 16);
        __m512i hash = _mm512_srl_epi32(_mm512_mullo_epi32(token, multipliers), shifts);
        live = i > last ? (__mmask16)(last_lanes << (last + 16 - n)) : 0xffff;
        _mm512_mask_i32scatter_epi32(s->table, live, _mm512_permutexvar_epi32(turned, hash),
                                     _mm512_permutexvar_epi32(turned, position), 4);
    }
    position = lanes;
    for (size_t i = 0; i < n; i += 16, position = _mm512_add_epi32(position, step)) {
        __mmask16 live = i == last ? last_lanes : 0xffff;
        __m512i token = _mm512_maskz_loadu_epi32(live, tokens + i);
        __m512i hash = _mm512_srl_epi32(_mm512_mullo_epi32(token, multipliers), shifts);
        __m512i found = _mm512_mask_i32gather_epi32(position, live, hash, s->table, 4);
        __m512i there = _mm512_mask_i32gather_epi32(token, live, found, tokens, 4);
        __mmask16 is_first = _mm512_mask_cmpeq_epi32_mask(live, found, position);
        __mmask16 has_collided = _mm512_mask_cmpneq_epi32_mask(live, there, token);
        /* The c-th first position gets number c; the others read theirs there, once it is stored. */
        __m512i number = _mm512_maskz_expand_epi32(is_first, _mm512_add_epi32(lanes, _mm512_set1_epi32((int)listed)));
        _mm512_mask_storeu_epi32(s->owner + i, is_first, number);
        number = _mm512_mask_i32gather_epi32(number, live & ~is_first & ~has_collided, found, s->owner, 4);
        _mm512_mask_storeu_epi32(s->owner + i, live, number);
        _mm512_storeu_si512(s->first + listed, _mm512_maskz_compress_epi32(is_first, position));
        _mm512_storeu_si512(s->pending + collided, _mm512_maskz_compress_epi32(has_collided, position));
        listed += (size_t)__builtin_popcount(is_first);
        collided += (size_t)__builtin_popcount(has_collided);
    }
    *distinct = (uint32_t)listed;
    return collided;
}
#endif

/* Lists the distinct tokens among n: s->first[c] is the position where the c-th first stands, and s->owner[k] = c says that
 * position k holds it too. Returns how many there are, roughly in the order of their first positions. */
static int32_t list_distinct(const int32_t *list, int32_t n, const lz_scratch *s)
{
    const uint32_t *tokens = (const uint32_t *)list;
    uint32_t distinct = 0, multiplier = first_multiplier;
    size_t left = (size_t)n;
    int shift = 29;
    for (int64_t size = 8; size < s->n_table && size < 8 * (int64_t)n; size *= 2)
        shift--;
#ifdef LEVEL_AVX512
    if (n > 0)
        left = list_round_avx512(tokens, left, multiplier, shift, &distinct, s);
    multiplier = multiplier * 5 + 2;
#else
    for (uint32_t k = 0; k < (uint32_t)n; k++)
        s->pending[k] = k;
#endif
    for (; left > 0; multiplier = multiplier * 5 + 2)
        left = list_round(tokens, left, multiplier, shift, &distinct, s);
    return (int32_t)distinct;
}
