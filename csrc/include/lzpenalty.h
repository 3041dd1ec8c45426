/* lzpenalty in C: ends the loops of reasoning language models, and keeps their key/value cache small.
 *
 *     lzpenalty_workspace *ws = lzpenalty_workspace_create();
 *     lzpenalty_options options = lzpenalty_options_default();
 *     options.strength = 0.2f;
 *     int status = lzpenalty_penalize_row(ws, &options, logits, vocab, tokens, n);
 *     if (status != LZPENALTY_OK)
 *         fprintf(stderr, "%s\n", lzpenalty_strerror(status));
 *
 * What all functions have in common:
 *   Errors     0 is success; anything else is an lzpenalty_status, whose text names the argument and what is wanted.
 *              Everything is checked before anything is written: a failed call leaves logits and caches as they were.
 *   Memory     belongs to the caller and isn't kept. Functions with a workspace allocate in it, and only when a call needs
 *              more than all before; others allocate for the call. No function is given memory that it frees.
 *   Threads    All functions may be called from any number of threads at once; a workspace belongs to one call at a time.
 *   Units      Lengths, periods, distances and windows are in tokens, code lengths in bits, penalties in nats, strides in
 *              items. Ids are those of a vocabulary, oldest first.
 *   Growth     Structs of options begin with their size, which lzpenalty_..._default sets. Fields are only ever added, at
 * the end. A library that is newer than its caller takes the defaults for what it isn't told; one that is older refuses
 * options that set what it doesn't know (LZPENALTY_BAD_SIZE).
 *
 * All of it runs on the CPU. The mathematics and its sources: LZ penalty, arXiv 2504.20131; DRY, arXiv 2608.22761; Reasoning
 * Path Compression, arXiv 2505.13866. The same functions in Python: package lzpenalty. */
#ifndef LZPENALTY_H
#define LZPENALTY_H

#include <stddef.h>
#include <stdint.h>

#define LZPENALTY_VERSION_MAJOR 0
#define LZPENALTY_VERSION_MINOR 1
#define LZPENALTY_VERSION_PATCH 0
#define LZPENALTY_VERSION (LZPENALTY_VERSION_MAJOR * 10000 + LZPENALTY_VERSION_MINOR * 100 + LZPENALTY_VERSION_PATCH)

#if defined(__GNUC__)
#define LZPENALTY_API __attribute__((visibility("default")))
#else
#define LZPENALTY_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Errors, versions, processors ------------------------------------------------------------------------------------ */

