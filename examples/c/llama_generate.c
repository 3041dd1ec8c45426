/* Answers a question with a model of llama.cpp, greedily, with the LZ penalty: llama_generate MODEL.gguf QUESTION [STRENGTH]
 *
 *     cc llama_generate.c ../../csrc/llama_cpp/llama_sampler_lz.c -I../../csrc/llama_cpp -lllama \
 *         $(pkg-config --cflags --libs --static lzpenalty) -o llama_generate
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llama_sampler_lz.h"

enum { MOST_PROMPT = 512, MOST_ANSWER = 200 };

static int fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    return 1;
}

static void be_quiet(enum ggml_log_level level, const char *text, void *data)
{
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR)
        fputs(text, stderr);
}

int main(int argc, char **argv)
{
    struct llama_model_params model_params = llama_model_default_params();
    struct llama_context_params context_params = llama_context_default_params();
    lzpenalty_options options = lzpenalty_options_default();
    llama_token prompt[MOST_PROMPT], token;
    char text[4096], piece[256];
    struct llama_sampler *chain, *lz;
    struct llama_context *context;
    struct llama_model *model;
    const struct llama_vocab *vocab;
    int32_t n, length;
    if (argc < 3)
        return fail("usage: llama_generate MODEL.gguf QUESTION [STRENGTH]");
    if (argc > 3)
        options.strength = (float)atof(argv[3]);
    llama_log_set(be_quiet, NULL);
    llama_backend_init();
    model_params.use_extra_bufts = false; /* AMX kernels crash on virtual machines that only say that they have AMX */
    model = llama_model_load_from_file(argv[1], model_params);
    if (!model)
        return fail("the model can't be loaded");
    vocab = llama_model_get_vocab(model);
    context_params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED; /* as in llama-cpp-python: both write the same then */
    context_params.n_ctx = MOST_PROMPT + MOST_ANSWER;
    context = llama_init_from_model(model, context_params);
    lz = llama_sampler_init_lz(&options, llama_vocab_n_tokens(vocab));
    if (!context || !lz)
        return fail(context ? "the penalty's options are not valid" : "there is no memory for the context");
    chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    llama_sampler_chain_add(chain, lz);
    llama_sampler_chain_add(chain, llama_sampler_init_greedy());

    snprintf(text, sizeof text, "<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n", argv[2]);
    n = llama_tokenize(vocab, text, (int32_t)strlen(text), prompt, MOST_PROMPT, true, true);
    if (n <= 0)
        return fail("the question is empty, or too long");
    for (length = 0; length < n; length++)
        llama_sampler_accept(chain, prompt[length]); /* for samplers that count the prompt */
    llama_sampler_lz_mark(lz);                       /* this one doesn't */
    for (length = 0; length < MOST_ANSWER; length++) {
        if (llama_decode(context, length ? llama_batch_get_one(&token, 1) : llama_batch_get_one(prompt, n)) != 0)
            return fail("decoding failed");
        token = llama_sampler_sample(chain, context, -1); /* and accepts it */
        if (llama_vocab_is_eog(vocab, token))
            break;
        n = llama_token_to_piece(vocab, token, piece, (int32_t)sizeof piece, 0, false);
        fwrite(piece, 1, n > 0 ? (size_t)n : 0, stdout);
        fflush(stdout);
    }
    putchar('\n');
    llama_sampler_free(chain);
    llama_free(context);
    llama_model_free(model);
    llama_backend_free();
    return 0;
}
