/* The LZ penalty for serving engines: each row of a batch has options of its own, a text of its own, or wants nothing.
 *
 * LZOptions are checked and compiled once, when a request is admitted. lz_penalize_rows_ is the one loop over the rows
 * that opted in; gather_tokens_ lays the ends of their texts out as a tensor, for devices that this loop can't reach. */
#include <string.h>

#include "../cpu/half.h"
#include "../lz/scratch.h"
#include "functions.h"
#include "lz_args.h"

#if PY_VERSION_HEX < 0x030d0000 /* older Pythons have a GIL */
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif

/* ---- options ------------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD lz_penalty penalty; /* neutral is owned */
    int32_t context;                  /* newest tokens that the penalty depends on */
} options;

#define OPTIONS_SIGNATURE                                                                                                   \
    "(*, strength=0.15, window=512, buffer=32, cost='lzss', min_match=1, min_count=1, escalation=0.0, horizon=0, "          \
    "neutral=None, gate=None, release=None, release_rate=2.0, release_after=24, reset=None, until=None)"

static const char doc_options[] =
    "LZOptions" OPTIONS_SIGNATURE "\n--\n\n"
    "Options of the LZ penalty, checked and compiled once for many calls of lz_penalize_rows_. Immutable; equal if all\n"
    "options are.\n\n"
    "Parameters\n----------\n"
    "strength : float, default 0.15\n"
    "    Nats a bit, >= 0; 0 changes nothing.\n" CODER_DOC EXTRAS_DOC "\n"
    "Neutral ids and sequences to release that are beyond a vocabulary are ignored.\n\n"
    "Raises\n------\n"
    "TypeError, ValueError\n"
    "    Naming the argument, what came and what is wanted.";

/* The arguments of a type arrive as a tuple and a dict; args_match wants what functions get. */
static int match_options(module_state *st, PyObject *args, PyObject *kwargs, PyObject **values)
{
    static const signature sig = {"LZOptions", 0, 0, N_PENALTY, {PENALTY_NAMES}};
    Py_ssize_t n_args = PyTuple_GET_SIZE(args), n = 0, at = 0;
    PyObject *given[2 * N_PENALTY], *key, *value;
    if (n_args > 0 || !kwargs)
        return args_match(st, &sig, NULL, n_args, NULL, values);
    PyObject *names = PyList_New(0);
    while (names && PyDict_Next(kwargs, &at, &key, &value)) {
        if (n < 2 * N_PENALTY)
            given[n++] = value;
        if (PyList_Append(names, key) < 0)
            Py_CLEAR(names);
    }
    PyObject *tuple = names ? PyList_AsTuple(names) : NULL;
    int status = -1;
    if (tuple && PyTuple_GET_SIZE(tuple) > 2 * N_PENALTY)
        PyErr_SetString(PyExc_TypeError, "LZOptions() got an unexpected keyword argument");
    else if (tuple)
        status = args_match(st, &sig, given, 0, tuple, values);
    Py_XDECREF(tuple);
    Py_XDECREF(names);
    return status;
}

static PyObject *options_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    module_state *st = PyType_GetModuleState(type);
    PyObject *v[N_PENALTY];
    lz_penalty p;
    lz_workspace *ws = NULL;
    options *self = NULL;
    if (match_options(st, args, kwargs, v) < 0 || arg_penalty(v, &p) < 0 || !(ws = workspace_take(st)) ||
        arg_penalty_ids(v, INT32_MAX, ws, &p) < 0 || !(self = (options *)type->tp_alloc(type, 0)))
        goto done;
    self->penalty = p;
    self->penalty.neutral = NULL;
    if (p.strength > 0 && p.coder.window > 0)
        self->context = p.until.n > 0 ? INT32_MAX : lz_penalty_sizes(&p, INT32_MAX).context;
    if (p.n_neutral > 0) {
        size_t size = (size_t)p.n_neutral * sizeof *p.neutral;
        int32_t *neutral = PyMem_Malloc(size);
        if (!neutral) {
            Py_CLEAR(self);
            PyErr_NoMemory();
            goto done;
        }
        self->penalty.neutral = memcpy(neutral, p.neutral, size);
    }
done:
    if (ws)
        workspace_give_back(st, ws);
    return (PyObject *)self;
}

static void options_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyMem_Free((void *)((options *)self)->penalty.neutral);
    type->tp_free(self);
    Py_DECREF(type);
}