typedef enum lzpenalty_status {
    LZPENALTY_OK = 0,
    LZPENALTY_NO_MEMORY = 1,
    LZPENALTY_NULL = 2,            /* a pointer that is needed */
    LZPENALTY_BAD_SIZE = 3,        /* of a struct of options */
    LZPENALTY_BAD_LEVEL = 4,       /* of instructions */
    LZPENALTY_BAD_THREADS = 5,     /* fewer than 0 */
    LZPENALTY_TOO_LITTLE_ROOM = 6, /* for results; how many there are has been written */
    LZPENALTY_NOT_FINITE = 7,      /* NaN or infinity among queries, keys and their products; scores have been written */

    /* Tensors */
    LZPENALTY_BAD_DTYPE = 10,
    LZPENALTY_BAD_DIMENSIONS = 11, /* not as many as documented */
    LZPENALTY_BAD_SHAPE = 12,      /* a size beyond its range */
    LZPENALTY_BAD_STRIDES = 13, /* of memory that is written twice, or that is too far, or not contiguous where it must be */
    LZPENALTY_BAD_ALIGNMENT = 14, /* of data */
    LZPENALTY_DISAGREE = 15,      /* sizes that must be equal, or multiples */
    LZPENALTY_OVERLAP = 16,       /* what is written shares memory with something else */

    /* Texts and options of the penalties */
    LZPENALTY_BAD_TOKENS = 20, /* too many */
    LZPENALTY_BAD_STARTS = 21,
    LZPENALTY_BAD_VOCAB = 22,
    LZPENALTY_BAD_MULTIPLIER = 40,
    LZPENALTY_BAD_BASE = 41,
    LZPENALTY_BAD_ALLOWED_LENGTH = 42,
    LZPENALTY_BAD_BREAKERS = 43,
    LZPENALTY_BAD_NGRAM = 44,
    LZPENALTY_BAD_COUNT = 45,
    LZPENALTY_BAD_MAX_PERIOD = 46,
    LZPENALTY_BAD_GRAM = 47,
    LZPENALTY_BAD_MIN_REPEATS = 48,
    LZPENALTY_BAD_TOLERANCE = 49,

    /* The cache */
    LZPENALTY_BAD_REGION = 60, /* start, stop, length */
    LZPENALTY_BAD_KERNEL = 61,
    LZPENALTY_BAD_SCALE = 62,
    LZPENALTY_BAD_SOFTCAP = 63,
    LZPENALTY_BAD_K = 64,
    LZPENALTY_BAD_POSITIONS = 65,
    LZPENALTY_BAD_LENGTHS = 66,
    LZPENALTY_BAD_PADS = 67,
    LZPENALTY_BAD_AGGREGATION = 68,

    /* clang-format off */
    /* The options of the penalty; options.def: statuses */
    LZPENALTY_BAD_STRENGTH = 100,
    LZPENALTY_BAD_WINDOW = 101,
    LZPENALTY_BAD_BUFFER = 102,
    LZPENALTY_BAD_COST = 103,
    LZPENALTY_BAD_MIN_MATCH = 104,
    LZPENALTY_BAD_GATE = 105,
    LZPENALTY_BAD_RELEASE_RATE = 106,
    LZPENALTY_BAD_RELEASE_AFTER = 107,
    LZPENALTY_BAD_RELEASE = 108,
    LZPENALTY_BAD_OPEN = 109,
    LZPENALTY_BAD_SECTION_GATE = 110,
    LZPENALTY_BAD_SKIP = 111,
    LZPENALTY_BAD_RESUME = 112
    /* end of options.def */
    /* clang-format on */
} lzpenalty_status;

/* A sentence about a status, in English; never NULL. */
LZPENALTY_API const char *lzpenalty_strerror(int status);

/* LZPENALTY_VERSION of the library, which may be another than that of the header. */
LZPENALTY_API int lzpenalty_version(void);

/* The instructions that are used, of the whole process: "scalar", "neon", "neon_bf16", "avx2", "avx512",
 * "avx512_bf16" or "amx". Setting is for tests:
 * the best that this machine has is the default, and NULL. Only attention and its scores depend on it, by roundings.
 * LZPENALTY_BAD_LEVEL if this machine hasn't got them. */
LZPENALTY_API const char *lzpenalty_cpu_level(void);
LZPENALTY_API int lzpenalty_set_cpu_level(const char *level);

/* ---- Tensors --------------------------------------------------------------------------------------------------------- */

typedef enum lzpenalty_dtype {
    LZPENALTY_FLOAT32 = 0,
    LZPENALTY_FLOAT16 = 1,
    LZPENALTY_BFLOAT16 = 2,
    LZPENALTY_FLOAT64 = 3,
    LZPENALTY_INT32 = 4,
    LZPENALTY_INT64 = 5
} lzpenalty_dtype;

/* An array in the caller's memory. This struct stays as it is. */
typedef struct lzpenalty_tensor {
    void *data;       /* the item with index 0 in every dimension, aligned as its type wants; may be NULL if there is none */
    int32_t dtype;    /* lzpenalty_dtype */
    int32_t dims;     /* 1 to 4 */
    int64_t shape[4]; /* of those, each from 0 to 2^31 - 1 */
    int64_t strides[4]; /* items from one to the next; may be negative */
} lzpenalty_tensor;

/* What lies in one piece, the last dimension fastest. */
static inline lzpenalty_tensor lzpenalty_contiguous(const void *data, lzpenalty_dtype dtype, int dims, const int64_t *shape)
{
    lzpenalty_tensor tensor;
    int64_t step = 1;
    int i;
    tensor.data = (void *)(uintptr_t)data;
    tensor.dtype = (int32_t)dtype;
    tensor.dims = dims;
    for (i = 3; i >= 0; i--) {
        tensor.shape[i] = i < dims ? shape[i] : 1;
        tensor.strides[i] = step;
        step *= tensor.shape[i];
    }
    return tensor;
}

