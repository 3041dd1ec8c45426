/* Arguments that the bindings of the cache's routines share. Checks return 0, or -1 with an exception that names the
 * argument. */
#ifndef LZPENALTY_PYTHON_CACHE_ARGS_H
#define LZPENALTY_PYTHON_CACHE_ARGS_H

#include "../cache/cache.h"
#include "state.h"
#include "tensor.h"

/* From this many numbers on, the work outlasts what it costs to release the GIL. */
enum { GIL_MIN_NUMBERS = 65536 };
#define RUN(numbers, call) RUN_UNLOCKED_IF((numbers) >= GIL_MIN_NUMBERS, call)

int check_ndim(const tensor *t, int ndim, const char *shape);
int check_contiguous(const tensor *t); /* in the last dimension */
int check_equal(const char *name, const char *what, int64_t got, const char *reference, int64_t wanted);
int check_as_queries(const char *name, const cache_array *a, const cache_array *queries); /* rows, heads, tokens */
int check_range(const char *name, int64_t got, int64_t least, int64_t most);
int check_not_empty(const cache_array *a, const char *name);
/* Whether groups of so many heads of queries can ask so many heads of `of`. */
int check_groups(const cache_array *queries, int64_t heads, const char *of);
/* What scores return: 0, 1 if a product is not finite, or -1 without memory. */
int check_scores(int status);

/* A scale, if there is one; has_scale says whether. */
int has_scale(PyObject *value);
int arg_scale(PyObject *value, float *scale);

/* A tensor of one of the narrow float types with four axes, which messages call by these names; of the last but one there
 * may be as few as said. */
typedef struct {
    const char *shape, *names[4];
    int64_t least_tokens;
} axes;
int take_narrow(module_state *st, PyObject *object, const char *name, const tensor *like, const axes *axes, tensor *t);

/* A [batch, heads, tokens, size] tensor of one of the narrow float types with a contiguous last dimension. */
int take_array(module_state *st, PyObject *object, const char *name, const tensor *like, tensor *t, cache_array *a);

/* The positions of a compaction, int64, of 1 head or as many as `keys`, in a region of so many tokens: they are looked at
 * only on the CPU, by copy_positions. */
int take_positions(module_state *st, PyObject *object, const tensor *keys, int64_t rows, const char *reference,
                   int64_t region, tensor *t);

/* The positions of a compaction on the CPU, [rows, heads, kept] int64, ascending and below `most`: checked as they are
 * copied, since another thread may write to the tensor while tokens are moved. PyMem_RawFree them. NULL with an exception.
 */
int64_t *copy_positions(const tensor *t, int64_t most);

/* Entries [slots, size] that heads share out among themselves, of the dtype of `like`, as one row of one head. */
int take_slots(module_state *st, PyObject *object, const char *name, const tensor *like, tensor *t, cache_array *a);

/* Evidence of so many axes, which is written: float32 with a contiguous last dimension. */
int take_evidence(module_state *st, PyObject *object, const tensor *like, int ndim, const char *shape, tensor *t);

/* Queries [B, Hq, q, D] as they were asked, if they were given: of the shape and dtype of `queries`, which has been taken,
 * and not in the memory of `evidence`. */
int take_asked(module_state *st, PyObject *object, const tensor *like, const cache_array *queries, const tensor *evidence,
               tensor *t, cache_array *a);

/* Counts of int64 on the CPU, [batch] if they may be the same for all heads, or [batch, heads]. count_at reads one, with
 * `otherwise` for tensors that were not given; check_count wants it from 0 to `most`. */
int take_counts(module_state *st, PyObject *object, const char *name, int by_row, int by_head, tensor *t);
int64_t count_at(const tensor *t, int64_t b, int64_t head, int64_t otherwise);
int check_count(const tensor *t, int64_t got, int64_t most, const char *what, int64_t b, int64_t head);

#endif