static int equal_marks(const lz_marks *a, const lz_marks *b)
{
    return a->n == b->n && memcmp(a->mark, b->mark, (size_t)a->n * sizeof *a->mark) == 0;
}

static PyObject *options_compare(PyObject *self, PyObject *other, int op)
{
    if (Py_TYPE(other) != Py_TYPE(self) || (op != Py_EQ && op != Py_NE))
        Py_RETURN_NOTIMPLEMENTED;
    const lz_penalty *a = &((options *)self)->penalty, *b = &((options *)other)->penalty;
    int equal = a->coder.cost == b->coder.cost && a->coder.window == b->coder.window && a->coder.buffer == b->coder.buffer &&
                a->coder.min_match == b->coder.min_match && a->coder.min_count == b->coder.min_count &&
                a->strength == b->strength && a->escalation == b->escalation && a->horizon == b->horizon &&
                a->gate_from == b->gate_from && a->gate_to == b->gate_to && a->release_rate == b->release_rate &&
                a->release_after == b->release_after && equal_marks(&a->release, &b->release) &&
                equal_marks(&a->reset, &b->reset) && equal_marks(&a->until, &b->until) && a->n_neutral == b->n_neutral &&
                (a->n_neutral == 0 || memcmp(a->neutral, b->neutral, (size_t)a->n_neutral * sizeof *a->neutral) == 0);
    return PyBool_FromLong(equal == (op == Py_EQ));
}

static Py_hash_t options_hash(PyObject *self)
{
    const lz_penalty *p = &((options *)self)->penalty;
    Py_uhash_t hash = (Py_uhash_t)p->coder.cost;
    /* clang-format off */
    const uint32_t parts[] = {
        (uint32_t)p->coder.window, (uint32_t)p->coder.buffer, (uint32_t)p->coder.min_match, (uint32_t)p->coder.min_count,
        (uint32_t)p->horizon, (uint32_t)p->release_after, (uint32_t)p->n_neutral, p->n_neutral ? (uint32_t)p->neutral[0] : 0,
        float_bits(p->strength + 0.0f), float_bits(p->escalation + 0.0f), /* 0 and -0 are equal */
        float_bits(p->gate_from + 0.0f), float_bits(p->gate_to), float_bits(p->release_rate + 0.0f),
        (uint32_t)p->release.n, (uint32_t)p->release.mark[0].id[0], (uint32_t)p->reset.n, (uint32_t)p->reset.mark[0].id[0],
        (uint32_t)p->until.n, (uint32_t)p->until.mark[0].id[0]};
    /* clang-format on */
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        hash = hash * 1000003 ^ (Py_uhash_t)parts[i];
    return hash == (Py_uhash_t)-1 ? -2 : (Py_hash_t)hash;
}

static PyObject *options_context(PyObject *self, void *ignored)
{
    (void)ignored;
    return PyLong_FromLong(((options *)self)->context);
}

static PyObject *ids_tuple(const int32_t *ids, int32_t n)
{
    PyObject *tuple = PyTuple_New(n);
    for (int32_t i = 0; tuple && i < n; i++) {
        PyObject *id = PyLong_FromLong(ids[i]);
        if (!id)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, i, id);
    }
    return tuple;
}

/* None if there are none; marks of one id are integers. */
static PyObject *marks_tuple(const lz_marks *marks)
{
    if (marks->n == 0)
        Py_RETURN_NONE;
    PyObject *tuple = PyTuple_New(marks->n);
    for (int32_t i = 0; tuple && i < marks->n; i++) {
        const lz_mark *mark = &marks->mark[i];
        PyObject *item = mark->n == 1 ? PyLong_FromLong(mark->id[0]) : ids_tuple(mark->id, mark->n);
        if (!item)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, i, item);
    }
    return tuple;
}

static PyObject *gate_pair(const lz_penalty *p)
{
    if (p->gate_to > 0)
        return Py_BuildValue("(dd)", (double)p->gate_from, (double)p->gate_to);
    Py_RETURN_NONE;
}

/* Puts a new reference into a dict; NULL says that it could not be made. */
static int put(PyObject *dict, const char *name, PyObject *value)
{
    int status = value ? PyDict_SetItemString(dict, name, value) : -1;
    Py_XDECREF(value);
    return status;
}