static inline lzpenalty_tensor lzpenalty_vector(const void *data, lzpenalty_dtype dtype, int64_t n)
{
    return lzpenalty_contiguous(data, dtype, 1, &n);
}

static inline lzpenalty_tensor lzpenalty_matrix(const void *data, lzpenalty_dtype dtype, int64_t rows, int64_t columns)
{
    int64_t shape[2];
    shape[0] = rows;
    shape[1] = columns;
    return lzpenalty_contiguous(data, dtype, 2, shape);
}

/* ---- The LZ penalty -------------------------------------------------------------------------------------------------- */

/* Memory that calls leave behind for later ones. One a thread. */
typedef struct lzpenalty_workspace lzpenalty_workspace;

/* NULL without memory. Destroying NULL does nothing. */
LZPENALTY_API lzpenalty_workspace *lzpenalty_workspace_create(void);
LZPENALTY_API void lzpenalty_workspace_destroy(lzpenalty_workspace *ws);

/* What a token of the window costs. */
typedef enum lzpenalty_cost {
    LZPENALTY_LZSS = 0,    /* the paper's three cases */
    LZPENALTY_PAIR = 1,    /* bits of the (distance, length) pair per token that it covers */
    LZPENALTY_DISTANCE = 2 /* log2 of the distance of the longest match */
} lzpenalty_cost;

#define LZPENALTY_MOST_MARKS 16   /* in a list */
#define LZPENALTY_MOST_MARK_IDS 8 /* in one */

/* A string of ids that says something about the text around it, such as those of "</think>". */
typedef struct lzpenalty_mark {
    int32_t n; /* ids, 1 to LZPENALTY_MOST_MARK_IDS */
    int32_t ids[LZPENALTY_MOST_MARK_IDS];
} lzpenalty_mark;

typedef struct lzpenalty_marks {
    const lzpenalty_mark *mark;
    size_t n; /* 0 to LZPENALTY_MOST_MARKS */
} lzpenalty_marks;

typedef struct lzpenalty_range {
    double from, to; /* 0 <= from < to; 0 and 0 for none */
} lzpenalty_range;

/* clang-format off */
typedef struct lzpenalty_options {
    size_t size;
    /* options.def: fields */
    double strength; /* What a bit that a token saves costs it; 0 changes nothing. In nats a bit. Default 0.15 */
    int64_t window; /* How far back a match may start, and so the longest period that is seen; 0 changes nothing. In tokens. Default 512 */
    int64_t buffer; /* How many tokens a match may count. In tokens. Default 32 */
    int64_t cost; /* What a token of the window costs: 'lzss', the paper's three cases; 'pair', bits of the (distance, length) pair per token that it covers; 'distance', log2 of the distance of the longest match. Default 0 */
    int64_t min_match; /* Occurrences whose match, with the token itself, is shorter count as absent; 2 leaves single tokens alone. In tokens. Default 1 */
    lzpenalty_range gate; /* (from, to): the strength is multiplied by clip((evidence - from) / (to - from), 0, 1), where evidence is the loop_evidence of the window: nothing happens to a text in which nothing stands for the third time. In tokens. */
    double release_rate; /* By how much more a released id gains with every token, up to 20 nats in all; 0 releases nothing. In nats a token. Default 2 */
    int64_t release_after; /* The evidence from which on it gains. In tokens. Default 24 */
    lzpenalty_marks release; /* What closes a section of thinking, such as the ids of '</think>'. While one is open, from the token on with which its evidence reached release_after, the id that is due of each gains min(20, release_rate * s) nats, s = 1 for that token and one more with each that follows. Due is the id that follows the longest beginning of the sequence that ends the text. */
    lzpenalty_marks open; /* What opens such a section, looked for in the whole text, the prompt included; without any the answer begins with an open one. Only what stands behind the last mark that opened or closed a section counts. One that opens what is open, or closes what is closed, is text like any other. */
    lzpenalty_range section_gate; /* The gate in an open section of thinking, in the place of `gate`. In tokens. */
    lzpenalty_marks skip; /* What opens a part of a text in which nothing is changed, such as the ids of '<tool_call>', looked for in the whole text, the prompt included. */
    lzpenalty_marks resume; /* What closes such a part. */
    /* end of options.def */
} lzpenalty_options;
/* clang-format on */

