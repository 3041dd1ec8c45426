/* The LZ penalty for serving engines: each row of a batch has options of its own, a text of its own, or wants nothing.
 *
 * lz_penalize_rows_ is the one loop over the rows
 * that opted in; gather_tokens_ lays the ends of their texts out as a tensor, for devices that this loop can't reach. */
#include "../lz/scratch.h"
#include "functions.h"
#include "lz_args.h"

#if PY_VERSION_HEX < 0x030d0000 /* older Pythons have a GIL */
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif

/* ---- the ends of texts ----------------------------------------------------------------------------------------------- */

/* One entry of {row: (options, tokens)} or {row: (options, tokens, before)}. */
typedef struct {
    const lz_penalty *penalty;
    PyObject *tokens; /* a list or tuple; otherwise `tensor` holds them */
    PyObject *before; /* a tuple, or NULL */
    tensor tensor;
    int64_t row;
    int32_t n_before, n; /* newest tokens that are wanted of both */
    int32_t *ids;        /* of both, oldest first */
} job;

/* Engines hold the place of what is still being sampled with -1. An id that is none is coded by its position, so that it
 * equals nothing, not even another of its kind. */
static int32_t known_id(int64_t id, int32_t position)
{
    return id >= 0 && id <= INT32_MAX ? (int32_t)id : -1 - position;
}

/* Of a non-negative integer of one digit, as nearly every id is, without a call; -1 for others. */
static int64_t small_id(PyObject *object)
{
#if PY_VERSION_HEX >= 0x030c0000
    return PyUnstable_Long_IsCompact((PyLongObject *)object) ? PyUnstable_Long_CompactValue((PyLongObject *)object) : -1;
#else
    Py_ssize_t digits = Py_SIZE(object);
    return digits == 1 ? (int64_t)((PyLongObject *)object)->ob_digit[0] : digits == 0 ? 0 : -1;
#endif
}

/* An integer as 64 bits have it, -1 if they don't. Returns 0, or -1 with an exception. */
static int wide_id(PyObject *object, int64_t *id)
{
    int overflow;
    PyObject *index = PyNumber_Index(object);
    if (!index)
        return -1;
    *id = PyLong_AsLongLongAndOverflow(index, &overflow);
    if (overflow)
        *id = -1;
    Py_DECREF(index);
    return 0;
}

/* Of n items, of which the first is at a position of the text. */
static int read_items(module_state *st, PyObject *const *items, int32_t n, int32_t position, int64_t row, int32_t *ids)
{
    for (int32_t i = 0; i < n; i++) {
        int64_t id = PyLong_Check(items[i]) ? small_id(items[i]) : -1;
        if (!is_integer(st, items[i])) {
            PyErr_Format(PyExc_TypeError, "rows: expected tokens that are integers, got %s in row %lld",
                         Py_TYPE(items[i])->tp_name, (long long)row);
            return -1;
        }
        if (id < 0 && wide_id(items[i], &id) < 0)
            return -1;
        ids[i] = known_id(id, position + i);
    }
    return 0;
}

static void read_tensor(const tensor *t, int32_t n, int32_t position, int32_t *ids)
{
    int64_t stride = t->strides[0], first = (t->shape[0] - n) * stride;
    for (int32_t i = 0; i < n; i++)
        ids[i] = known_id(tensor_id(t, first + i * stride), position + i);
}

static int32_t at_most(int64_t n, int32_t most)
{
    return (int32_t)(n < most ? n : most);
}

/* Fills in the job's ids, of which there is room for j->n. Another thread may have changed the list since. */
static int read_job(module_state *st, job *j)
{
    int32_t *ids = j->ids + j->n_before;
    int status = 0;
    if (j->n_before > 0)
        status = read_items(st, &PyTuple_GET_ITEM(j->before, PyTuple_GET_SIZE(j->before) - j->n_before), j->n_before, 0,
                            j->row, j->ids);
    if (status < 0) {
        ;
    } else if (!j->tokens) {
        read_tensor(&j->tensor, j->n, j->n_before, ids);
    } else if (PyTuple_Check(j->tokens)) {
        status =
            read_items(st, &PyTuple_GET_ITEM(j->tokens, PyTuple_GET_SIZE(j->tokens) - j->n), j->n, j->n_before, j->row, ids);
    } else {
        Py_BEGIN_CRITICAL_SECTION(j->tokens);
        Py_ssize_t size = PyList_GET_SIZE(j->tokens);
        j->n = at_most(size, j->n);
        if (j->n > 0)
            status = read_items(st, ((PyListObject *)j->tokens)->ob_item + size - j->n, j->n, j->n_before, j->row, ids);
        Py_END_CRITICAL_SECTION();
    }
    return status;
}