static PyObject *options_keywords(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    const lz_penalty *p = &((options *)self)->penalty;
    PyObject *keywords =
        Py_BuildValue("{s:d,s:i,s:i,s:s,s:i,s:i,s:d,s:i}", "strength", (double)p->strength, "window", (int)p->coder.window,
                      "buffer", (int)p->coder.buffer, "cost", cost_name(p->coder.cost), "min_match", (int)p->coder.min_match,
                      "min_count", (int)p->coder.min_count, "escalation", (double)p->escalation, "horizon", (int)p->horizon);
    if (keywords &&
        (put(keywords, "neutral", ids_tuple(p->neutral, p->n_neutral)) < 0 || put(keywords, "gate", gate_pair(p)) < 0 ||
         put(keywords, "release", marks_tuple(&p->release)) < 0 ||
         put(keywords, "release_rate", PyFloat_FromDouble(p->release_rate)) < 0 ||
         put(keywords, "release_after", PyLong_FromLong(p->release_after)) < 0 ||
         put(keywords, "reset", marks_tuple(&p->reset)) < 0 || put(keywords, "until", marks_tuple(&p->until)) < 0))
        Py_CLEAR(keywords);
    return keywords;
}

static PyObject *options_repr(PyObject *self)
{
    PyObject *keywords = options_keywords(self, NULL), *empty = PyUnicode_FromString(""), *text = NULL, *key, *value;
    Py_ssize_t at = 0;
    for (PyObject *part = empty; keywords && part && PyDict_Next(keywords, &at, &key, &value); part = text) {
        PyObject *longer = PyUnicode_FromFormat("%V%s%U=%R", text, "", text ? ", " : "", key, value);
        Py_XSETREF(text, longer);
    }
    Py_XSETREF(text, text ? PyUnicode_FromFormat("LZOptions(%U)", text) : NULL);
    Py_XDECREF(keywords);
    Py_XDECREF(empty);
    return text;
}

