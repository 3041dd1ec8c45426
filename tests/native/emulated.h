/* AVX-512 and AVX512_BF16 on processors without them: functions of SIMDe (github.com/simd-everywhere/simde, Debian's
 * libsimde-dev), and here what it lacks. For builds with CPU_EMULATED, which nox's session test-emulated makes. */
#ifndef LZPENALTY_TESTS_EMULATED_H
#define LZPENALTY_TESTS_EMULATED_H

#include <immintrin.h>
#include <math.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

static inline __m256 low_half(__m512 a)
{
    return _mm512_castps512_ps256(a);
}

static inline __m256 high_half(__m512 a)
{
    float numbers[16];
    _mm512_storeu_ps(numbers, a);
    return _mm256_loadu_ps(numbers + 8);
}

static inline __m512 both_halves(__m256 low, __m256 high)
{
    float numbers[16];
    _mm256_storeu_ps(numbers, low);
    _mm256_storeu_ps(numbers + 8, high);
    return _mm512_loadu_ps(numbers);
}

#define _mm512_extractf32x8_ps(a, half) ((half) ? high_half(a) : low_half(a))

static inline __m512i _mm512_cvtepu16_epi32(__m256i a)
{
    uint16_t narrow[16];
    uint32_t wide[16];
    _mm256_storeu_si256((__m256i *)(void *)narrow, a);
    for (int i = 0; i < 16; i++)
        wide[i] = narrow[i];
    return _mm512_loadu_si512(wide);
}

static inline __m512 _mm512_cvtph_ps(__m256i a)
{
    return both_halves(_mm256_cvtph_ps(_mm256_castsi256_si128(a)), _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1)));
}

static inline __m256i emulated_cvtps_ph(__m512 a)
{
    return _mm256_set_m128i(_mm256_cvtps_ph(high_half(a), _MM_FROUND_TO_NEAREST_INT),
                            _mm256_cvtps_ph(low_half(a), _MM_FROUND_TO_NEAREST_INT));
}
#define _mm512_cvtps_ph(a, rounding) emulated_cvtps_ph(a)

static inline float _mm512_reduce_add_ps(__m512 a)
{
    float numbers[16], sum = 0;
    _mm512_storeu_ps(numbers, a);
    for (int i = 0; i < 16; i++)
        sum += numbers[i];
    return sum;
}

static inline float _mm512_reduce_max_ps(__m512 a)
{
    float numbers[16], largest;
    _mm512_storeu_ps(numbers, a);
    largest = numbers[0];
    for (int i = 1; i < 16; i++)
        largest = numbers[i] > largest ? numbers[i] : largest;
    return largest;
}

#endif
