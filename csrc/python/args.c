#include "args.h"

#include <math.h>
#include <string.h>

#include "../lz/check.h"

static PyObject *name_of(const module_state *st, const signature *sig, int i)
{
    return *(PyObject *const *)((const char *)st + sig->names[i]);
}

static int find_name(const module_state *st, const signature *sig, PyObject *key)
{
    for (int i = 0; i < sig->n_names; i++)
        if (name_of(st, sig, i) == key)
            return i;
    for (int i = 0; i < sig->n_names; i++) /* a name that was made at run time is not interned */
        if (PyUnicode_Compare(name_of(st, sig, i), key) == 0)
            return i;
    return -1;
}

int args_match(module_state *st, const signature *sig, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames,
               PyObject **values)
{
    Py_ssize_t n_keywords = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    if (n_args > sig->n_positional) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %d positional arguments, got %zd", sig->function,
                     sig->n_positional, n_args);
        return -1;
    }
    for (int i = 0; i < sig->n_names; i++)
        values[i] = i < n_args ? args[i] : NULL;
    for (Py_ssize_t k = 0; k < n_keywords; k++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, k);
        int i = find_name(st, sig, key);
        if (i < 0) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", sig->function, key);
            return -1;
        }
        if (values[i]) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'", sig->function, key);
            return -1;
        }
        values[i] = args[n_args + k];
    }
    for (int i = 0; i < sig->n_required; i++) {
        if (!values[i]) {
            PyErr_Format(PyExc_TypeError, "%s() missing required argument '%U'", sig->function, name_of(st, sig, i));
            return -1;
        }
    }
    return 0;
}

/* An integer, with the overflow of what does not fit told apart. Returns -1 with TypeError if it is none. */
static int as_int64(PyObject *value, const char *name, int64_t *out, int *overflow)
{
    PyObject *index = PyNumber_Index(value);
    if (!index) {
        if (PyErr_ExceptionMatches(PyExc_TypeError))
            PyErr_Format(PyExc_TypeError, "%s: expected an integer, got %s", name, Py_TYPE(value)->tp_name);
        return -1;
    }
    *out = PyLong_AsLongLongAndOverflow(index, overflow);
    Py_DECREF(index);
    return 0;
}

int arg_int(PyObject *value, const char *name, int32_t least, int32_t *out)
{
    int64_t number;
    int overflow;
    if (!value)
        return 0;
    if (as_int64(value, name, &number, &overflow) < 0)
        return -1;
    if (overflow || number < least || number > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "%s: expected an integer from %d to 2^31 - 1, got %R", name, (int)least, value);
        return -1;
    }
    *out = (int32_t)number;
    return 0;
}

static int as_double(PyObject *value, const char *name, double *out)
{
    *out = PyFloat_AsDouble(value);
    if (*out != -1 || !PyErr_Occurred())
        return 0;
    if (PyErr_ExceptionMatches(PyExc_TypeError))
        PyErr_Format(PyExc_TypeError, "%s: expected a number, got %s", name, Py_TYPE(value)->tp_name);
    return -1;
}

int arg_float(PyObject *value, const char *name, int zero_allowed, float *out)
{
    double number;
    if (!value)
        return 0;
    if (as_double(value, name, &number) < 0)
        return -1;
    *out = (float)number;
    if (!isfinite(*out) || number < 0 || (*out == 0 && !(zero_allowed && number == 0))) {
        PyErr_Format(PyExc_ValueError, "%s: expected a finite number %s 0 within float32, got %R", name,
                     zero_allowed ? ">=" : ">", value);
        return -1;
    }
    return 0;
}

int arg_number(PyObject *value, const char *name, float *out)
{
    double number;
    if (as_double(value, name, &number) < 0)
        return -1;
    *out = (float)number;
    if (!isfinite(*out)) {
        PyErr_Format(PyExc_ValueError, "%s: expected a finite number within float32, got %R", name, value);
        return -1;
    }
    return 0;
}

/* A text in the place of ids, or True, which would be the id 1. */
static int fail_unless_ids(PyObject *value, const char *name)
{
    if (PyUnicode_Check(value) || PyBytes_Check(value))
        PyErr_Format(PyExc_TypeError, "%s: expected token ids, got %R: a tokenizer makes ids of it%s", name, value,
                     strcmp(name, "release") && strcmp(name, "open")
                         ? ""
                         : "; preset='reasoning' with tokenizer= finds those of a thinking section");
    else if (PyBool_Check(value))
        PyErr_Format(PyExc_TypeError, "%s: expected token ids, got %R", name, value);
    else
        return 0;
    return -1;
}

PyObject *arg_items(PyObject *value, const char *name)
{
    if (fail_unless_ids(value, name) < 0)
        return NULL;
    PyObject *items = PyLong_Check(value) ? PyTuple_Pack(1, value) : PySequence_Tuple(value);
    if (!items && PyErr_ExceptionMatches(PyExc_TypeError))
        PyErr_Format(PyExc_TypeError, "%s: expected token ids, got %s", name, Py_TYPE(value)->tp_name);
    return items;
}

int arg_id(PyObject *value, const char *name, int32_t *id)
{
    int64_t number;
    int overflow;
    if (fail_unless_ids(value, name) < 0 || as_int64(value, name, &number, &overflow) < 0)
        return -1;
    if (overflow || number < 0 || number > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "%s: expected ids in [0, 2^31), got %R", name, value);
        return -1;
    }
    *id = (int32_t)number;
    return 0;
}

int arg_ids(PyObject *value, const char *name, lz_workspace *ws, const int32_t **ids, int32_t *n)
{
    PyObject *items;
    if (!value || value == Py_None)
        return 0;
    if (!(items = arg_items(value, name)))
        return -1;
    Py_ssize_t size = PyTuple_GET_SIZE(items);
    int32_t *list = lz_workspace_block(ws, LZ_IDS, (size_t)size * sizeof *list);
    if (!list) {
        PyErr_NoMemory();
        goto error;
    }
    for (Py_ssize_t i = 0; i < size; i++)
        if (arg_id(PyTuple_GET_ITEM(items, i), name, &list[i]) < 0)
            goto error;
    Py_DECREF(items);
    *ids = list;
    *n = lz_sort_ids(list, size);
    return 0;
error:
    Py_DECREF(items);
    return -1;
}
