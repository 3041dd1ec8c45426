/* The LZ penalty as a sampler of llama.cpp, for any program that links it: two files to be copied, and liblzpenalty. */
#ifndef LLAMA_SAMPLER_LZ_H
#define LLAMA_SAMPLER_LZ_H

#include <llama.h>
#include <lzpenalty.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Only tokens that are accepted count. Options are copied, with all that they point to; NULL are the defaults. It belongs
 * before samplers that cut candidates off, but works on any candidates: all or some, sorted or not. NULL for options that
 * lzpenalty_penalize refuses for a vocabulary of n_vocab ids, and without memory. */
struct llama_sampler *llama_sampler_init_lz(const lzpenalty_options *options, int32_t n_vocab);

/* What has been accepted so far, such as the prompt, doesn't count: to be called where the answer begins. Marks that open
 * and close sections are looked for in it, too. llama_sampler_reset forgets all. */
void llama_sampler_lz_mark(struct llama_sampler *smpl);

#ifdef __cplusplus
}
#endif

#endif
