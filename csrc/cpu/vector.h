/* Vectors of float32 as wide as a level's registers, in the few operations that kernels need. Included once a level, with
 * the level's name defined: LEVEL_AVX512, LEVEL_AVX2, LEVEL_NEON, or none for plain C, which is the reference and what
 * CUDA's threads have one lane of.
 *
 * VEC_LANES  floats in a vec
 * VEC_ROWS   rows of 2 vec that fit the registers as accumulators, beside what feeds them
 * vec_fma    a * b + c, rounded once where the level can
 * vec_up23   the bits of each float moved up by 23
 * vec_sum, vec_top   the sum and the largest of the floats of one
 * vec_sum_4  the sums of four vec, one behind the other
 * vec_load_bf16_even, vec_load_bf16_odd   of 2 VEC_LANES numbers, which takes less than to load them in order
 *
 * Of levels that multiply pairs of bfloat16, which LEVEL_BF16 says, VEC_PAIRS is defined:
 * vec_load_pairs, vec_set_pair   2 VEC_LANES numbers, or VEC_LANES times the same two
 * vec_dot    sum + a * b for each lane of sum and its two numbers of a and of b */

#if defined(LEVEL_AVX512)
#define VEC_LANES 16
#define VEC_ROWS 12
#define vec __m512
#define vec_set _mm512_set1_ps
#define vec_load _mm512_loadu_ps
#define vec_store _mm512_storeu_ps
#define vec_add _mm512_add_ps
#define vec_sub _mm512_sub_ps
#define vec_mul _mm512_mul_ps
#define vec_max _mm512_max_ps
#define vec_fma _mm512_fmadd_ps
#define vec_sum _mm512_reduce_add_ps
#define vec_top _mm512_reduce_max_ps
#define vec_up23(a) _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), 23))
#define vec_load_bf16(p)                                                                                                    \
    _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(p))), 16))
#define vec_load_f16(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define vec_store_f16(p, a) _mm256_storeu_si256((__m256i *)(void *)(p), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT))
#define vec_div _mm512_div_ps
#define vec_copysign(a, sign)                                                                                               \
    _mm512_or_ps(_mm512_andnot_ps(_mm512_set1_ps(-0.0f), a), _mm512_and_ps(_mm512_set1_ps(-0.0f), sign))
#define vec_load_bf16_even(p) _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16))
#define vec_load_bf16_odd(p) _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_srli_epi32(_mm512_loadu_si512(p), 16), 16))
static inline __m256 vec_fold_(vec a)
{
    return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
}
static inline void vec_sum_4(float *sums, vec a, vec b, vec c, vec d)
{
    const __m256 ab = _mm256_hadd_ps(vec_fold_(a), vec_fold_(b)), cd = _mm256_hadd_ps(vec_fold_(c), vec_fold_(d));
    const __m256 all = _mm256_hadd_ps(ab, cd);
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}

#if defined(LEVEL_BF16)
#define VEC_PAIRS __m512bh
#define vec_dot _mm512_dpbf16_ps
#define vec_load_pairs(p) ((__m512bh)_mm512_loadu_si512(p))
static inline __m512bh vec_set_pair(const uint16_t *p)
{
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
}
#endif

#elif defined(LEVEL_AVX2)
#define VEC_LANES 8
#define VEC_ROWS 6
#define vec __m256
#define vec_set _mm256_set1_ps
#define vec_load _mm256_loadu_ps
#define vec_store _mm256_storeu_ps
#define vec_add _mm256_add_ps
#define vec_sub _mm256_sub_ps
#define vec_mul _mm256_mul_ps
#define vec_max _mm256_max_ps
#define vec_fma _mm256_fmadd_ps
#define vec_up23(a) _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 23))
#define vec_load_bf16(p)                                                                                                    \
    _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))), 16))
#define vec_load_f16(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p)))
/* The mask is read each time, as to hold it would take a register that accumulators need. */
static const uint32_t vec_odd_[8] = {0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u,
                                     0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u};
#define vec_load_bf16_odd_masked(p)                                                                                         \
    _mm256_and_ps(_mm256_loadu_ps((const float *)(const void *)(p)),                                                        \
                  *(volatile const __m256_u *)(const volatile void *)vec_odd_)
static inline float vec_sum(vec a)
{
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}
static inline float vec_top(vec a)
{
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
}
#define vec_store_f16(p, a) _mm_storeu_si128((__m128i *)(void *)(p), _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT))
#define vec_div _mm256_div_ps
#define vec_copysign(a, sign)                                                                                               \
    _mm256_or_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a), _mm256_and_ps(_mm256_set1_ps(-0.0f), sign))
#define vec_load_bf16_even(p)                                                                                               \
    _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(p)), 16))
#define vec_load_bf16_odd(p) /* two shifts: a mask would take a register, or be loaded each time */                         \
    _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_srli_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(p)), 16), 16))
