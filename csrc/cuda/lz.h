/* The LZ routines on a device: launches that return at once. The structures are those of the CPU's routines, with device
 * memory in them; options and breakers are copied into the launch. */
#ifndef LZPENALTY_CUDA_LZ_H
#define LZPENALTY_CUDA_LZ_H

#include "../lz/lz.h"
#include "args.h"
#include "device.h"

/* Tokens, and where those that count begin: starts of a dtype and stride of their own, or NULL and lz_tokens.start. */
typedef struct {
    const lz_tokens *tokens;
    const void *starts;
    int starts_are_int64;
    int64_t starts_stride;
} cuda_history;

/* The window and the tokens before it that are compared have to fit the shared memory of one block. These say whether they
 * do; *most gets the window that would, with everything else as it is. */
int cuda_lz_fits(const cuda_device *, const lz_penalty *, const lz_tokens *, int64_t *most);
int cuda_dry_fits(const cuda_device *, const lz_dry *, const lz_tokens *, int64_t *most);
int cuda_evidence_fits(const cuda_device *, const lz_evidence *, const lz_tokens *, int64_t *most);

cuda_status cuda_lz_penalize(const cuda_device *, cu_stream, const lz_penalty *, const lz_logits *, cuda_history,
                             cuda_error *);
cuda_status cuda_dry_penalize(const cuda_device *, cu_stream, const lz_dry *, const lz_logits *, cuda_history, cuda_error *);
cuda_status cuda_periods(const cuda_device *, cu_stream, const lz_loop *, cuda_history, int64_t *periods, cuda_error *);
cuda_status cuda_loop_evidence(const cuda_device *, cu_stream, const lz_evidence *, cuda_history, int64_t *lengths,
                               cuda_error *);

#endif
