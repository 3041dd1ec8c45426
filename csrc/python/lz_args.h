/* Arguments that the bindings of the LZ routines share. */
#ifndef LZPENALTY_PYTHON_LZ_ARGS_H
#define LZPENALTY_PYTHON_LZ_ARGS_H

#include "../include/lzpenalty.h"
#include "../lz/check.h"
#include "args.h"
#include "tensor.h"

/* From this many row-tokens on, the work outlasts what it costs to release the GIL. */
enum { GIL_MIN_WORK = 4096 };

/* One dimension, or two with `columns` in the last. Returns 0, or -1 with an exception. */
int check_rows(const tensor *t, const char *columns);

/* Logits [batch, V] or [V] that can be written to, borrowed into *t. Returns 0, or -1 with an exception. */
int take_logits(module_state *st, PyObject *object, tensor *t, lz_logits *logits);

/* LZOptions: compiled options, and all that is asked of them often. */
typedef struct {
    PyObject_HEAD lz_penalty penalty;
    int32_t context;    /* newest tokens that the penalty depends on */
    int64_t vocab_size; /* the least that all ids are of: up to 2^31 */
    Py_hash_t hash;
    lzpenalty_options c; /* the same for callers in C; its marks are those of `penalty` */
} lz_options;

/* The options of a call: what `object` says, LZOptions, None or NULL, with values of keywords in the place of its own. *p
 * points to `store` or into the object. Returns 0, or -1 with an exception. */
int arg_options(module_state *st, PyObject *object, PyObject *const *values, lz_penalty *store, const lz_penalty **p);

/* That all ids are of a vocabulary. Returns 0, or -1 with ValueError. */
int check_ids(const lz_penalty *p, int64_t vocab);

/* The options in a signature and in a docstring: each is a string literal between others. */
#define SIGNATURE_FLOAT(standard) #standard
#define SIGNATURE_INT(standard) #standard
#define SIGNATURE_COST(standard) "'lzss'"
#define SIGNATURE_RANGE(standard) "None"
#define SIGNATURE_MARKS(standard) "None"
#define DOC_FLOAT "float"
#define DOC_INT "int"
#define DOC_COST "{'lzss', 'pair', 'distance'}"
#define DOC_RANGE "(from, to), or None"
#define DOC_MARKS "iterable of int or of iterables of int, int, or None"

#endif
