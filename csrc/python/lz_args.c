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

static int arg_gate(PyObject *value, lz_penalty *p)
{
    if (!value || value == Py_None)
        return 0;
    PyObject *pair = PySequence_Tuple(value);
    if (!pair) {
        if (PyErr_ExceptionMatches(PyExc_TypeError))
            PyErr_Format(PyExc_TypeError, "gate: expected (from, to) or None, got %s", Py_TYPE(value)->tp_name);
        return -1;
    }
    int status = -1;
    if (PyTuple_GET_SIZE(pair) != 2)
        PyErr_Format(PyExc_ValueError, "gate: expected (from, to), got %R", value);
    else if (arg_number(PyTuple_GET_ITEM(pair, 0), "gate", &p->gate_from) == 0 &&
             arg_number(PyTuple_GET_ITEM(pair, 1), "gate", &p->gate_to) == 0) {
        if (p->gate_from >= 0 && p->gate_from < p->gate_to)
            status = 0;
        else
            PyErr_Format(PyExc_ValueError, "gate: expected (from, to) with 0 <= from < to, got %R", value);
    }
    Py_DECREF(pair);
    return status;
}

int arg_penalty(PyObject *const *v, lz_penalty *p)
{
    *p = (lz_penalty){.strength = 0.15f, .release_rate = 2, .release_after = 24};
    return arg_coder(v, &p->coder) < 0 || arg_float(v[5], "strength", 1, &p->strength) < 0 ||
                   arg_float(v[6], "escalation", 1, &p->escalation) < 0 || arg_int(v[7], "horizon", 0, &p->horizon) < 0 ||
                   arg_gate(v[8], p) < 0 || arg_float(v[9], "release_rate", 1, &p->release_rate) < 0 ||
                   arg_int(v[10], "release_after", 1, &p->release_after) < 0
               ? -1
               : 0;
}

/* One id, or an iterable of a few. */
static int arg_mark(PyObject *value, const char *name, int32_t limit, lz_mark *mark)
{
    PyObject *ids = PyIndex_Check(value) ? PyTuple_Pack(1, value) : arg_items(value, name);
    if (!ids)
        return -1;
    Py_ssize_t n = PyTuple_GET_SIZE(ids);
    int status = 0;
    if (n < 1 || n > LZ_MOST_MARK) {
        PyErr_Format(PyExc_ValueError, "%s: expected sequences of 1 to %d ids, got %zd in one", name, LZ_MOST_MARK, n);
        status = -1;
    }
    *mark = (lz_mark){.n = status < 0 ? 0 : (int32_t)n};
    for (int32_t i = 0; i < mark->n && status == 0; i++)
        status = arg_id(PyTuple_GET_ITEM(ids, i), name, limit, &mark->id[i]);
    Py_DECREF(ids);
    return status;
}

/* Puts a mark where it belongs in the order of its bytes, in which no two are equal, so that equal sets are equal lists. */
static void add_mark(lz_marks *marks, const lz_mark *mark)
{
    int32_t at = marks->n;
    while (at > 0 && memcmp(&marks->mark[at - 1], mark, sizeof *mark) > 0)
        at--;
    if (at > 0 && memcmp(&marks->mark[at - 1], mark, sizeof *mark) == 0)
        return;
    memmove(&marks->mark[at + 1], &marks->mark[at], (size_t)(marks->n - at) * sizeof *mark);
    marks->mark[at] = *mark;
    marks->n++;
}

static int arg_marks(PyObject *value, const char *name, int32_t limit, lz_marks *marks)
{
    if (!value || value == Py_None)
        return 0;
    PyObject *items = arg_items(value, name);
    if (!items)
        return -1;
    Py_ssize_t n = PyTuple_GET_SIZE(items);
    int status = 0;
    if (n > LZ_MOST_MARKS) {
        PyErr_Format(PyExc_ValueError, "%s: expected at most %d ids or sequences of ids, got %zd", name, LZ_MOST_MARKS, n);
        status = -1;
    }
    for (Py_ssize_t i = 0; i < n && status == 0; i++) {
        lz_mark mark;
        status = arg_mark(PyTuple_GET_ITEM(items, i), name, limit, &mark);
        if (status == 0)
            add_mark(marks, &mark);
    }
    Py_DECREF(items);
    return status;
}

int arg_penalty_ids(PyObject *const *v, int32_t limit, lz_workspace *ws, lz_penalty *p)
{
    if (arg_ids(v[11], "neutral", limit, ws, &p->neutral, &p->n_neutral) < 0 ||
        arg_marks(v[12], "release", limit, &p->release) < 0 || arg_marks(v[13], "reset", limit, &p->reset) < 0 ||
        arg_marks(v[14], "until", limit, &p->until) < 0)
        return -1;
    if (v[12] && v[12] != Py_None && p->release.n == 0) {
        PyErr_SetString(PyExc_ValueError, "release: expected at least one id, or None, got none");
        return -1;
    }
    return 0;
}