/* Writes the defaults: what lzpenalty_options_default does, for languages that can't call it. LZPENALTY_NULL,
 * LZPENALTY_BAD_SIZE. */
LZPENALTY_API int lzpenalty_options_init(lzpenalty_options *options, size_t size);

static inline lzpenalty_options lzpenalty_options_default(void)
{
    lzpenalty_options options;
    lzpenalty_options_init(&options, sizeof options);
    return options;
}

/* A copy with all that it points to, to be destroyed: one that stays as it is. NULL without memory, and for options that
 * lzpenalty_penalize refuses for a vocabulary of this size. Destroying NULL does nothing. */
LZPENALTY_API lzpenalty_options *lzpenalty_options_copy(const lzpenalty_options *options, int32_t vocab);
LZPENALTY_API void lzpenalty_options_destroy(lzpenalty_options *options);

/* Makes what a Lempel-Ziv coder could code cheaply, a repetition, less likely. In place:
 *
 *     logits[b, a] -= strength * (log2 V - D_b(a))
 *
 * where D_b(a) is the number of bits, at most log2 V, by which the LZSS code of row b's text grows when token a comes next
 * (arXiv 2504.20131). Tokens outside the window keep their logits: a row costs a search of the window.
 *
 *   logits   [B, V] or [V], FLOAT32, FLOAT16, BFLOAT16 or FLOAT64; rounded once. Any strides without overlap
 *   tokens   [B, T] or [T], INT32 or INT64. Ids outside [0, V) take part in matching and are never written to
 *   starts   [B] positions in [0, T] of each row's first token that counts, usually the prompt's length; NULL: 0 */
LZPENALTY_API int lzpenalty_penalize(lzpenalty_workspace *ws, const lzpenalty_options *options,
                                     const lzpenalty_tensor *logits, const lzpenalty_tensor *tokens, const int64_t *starts);

/* The same for one row of float32 and n tokens that all count. */
LZPENALTY_API int lzpenalty_penalize_row(lzpenalty_workspace *ws, const lzpenalty_options *options, float *logits,
                                         int32_t vocab, const int32_t *tokens, int64_t n);

/* How many of a text's newest tokens the penalty depends on; 0 if it changes nothing. An engine need keep no more of them.
 * INT32_MAX with `until`. */
LZPENALTY_API int lzpenalty_context(const lzpenalty_options *options, int32_t *context);

/* D(a), the bits by which the code grows when token a comes next, for each a that is cheaper than a literal; every other id
 * costs log2 vocab bits. Of the options only window, buffer, cost and min_match are read.
 *
 *   tokens   [T], INT32 or INT64
 *   ids      [room] distinct, in no particular order
 *   bits     [room]
 *   count    how many there are; never more than min(window, T). LZPENALTY_TOO_LITTLE_ROOM writes nothing but this */
LZPENALTY_API int lzpenalty_code_lengths(lzpenalty_workspace *ws, const lzpenalty_options *options, int32_t vocab,
                                         const lzpenalty_tensor *tokens, int32_t *ids, float *bits, int64_t room,
                                         int64_t *count);

/* bits[T]: what that gives for each token that came, after those before it. */
LZPENALTY_API int lzpenalty_token_bits(lzpenalty_workspace *ws, const lzpenalty_options *options, int32_t vocab,
                                       const lzpenalty_tensor *tokens, double *bits);

/* ---- DRY ------------------------------------------------------------------------------------------------------------- */