static PyGetSetDef options_getset[] = {
    {"context", options_context, NULL,
     "Newest tokens of a text that the penalty depends on: 0 if it is switched off, 2^31 - 1, the whole text, with `until`.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef options_methods[] = {
    {"keywords", options_keywords, METH_NOARGS,
     "keywords($self, /)\n--\n\nThe options as a dict, for ``lz_penalize_(logits, tokens, **options.keywords())``."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot options_slots[] = {
    {Py_tp_doc, (void *)doc_options},     {Py_tp_new, options_new},         {Py_tp_dealloc, options_dealloc},
    {Py_tp_richcompare, options_compare}, {Py_tp_hash, options_hash},       {Py_tp_repr, options_repr},
    {Py_tp_getset, options_getset},       {Py_tp_methods, options_methods}, {0, NULL},
};

static PyType_Spec options_spec = {
    .name = "lzpenalty._core.LZOptions",
    .basicsize = sizeof(options),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = options_slots,
};

int add_options_type(PyObject *module)
{
    module_state *st = state_of(module);
    st->options_type = PyType_FromModuleAndSpec(module, &options_spec, NULL);
    return st->options_type ? PyModule_AddType(module, (PyTypeObject *)st->options_type) : -1;
}

/* ---- the ends of texts ----------------------------------------------------------------------------------------------- */

/* One entry of {row: (options, tokens)}. */
typedef struct {
    const lz_penalty *penalty;
    PyObject *tokens; /* a list or tuple; otherwise `tensor` holds them */
    tensor tensor;
    int64_t row;
    int32_t most, n; /* newest tokens that are wanted, that there are */
    int32_t *ids;    /* n of them, oldest first */
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

static int read_items(PyObject *const *items, int32_t n, int64_t row, int32_t *ids)
{
    for (int32_t i = 0; i < n; i++) {
        if (!PyLong_Check(items[i])) {
            PyErr_Format(PyExc_TypeError, "rows: expected tokens that are integers, got %s in row %lld",
                         Py_TYPE(items[i])->tp_name, (long long)row);
            return -1;
        }
        int64_t id = small_id(items[i]);
        if (id < 0) {
            int overflow;
            id = PyLong_AsLongLongAndOverflow(items[i], &overflow);
            if (overflow)
                id = -1;
        }
        ids[i] = known_id(id, i);
    }
    return 0;
}

static void read_tensor(const tensor *t, int32_t n, int32_t *ids)
{
    int64_t stride = t->strides[0], first = (t->shape[0] - n) * stride;
    for (int32_t i = 0; i < n; i++) {
        int64_t at = first + i * stride;
        ids[i] = known_id(t->dtype == DTYPE_INT64 ? ((const int64_t *)t->data)[at] : ((const int32_t *)t->data)[at], i);
    }
}

static int32_t at_most(int64_t n, int32_t most)
{
    return (int32_t)(n < most ? n : most);
}

/* Fills in the job's ids, of which there is room for j->n. Another thread may have changed the list since. */
static int read_job(job *j)
{
    int status = 0;
    if (!j->tokens) {
        read_tensor(&j->tensor, j->n, j->ids);
    } else if (PyTuple_Check(j->tokens)) {
        status = read_items(&PyTuple_GET_ITEM(j->tokens, PyTuple_GET_SIZE(j->tokens) - j->n), j->n, j->row, j->ids);
    } else {
        Py_BEGIN_CRITICAL_SECTION(j->tokens);
        Py_ssize_t size = PyList_GET_SIZE(j->tokens);
        j->n = at_most(size, j->n);
        if (j->n > 0)
            status = read_items(((PyListObject *)j->tokens)->ob_item + size - j->n, j->n, j->row, j->ids);
        Py_END_CRITICAL_SECTION();
    }
    return status;
}

/* Matches one entry, and sees how much there is to read. */
static int take_job(module_state *st, PyObject *key, PyObject *value, int64_t rows, int32_t longest, job *j)
{
    int overflow = 0;
    j->row = PyLong_Check(key) ? PyLong_AsLongLongAndOverflow(key, &overflow) : -1;
    if (j->row < 0 || j->row >= rows) {
        PyErr_Format(PyExc_ValueError, "rows: expected row numbers in [0, %lld) as keys, got %R", (long long)rows, key);
        return -1;
    }
    if (!PyTuple_Check(value) || PyTuple_GET_SIZE(value) != 2 ||
        (PyObject *)Py_TYPE(PyTuple_GET_ITEM(value, 0)) != st->options_type) {
        PyErr_Format(PyExc_TypeError, "rows: expected (LZOptions, tokens) for row %lld, got %R", (long long)j->row, value);
        return -1;
    }
    const options *o = (const options *)PyTuple_GET_ITEM(value, 0);
    PyObject *tokens = PyTuple_GET_ITEM(value, 1);
    Py_ssize_t length;
    j->penalty = &o->penalty;
    j->most = o->context < longest ? o->context : longest;
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
    j->n = at_most(length, j->most);
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

static int take_jobs(module_state *st, PyObject *object, int64_t rows, int32_t longest, lz_workspace *ws, job_list *list)
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
        total += (size_t)list->jobs[i].n;
    }
    int32_t *ids = lz_workspace_block(ws, LZ_IDS, total * sizeof *ids);
    if (!ids) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        job *j = &list->jobs[i];
        j->ids = ids;
        ids += j->n;
        if (read_job(j) < 0)
            return -1;
    }
    return 0;
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
        lz_tokens tokens = {.data = j->ids, .rows = 1, .length = j->n, .column_stride = 1};
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
    "rows : dict {int: (LZOptions, tokens)}\n"
    "    By row number in [0, B). Rows that are not named keep their logits. The tokens that count, oldest first: a list "
    "or\n"
    "    tuple of int, or a tensor [T] of int32 or int64. Ids outside [0, 2^31) are unknown: they match nothing, not even\n"
    "    each other.\n\n"
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
        take_jobs(st, v[1], logits.rows, INT32_MAX, ws, &list) < 0)
        goto done;
    for (Py_ssize_t i = 0; i < list.n; i++) {
        if (lz_reserve(ws, list.jobs[i].penalty, list.jobs[i].n) < 0) {
            PyErr_NoMemory();
            goto done;
        }
        work += list.jobs[i].n;
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
    "rows : dict {int: (LZOptions, tokens)}\n"
    "    As for lz_penalize_rows_. Unknown ids become negative ones that differ from each other.\n\n"
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
    if (take_jobs(st, v[1], t.shape[0], (int32_t)t.shape[1], ws, &list) < 0)
        goto done;
    for (Py_ssize_t i = 0; i < list.n; i++) {
        const job *j = &list.jobs[i];
        const int64_t first = j->row * t.strides[0] + (t.shape[1] - j->n) * t.strides[1];
        for (int32_t k = 0; k < j->n; k++)
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
