/* Attention that an engine has computed itself, read where its graph passes by: llama.cpp calls back for each node.
 *
 * No header of llama.cpp is needed: tensors stay opaque, and the functions that look into them are given as pointers. The
 * struct is laid out in Python; attention_tap() of the module says how many bytes it has here. */
#ifndef LZPENALTY_CACHE_TAP_H
#define LZPENALTY_CACHE_TAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TAP_FINE, TAP_NOT_FLOAT, TAP_NOT_CONTIGUOUS, TAP_TOO_LARGE, TAP_NO_SUCH_CELL };

typedef struct {
    /* ggml_get_name, _nelements, _nrows, _nbytes, _is_contiguous, and ggml_backend_tensor_get, which reads from a GPU, too.
     */
    const char *(*name)(const void *tensor);
    int64_t (*elements)(const void *tensor);
    int64_t (*rows)(const void *tensor);
    size_t (*bytes)(const void *tensor);
    bool (*contiguous)(const void *tensor);
    void (*read)(const void *tensor, void *to, size_t offset, size_t size);

    const int32_t *cells; /* [region], cells of the tokens that may be dropped, oldest first */
    float *scores;        /* [region], attention to them, each row divided by its sum over the region */
    float *weights;       /* [region], scratch */
    float *seen;          /* [size], what every cell got in the first layer: which ones were visible */
    float *buffer;        /* [room], rows as they are read; room >= size */
    int64_t region, size, room;
    int64_t votes;  /* rows that have been counted: queries x heads x layers */
    int32_t armed;  /* whether to read at all */
    int32_t status; /* TAP_...; what isn't fine stops the counting, not the engine */
} attention_tap;

/* A ggml_backend_sched_eval_callback; `user` is an attention_tap. */
bool cache_tap(const void *tensor, bool ask, void *user);

#endif
