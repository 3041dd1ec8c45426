#include "lz_args.h"

int check_rows(const tensor *t, const char *columns)
{
    if (t->ndim == 1 || t->ndim == 2)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected shape [batch, %s] or [%s], got %d dimensions", t->name, columns, columns,
                 t->ndim);
    return -1;
}

int take_logits(module_state *st, PyObject *object, tensor *t, lz_logits *logits)
{
    static const float_dtype dtypes[] = {
        [DTYPE_FLOAT32] = FLOAT32, [DTYPE_FLOAT16] = FLOAT16, [DTYPE_BFLOAT16] = BFLOAT16, [DTYPE_FLOAT64] = FLOAT64};
    if (tensor_borrow(st, object, "logits", t) < 0 || tensor_check_float(t) < 0 || check_rows(t, "vocabulary") < 0 ||
        tensor_check_writable(t) < 0 || tensor_check_device(t, NULL) < 0)
        return -1;
    int columns = t->ndim - 1;
    if (t->shape[columns] < 1 || t->shape[columns] > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "logits: expected a vocabulary of 1 to 2^31 - 1 ids, got %lld",
                     (long long)t->shape[columns]);
        return -1;
    }
    *logits = (lz_logits){.data = t->data,
                          .dtype = dtypes[t->dtype],
                          .rows = columns ? t->shape[0] : 1,
                          .vocab = t->shape[columns],
                          .row_stride = columns ? t->strides[0] : 0,
                          .column_stride = t->strides[columns]};
    return 0;
}

const char *cost_name(lz_cost cost)
{
    static const char *const names[] = {[LZ_LZSS] = "lzss", [LZ_PAIR] = "pair", [LZ_DISTANCE] = "distance"};
    return names[cost];
}

static int arg_cost(PyObject *value, lz_cost *cost)
{
    if (!value)
        return 0;
    if (!PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "cost: expected a string, got %s", Py_TYPE(value)->tp_name);
        return -1;
    }
    for (int i = LZ_LZSS; i <= LZ_DISTANCE; i++) {
        if (PyUnicode_CompareWithASCIIString(value, cost_name((lz_cost)i)) == 0) {
            *cost = (lz_cost)i;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "cost: expected 'lzss', 'pair' or 'distance', got %R", value);
    return -1;
}

int arg_coder(PyObject *const *values, lz_coder *coder)
{
    *coder = (lz_coder){LZ_LZSS, 512, 32, 1, 1};
    return arg_int(values[0], "window", 0, &coder->window) < 0 || arg_int(values[1], "buffer", 1, &coder->buffer) < 0 ||
                   arg_cost(values[2], &coder->cost) < 0 || arg_int(values[3], "min_match", 1, &coder->min_match) < 0 ||
                   arg_int(values[4], "min_count", 1, &coder->min_count) < 0
               ? -1
               : 0;
}
