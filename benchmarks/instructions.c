/* Calls of the hot functions with fixed inputs, for callgrind to count the instructions of each: instructions LEVEL.
 *
 * benchmarks/instructions.py compiles it with the C library and runs it. A call is made once before it is counted, so that
 * its workspace is there. Texts: ids at random; ids that are as uneven as words are, with phrases that come again; a loop.
 */
#include <lzpenalty.h>
#include <stdio.h>
#include <stdlib.h>
#include <valgrind/callgrind.h>

enum {
    VOCAB = 151936,
    WINDOW = 512,
    CONTEXT = WINDOW + 32,
    TEXT = 5000,
    HEADS = 14,
    KEY_HEADS = 2,
    SIZE = 64,
    TOKENS = 512
};

static uint64_t state = 1;

/* 32 good bits of a linear congruential generator. */
static uint32_t draw(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

static float *numbers(size_t n)
{
    float *made = malloc(n * sizeof *made);
    for (size_t i = 0; made && i < n; i++)
        made[i] = (float)draw() / 2147483648.f - 1;
    return made;
}

static int failed;

#define COUNT(name, call)                                                                                                   \
    do {                                                                                                                    \
        failed |= (call);                                                                                                   \
        CALLGRIND_ZERO_STATS;                                                                                               \
        failed |= (call);                                                                                                   \
        CALLGRIND_DUMP_STATS_AT(name);                                                                                      \
    } while (0)

static int32_t texts[3][TEXT];
static float logits[VOCAB];

static void write_texts(void)
{
    for (int i = 0; i < TEXT; i++) {
        const double u = (double)draw() / 4294967296.;
        texts[0][i] = (int32_t)(draw() % VOCAB);
        texts[1][i] = (int32_t)(u * u * u * u * 5000);
        texts[2][i] = 1000 + i % 7;
    }
    for (int i = CONTEXT - 156; i + 8 < TEXT;
         i += 150) /* a phrase of eight that stood 97 tokens before; in one the row ends */
        for (int k = 0; k < 8; k++)
            texts[1][i + k] = texts[1][i + k - 97];
}

static void count_penalties(lzpenalty_workspace *ws)
{
    static const lzpenalty_mark close = {1, {VOCAB - 1}};
    lzpenalty_options paper = lzpenalty_options_default(), reasoning = lzpenalty_options_default();
    const lzpenalty_dry_options dry = lzpenalty_dry_options_default();
    const lzpenalty_tensor row = lzpenalty_vector(logits, LZPENALTY_FLOAT32, VOCAB);
    int64_t number;
    reasoning.min_match = 2;
    reasoning.gate.from = 20;
    reasoning.gate.to = 28;
    reasoning.section_gate.from = 12;
    reasoning.section_gate.to = 20;
    reasoning.release_after = 16;
    reasoning.release = (lzpenalty_marks){&close, 1}; /* nothing opens the section: the answer begins in one */
#define COUNT_TEXT(name, text)                                                                                              \
    do {                                                                                                                    \
        const lzpenalty_tensor tokens = lzpenalty_vector(text, LZPENALTY_INT32, CONTEXT);                                   \
        COUNT("penalise a row, paper: " name, lzpenalty_penalize_row(ws, &paper, logits, VOCAB, text, CONTEXT));            \
        COUNT("penalise a row, reasoning: " name, lzpenalty_penalize_row(ws, &reasoning, logits, VOCAB, text, CONTEXT));    \
        COUNT("evidence: " name, lzpenalty_loop_evidence(ws, &tokens, NULL, 6, WINDOW, &number));                           \
        COUNT("dry: " name, lzpenalty_dry(ws, &dry, &row, &tokens, NULL));                                                  \
    } while (0)
    COUNT_TEXT("random", texts[0]);
    COUNT_TEXT("words", texts[1]);
    COUNT_TEXT("loop", texts[2]);
}

static void count_texts(void)
{
    static lzpenalty_phrase phrases[TEXT];
    static lzpenalty_loop loops[TEXT];
    const lzpenalty_loop_options options = lzpenalty_loop_options_default();
    const lzpenalty_tensor tokens = lzpenalty_vector(texts[1], LZPENALTY_INT32, TEXT);
    int64_t n;
    COUNT("factorize", lzpenalty_factorize(&tokens, TEXT, phrases, &n));
    COUNT("find loops", lzpenalty_find_loops(&tokens, &options, loops, TEXT, &n));
}

static void count_cache(void)
{
    static const int64_t keys_shape[4] = {1, KEY_HEADS, TOKENS, SIZE}, recent_shape[4] = {1, HEADS, 32, SIZE};
    static const int64_t query_shape[4] = {1, HEADS, 1, SIZE}, new_shape[4] = {1, KEY_HEADS, 1, SIZE};
    static const int64_t kept_shape[3] = {1, 1, TOKENS / 4}, scores_shape[3] = {1, 1, TOKENS};
    static float scores[TOKENS];
    static int64_t kept[TOKENS / 4];
    const size_t n_keys = (size_t)KEY_HEADS * TOKENS * SIZE, n_recent = (size_t)HEADS * 32 * SIZE;
    float *k = numbers(n_keys), *v = numbers(n_keys), *q = numbers(n_recent), *out = numbers((size_t)HEADS * SIZE);
    lzpenalty_score_options score = lzpenalty_score_options_default();
    lzpenalty_attend_options attend = lzpenalty_attend_options_default();
    const lzpenalty_tensor to_select = lzpenalty_contiguous(scores, LZPENALTY_FLOAT32, 3, scores_shape);
    const lzpenalty_tensor positions = lzpenalty_contiguous(kept, LZPENALTY_INT64, 3, kept_shape);
    score.threads = attend.threads = 1;
    if (!k || !v || !q || !out)
        exit(1);
#define COUNT_DTYPE(name, dtype)                                                                                            \
    do {                                                                                                                    \
        const lzpenalty_tensor keys = lzpenalty_contiguous(k, dtype, 4, keys_shape);                                        \
        const lzpenalty_tensor values = lzpenalty_contiguous(v, dtype, 4, keys_shape);                                      \
        const lzpenalty_tensor recent = lzpenalty_contiguous(q, dtype, 4, recent_shape);                                    \
        const lzpenalty_tensor query = lzpenalty_contiguous(q, dtype, 4, query_shape);                                      \
        const lzpenalty_tensor new_keys = lzpenalty_contiguous(q, dtype, 4, new_shape);                                     \
        const lzpenalty_tensor result = lzpenalty_contiguous(out, dtype, 4, query_shape);                                   \
        COUNT("scores, " name, lzpenalty_attention_scores(&recent, &keys, 0, TOKENS, &score, scores));                      \
        COUNT("attend, " name, lzpenalty_attend(&query, &keys, &values, &attend, &result));                                 \
        COUNT("selection, " name, lzpenalty_select_top(&to_select, TOKENS / 4, kept));                                      \
        COUNT("compaction, " name, lzpenalty_compact(&keys, &values, &positions, 0, TOKENS, TOKENS, 1));                    \
        COUNT("append, " name, lzpenalty_append(&keys, &values, &new_keys, &new_keys, 5));                                  \
    } while (0)
    COUNT_DTYPE("float32", LZPENALTY_FLOAT32);
    for (size_t i = 0; i < n_keys; i++) { /* bfloat16 from 0.5 to 2 */
        ((uint16_t *)k)[i] = (uint16_t)(0x3f00 + draw() % 0x100);
        ((uint16_t *)v)[i] = (uint16_t)(0x3f00 + draw() % 0x100);
    }
    for (size_t i = 0; i < n_recent; i++)
        ((uint16_t *)q)[i] = (uint16_t)(0xbf00 + draw() % 0x100);
    COUNT_DTYPE("bfloat16", LZPENALTY_BFLOAT16);
    free(k);
    free(v);
    free(q);
    free(out);
}

int main(int argc, char **argv)
{
    lzpenalty_workspace *ws = lzpenalty_workspace_create();
    if (!ws || argc != 2 || lzpenalty_set_cpu_level(argv[1]) != LZPENALTY_OK)
        return 2; /* the level isn't there */
    write_texts();
    count_penalties(ws);
    count_texts();
    count_cache();
    lzpenalty_workspace_destroy(ws);
    return failed != 0;
}
