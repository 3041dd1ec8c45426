/* A device made ready for launches: its context, the kernels, and what they need. */
#ifndef LZPENALTY_CUDA_DEVICE_H
#define LZPENALTY_CUDA_DEVICE_H

#include <stdint.h>

#include "driver.h"

/* The kernels, as kernels.cu names them; what moves rows is there for units of so many bytes. */
#define CUDA_UNITS(X, kernel) X(kernel##_16) X(kernel##_4) X(kernel##_2)
#define CUDA_KERNELS(X)                                                                                                     \
    X(lz_penalize)                                                                                                          \
    X(dry_penalize)                                                                                                         \
    X(dry_penalize_breakers)                                                                                                \
    X(repetition_period)                                                                                                    \
    X(loop_evidence)                                                                                                        \
    X(score_maxima)                                                                                                         \
    X(score_totals)                                                                                                         \
    X(score_weights)                                                                                                        \
    X(score_smooth)                                                                                                         \
    X(select_top)                                                                                                           \
    CUDA_UNITS(X, compact)                                                                                                  \
    CUDA_UNITS(X, append)                                                                                                   \
    CUDA_UNITS(X, compact_blocks)                                                                                           \
    CUDA_UNITS(X, gather_blocks)

typedef enum {
#define CUDA_KERNEL_NUMBER(name) CUDA_KERNEL_##name,
    CUDA_KERNELS(CUDA_KERNEL_NUMBER)
#undef CUDA_KERNEL_NUMBER
        CUDA_N_KERNELS
} cuda_kernel;

/* The oldest devices that the kernels are compiled for, and how many there may be. */
enum { CUDA_CAPABILITY_MAJOR = 7, CUDA_CAPABILITY_MINOR = 5, CUDA_MOST_DEVICES = 64 };

typedef struct {
    const cu_driver *driver;
    cu_context context;
    cu_module module;
    cu_pointer log2; /* log2[i] for i in [0, CUDA_N_LOG2), from the same function as lz_workspace.log2 */
    struct {
        cu_function function;
        size_t most_shared; /* bytes of dynamic shared memory that a block can have */
    } kernels[CUDA_N_KERNELS];
} cuda_device;

/* More than the tokens that fit the shared memory of any device. */
enum { CUDA_N_LOG2 = 65536 };

/* The device with this number, NULL if it is not ready. */
const cuda_device *cuda_ready_device(int number);

/* The device with this number, made ready if it is not yet: loads the kernels and allocates what they need for good.
 * `stream` is where the caller is about to launch: if it is capturing, nothing can be loaded. NULL with *error set. */
const cuda_device *cuda_get_device(int number, cu_stream stream, cuda_error *error);

/* Launches a kernel on the device's stream: no waiting, no allocation. */
cuda_status cuda_launch(const cuda_device *device, cuda_kernel kernel, cu_stream stream, int64_t blocks, int threads,
                        size_t shared_bytes, void **parameters, cuda_error *error);

/* Waits for what was launched on a stream. */
cuda_status cuda_wait(const cuda_device *device, cu_stream stream, cuda_error *error);

/* Whether a stream is being captured; not if that can't be told. */
int cuda_is_capturing(const cu_driver *driver, cu_stream stream);

/* What there is, without making any device ready. */
typedef struct {
    char name[128];
    int capability_major, capability_minor;
    int shared_bytes; /* per block */
    int ready;
} cuda_device_info;
cuda_status cuda_count_devices(int *count, int *driver_version, cuda_error *error);
cuda_status cuda_describe_device(int number, cuda_device_info *info, cuda_error *error);

#endif
