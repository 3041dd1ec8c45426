/* A sampler's calls, handed on. */
#include <llama.h>

#include <stdlib.h>

struct llama_sampler *llama_sampler_init(struct llama_sampler_i *iface, void *ctx)
{
    struct llama_sampler *smpl = malloc(sizeof *smpl);
    *smpl = (struct llama_sampler){iface, ctx};
    return smpl;
}

const char *llama_sampler_name(const struct llama_sampler *smpl)
{
    return smpl->iface->name(smpl);
}

void llama_sampler_accept(struct llama_sampler *smpl, llama_token token)
{
    smpl->iface->accept(smpl, token);
}

void llama_sampler_apply(struct llama_sampler *smpl, llama_token_data_array *candidates)
{
    smpl->iface->apply(smpl, candidates);
}

void llama_sampler_reset(struct llama_sampler *smpl)
{
    smpl->iface->reset(smpl);
}

struct llama_sampler *llama_sampler_clone(const struct llama_sampler *smpl)
{
    return smpl->iface->clone(smpl);
}

void llama_sampler_free(struct llama_sampler *smpl)
{
    smpl->iface->free(smpl);
    free(smpl);
}