/* Matches one entry, and sees how much there is to read. */
static int take_job(module_state *st, PyObject *key, PyObject *value, int64_t rows, int32_t longest, job *j)
{
    j->row = -1;
    if (is_integer(st, key) && wide_id(key, &j->row) < 0)
        return -1;
    if (j->row < 0 || j->row >= rows) {
        PyErr_Format(PyExc_ValueError, "rows: expected row numbers in [0, %lld) as keys, got %R", (long long)rows, key);
        return -1;
    }
    const Py_ssize_t parts = PyTuple_Check(value) ? PyTuple_GET_SIZE(value) : 0;
    if ((parts != 2 && parts != 3) || (PyObject *)Py_TYPE(PyTuple_GET_ITEM(value, 0)) != st->options_type ||
        (parts == 3 && !PyTuple_Check(PyTuple_GET_ITEM(value, 2)))) {
        PyErr_Format(PyExc_TypeError,
                     "rows: expected (LZOptions, tokens) or (LZOptions, tokens, tuple) for row %lld, got %R",
                     (long long)j->row, value);
        return -1;
    }
    const lz_options *o = (const lz_options *)PyTuple_GET_ITEM(value, 0);
    PyObject *tokens = PyTuple_GET_ITEM(value, 1);
    Py_ssize_t length;
    j->penalty = &o->penalty;
    const int32_t most = o->context < longest ? o->context : longest;
    if (PyList_Check(tokens) || PyTuple_Check(tokens)) {
        j->tokens = tokens;
        length = PyList_Check(tokens) ? PyList_GET_SIZE(tokens) : PyTuple_GET_SIZE(tokens);
    } else {
        if (tensor_borrow(st, tokens, "tokens", &j->tensor) < 0 || tensor_check_int(&j->tensor) < 0 ||
            tensor_check_cpu(&j->tensor) < 0)
            return -1;
        if (j->tensor.ndim != 1) {
            PyErr_Format(PyExc_ValueError, "tokens: expected shape [length] in row %lld, got %d dimensions",
                         (long long)j->row, j->tensor.ndim);
            return -1;
        }
        length = j->tensor.shape[0];
    }
    j->n = at_most(length, most);
    if (parts == 3) {
        j->before = PyTuple_GET_ITEM(value, 2);
        j->n_before = at_most(PyTuple_GET_SIZE(j->before), most - j->n);
    }
    return 0;
}

/* All entries, with their ids. The memory is the workspace's; release_jobs lets go of the rest. */
typedef struct {
    PyObject *items; /* keeps keys, options and tokens alive, whatever becomes of the dict */
    job *jobs;
    Py_ssize_t n;
} job_list;

static void release_jobs(job_list *list)
{
    for (Py_ssize_t i = 0; i < list->n; i++)
        tensor_release(&list->jobs[i].tensor);
    Py_XDECREF(list->items);
}

/* Borrows all that is to be read, in a batch of so many rows for a tensor that is written to; then reads it. */
static int take_jobs(module_state *st, PyObject *object, int64_t rows, int32_t longest, tensor *written, lz_workspace *ws,
                     job_list *list)
{
    if (!PyDict_Check(object)) {
        PyErr_Format(PyExc_TypeError, "rows: expected a dict {row: (LZOptions, tokens)}, got %s", Py_TYPE(object)->tp_name);
        return -1;
    }
    if (!(list->items = PyDict_Items(object)))
        return -1;
    Py_ssize_t n = PyList_GET_SIZE(list->items);
    list->jobs = lz_workspace_block(ws, LZ_STARTS, (size_t)n * sizeof *list->jobs);
    if (!list->jobs) {
        PyErr_NoMemory();
        return -1;
    }
    size_t total = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = PyList_GET_ITEM(list->items, i);
        list->jobs[i] = (job){0};
        list->n = i + 1;
        if (take_job(st, PyTuple_GET_ITEM(item, 0), PyTuple_GET_ITEM(item, 1), rows, longest, &list->jobs[i]) < 0)
            return -1;
        total += (size_t)list->jobs[i].n_before + (size_t)list->jobs[i].n;
    }
    int32_t *ids = lz_workspace_block(ws, LZ_IDS, total * sizeof *ids);
    if (!ids) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        if (tensor_settle((tensor *const[]){&list->jobs[i].tensor}, 1) < 0 ||
            (list->jobs[i].tensor.object && check_apart(&list->jobs[i].tensor, written) < 0))
            return -1;
    for (Py_ssize_t i = 0; i < n; i++) {
        job *j = &list->jobs[i];
        j->ids = ids;
        ids += j->n_before + j->n;
        if (read_job(st, j) < 0)
            return -1;
    }
    return tensor_settle(&written, 1);
}

/* ---- functions ------------------------------------------------------------------------------------------------------- */

static void penalize_jobs(const job_list *list, const lz_logits *logits, lz_workspace *ws)
{
    const lz_kernels *kernels = lz_current_kernels();
    for (Py_ssize_t i = 0; i < list->n; i++) {
        const job *j = &list->jobs[i];
        lz_logits row = *logits;
        row.rows = 1;
        row.data = (char *)logits->data + j->row * logits->row_stride * float_size(logits->dtype);
        const lz_tokens tokens = {
            .data = j->ids, .rows = 1, .length = j->n_before + j->n, .column_stride = 1, .start = j->n_before};
        if (j->n > 0)
            kernels->penalize(j->penalty, &row, &tokens, ws);
    }
}

