/* libcuda, opened at run time, so that the package needs no NVIDIA driver to be built or imported. */
#ifndef LZPENALTY_CUDA_DRIVER_H
#define LZPENALTY_CUDA_DRIVER_H

#include "../abi/cuda.h"

typedef enum {
    CUDA_OK,
    CUDA_NO_DRIVER, /* or one that does not work */
    CUDA_NO_DEVICE, /* no such device, or one that is too old */
    CUDA_CAPTURING, /* there is something to load, which a stream that is capturing forbids */
    CUDA_FAILED     /* a call to the driver did */
} cuda_status;

/* What is returned with a status other than CUDA_OK: a sentence for people. */
typedef struct {
    cuda_status status;
    char text[512];
} cuda_error;

/* The driver, opened by whoever asks first: the library that the environment variable LZPENALTY_LIBCUDA names, or
 * libcuda.so.1. NULL, with CUDA_NO_DRIVER, if there is none. */
const cu_driver *cuda_open(cuda_error *error);

/* CUDA_OK for CU_SUCCESS, or else says that `function` failed, and how the driver calls that. */
cuda_status cuda_check(const cu_driver *driver, cu_result code, const char *function, cuda_error *error);

#endif