typedef struct lzpenalty_dry_options {
    size_t size;
    float multiplier;       /* nats, finite and >= 0; 0 changes nothing. Default 0.8 */
    float base;             /* finite and > 0. Default 1.75 */
    int32_t allowed_length; /* shortest repetition that is penalised, in tokens, >= 1. Default 2 */
    int32_t window;         /* tokens that are looked at, >= 0; 0 changes nothing. Default 1024 */
    /* Ids >= 0 that end a repetition, such as those of newlines, and never pay; in any order. */
    const int32_t *sequence_breakers;
    int32_t n_sequence_breakers;
    int32_t reserved; /* 0 */
} lzpenalty_dry_options;

LZPENALTY_API int lzpenalty_dry_options_init(lzpenalty_dry_options *options, size_t size);

static inline lzpenalty_dry_options lzpenalty_dry_options_default(void)
{
    lzpenalty_dry_options options;
    lzpenalty_dry_options_init(&options, sizeof options);
    return options;
}

/* A token that would prolong a repetition of n >= allowed_length tokens pays, in place, multiplier * base^(n -
 * allowed_length) nats, at most the largest float32 (arXiv 2608.22761). Arguments as of lzpenalty_penalize. */
LZPENALTY_API int lzpenalty_dry(lzpenalty_workspace *ws, const lzpenalty_dry_options *options,
                                const lzpenalty_tensor *logits, const lzpenalty_tensor *tokens, const int64_t *starts);

/* ---- Loops ----------------------------------------------------------------------------------------------------------- */

/* lengths[B]: the length of the longest string within each row's last `window` tokens (>= 0; 512 is usual) all of whose
 * n-grams of `gram` tokens (1 to 64; 6 is usual) stand there for the third time or more. 0: nothing does. Tokens and starts
 * as of lzpenalty_penalize. */
LZPENALTY_API int lzpenalty_loop_evidence(lzpenalty_workspace *ws, const lzpenalty_tensor *tokens, const int64_t *starts,
                                          int32_t gram, int32_t window, int64_t *lengths);

/* periods[B]: the smallest p <= max_period (>= 1; 512 is usual) such that the last ngram + (count - 1) * p tokens of the row
 * repeat with period p, so that the n-gram that ends it stands `count` times in a row; 0 where there is none. ngram >= 1 and
 * count >= 2; 30 and 20 are the criterion of arXiv 2512.12895. */
LZPENALTY_API int lzpenalty_repetition_period(lzpenalty_workspace *ws, const lzpenalty_tensor *tokens, const int64_t *starts,
                                              int32_t ngram, int32_t count, int32_t max_period, int64_t *periods);

/* ---- Finished texts -------------------------------------------------------------------------------------------------- */

/* Of the Lempel-Ziv parses, in their order: the first begins with the first token. */
typedef struct lzpenalty_phrase {
    int32_t source; /* 1977: how many tokens back it stood, 0 for a new token. 1978: the phrase that it begins with, counted
                       from 1, 0 for none */
    int32_t length; /* tokens */
} lzpenalty_phrase;

/* The phrases of 1977: each is the longest that also starts at most `window` >= 0 tokens earlier, overlap allowed, or one
 * token that doesn't. And those of 1978: each is the longest earlier phrase and one token more; the last may end before it.
 * (doi:10.1109/TIT.1977.1055714, with the literals of LZSS; doi:10.1109/TIT.1978.1055934.)
 *
 *   tokens    [T] with T < 2^30, INT32 or INT64, any ids
 *   phrases   [T]
 *   count     how many there are */
LZPENALTY_API int lzpenalty_factorize(const lzpenalty_tensor *tokens, int32_t window, lzpenalty_phrase *phrases,
                                      int64_t *count);
LZPENALTY_API int lzpenalty_factorize_lz78(const lzpenalty_tensor *tokens, lzpenalty_phrase *phrases, int64_t *count);

/* A stretch of a text that repeats itself, in tokens. */
typedef struct lzpenalty_loop {
    int32_t period, start, length;
} lzpenalty_loop;

