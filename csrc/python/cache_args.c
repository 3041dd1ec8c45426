#include "cache_args.h"

#include <string.h>

#include "../cache/check.h"
#include "../cuda/cache.h"
#include "args.h"
#include "cuda.h"

int check_ndim(const tensor *t, int ndim, const char *shape)
{
    if (t->ndim == ndim)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected shape %s, got %d dimensions", t->name, shape, t->ndim);
    return -1;
}

int check_contiguous(const tensor *t)
{
    const strided a = tensor_strided(t);
    if (strided_has_runs(&a))
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected a contiguous last dimension, got stride %lld", t->name,
                 (long long)t->strides[t->ndim - 1]);
    return -1;
}

int take_narrow(module_state *st, PyObject *object, const char *name, const tensor *like, const axes *axes, tensor *t)
{
    if (tensor_borrow(st, object, name, t) < 0 || check_ndim(t, 4, axes->shape) < 0 || tensor_check_device(t, like) < 0)
        return -1;
    if (t->dtype > DTYPE_BFLOAT16) {
        tensor_fail_dtype(t, "float32, float16 or bfloat16");
        return -1;
    }
    if (like && t->dtype != like->dtype) {
        PyErr_Format(PyExc_TypeError, "%s: expected the dtype of %s, %s, got %s", name, like->name,
                     tensor_dtype_name(like->dtype), tensor_dtype_name(t->dtype));
        return -1;
    }
    for (int i = 0; i < 4; i++) {
        if (t->shape[i] < (i == 2 ? axes->least_tokens : 1) || t->shape[i] > (on_cuda(t) ? CUDA_MOST_SIZE : INT32_MAX)) {
            PyErr_Format(PyExc_ValueError, "%s: expected 1 to %s %s, got %lld", name, on_cuda(t) ? "2^30" : "2^31 - 1",
                         axes->names[i], (long long)t->shape[i]);
            return -1;
        }
    }
    return 0;
}

int take_array(module_state *st, PyObject *object, const char *name, const tensor *like, tensor *t, cache_array *a)
{
    static const axes axes = {"[batch, heads, tokens, size]", {"rows", "heads", "tokens", "numbers a token"}, 0};
    if (take_narrow(st, object, name, like, &axes, t) < 0 || check_contiguous(t) < 0)
        return -1;
    *a = cache_array_of(t->data, (float_dtype)t->dtype, t->shape, t->strides);
    return 0;
}

int check_equal(const char *name, const char *what, int64_t got, const char *reference, int64_t wanted)
{
    if (got == wanted)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected as many %s as %s, %lld, got %lld", name, what, reference, (long long)wanted,
                 (long long)got);
    return -1;
}

int check_as_queries(const char *name, const cache_array *a, const cache_array *queries)
{
    if (check_equal(name, "rows", a->batch, "queries", queries->batch) < 0 ||
        check_equal(name, "heads", a->heads, "queries", queries->heads) < 0)
        return -1;
    return check_equal(name, "tokens", a->tokens, "queries", queries->tokens);
}

int check_range(const char *name, int64_t got, int64_t least, int64_t most)
{
    if (got >= least && got <= most)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected a position from %lld to %lld, got %lld", name, (long long)least,
                 (long long)most, (long long)got);
    return -1;
}

int check_not_empty(const cache_array *a, const char *name)
{
    if (a->tokens > 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected at least one token, got none", name);
    return -1;
}

int check_groups(const cache_array *queries, int64_t heads, const char *of)
{
    if (heads >= 1 && queries->heads % heads == 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "queries: expected a multiple of the %lld heads of %s, got %lld", (long long)heads, of,
                 (long long)queries->heads);
    return -1;
}

int check_scores(int status)
{
    if (status == 0)
        return 0;
    if (status < 0)
        PyErr_NoMemory();
    else
        PyErr_SetString(PyExc_ValueError, "queries, keys: expected finite numbers and products, got NaN or infinity");
    return -1;
}

int has_scale(PyObject *value)
{
    return value && value != Py_None;
}

int arg_scale(PyObject *value, float *scale)
{
    return has_scale(value) ? arg_number(value, "scale", scale) : 0;
}

int take_slots(module_state *st, PyObject *object, const char *name, const tensor *like, tensor *t, cache_array *a)
{
    if (tensor_borrow(st, object, name, t) < 0 || check_ndim(t, 2, "[slots, size], as that of keys") < 0 ||
        tensor_check_device(t, like) < 0)
        return -1;
    if (t->dtype != like->dtype) {
        PyErr_Format(PyExc_TypeError, "%s: expected the dtype of %s, %s, got %s", name, like->name,
                     tensor_dtype_name(like->dtype), t->dtype == DTYPE_OTHER ? "another" : tensor_dtype_name(t->dtype));
        return -1;
    }
    if (check_contiguous(t) < 0)
        return -1;
    if (t->shape[1] < 1 || t->shape[1] > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "%s: expected 1 to 2^31 - 1 numbers a token, got %lld", name, (long long)t->shape[1]);
        return -1;
    }
    *a = cache_slots_of(t->data, t->shape, t->strides);
    return 0;
}

