/* What samplers take a token in llama.cpp: the LZ penalty beside llama.cpp's own DRY and repetition penalties, each with a
 * range of 1,024 tokens, on all candidates of a model's vocabulary: llama_sampler MODEL.gguf [VOCAB]
 *
 * `make test-llama-cpp` compiles it. Prints medians of 21 rounds of 20 calls in microseconds, in turns, without what copying
 * the candidates takes. The text is a random one whose second half says one of its parts again and again. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../csrc/llama_cpp/llama_sampler_lz.h"

enum { RANGE = 1024, ROUNDS = 21, CALLS = 20, SAMPLERS = 5 };

static const char *const names[SAMPLERS] = {"copying", "lz", "lz, window 512", "dry", "penalties"};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void be_quiet(enum ggml_log_level level, const char *text, void *data)
{
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR)
        fputs(text, stderr);
}

int main(int argc, char **argv)
{
    static const char *breakers[] = {"\n", ":", "\"", "*"};
    struct llama_model_params params = llama_model_default_params();
    lzpenalty_options options = lzpenalty_options_default();
    struct llama_sampler *samplers[SAMPLERS] = {NULL};
    double rounds[SAMPLERS][ROUNDS];
    if (argc < 2)
        return 1;
    llama_log_set(be_quiet, NULL);
    params.vocab_only = true;
    struct llama_model *model = llama_model_load_from_file(argv[1], params);
    if (!model)
        return 1;
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    const int32_t n_vocab = llama_vocab_n_tokens(vocab);
    samplers[2] = llama_sampler_init_lz(&options, n_vocab);
    options.window = RANGE;
    samplers[1] = llama_sampler_init_lz(&options, n_vocab);
    samplers[3] = llama_sampler_init_dry(vocab, 0.8f, 1.75f, 2, RANGE, breakers, sizeof breakers / sizeof *breakers);
    samplers[4] = llama_sampler_init_penalties(n_vocab, RANGE, 1.1f, 0.1f, 0.1f);

    llama_token text[2 * RANGE];
    uint32_t random = 1;
    for (int i = 0; i < 2 * RANGE; i++) {
        random = random * 1664525u + 1013904223u;
        text[i] = i < RANGE + RANGE / 2 ? (llama_token)((random >> 8) % (uint32_t)n_vocab) : text[i - 50];
    }
    for (int s = 1; s < SAMPLERS; s++)
        for (int i = 0; i < 2 * RANGE; i++)
            llama_sampler_accept(samplers[s], text[i]);

    llama_token_data *fresh = malloc((size_t)n_vocab * sizeof *fresh), *used = malloc((size_t)n_vocab * sizeof *used);
    for (int32_t id = 0; id < n_vocab; id++)
        fresh[id] = (llama_token_data){id, (float)(id % 100) / 10, 0};
    for (int round = 0; round < ROUNDS; round++) {
        for (int s = 0; s < SAMPLERS; s++) {
            const double start = now();
            for (int call = 0; call < CALLS; call++) {
                llama_token_data_array candidates = {used, (size_t)n_vocab, -1, false};
                memcpy(used, fresh, (size_t)n_vocab * sizeof *used);
                if (samplers[s])
                    llama_sampler_apply(samplers[s], &candidates);
                if (samplers[s])
                    llama_sampler_accept(samplers[s], text[RANGE + RANGE / 2 + call % 50]);
            }
            rounds[s][round] = (now() - start) / CALLS;
        }
    }
    for (int s = 0; s < SAMPLERS; s++)
        qsort(rounds[s], ROUNDS, sizeof(double), by_size);
    printf("{\"vocab\": %d, \"range\": %d, \"level\": \"%s\"", n_vocab, RANGE, lzpenalty_cpu_level());
    for (int s = 0; s < SAMPLERS; s++)
        printf(", \"%s\": %.1f", names[s], rounds[s][ROUNDS / 2] - (s > 0 ? rounds[0][ROUNDS / 2] : 0));
    puts("}");
    for (int s = 1; s < SAMPLERS; s++)
        llama_sampler_free(samplers[s]);
    free(fresh);
    free(used);
    llama_model_free(model);
    return 0;
}