typedef struct lzpenalty_loop_options {
    size_t size;
    int32_t min_repeats; /* shortest loop in periods, >= 2. Default 2 */
    int32_t max_period;  /* longest period in tokens, >= 0. Default 0: any, with a tolerance 512 */
    /* In [0, 1), rounded to a multiple of 2^-20: of the comparisons of tokens a period apart that a loop begins with, and of
     * those that it ends with, however many, always a smaller share are mismatches. Default 0: none are */
    float tolerance;
    int32_t reserved; /* 0 */
} lzpenalty_loop_options;

LZPENALTY_API int lzpenalty_loop_options_init(lzpenalty_loop_options *options, size_t size);

static inline lzpenalty_loop_options lzpenalty_loop_options_default(void)
{
    lzpenalty_loop_options options;
    lzpenalty_loop_options_init(&options, sizeof options);
    return options;
}

/* The loops of a text, by start, then by period. Without tolerance its runs (doi:10.1109/SFFCS.1999.814634), fewer than T of
 * them, in linear time (arXiv 2102.08670); with it, in O(T * max_period), maximal stretches, but for those that a loop of
 * shorter period covers with a turn more on each side.
 *
 *   tokens   [T] with T < 2^30, INT32 or INT64, any ids
 *   loops    [room]
 *   count    how many there are. LZPENALTY_TOO_LITTLE_ROOM writes nothing but this */
LZPENALTY_API int lzpenalty_find_loops(const lzpenalty_tensor *tokens, const lzpenalty_loop_options *options,
                                       lzpenalty_loop *loops, int64_t room, int64_t *count);

/* ---- The key/value cache --------------------------------------------------------------------------------------------- */

/* Keys, values and queries are [batch, heads, tokens, size] of FLOAT32, FLOAT16 or BFLOAT16, all of one call of the same
 * type, with a contiguous last dimension. */

typedef enum lzpenalty_aggregation {
    LZPENALTY_BY_LAYER = 0, /* one row of scores for all heads */
    LZPENALTY_BY_GROUP = 1  /* one for each key head */
} lzpenalty_aggregation;

typedef struct lzpenalty_score_options {
    size_t size;
    float scale;         /* of products, finite. Default 0: 1 / sqrt(D) */
    int32_t kernel;      /* positions that scores are averaged over, odd and >= 1. Default 7 */
    int32_t aggregation; /* lzpenalty_aggregation. Default LZPENALTY_BY_LAYER */
    int32_t threads;     /* Default 0: as many as this process may run at once */
} lzpenalty_score_options;

LZPENALTY_API int lzpenalty_score_options_init(lzpenalty_score_options *options, size_t size);

static inline lzpenalty_score_options lzpenalty_score_options_default(void)
{
    lzpenalty_score_options options;
    lzpenalty_score_options_init(&options, sizeof options);
    return options;
}

/* How much attention queries pay to the keys of a region (arXiv 2505.13866):
 *
 *     a[h, r, t] = softmax over t in [start, stop) of scale * <q[h, r], k[h / G, t]>
 *     g[t] = mean of a over r, and over all heads or the G that share a key head
 *     score[t] = (1 / kernel) * sum of g[t - kernel / 2 .. t + kernel / 2], with zeros outside of the region
 *
 *   queries       [B, Hq, R, D] after rotary embedding, R >= 1
 *   keys          [B, Hkv, s, D]; Hq is a multiple of Hkv, and G = Hq / Hkv
 *   start, stop   0 <= start < stop <= s
 *   scores        [B, 1 or Hkv, stop - start]. LZPENALTY_NOT_FINITE if one is NaN, which lzpenalty_select_top sorts as
 *                 lowest */
LZPENALTY_API int lzpenalty_attention_scores(const lzpenalty_tensor *queries, const lzpenalty_tensor *keys, int64_t start,
                                             int64_t stop, const lzpenalty_score_options *options, float *scores);

/* The positions of the k highest scores of each row, in O(n), ascending; ties go to the lower one, NaN is lower than all.
 *
 *   scores      [B, H, n], FLOAT32, with a contiguous last dimension
 *   k           1 to n
 *   positions   [B, H, k] */
LZPENALTY_API int lzpenalty_select_top(const lzpenalty_tensor *scores, int64_t k, int64_t *positions);

