#include "lz_args.h"

#include <string.h>

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
    if (tensor_borrow(st, object, "logits", t) < 0 || tensor_check_float(t) < 0 || check_rows(t, "vocabulary") < 0 ||
        tensor_check_writable(t) < 0 || tensor_check_device(t, NULL) < 0)
        return -1;
    int columns = t->ndim - 1;
    if (t->shape[columns] < 1 || t->shape[columns] > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "logits: expected a vocabulary of 1 to 2^31 - 1 ids, got %lld",
                     (long long)t->shape[columns]);
        return -1;
    }
    *logits = lz_logits_of(t->data, (float_dtype)t->dtype, t->ndim, t->shape, t->strides);
    return 0;
}
