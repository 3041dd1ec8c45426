/* Arguments of METH_FASTCALL functions: matched by interned name, converted with messages that name them. */
#ifndef LZPENALTY_PYTHON_ARGS_H
#define LZPENALTY_PYTHON_ARGS_H

#include "state.h"

/* A function's parameters: the first n_positional may be given by position, the first n_required have to be given. */
typedef struct {
    const char *function;
    int n_required, n_positional, n_names;
    size_t names[9 + LZ_OPTIONS]; /* offsets of interned strings in module_state */
} signature;

#define NAME(name) offsetof(module_state, names.name)

/* Distributes the arguments over values; those not given are NULL. Returns 0, or -1 with TypeError. */
int args_match(module_state *st, const signature *sig, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames,
               PyObject **values);

/* Conversions that keep *out if value is NULL. Return 0, or -1 with TypeError or ValueError. */
int arg_int(PyObject *value, const char *name, int32_t least, int32_t *out);
int arg_number(PyObject *value, const char *name, float *out); /* any finite number */
int arg_float(PyObject *value, const char *name, int zero_allowed, float *out);

/* The items of an iterable, or an integer alone, as a tuple. NULL with TypeError if it is neither. */
PyObject *arg_items(PyObject *value, const char *name);

/* An id in [0, 2^31). Returns 0, or -1 with TypeError or ValueError. */
int arg_id(PyObject *value, const char *name, int32_t *id);

/* Ids from an iterable of integers, one integer, or None: ascending, distinct, in [0, 2^31). They live in the workspace. */
int arg_ids(PyObject *value, const char *name, lz_workspace *ws, const int32_t **ids, int32_t *n);

#endif
