/* The module's state, and what all files of the binding need. */
#ifndef LZPENALTY_PYTHON_STATE_H
#define LZPENALTY_PYTHON_STATE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdatomic.h>

#include "../lz/lz.h"

#if SIZE_MAX < UINT64_MAX
#error "lzpenalty needs a 64-bit processor: sizes of tensors are 64 bits wide"
#endif

struct producer;

enum { MAX_PRODUCERS = 32, MAX_WORKSPACES = 8 };

/* Interned strings, by the names that they have in C; and those of the options of the penalty. */
/* clang-format off */
#define NAMES(X)                                                                                                            \
    X(__dlpack__) X(__dlpack_c_exchange_api__) X(__array_namespace__) X(__module__)                                         \
    X(from_dlpack) X(max_version) X(requires_grad) X(is_neg) X(numpy)                                                       \
    X(logits) X(tokens) X(starts) X(rows) X(vocab_size)                                                                         \
    X(options) X(gram)                                                                                                      \
    X(multiplier) X(base) X(allowed_length) X(sequence_breakers)                                                                     \
    X(ngram) X(count) X(max_period) X(min_repeats) X(tolerance)                                                             \
    X(queries) X(keys) X(values) X(start) X(stop) X(scale) X(kernel) X(aggregation) X(check)                                \
    X(device) X(stream) X(scores) X(k) X(positions) X(length) X(new_keys) X(new_values) X(position)                         \
    X(lengths) X(pads) X(softcap) X(out) X(lse) X(evidence) X(blocks) X(cache) X(asked)
/* clang-format on */

typedef struct {
#define DECLARE(name) PyObject *name;
    struct {
        NAMES(DECLARE)
#define OPTION(kind, name, ...) DECLARE(name)
#include "../lz/options.def"
    } names;
#undef DECLARE
    PyObject *max_version;  /* ((1, 0)) */
    PyObject *version_kw;   /* ("max_version",) */
    PyObject *stream_kw;    /* ("stream", "max_version") */
    PyObject *options_type; /* LZOptions */
    _Atomic(struct producer *) producers[MAX_PRODUCERS];
    _Atomic(lz_workspace *) workspaces[MAX_WORKSPACES];
    atomic_int threads; /* for calls that last longer than about a millisecond */
} module_state;

static inline module_state *state_of(PyObject *module)
{
    return PyModule_GetState(module);
}

/* Memory for one call, taken from the module's store and put back afterwards. NULL with MemoryError. */
lz_workspace *workspace_take(module_state *st);
void workspace_give_back(module_state *st, lz_workspace *ws);

/* Runs `call` without the GIL where that pays. */
#define RUN_UNLOCKED_IF(pays, call)                                                                                         \
    do {                                                                                                                    \
        PyThreadState *released = (pays) ? PyEval_SaveThread() : NULL;                                                      \
        call;                                                                                                               \
        if (released)                                                                                                       \
            PyEval_RestoreThread(released);                                                                                 \
    } while (0)

#endif
