/* What the fuzz targets share: an input taken apart into numbers, memory that is exactly as large as a shape says, so that
 * a sanitizer sees the first byte beyond, and a check that stops the process. */
#ifndef LZPENALTY_TESTS_FUZZ_H
#define LZPENALTY_TESTS_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__has_include) && __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h> /* without ASan its macros do nothing */
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(condition)                                                                                                  \
    do {                                                                                                                    \
        if (!(condition)) {                                                                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                                 \
            abort();                                                                                                        \
        }                                                                                                                   \
    } while (0)

/* What is left of an input; behind its end are zeros. */
typedef struct {
    const uint8_t *at;
    size_t left;
} input;

static inline int take_byte(input *in)
{
    return in->left > 0 ? (in->left--, *in->at++) : 0;
}

/* A number in [least, most], of a byte. */
static inline int take_number(input *in, int least, int most)
{
    return least + take_byte(in) % (most - least + 1);
}

/* A size from `least` on as options give them: small, or one of the largest. */
static inline int32_t take_size(input *in, int32_t least)
{
    const int byte = take_byte(in);
    return byte < 240 ? least + byte : INT32_MAX - (byte - 240);
}

/* A finite float32 above 0. */
static inline float take_positive(input *in)
{
    static const float odd[] = {1e-45f, 1e-30f, 1.0f, 1e9f, 3.4e38f};
    const int byte = take_byte(in);
    return byte < 250 ? (float)(byte + 1) / 16 : odd[byte - 250 < 5 ? byte - 250 : 4];
}

/* Most bytes are ids below `most`, some are no token of any vocabulary. */
static inline int64_t id_of(uint8_t byte, int most)
{
    static const int64_t odd[] = {-1, INT32_MIN, INT32_MAX, INT32_MAX + 1LL, 1LL << 32, INT64_MIN, INT64_MAX, -2};
    return byte < 248 ? byte % most : odd[byte - 248];
}

/* Strides in items of an array whose indices all name numbers of their own, in any order and direction, with gaps. The last
 * dimension is contiguous if that is asked for. */
static inline void take_strides(input *in, int n, const int64_t *sizes, int contiguous, int64_t *strides)
{
    int64_t step = 1;
    int done = 0;
    if (contiguous) {
        strides[n - 1] = 1;
        step = sizes[n - 1];
        done = 1 << (n - 1);
    }
    while (done != (1 << n) - 1) {
        const int byte = take_byte(in);
        int next = byte % n;
        while (done >> next & 1)
            next = (next + n - 1) % n;
        step += byte / 8 % 4;
        strides[next] = byte < 64 ? -step : step;
        step *= sizes[next] > 0 ? sizes[next] : 1;
        done |= 1 << next;
    }
}

typedef struct {
    uint8_t *memory, *before; /* what an array spans, and a copy from before a call */
    size_t bytes;
    void *data; /* where index 0 is */
} span;

/* The memory of an array, filled with the input's next bytes, over and over, which it leaves where they are. Arrays without
 * items have memory of no bytes. */
static inline span new_span(const input *in, int n, const int64_t *sizes, const int64_t *strides, size_t item)
{
    int64_t first = 0, last = 0, items = 1;
    span s = {0};
    for (int i = 0; i < n; i++) {
        const int64_t reach = (sizes[i] - 1) * strides[i];
        items *= sizes[i];
        *(reach < 0 ? &first : &last) += reach;
    }
    if (items == 0)
        first = last = 0;
    s.bytes = items > 0 ? (size_t)(last - first + 1) * item : 0;
    s.memory = malloc(s.bytes);
    s.before = malloc(s.bytes);
    REQUIRE(s.memory && s.before);
    for (size_t i = 0; i < s.bytes; i++)
        s.memory[i] = in->left > 0 ? in->at[i % in->left] : 0;
    memcpy(s.before, s.memory, s.bytes);
    s.data = s.memory - first * (int64_t)item;
    return s;
}

static inline int is_unchanged(const span *s)
{
    return memcmp(s->memory, s->before, s->bytes) == 0;
}

static inline void restore(span *s)
{
    memcpy(s->memory, s->before, s->bytes);
}

static inline void free_span(span *s)
{
    free(s->memory);
    free(s->before);
}

#endif