/* Each half of the first by its halves, then each half of the second: half as many shuffles as horizontal additions take. */
static inline vec vec_halves_(vec a, vec b)
{
    return _mm256_add_ps(_mm256_blend_ps(a, b, 0xcc), _mm256_shuffle_ps(a, b, 0x4e));
}
static inline void vec_sum_4(float *sums, vec a, vec b, vec c, vec d)
{
    const __m256 ab = vec_halves_(a, b), cd = vec_halves_(c, d);
    const __m256 all = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x88), _mm256_shuffle_ps(ab, cd, 0xdd));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}

#elif defined(LEVEL_NEON)
#define VEC_LANES 4
#define VEC_ROWS 8
#define vec float32x4_t
#define vec_set vdupq_n_f32
#define vec_load vld1q_f32
#define vec_store vst1q_f32
#define vec_add vaddq_f32
#define vec_sub vsubq_f32
#define vec_mul vmulq_f32
#define vec_max vmaxq_f32
#define vec_fma(a, b, c) vfmaq_f32(c, a, b)
#define vec_sum vaddvq_f32
#define vec_top vmaxvq_f32
#define vec_up23(a) vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(a), 23))
#define vec_load_bf16(p) vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))
#define vec_load_f16(p) vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))
#define vec_store_f16(p, a) vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a)))
#define vec_div vdivq_f32
#define vec_copysign(a, sign) vbslq_f32(vdupq_n_u32(0x80000000u), sign, a)
#define vec_load_bf16_even(p) vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u16(vld1q_u16(p)), 16))
#define vec_load_bf16_odd(p) vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u16(vld1q_u16(p)), vdupq_n_u32(0xffff0000u)))
#define vec_sum_4(sums, a, b, c, d) vst1q_f32(sums, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)))
#if defined(LEVEL_BF16)
#define VEC_PAIRS bfloat16x8_t
#define vec_dot vbfdotq_f32
#define vec_load_pairs(p) vreinterpretq_bf16_u16(vld1q_u16((const uint16_t *)(const void *)(p)))
static inline bfloat16x8_t vec_set_pair(const uint16_t *p)
{
    uint32_t pair;
    memcpy(&pair, p, sizeof pair);
    return vreinterpretq_bf16_u32(vdupq_n_u32(pair));
}
#endif

#else
#define VEC_LANES 1
#define VEC_ROWS 4
#define vec float
#define vec_set(x) (x)
#define vec_load(p) (*(p))
#define vec_store(p, a) (*(p) = (a))
#define vec_add(a, b) ((a) + (b))
#define vec_sub(a, b) ((a) - (b))
#define vec_mul(a, b) ((a) * (b))
#define vec_max(a, b) ((a) > (b) ? (a) : (b))
#ifndef vec_fma /* CUDA has one, which rounds once */
#define vec_fma(a, b, c) ((a) * (b) + (c))
#endif
#define vec_sum(a) (a)
#define vec_top(a) (a)
#define vec_up23(a) bits_float(float_bits(a) << 23)
#define vec_load_bf16(p) bf16_to_float(*(p))
#define vec_load_f16(p) f16_to_float(*(p))
#define vec_store_f16(p, a) (*(p) = float_to_f16(a))
#define vec_div(a, b) ((a) / (b))
#define vec_copysign(a, sign) copysignf(a, sign)
#define vec_load_bf16_even(p) bf16_to_float(*(p))
#define vec_load_bf16_odd(p) bf16_to_float((p)[1])
static inline void vec_sum_4(float *sums, vec a, vec b, vec c, vec d)
{
    sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
}
#endif

#ifndef vec_load_bf16_odd_masked
#define vec_load_bf16_odd_masked vec_load_bf16_odd
#endif

/* 2^x for x <= 0, to the last bit or two of float32; 2^-126 for all that is less. NaN stays NaN, which is why x is second.
 */
SHARED_FUNCTION vec vec_exp2(vec x)
{
    /* Adding 1.5 * 2^23 rounds to a whole number, whose lowest bits are then those of the float; 127 more make them the
     * exponent of the power of two. The rest, in [-1/2, 1/2], takes a minimax polynomial. */
    const vec magic = vec_set(12582912.0f + 127);
    x = vec_max(vec_set(-126.0f), x);
    vec whole = vec_add(x, magic), f = vec_sub(x, vec_sub(whole, magic)), y = vec_set(1.5353362e-4f);
    y = vec_fma(y, f, vec_set(1.3398874e-3f));
    y = vec_fma(y, f, vec_set(9.618437e-3f));
    y = vec_fma(y, f, vec_set(5.5503324e-2f));
    y = vec_fma(y, f, vec_set(2.4022648e-1f));
    y = vec_fma(y, f, vec_set(6.931472e-1f));
    y = vec_fma(y, f, vec_set(1.0f));
    return vec_mul(y, vec_up23(whole));
}
