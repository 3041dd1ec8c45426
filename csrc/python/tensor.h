/* Tensors borrowed from Python objects for the length of a call, and new ones handed back. */
#ifndef LZPENALTY_PYTHON_TENSOR_H
#define LZPENALTY_PYTHON_TENSOR_H

#include "../abi/dlpack.h"
#include "../cpu/dtype.h"
#include "../cpu/number.h"
#include "../cpu/strided.h"
#include "state.h"

enum { TENSOR_MAX_NDIM = 4 };

typedef enum {
    DTYPE_FLOAT32 = FLOAT32,
    DTYPE_FLOAT16 = FLOAT16,
    DTYPE_BFLOAT16 = BFLOAT16,
    DTYPE_FLOAT64 = FLOAT64,
    DTYPE_INT32,
    DTYPE_INT64,
    DTYPE_OTHER
} tensor_dtype;

/* Shape and strides (in elements) are copies: the owner may be changed by another thread once the GIL is released. */
typedef struct {
    const char *name; /* the argument's name, for messages */
    PyObject *object; /* borrowed from the caller */
    const struct producer *producer;
    void *data;
    dl_device device;
    tensor_dtype dtype;
    int ndim;
    int64_t shape[TENSOR_MAX_NDIM], strides[TENSOR_MAX_NDIM];
    int read_only;
    /* What to release. */
    PyObject *capsule;
    dl_managed_tensor_versioned *managed;
    struct producer *overflow;
} tensor;

/* Borrows `object`. Returns 0, or -1 with TypeError or ValueError that names the argument. */
int tensor_borrow(module_state *st, PyObject *object, const char *name, tensor *t);

/* The last thing before memory is touched, once nothing that may run the caller's Python is left to do: that the memory of
 * tensors that are not held is still what was borrowed and checked. Tensors that were not borrowed are ignored. Returns 0,
 * or -1 with ValueError. */
int tensor_settle(tensor *const *tensors, int n);

/* A number of an int32 or int64 tensor on the CPU, so many items from its first. */
static inline int64_t tensor_id(const tensor *t, int64_t i)
{
    return load_id(t->data, t->dtype == DTYPE_INT64, i);
}

/* Undoes tensor_borrow; harmless on a zeroed tensor. Keeps a pending exception. */
void tensor_release(tensor *t);

/* Whether an object is an integer, one of NumPy's scalars included: PyNumber_Index then runs none of the caller's Python,
 * but that of a class derived from int. */
int is_integer(module_state *st, PyObject *object);

/* Checks: 0, or -1 with an exception set. */
int tensor_check_float(const tensor *t);
int tensor_check_int(const tensor *t);
int tensor_check_writable(const tensor *t);
int tensor_check_device(const tensor *t, const tensor *reference); /* on a CPU or with CUDA, and where the reference is */
int tensor_check_cpu(const tensor *t);

/* What is written must not be read through another name. Exact for tensors of the same strides, as of one buffer that holds
 * keys and values; others must not even span the same memory. */
int check_apart(const tensor *t, const tensor *from);

/* Raises TypeError: this dtype is not what is wanted. */
int tensor_fail_dtype(const tensor *t, const char *wanted);
const char *tensor_dtype_name(tensor_dtype dtype);
size_t tensor_item_size(const tensor *t);
strided tensor_strided(const tensor *t); /* for as long as the tensor stays where it is */

/* A new tensor of the kind that `like` was given as, holding a copy of compact row-major host data. */
PyObject *tensor_new(module_state *st, const tensor *like, tensor_dtype dtype, int ndim, const int64_t *shape,
                     const void *data);

/* A new tensor on the device of `like`, contents undefined, for launches to fill: -1 with an exception, also if the
 * library of `like` offers no way to allocate one. In the end it is either handed over as an object or dropped. */
int tensor_allocate(const tensor *like, tensor_dtype dtype, int ndim, const int64_t *shape,
                    dl_managed_tensor_versioned **allocated);
void *tensor_memory(const dl_managed_tensor_versioned *allocated);
PyObject *tensor_hand_over(const tensor *like, dl_managed_tensor_versioned *allocated);
void tensor_drop(dl_managed_tensor_versioned *allocated); /* harmless on NULL */

/* The CUDA stream that work on these tensors has to go to: what the first library that can say so works on, else the
 * legacy default stream. Tensors from capsules are asked for again, with this stream, so that their producers make it wait
 * for what they are doing; *unordered gets one of these, else NULL. Tensors that were not borrowed are ignored. */
int tensor_agree_on_stream(module_state *st, tensor *const *tensors, int n, void **stream, const tensor **unordered);

/* The type cache of a module, when it goes. */
int tensor_traverse(module_state *st, visitproc visit, void *arg);
void tensor_clear(module_state *st);

#endif
