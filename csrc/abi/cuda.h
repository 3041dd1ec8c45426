/* The CUDA driver API, as much of it as this package calls.
 *
 * Declared by hand from NVIDIA's documentation, so that nothing of CUDA is needed to build; libcuda is opened at run time.
 * These entry points and numbers have not changed since CUDA 11.0. */
#ifndef LZPENALTY_ABI_CUDA_H
#define LZPENALTY_ABI_CUDA_H

#include <stddef.h>
#include <stdint.h>

typedef int cu_result; /* CUresult; an int in C, as all enumerations are */
typedef int cu_device;
typedef struct cu_context_ *cu_context;
typedef struct cu_module_ *cu_module;
typedef struct cu_function_ *cu_function;
typedef struct cu_stream_ *cu_stream;
typedef uint64_t cu_pointer; /* CUdeviceptr */

enum { CU_SUCCESS = 0 };

/* CUdevice_attribute */
enum {
    CU_MULTIPROCESSOR_COUNT = 16,
    CU_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_COMPUTE_CAPABILITY_MINOR = 76,
    CU_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97
};

/* CUfunction_attribute */
enum { CU_SHARED_SIZE_BYTES = 1, CU_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8 };

/* CUjit_option: where the compiler of PTX writes what it does not like. Sizes are passed as pointers. */
enum { CU_JIT_ERROR_LOG_BUFFER = 5, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6 };

/* CUstreamCaptureStatus */
enum { CU_STREAM_CAPTURE_NONE = 0 };

/* The default stream that waits for all others; DLPack calls it 1, too. */
#define CU_STREAM_LEGACY ((cu_stream)(uintptr_t)1)

/* X(member, symbol, parameters). The symbols with _v2 are the ones that cuda.h has meant since CUDA 4. */
/* clang-format off */
#define CU_FUNCTIONS(X)                                                                                                     \
    X(init, "cuInit", (unsigned flags))                                                                                     \
    X(driver_version, "cuDriverGetVersion", (int *version))                                                                 \
    X(error_name, "cuGetErrorName", (cu_result, const char **text))                                                         \
    X(error_string, "cuGetErrorString", (cu_result, const char **text))                                                     \
    X(device_count, "cuDeviceGetCount", (int *count))                                                                       \
    X(device_get, "cuDeviceGet", (cu_device *, int ordinal))                                                                \
    X(device_name, "cuDeviceGetName", (char *name, int size, cu_device))                                                    \
    X(device_attribute, "cuDeviceGetAttribute", (int *value, int attribute, cu_device))                                     \
    X(context_retain, "cuDevicePrimaryCtxRetain", (cu_context *, cu_device))                                                \
    X(context_release, "cuDevicePrimaryCtxRelease_v2", (cu_device))                                                         \
    X(context_current, "cuCtxGetCurrent", (cu_context *))                                                                   \
    X(context_push, "cuCtxPushCurrent_v2", (cu_context))                                                                    \
    X(context_pop, "cuCtxPopCurrent_v2", (cu_context *))                                                                    \
    X(module_load, "cuModuleLoadDataEx", (cu_module *, const void *image, unsigned n, int *options, void **values))         \
    X(module_unload, "cuModuleUnload", (cu_module))                                                                         \
    X(module_function, "cuModuleGetFunction", (cu_function *, cu_module, const char *name))                                 \
    X(function_attribute, "cuFuncGetAttribute", (int *value, int attribute, cu_function))                                   \
    X(function_set_attribute, "cuFuncSetAttribute", (cu_function, int attribute, int value))                                \
    X(memory_allocate, "cuMemAlloc_v2", (cu_pointer *, size_t bytes))                                                       \
    X(memory_free, "cuMemFree_v2", (cu_pointer))                                                                            \
    X(copy_to_device, "cuMemcpyHtoD_v2", (cu_pointer to, const void *from, size_t bytes))                                   \
    X(stream_is_capturing, "cuStreamIsCapturing", (cu_stream, int *status))                                                 \
    X(stream_synchronize, "cuStreamSynchronize", (cu_stream))                                                               \
    X(launch, "cuLaunchKernel", (cu_function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,          \
                                 unsigned block_y, unsigned block_z, unsigned shared_bytes, cu_stream, void **parameters,   \
                                 void **extra))
/* clang-format on */

#define CU_DECLARE(member, symbol, parameters) cu_result(*member) parameters;
typedef struct {
    CU_FUNCTIONS(CU_DECLARE)
} cu_driver;

#if defined(__cplusplus)
#define CU_ASSERT static_assert
#else
#define CU_ASSERT _Static_assert
#endif
CU_ASSERT(sizeof(void *) == 8 && sizeof(cu_pointer) == 8, "CUDA has been 64-bit only since 12.0");
CU_ASSERT(sizeof(cu_result) == 4 && sizeof(cu_device) == 4 && sizeof(cu_stream) == 8, "CUDA handles");

#endif
