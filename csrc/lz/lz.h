/* The Lempel-Ziv routines: suffix matches -> code lengths in bits -> logits.
 *
 * Everything here works on plain memory; the mathematics is described where it is computed:
 *   match.h       how long a text the next token would continue, for every earlier position
 *   codelength.h  the bits that a sliding-window coder would pay for each possible next token
 *   penalty.h     logits minus strength * (log2 V - bits)
 *   dry.h, period.h   two more readings of the same matches
 *   evidence.h    strings that stand for the third time
 *   mark.h, marks.h, section.h   what holds from some place of a text on
 *
 * Positions are counted backwards: recent[0] is the newest token, recent[d - 1] the token at distance d from the next one.
 */
#ifndef LZPENALTY_LZ_LZ_H
#define LZPENALTY_LZ_LZ_H

#include <stddef.h>
#include <stdint.h>

#include "../cpu/dtype.h"
#include "../cpu/level.h"
#include "../cpu/shared.h"
#include "options.h"

/* Tokens of the n-grams whose third time is evidence of a loop, for the gate and the release; the most that others may be.
 */
enum { LZ_GRAM = 6, LZ_MOST_GRAM = 64 };

typedef struct {
    int32_t gram;   /* tokens, 1..LZ_MOST_GRAM */
    int32_t window; /* tokens that are read, >= 0 */
} lz_evidence;

typedef struct {
    float multiplier, base; /* finite and > 0 */
    int32_t allowed_length; /* >= 1 */
    int32_t window;
    const int32_t *breakers; /* ascending */
    int32_t n_breakers;
} lz_dry;

/* A text is called periodic with period p when its last ngram + (count - 1) * p tokens are: the ngram that ends it then
 * stands `count` times in a row. */
typedef struct {
    int32_t ngram, count, max_period;
} lz_loop;

/* So many of its last tokens then equal those `period` before them. */
SHARED_FUNCTION int64_t lz_loop_match(int32_t ngram, int32_t count, int64_t period)
{
    return ngram + (count - (int64_t)2) * period;
}

/* rows x vocab numbers, strides in elements. */
typedef struct {
    void *data;
    float_dtype dtype;
    int64_t rows, vocab;
    int64_t row_stride, column_stride;
} lz_logits;

/* rows x length ids, oldest first, strides in elements. Row b counts from starts[b], or from start where starts is NULL. */
typedef struct {
    const void *data;
    int is_int64;
    int64_t rows, length;
    int64_t row_stride, column_stride;
    int64_t start;
    const int64_t *starts;
} lz_tokens;

/* Memory that calls leave behind for later calls, so that none allocates in the steady state. Zero-initialised. */
enum { LZ_SCRATCH, LZ_STARTS, LZ_IDS, LZ_BLOCKS };
typedef struct {
    struct {
        void *memory;
        size_t size;
    } blocks[LZ_BLOCKS];
    float *log2; /* log2[i] = log2(i), the only source of logarithms: all levels and devices round alike */
    size_t n_log2;
} lz_workspace;

/* A block of at least `size` bytes, contents undefined. NULL without memory. */
void *lz_workspace_block(lz_workspace *ws, int which, size_t size);

/* The newest tokens that a penalty depends on: INT32_MAX, the whole text, prompt
 * included, with `release` or `skip`; 0 if it changes nothing. */
int32_t lz_context(const lz_penalty *penalty);

/* Makes room for a call with these options on rows of up to `length` tokens. Returns 0, or -1 without memory. */
int lz_reserve(lz_workspace *ws, const lz_penalty *penalty, int64_t length);
int lz_reserve_dry(lz_workspace *ws, const lz_dry *dry, int64_t length);
int lz_reserve_loop(lz_workspace *ws, const lz_loop *loop, int64_t length);
int lz_reserve_evidence(lz_workspace *ws, const lz_evidence *evidence, int64_t length);
void lz_workspace_clear(lz_workspace *ws);

/* The routines, compiled once a level. Arguments are valid and the workspace has been reserved for them. */
typedef struct {
    /* In place: logits[b, a] -= strength * penalty_b(a), and what a release adds. */
    void (*penalize)(const lz_penalty *, const lz_logits *, const lz_tokens *, lz_workspace *);
    void (*dry)(const lz_dry *, const lz_logits *, const lz_tokens *, lz_workspace *);
    /* The tokens that are cheaper than a literal, each once, with their bits. Returns how many. */
    int32_t (*deltas)(const lz_penalty *, int32_t vocab, const lz_tokens *, lz_workspace *, int32_t **ids, float **bits);
    /* bits[i] = what token i of the only row costs, given those before it. */
    void (*token_bits)(const lz_penalty *, int32_t vocab, const lz_tokens *, lz_workspace *, double *bits);
    /* periods[b] = the smallest period of row b's end, 0 if it has none. */
    void (*periods)(const lz_loop *, const lz_tokens *, int64_t *periods, lz_workspace *);
    /* lengths[b] = the longest string of row b's last `window` tokens all of whose grams stand there for the third time. */
    void (*evidence)(const lz_evidence *, const lz_tokens *, int64_t *lengths, lz_workspace *);
} lz_kernels;

/* The routines for the level in use. */
const lz_kernels *lz_current_kernels(void);

#endif
