/* What of llama.cpp's interface a sampler needs, declared by hand: the layouts are those of its llama.h since September
 * 2024, as llama-cpp-python has them in ctypes, which lzpenalty/llama_cpp/chain.py compares. */
#ifndef LZPENALTY_ABI_LLAMA_H
#define LZPENALTY_ABI_LLAMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t llama_token;

typedef struct llama_token_data {
    llama_token id;
    float logit, p;
} llama_token_data;

typedef struct llama_token_data_array {
    llama_token_data *data;
    size_t size;
    int64_t selected;
    bool sorted;
} llama_token_data_array;

struct llama_sampler;

struct llama_sampler_i {
    const char *(*name)(const struct llama_sampler *);
    void (*accept)(struct llama_sampler *, llama_token);
    void (*apply)(struct llama_sampler *, llama_token_data_array *);
    void (*reset)(struct llama_sampler *);
    struct llama_sampler *(*clone)(const struct llama_sampler *);
    void (*free)(struct llama_sampler *);
    void (*more[10])(void); /* for the graph, 6 since 2026; NULL for a sampler of logits in memory */
};

struct llama_sampler {
    struct llama_sampler_i *iface;
    void *ctx;
};

struct llama_sampler *llama_sampler_init(struct llama_sampler_i *iface, void *ctx);
const char *llama_sampler_name(const struct llama_sampler *smpl);
void llama_sampler_accept(struct llama_sampler *smpl, llama_token token);
void llama_sampler_apply(struct llama_sampler *smpl, llama_token_data_array *candidates);
void llama_sampler_reset(struct llama_sampler *smpl);
struct llama_sampler *llama_sampler_clone(const struct llama_sampler *smpl);
void llama_sampler_free(struct llama_sampler *smpl);

#ifdef __cplusplus
}
#endif

#endif
