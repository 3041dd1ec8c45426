/* DLPack 1.x: the binary layouts that this package reads and writes.
 *
 * Declared by hand from the specification (dmlc/dlpack 1.3), restricted to what is used, so that every dtype, device and
 * flag that is understood here is a deliberate choice. The assertions at the end pin the ABI: 64-bit pointers only. */
#ifndef LZPENALTY_ABI_DLPACK_H
#define LZPENALTY_ABI_DLPACK_H

#include <stddef.h>
#include <stdint.h>

enum { DLPACK_MAJOR = 1, DLPACK_MINOR = 3 };

/* Device types. Memory of the *_HOST kinds is pinned but ordinary host memory. */
enum { DL_CPU = 1, DL_CUDA = 2, DL_CUDA_HOST = 3, DL_ROCM_HOST = 11 };

/* Type codes; together with the number of bits and lanes they name a dtype. */
enum { DL_INT = 0, DL_UINT = 1, DL_FLOAT = 2, DL_BFLOAT = 4, DL_COMPLEX = 5, DL_BOOL = 6 };

/* What __dlpack__(stream=) calls CUDA's legacy default stream. */
enum { DL_STREAM_LEGACY = 1 };

/* Bit of dl_managed_tensor_versioned.flags. */
enum { DL_FLAG_READ_ONLY = 1 };

typedef struct {
    uint32_t major, minor;
} dl_version;

typedef struct {
    int32_t type, id;
} dl_device;

typedef struct {
    uint8_t code, bits;
    uint16_t lanes;
} dl_dtype;

/* strides count elements and may be NULL for a compact row-major tensor (always allowed before 1.2). */
typedef struct {
    void *data;
    dl_device device;
    int32_t ndim;
    dl_dtype dtype;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} dl_tensor;

/* What a capsule named "dltensor" holds. */
typedef struct dl_managed_tensor {
    dl_tensor tensor;
    void *manager_ctx;
    void (*deleter)(struct dl_managed_tensor *);
} dl_managed_tensor;

/* What a capsule named "dltensor_versioned" holds. With a foreign major version only version, manager_ctx and deleter
 * may be touched. */
typedef struct dl_managed_tensor_versioned {
    dl_version version;
    void *manager_ctx;
    void (*deleter)(struct dl_managed_tensor_versioned *);
    uint64_t flags;
    dl_tensor tensor;
} dl_managed_tensor_versioned;

/* What type(x).__dlpack_c_exchange_api__, a capsule named "dlpack_exchange_api", points to. Functions return 0, or -1 with
 * a Python exception set. Older tables are reached through prev. */
typedef struct dl_exchange_api {
    dl_version version;
    struct dl_exchange_api *prev;
    int (*allocate)(dl_tensor *prototype, dl_managed_tensor_versioned **out, void *error_ctx,
                    void (*set_error)(void *error_ctx, const char *kind, const char *message));
    int (*managed_from_object)(void *object, dl_managed_tensor_versioned **out);
    int (*managed_to_object)(dl_managed_tensor_versioned *tensor, void **out_object);
    /* Non-owning and may be NULL: *out is valid for as long as the caller keeps the object alive and unchanged. */
    int (*tensor_from_object)(void *object, dl_tensor *out);
    int (*current_stream)(int32_t device_type, int32_t device_id, void **out_stream);
} dl_exchange_api;

_Static_assert(sizeof(void *) == 8, "DLPack is read on 64-bit platforms only");
_Static_assert(sizeof(dl_device) == 8 && sizeof(dl_dtype) == 4 && sizeof(dl_version) == 8, "DLPack scalars");
_Static_assert(sizeof(dl_tensor) == 48, "DLTensor");
_Static_assert(offsetof(dl_tensor, device) == 8 && offsetof(dl_tensor, ndim) == 16 && offsetof(dl_tensor, dtype) == 20 &&
                   offsetof(dl_tensor, shape) == 24 && offsetof(dl_tensor, strides) == 32 &&
                   offsetof(dl_tensor, byte_offset) == 40,
               "DLTensor members");
_Static_assert(sizeof(dl_managed_tensor) == 64 && offsetof(dl_managed_tensor, deleter) == 56, "DLManagedTensor");
_Static_assert(sizeof(dl_managed_tensor_versioned) == 80 && offsetof(dl_managed_tensor_versioned, deleter) == 16 &&
                   offsetof(dl_managed_tensor_versioned, flags) == 24 && offsetof(dl_managed_tensor_versioned, tensor) == 32,
               "DLManagedTensorVersioned");
_Static_assert(sizeof(dl_exchange_api) == 56 && offsetof(dl_exchange_api, allocate) == 16 &&
                   offsetof(dl_exchange_api, managed_from_object) == 24 &&
                   offsetof(dl_exchange_api, managed_to_object) == 32 &&
                   offsetof(dl_exchange_api, tensor_from_object) == 40 && offsetof(dl_exchange_api, current_stream) == 48,
               "DLPackExchangeAPI");

#endif
