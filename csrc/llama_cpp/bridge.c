/* llama.cpp's sampler for llama-cpp-python: llama_sampler_lz.c, in a library that is not linked to llama.cpp,
 * since the process has loaded one of its own. */
#include "llama_sampler_lz.h"

typedef struct llama_sampler *init_function(struct llama_sampler_i *, void *);

/* The one piece of global state: the llama.cpp of this process. */
static init_function *init;

struct llama_sampler *llama_sampler_init(struct llama_sampler_i *iface, void *ctx)
{
    return init(iface, ctx);
}

/* llama_sampler_init_lz, by way of that llama_sampler_init, after a prompt, which doesn't count. */
LZPENALTY_API struct llama_sampler *lzpenalty_llama_cpp_init(init_function *llama_cpp, const lzpenalty_options *options,
                                                             int32_t n_vocab, const llama_token *prompt, size_t n);

struct llama_sampler *lzpenalty_llama_cpp_init(init_function *llama_cpp, const lzpenalty_options *options, int32_t n_vocab,
                                               const llama_token *prompt, size_t n)
{
    struct llama_sampler *smpl;
    init = llama_cpp;
    smpl = llama_sampler_init_lz(options, n_vocab);
    for (size_t i = 0; smpl && i < n; i++)
        smpl->iface->accept(smpl, prompt[i]);
    if (smpl)
        llama_sampler_lz_mark(smpl);
    return smpl;
}
