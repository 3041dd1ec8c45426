/* AVX-512, AVX512_BF16 and AMX on processors without them: functions of SIMDe (github.com/simd-everywhere/simde, Debian's
 * libsimde-dev), and here what it lacks. For builds with CPU_EMULATED, which nox's session test-emulated makes. */
#ifndef LZPENALTY_TESTS_EMULATED_H
#define LZPENALTY_TESTS_EMULATED_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps(a, half) ((half) ? high_half(a) : low_half(a))

static inline __m512i emulated_cvtepu16_epi32(__m256i a)
{
    uint16_t narrow[16];
    uint32_t wide[16];
    _mm256_storeu_si256((__m256i *)(void *)narrow, a);
    for (int i = 0; i < 16; i++)
        wide[i] = narrow[i];
    return _mm512_loadu_si512(wide);
}
#define _mm512_cvtepu16_epi32 emulated_cvtepu16_epi32

static inline __m512 emulated_cvtph_ps(__m256i a)
{
    return both_halves(_mm256_cvtph_ps(_mm256_castsi256_si128(a)), _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1)));
}
#define _mm512_cvtph_ps emulated_cvtph_ps

static inline __m256i emulated_cvtps_ph(__m512 a)
{
    return _mm256_set_m128i(_mm256_cvtps_ph(high_half(a), _MM_FROUND_TO_NEAREST_INT),
                            _mm256_cvtps_ph(low_half(a), _MM_FROUND_TO_NEAREST_INT));
}
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph(a, rounding) emulated_cvtps_ph(a)

static inline float emulated_reduce_add_ps(__m512 a)
{
    float numbers[16], sum = 0;
    _mm512_storeu_ps(numbers, a);
    for (int i = 0; i < 16; i++)
        sum += numbers[i];
    return sum;
}
#define _mm512_reduce_add_ps emulated_reduce_add_ps

static inline float emulated_reduce_max_ps(__m512 a)
{
    float numbers[16], largest;
    _mm512_storeu_ps(numbers, a);
    largest = numbers[0];
    for (int i = 1; i < 16; i++)
        largest = numbers[i] > largest ? numbers[i] : largest;
    return largest;
}
#define _mm512_reduce_max_ps emulated_reduce_max_ps

/* Numbers here are never denormal: halves of float16. */
static inline __m512i emulated_cvtne2ps_pbh(__m512 high, __m512 low)
{
    uint32_t bits[32];
    uint16_t rounded[32];
    _mm512_storeu_ps(bits, low);
    _mm512_storeu_ps(bits + 16, high);
    for (int i = 0; i < 32; i++) {
        const int nan = (bits[i] & 0x7fffffff) > 0x7f800000;
        rounded[i] = (uint16_t)(nan ? bits[i] >> 16 | 0x40 : (bits[i] + 0x7fff + (bits[i] >> 16 & 1)) >> 16);
    }
    return _mm512_loadu_si512(rounded);
}
#define _mm512_cvtne2ps_pbh emulated_cvtne2ps_pbh

/* Tile registers. To use one that is not configured ends the process, as it does on a processor. */
enum { TILE_REGISTERS = 8, TILE_BYTES = 64 };

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} tile_config;

typedef struct {
    tile_config config;
    uint8_t data[TILE_REGISTERS][16][TILE_BYTES];
} tile_unit;

static _Thread_local tile_unit tiles;

static inline void tile_needs(int tile)
{
    if (tiles.config.palette != 1 || tiles.config.bytes[tile] != TILE_BYTES || tiles.config.rows[tile] != 16)
        abort();
}

static inline void emulated_tile_loadconfig(const void *config)
{
    memcpy(&tiles.config, config, sizeof tiles.config);
    memset(tiles.data, 0, sizeof tiles.data);
}

static inline void emulated_tile_release(void)
{
    memset(&tiles.config, 0, sizeof tiles.config);
}

static inline void emulated_tile_zero(int tile)
{
    tile_needs(tile);
    memset(tiles.data[tile], 0, sizeof tiles.data[tile]);
}

static inline void emulated_tile_loadd(int tile, const void *base, int64_t stride)
{
    tile_needs(tile);
    for (int row = 0; row < 16; row++)
        memcpy(tiles.data[tile][row], (const char *)base + row * stride, TILE_BYTES);
}

static inline void emulated_tile_stored(int tile, void *base, int64_t stride)
{
    tile_needs(tile);
    for (int row = 0; row < 16; row++)
        memcpy((char *)base + row * stride, tiles.data[tile][row], TILE_BYTES);
}

static inline void emulated_tile_dpbf16ps(int sum, int a, int b)
{
    tile_needs(sum), tile_needs(a), tile_needs(b);
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 16; column++) {
            float total;
            memcpy(&total, tiles.data[sum][row] + 4 * column, sizeof total);
            for (int pair = 0; pair < 16; pair++)
                for (int i = 0; i < 2; i++) {
                    uint32_t bits[2] = {0};
                    uint16_t numbers[2];
                    float wide[2];
                    memcpy(numbers, tiles.data[a][row] + 4 * pair + 2 * i, 2);
                    memcpy(numbers + 1, tiles.data[b][pair] + 4 * column + 2 * i, 2);
                    for (int j = 0; j < 2; j++)
                        bits[j] = (uint32_t)numbers[j] << 16;
                    memcpy(wide, bits, sizeof wide);
                    total += wide[0] * wide[1];
                }
            memcpy(tiles.data[sum][row] + 4 * column, &total, sizeof total);
        }
}
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#define _tile_loadconfig emulated_tile_loadconfig
#define _tile_release emulated_tile_release
#define _tile_zero emulated_tile_zero
#define _tile_loadd emulated_tile_loadd
#define _tile_stored emulated_tile_stored
#define _tile_dpbf16ps emulated_tile_dpbf16ps

#endif