/* Drops all tokens of [start, stop) but those at start + positions, in place: they and the tokens of [stop, length) move
 * down to start in their order. What lies behind the new length, length - (stop - start) + k, is undefined.
 *
 *   keys, values   [B, Hkv, capacity, D]. Sizes D may differ. They may lie in one buffer, but share no number
 *   positions      [B, 1 or Hkv, k], INT64, strictly ascending in [0, stop - start), with a contiguous last dimension
 *   start, stop, length   0 <= start <= stop <= length <= capacity
 *   threads        0: as many as this process may run at once */
LZPENALTY_API int lzpenalty_compact(const lzpenalty_tensor *keys, const lzpenalty_tensor *values,
                                    const lzpenalty_tensor *positions, int64_t start, int64_t stop, int64_t length,
                                    int32_t threads);

/* Writes new keys and values [B, Hkv, q, D] into a preallocated cache [B, Hkv, capacity, D], from `position` on. */
LZPENALTY_API int lzpenalty_append(const lzpenalty_tensor *keys, const lzpenalty_tensor *values,
                                   const lzpenalty_tensor *new_keys, const lzpenalty_tensor *new_values, int64_t position);

typedef struct lzpenalty_attend_options {
    size_t size;
    const lzpenalty_tensor *lengths; /* [B] or [B, Hkv], INT64: tokens in the cache, with the new ones. Default NULL: T */
    const lzpenalty_tensor *starts;  /* [B, Hkv], INT64: see keys. Default NULL */
    const lzpenalty_tensor *pads;    /* [B], INT64: tokens of padding at the start of each row, which no query sees */
    float scale;                     /* of products, finite. Default 0: 1 / sqrt(D) */
    float softcap;                   /* > 0: products x become softcap * tanh(x / softcap), after scale. Default 0 */
    int32_t threads;                 /* Default 0: as many as this process may run at once */
    int32_t reserved;                /* 0 */
    const lzpenalty_tensor *lse;     /* [B, Hq, q], FLOAT32, written; see below. Default NULL */
} lzpenalty_attend_options;

LZPENALTY_API int lzpenalty_attend_options_init(lzpenalty_attend_options *options, size_t size);

static inline lzpenalty_attend_options lzpenalty_attend_options_default(void)
{
    lzpenalty_attend_options options;
    lzpenalty_attend_options_init(&options, sizeof options);
    return options;
}

/* The attention of new tokens to a cache:
 *
 *     out[b, h, i] = sum over t of w[t] * v[b, h / G, t]
 *     w = softmax over t in [pads[b], length - q + 1 + i) of scale * <q[b, h, i], k[b, h / G, t]>
 *
 * with G = Hq / Hkv: the q tokens are the last ones in the cache and each sees what is before it, and itself. Computed in
 * float32 whatever the type, and rounded once. A query that sees nothing gets zeros; what it doesn't see has no influence.
 * Nothing depends on the number of threads.
 *
 * `lse` gets the log-sum-exp of each query, in nats: ln of the sum of exp(scale * <q, k[t]>) over the t that it sees, after
 * softcap; -infinity if it sees none. The attention to a cache of several parts is the mean of the attention to each,
 * weighted by exp(lse) of each.
 *
 *   queries   [B, Hq, q, D] after rotary embedding, q >= 1
 *   keys      [B, Hkv, T, D]; Hq is a multiple of Hkv. Or [S, D]: heads then have lengths of their own, that of row b and
 *             head h is keys[starts[b, h] : starts[b, h] + lengths[b, h]], and both are needed. Heads may share slots
 *   values    [B, Hkv, T, Dv], or [S, Dv], as keys
 *   out       [B, Hq, q, Dv]; no memory of the others */
LZPENALTY_API int lzpenalty_attend(const lzpenalty_tensor *queries, const lzpenalty_tensor *keys,
                                   const lzpenalty_tensor *values, const lzpenalty_attend_options *options,
                                   const lzpenalty_tensor *out);

#ifdef __cplusplus
}
#endif

#endif