int take_evidence(module_state *st, PyObject *object, const tensor *like, int ndim, const char *shape, tensor *t)
{
    if (tensor_borrow(st, object, "evidence", t) < 0 || check_ndim(t, ndim, shape) < 0 || tensor_check_device(t, like) < 0 ||
        tensor_check_writable(t) < 0)
        return -1;
    if (t->dtype != DTYPE_FLOAT32) {
        tensor_fail_dtype(t, "float32");
        return -1;
    }
    return check_contiguous(t);
}

int take_asked(module_state *st, PyObject *object, const tensor *like, const cache_array *queries, const tensor *evidence,
               tensor *t, cache_array *a)
{
    if (!object || object == Py_None)
        return 0;
    if (take_array(st, object, "asked", like, t, a) < 0 || check_as_queries("asked", a, queries) < 0 ||
        check_equal("asked", "numbers a token", a->size, "queries", queries->size) < 0)
        return -1;
    return check_apart(evidence, t);
}

int take_positions(module_state *st, PyObject *object, const tensor *keys, int64_t rows, const char *reference,
                   int64_t region, tensor *t)
{
    if (tensor_borrow(st, object, "positions", t) < 0 || check_ndim(t, 3, "[batch, heads, kept]") < 0 ||
        tensor_check_device(t, keys) < 0 || check_equal("positions", "rows", t->shape[0], reference, rows) < 0)
        return -1;
    if (t->shape[1] != 1 && t->shape[1] != keys->shape[1]) {
        PyErr_Format(PyExc_ValueError, "positions: expected 1 head, or as many as keys, %lld, got %lld",
                     (long long)keys->shape[1], (long long)t->shape[1]);
        return -1;
    }
    if (t->dtype != DTYPE_INT64)
        return tensor_fail_dtype(t, "int64");
    if (on_cuda(t) && t->shape[2] > region) { /* positions that ascend can't be more; these can't be looked at */
        PyErr_Format(PyExc_ValueError, "positions: expected at most the %lld tokens of [start, stop), got %lld",
                     (long long)region, (long long)t->shape[2]);
        return -1;
    }
    return check_contiguous(t);
}

int64_t *copy_positions(const tensor *t, int64_t most)
{
    const int64_t rows = t->shape[0], heads = t->shape[1], kept = t->shape[2];
    int64_t *copy = PyMem_RawMalloc((size_t)(rows * heads * kept) * sizeof *copy), *next = copy;
    if (!copy) {
        PyErr_NoMemory();
        return NULL;
    }
    for (int64_t b = 0; kept > 0 && b < rows; b++) {
        for (int64_t head = 0; head < heads; head++) {
            const int64_t *row = (const int64_t *)t->data + b * t->strides[0] + head * t->strides[1];
            memcpy(next, row, (size_t)kept * sizeof *row);
            const int64_t i = cache_misplaced(next, kept, most);
            if (i < kept) {
                PyErr_Format(PyExc_ValueError,
                             "positions: expected ascending positions in [0, %lld), got %lld at [%lld, %lld, %lld]",
                             (long long)most, (long long)next[i], (long long)b, (long long)head, (long long)i);
                PyMem_RawFree(copy);
                return NULL;
            }
            next += kept;
        }
    }
    return copy;
}

int take_counts(module_state *st, PyObject *object, const char *name, int by_row, int by_head, tensor *t)
{
    if (tensor_borrow(st, object, name, t) < 0)
        return -1;
    if (t->dtype != DTYPE_INT64)
        return tensor_fail_dtype(t, "int64");
    if (!(by_row && t->ndim == 1) && !(by_head && t->ndim == 2)) {
        PyErr_Format(PyExc_ValueError, "%s: expected shape %s, got %d dimensions", name,
                     !by_head ? "[batch]"
                     : by_row ? "[batch] or [batch, heads]"
                              : "[batch, heads]",
                     t->ndim);
        return -1;
    }
    return tensor_check_cpu(t);
}

int64_t count_at(const tensor *t, int64_t b, int64_t head, int64_t otherwise)
{
    if (!t->object)
        return otherwise;
    return ((const int64_t *)t->data)[b * t->strides[0] + (t->ndim == 2 ? head * t->strides[1] : 0)];
}

int check_count(const tensor *t, int64_t got, int64_t most, const char *what, int64_t b, int64_t head)
{
    if (got >= 0 && got <= most)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected 0 to %lld, %s, got %lld for row %lld, head %lld", t->name, (long long)most,
                 what, (long long)got, (long long)b, (long long)head);
    return -1;
}
