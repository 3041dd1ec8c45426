/* Calls on CUDA tensors: where they run, and what goes wrong there as Python exceptions. */
#ifndef LZPENALTY_PYTHON_CUDA_H
#define LZPENALTY_PYTHON_CUDA_H

#include "../cuda/device.h"
#include "tensor.h"

/* Where one call is launched. `error` is set by what fails. */
typedef struct {
    const cuda_device *device;
    cu_stream stream;
    const tensor *unordered; /* one whose library can't be told to wait for this stream, or NULL */
    cuda_error error;
} cuda_call;

static inline int on_cuda(const tensor *t)
{
    return t->device.type == DL_CUDA;
}

/* Finds the stream that the tensors' library works on, tells the other producers, and makes the device ready. All tensors
 * that were borrowed are on the first one's device, and settled afterwards. Returns 0, or -1 with an exception, also if the
 * call would have to be waited for while the stream is captured. */
int cuda_begin(module_state *st, tensor *const *tensors, int n, cuda_call *call);

/* Waits for the launch if a library might not: one that hands out capsules makes our stream wait for its own, but says
 * nothing of that one, so that nothing on the device could make it wait in turn. Returns 0, or -1 with RuntimeError if the
 * status is not CUDA_OK, or the wait fails. */
int cuda_end(cuda_call *call, cuda_status status);

/* Refuses lists that don't fit a launch. Returns 0, or -1 with ValueError. */
int cuda_check_ids(const char *name, int32_t n, int32_t most);

/* The launch, without the GIL: it waits when the device's queue is full. */
#define CUDA_RUN(status, launch)                                                                                            \
    do {                                                                                                                    \
        PyThreadState *released = PyEval_SaveThread();                                                                      \
        status = launch;                                                                                                    \
        PyEval_RestoreThread(released);                                                                                     \
    } while (0)

#endif