const char doc_lz_penalize_rows[] =
    "lz_penalize_rows_($module, /, logits, rows)\n--\n\n"
    "The LZ penalty of lz_penalize_ for some rows of a batch, each with options and a text of its own. In place.\n\n"
    "Parameters\n----------\n"
    "logits : tensor [B, V] or [V]\n"
    "    float32, float16, bfloat16 or float64 on a CPU, written in place, rounded once. Any strides without overlap.\n"
    "rows : dict {int: (LZOptions, tokens) or (LZOptions, tokens, before)}\n"
    "    By row number in [0, B). Rows that are not named keep their logits. The tokens that count, oldest first: a list "
    "or\n"
    "    tuple of int, or a tensor [T] of int32 or int64. Ids outside [0, 2^31) are unknown: they match nothing, not even\n"
    "    each other. `before`, a tuple of int, stands before them and doesn't count: what opens and closes sections is "
    "looked\n"
    "    for in it, too. Ids of the options are of the vocabulary, as in lz_penalize_.\n\n"
    "Returns\n-------\n"
    "logits, the same object.\n\n"
    "Raises\n------\n"
    "TypeError, ValueError\n"
    "    Before anything is written, naming the argument, what came and what is wanted.";

PyObject *py_lz_penalize_rows(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {"lz_penalize_rows_", 2, 2, 2, {NAME(logits), NAME(rows)}};
    module_state *st = state_of(module);
    PyObject *v[2], *result = NULL;
    tensor t = {0};
    lz_logits logits;
    job_list list = {0};
    lz_workspace *ws = NULL;
    int64_t work = 0;
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || !(ws = workspace_take(st)) ||
        take_logits(st, v[0], &t, &logits) < 0 || tensor_check_cpu(&t) < 0 ||
        take_jobs(st, v[1], logits.rows, INT32_MAX, &t, ws, &list) < 0)
        goto done;
    for (Py_ssize_t i = 0; i < list.n; i++) {
        if (check_ids(list.jobs[i].penalty, logits.vocab) < 0)
            goto done;
        const int64_t length = (int64_t)list.jobs[i].n_before + list.jobs[i].n;
        if (lz_reserve(ws, list.jobs[i].penalty, length) < 0) {
            PyErr_NoMemory();
            goto done;
        }
        work += length;
    }
    RUN_UNLOCKED_IF(work >= GIL_MIN_WORK, penalize_jobs(&list, &logits, ws));
    result = Py_NewRef(v[0]);
done:
    release_jobs(&list);
    tensor_release(&t);
    if (ws)
        workspace_give_back(st, ws);
    return result;
}

const char doc_gather_tokens[] =
    "gather_tokens_($module, /, tokens, rows)\n--\n\n"
    "Writes the newest tokens of some rows to the ends of the rows of a tensor, from where they can be copied to a device.\n"
    "\n"
    "Parameters\n----------\n"
    "tokens : tensor [B, T]\n"
    "    int32 on a CPU, written in place. What is left of a text that is shorter than T is left as it is.\n"
    "rows : dict {int: (LZOptions, tokens) or (LZOptions, tokens, before)}\n"
    "    As for lz_penalize_rows_; what stands before comes first. Unknown ids become negative ones that differ from each "
    "other.\n\n"
    "Returns\n-------\n"
    "tokens, the same object.\n\n"
    "Raises\n------\n"
    "TypeError, ValueError\n"
    "    Before anything is written, naming the argument, what came and what is wanted.";

PyObject *py_gather_tokens(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {"gather_tokens_", 2, 2, 2, {NAME(tokens), NAME(rows)}};
    module_state *st = state_of(module);
    PyObject *v[2], *result = NULL;
    tensor t = {0};
    job_list list = {0};
    lz_workspace *ws = NULL;
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || !(ws = workspace_take(st)) ||
        tensor_borrow(st, v[0], "tokens", &t) < 0 || tensor_check_writable(&t) < 0 || tensor_check_cpu(&t) < 0)
        goto done;
    if (t.dtype != DTYPE_INT32) {
        tensor_fail_dtype(&t, "int32");
        goto done;
    }
    if (t.ndim != 2 || t.shape[1] > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "tokens: expected shape [batch, length], got %d dimensions", t.ndim);
        goto done;
    }
    if (take_jobs(st, v[1], t.shape[0], (int32_t)t.shape[1], &t, ws, &list) < 0)
        goto done;
    for (Py_ssize_t i = 0; i < list.n; i++) {
        const job *j = &list.jobs[i];
        const int32_t n = j->n_before + j->n;
        const int64_t first = j->row * t.strides[0] + (t.shape[1] - n) * t.strides[1];
        for (int32_t k = 0; k < n; k++)
            ((int32_t *)t.data)[first + k * t.strides[1]] = j->ids[k];
    }
    result = Py_NewRef(v[0]);
done:
    release_jobs(&list);
    tensor_release(&t);
    if (ws)
        workspace_give_back(st, ws);
    return result;
}
