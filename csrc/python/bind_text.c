/* Parses and loops of finished texts as Python functions, for lzpenalty.analysis, which documents them: it ranks the tokens
 * before, and names the columns of the results. */
#include "../text/text.h"
#include "args.h"
#include "functions.h"
#include "tensor.h"

/* From this many tokens on, the work outlasts what it costs to release the GIL. */
enum { GIL_MIN_TOKENS = 256 };

#define RUN(n, call) RUN_UNLOCKED_IF((n) >= GIL_MIN_TOKENS, call)

/* The tensor, and a copy of its ranks that no other thread can change. */
typedef struct {
    tensor tensor;
    int32_t *ranks;
    int32_t n;
} text;

static int take_ranks(module_state *st, PyObject *object, text *x)
{
    tensor *t = &x->tensor;
    if (tensor_borrow(st, object, "tokens", t) < 0 || tensor_check_int(t) < 0 || tensor_check_cpu(t) < 0 ||
        tensor_settle(&t, 1) < 0)
        return -1;
    if (t->ndim != 1 || t->shape[0] > TEXT_MOST) {
        PyErr_Format(PyExc_ValueError,
                     "tokens: expected shape [length] with fewer than 2^30 tokens, got %d dimensions of %lld", t->ndim,
                     (long long)(t->ndim > 0 ? t->shape[0] : 1));
        return -1;
    }
    x->n = (int32_t)t->shape[0];
    x->ranks = PyMem_RawCalloc((size_t)x->n + 1, sizeof *x->ranks);
    if (!x->ranks) {
        PyErr_NoMemory();
        return -1;
    }
    for (int64_t i = 0; i < x->n; i++) {
        const int64_t rank = tensor_id(t, i * t->strides[0]);
        if (rank < 0 || rank >= x->n) {
            PyErr_Format(PyExc_ValueError, "tokens: expected ranks in [0, %d), the number of tokens, got %lld", (int)x->n,
                         (long long)rank);
            return -1;
        }
        x->ranks[i] = (int32_t)rank;
    }
    return 0;
}

static void release(text *x)
{
    tensor_release(&x->tensor);
    PyMem_RawFree(x->ranks);
}

/* rows x columns of int32, or MemoryError if rows is what a routine without memory returned. */
static PyObject *new_table(module_state *st, const text *x, int64_t rows, int64_t columns, const void *data)
{
    return rows < 0 ? PyErr_NoMemory() : tensor_new(st, &x->tensor, DTYPE_INT32, 2, (int64_t[]){rows, columns}, data);
}

/* The phrases of 1977, or without a window those of 1978. */
static PyObject *parse(module_state *st, PyObject *tokens, const int32_t *window)
{
    PyObject *result = NULL;
    text_phrase *phrases = NULL;
    int32_t count;
    text x = {0};
    if (take_ranks(st, tokens, &x) < 0)
        goto done;
    phrases = PyMem_RawCalloc((size_t)x.n + 1, sizeof *phrases);
    if (!phrases) {
        PyErr_NoMemory();
        goto done;
    }
    RUN(x.n, count = window ? text_parse_lz77(x.ranks, x.n, *window, phrases) : text_parse_lz78(x.ranks, x.n, phrases));
    result = new_table(st, &x, count, 2, phrases);
done:
    PyMem_RawFree(phrases);
    release(&x);
    return result;
}

const char doc_parse_lz77[] =
    "parse_lz77($module, /, tokens, window)\n--\n\n"
    "(distance, length) of each phrase, int32 [phrases, 2]; distance 0 for a token that stands alone. Tokens are ranks in\n"
    "[0, T).";

PyObject *py_parse_lz77(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {"parse_lz77", 2, 2, 2, {NAME(tokens), NAME(window)}};
    module_state *st = state_of(module);
    PyObject *v[2];
    int32_t window = 0;
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || arg_int(v[1], "window", 0, &window) < 0)
        return NULL;
    return parse(st, v[0], &window);
}

const char doc_parse_lz78[] =
    "parse_lz78($module, /, tokens)\n--\n\n"
    "(parent, length) of each phrase, int32 [phrases, 2]: the phrase that it begins with, counted from 1, or 0. Tokens are\n"
    "ranks in [0, T).";

PyObject *py_parse_lz78(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {"parse_lz78", 1, 1, 1, {NAME(tokens)}};
    module_state *st = state_of(module);
    PyObject *v[1];
    return args_match(st, &sig, args, n_args, kwnames, v) < 0 ? NULL : parse(st, v[0], NULL);
}

const char doc_find_loops[] =
    "find_loops($module, /, tokens, min_repeats, tolerance, max_period)\n--\n\n"
    "(period, start, length) of each loop, int32 [loops, 3], in no particular order. Tokens are ranks in [0, T).";

PyObject *py_find_loops(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {
        "find_loops", 4, 4, 4, {NAME(tokens), NAME(min_repeats), NAME(tolerance), NAME(max_period)}};
    module_state *st = state_of(module);
    PyObject *v[4], *result = NULL;
    text_loop_options options = {0};
    text_loops loops = {0};
    float tolerance = 0;
    int status;
    text x = {0};
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || arg_int(v[1], "min_repeats", 2, &options.min_repeats) < 0 ||
        arg_float(v[2], "tolerance", 1, &tolerance) < 0 || arg_int(v[3], "max_period", 1, &options.max_period) < 0)
        return NULL;
    if (!text_set_tolerance(&options, tolerance))
        return PyErr_Format(PyExc_ValueError, "tolerance: expected a share of less than 1, got %R", v[2]);
    if (take_ranks(st, v[0], &x) < 0)
        goto done;
    RUN(x.n, status = text_find_loops(x.ranks, x.n, &options, &loops));
    result = new_table(st, &x, status < 0 ? -1 : (int64_t)loops.n, 3, loops.items);
done:
    free(loops.items);
    release(&x);
    return result;
}
