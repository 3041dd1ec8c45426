/* LZOptions: the options of the penalty, checked and compiled once, which every function takes.
 *
 * What is known of an option is in lz/options.def; here is what its kind means in Python. */
#include <string.h>

#include "../api/export.h"
#include "functions.h"
#include "lz_args.h"

/* ---- Python to C ------------------------------------------------------------------------------------------------------ */

static const char *const cost_names[] = {[LZ_LZSS] = "lzss", [LZ_PAIR] = "pair", [LZ_DISTANCE] = "distance"};

static int parse_float(PyObject *value, const char *name, double least, double most, const char *range, float *out)
{
    const double number = PyFloat_AsDouble(value);
    if (number == -1 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError))
            PyErr_Format(PyExc_TypeError, "%s: expected a number, got %s", name, Py_TYPE(value)->tp_name);
        return -1;
    }
    if (lz_read_float(number, least, most, out))
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected a number from %s within float32, got %R", name, range, value);
    return -1;
}

static int parse_cost(PyObject *value, const char *name, int32_t *cost)
{
    if (!PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s: expected a string, got %s", name, Py_TYPE(value)->tp_name);
        return -1;
    }
    for (int i = LZ_LZSS; i <= LZ_DISTANCE; i++) {
        if (PyUnicode_CompareWithASCIIString(value, cost_names[i]) == 0) {
            *cost = i;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "%s: expected 'lzss', 'pair' or 'distance', got %R", name, value);
    return -1;
}

static int parse_range(PyObject *value, const char *name, double most, lz_range *range)
{
    float from, to;
    *range = (lz_range){0, 0};
    if (value == Py_None)
        return 0;
    PyObject *pair = PySequence_Tuple(value);
    if (!pair) {
        if (PyErr_ExceptionMatches(PyExc_TypeError))
            PyErr_Format(PyExc_TypeError, "%s: expected (from, to) or None, got %s", name, Py_TYPE(value)->tp_name);
        return -1;
    }
    int status = -1;
    if (PyTuple_GET_SIZE(pair) != 2)
        PyErr_Format(PyExc_ValueError, "%s: expected (from, to), got %R", name, value);
    else if (arg_number(PyTuple_GET_ITEM(pair, 0), name, &from) == 0 &&
             arg_number(PyTuple_GET_ITEM(pair, 1), name, &to) == 0) {
        if (lz_read_range(from, to, most, range))
            status = 0;
        else
            PyErr_Format(PyExc_ValueError, "%s: expected (from, to) with 0 <= from < to <= 2^31, got %R", name, value);
    }
    Py_DECREF(pair);
    return status;
}

/* One id, or an iterable of a few. */
static int parse_mark(PyObject *value, const char *name, lz_mark *mark)
{
    PyObject *ids = PyIndex_Check(value) ? PyTuple_Pack(1, value) : arg_items(value, name);
    if (!ids)
        return -1;
    Py_ssize_t n = PyTuple_GET_SIZE(ids);
    int status = 0;
    *mark = (lz_mark){0};
    if (n < 1 || n > LZ_MOST_MARK) {
        PyErr_Format(PyExc_ValueError, "%s: expected sequences of 1 to %d ids, got %zd in one", name, LZ_MOST_MARK, n);
        status = -1;
    }
    for (; status == 0 && mark->n < n; mark->n++)
        status = arg_id(PyTuple_GET_ITEM(ids, mark->n), name, &mark->id[mark->n]);
    Py_DECREF(ids);
    return status;
}

/* None is no mark, but an empty list is a mistake. */
static int parse_marks(PyObject *value, const char *name, lz_marks *marks)
{
    *marks = (lz_marks){0};
    PyObject *items = value == Py_None ? PyTuple_New(0) : arg_items(value, name);
    if (!items)
        return -1;
    Py_ssize_t n = PyTuple_GET_SIZE(items);
    int status = 0;
    if (value != Py_None && (n < 1 || n > LZ_MOST_MARKS)) {
        PyErr_Format(PyExc_ValueError, "%s: expected 1 to %d ids or sequences of ids, or None, got %zd", name, LZ_MOST_MARKS,
                     n);
        status = -1;
    }
    for (Py_ssize_t i = 0; i < n && status == 0; i++) {
        lz_mark mark;
        status = parse_mark(PyTuple_GET_ITEM(items, i), name, &mark);
        if (status == 0)
            lz_add_mark(marks, &mark);
    }
    Py_DECREF(items);
    return status;
}

#define PARSE_FLOAT(name, least, most) parse_float(value, #name, least, most, #least " to " #most, &p->name)
#define PARSE_INT(name, least, most) arg_int(value, #name, least, &p->name)
#define PARSE_COST(name, least, most) parse_cost(value, #name, &p->name)
#define PARSE_RANGE(name, least, most) parse_range(value, #name, most, &p->name)
#define PARSE_MARKS(name, least, most) parse_marks(value, #name, &p->name)

/* Puts the values that are given in the place of those that are there. */
static int parse(PyObject *const *values, lz_penalty *p)
{
    PyObject *value;
#define OPTION(kind, name, standard, least, most, ...)                                                                      \
    if ((value = values[LZ_OPTION_##name]) && PARSE_##kind(name, least, most) < 0)                                          \
        return -1;
#include "../lz/options.def"
    return 0;
}

int arg_options(module_state *st, PyObject *object, PyObject *const *values, lz_penalty *store, const lz_penalty **p)
{
    int any = 0;
    *p = &lz_default_penalty;
    if (object && object != Py_None) {
        if ((PyObject *)Py_TYPE(object) != st->options_type) {
            PyErr_Format(PyExc_TypeError, "options: expected LZOptions or None, got %s", Py_TYPE(object)->tp_name);
            return -1;
        }
        *p = &((lz_options *)object)->penalty;
    }
    for (int i = 0; i < LZ_OPTIONS; i++)
        any |= values[i] != NULL;
    if (!any)
        return 0;
    *store = **p;
    *p = store;
    return parse(values, store);
}

int check_ids(const lz_penalty *p, int64_t vocab)
{
    static const char *const names[] = {
#define OPTION(kind, name, ...) #name,
#include "../lz/options.def"
    };
    static const size_t at[] = {
#define OPTION(kind, name, ...) offsetof(lz_penalty, name),
#include "../lz/options.def"
    };
    const int beyond = lz_beyond(p, vocab);
    if (beyond == LZ_OPTIONS)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected ids in [0, %lld), the vocabulary, got %d", names[beyond], (long long)vocab,
                 (int)lz_largest_id((const lz_marks *)((const char *)p + at[beyond])));
    return -1;
}

/* ---- C to Python ------------------------------------------------------------------------------------------------------ */

static PyObject *write_float(float number)
{
    return PyFloat_FromDouble(number);
}

static PyObject *write_int(int32_t number)
{
    return PyLong_FromLong(number);
}

static PyObject *write_cost(int32_t cost)
{
    return PyUnicode_InternFromString(cost_names[cost]);
}

static PyObject *write_range(lz_range range)
{
    if (range.to > 0)
        return Py_BuildValue("(dd)", (double)range.from, (double)range.to);
    Py_RETURN_NONE;
}

/* An integer if it is one id. */
static PyObject *write_mark(const lz_mark *mark)
{
    if (mark->n == 1)
        return PyLong_FromLong(mark->id[0]);
    PyObject *tuple = PyTuple_New(mark->n);
    for (int32_t i = 0; tuple && i < mark->n; i++) {
        PyObject *id = PyLong_FromLong(mark->id[i]);
        if (!id)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, i, id);
    }
    return tuple;
}

static PyObject *write_marks(const lz_marks *marks)
{
    if (marks->n == 0)
        Py_RETURN_NONE;
    PyObject *tuple = PyTuple_New(marks->n);
    for (int32_t i = 0; tuple && i < marks->n; i++) {
        PyObject *item = write_mark(&marks->mark[i]);
        if (!item)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, i, item);
    }
    return tuple;
}

/* Puts a new reference into a dict; NULL says that it could not be made. */
static int put(PyObject *dict, PyObject *name, PyObject *value)
{
    int status = value ? PyDict_SetItem(dict, name, value) : -1;
    Py_XDECREF(value);
    return status;
}

#define WRITE_FLOAT(name) write_float(p->name)
#define WRITE_INT(name) write_int(p->name)
#define WRITE_COST(name) write_cost(p->name)
#define WRITE_RANGE(name) write_range(p->name)
#define WRITE_MARKS(name) write_marks(&p->name)

static PyObject *options_keywords(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    const module_state *st = PyType_GetModuleState(Py_TYPE(self));
    const lz_penalty *p = &((lz_options *)self)->penalty;
    PyObject *keywords = PyDict_New();
#define OPTION(kind, name, ...)                                                                                             \
    if (keywords && put(keywords, st->names.name, WRITE_##kind(name)) < 0)                                                  \
        Py_CLEAR(keywords);
#include "../lz/options.def"
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

static PyObject *options_reduce(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    PyObject *copyreg = PyImport_ImportModule("copyreg");
    PyObject *make = copyreg ? PyObject_GetAttrString(copyreg, "__newobj_ex__") : NULL;
    PyObject *keywords = make ? options_keywords(self, NULL) : NULL;
    PyObject *reduced = keywords ? Py_BuildValue("(O(O()O))", make, Py_TYPE(self), keywords) : NULL;
    Py_XDECREF(copyreg);
    Py_XDECREF(make);
    Py_XDECREF(keywords);
    return reduced;
}

/* Fills in what depends on the options. */
static void complete(lz_options *self)
{
    const lz_penalty *p = &self->penalty;
    const unsigned char *bytes = (const unsigned char *)p;
    Py_uhash_t hash = sizeof *p;
    for (size_t i = 0; i < sizeof *p; i++)
        hash = (hash ^ bytes[i]) * 1000003;
    self->hash = hash == (Py_uhash_t)-1 ? -2 : (Py_hash_t)hash;
    self->context = lz_context(p);
    export_options(p, &self->c);
#define LARGEST_FLOAT(name) -1
#define LARGEST_INT(name) -1
#define LARGEST_COST(name) -1
#define LARGEST_RANGE(name) -1
#define LARGEST_MARKS(name) lz_largest_id(&p->name)
#define OPTION(kind, name, ...)                                                                                             \
    if (LARGEST_##kind(name) >= self->vocab_size)                                                                           \
        self->vocab_size = (int64_t)LARGEST_##kind(name) + 1;
#include "../lz/options.def"
}

/* {name: the most that a request may ask for}, of the options that are numbers of tokens. */
PyObject *py_request_limits(PyObject *module, PyObject *ignored)
{
    (void)ignored;
    const module_state *st = state_of(module);
    PyObject *limits = PyDict_New();
#define LIMIT_FLOAT(name, asked)
#define LIMIT_INT(name, asked)                                                                                              \
    if (limits && put(limits, st->names.name, PyLong_FromLong(asked)) < 0)                                                  \
        Py_CLEAR(limits);
#define LIMIT_COST(name, asked)
#define LIMIT_RANGE(name, asked)
#define LIMIT_MARKS(name, asked)
#define OPTION(kind, name, standard, least, most, asked, ...) LIMIT_##kind(name, asked)
#include "../lz/options.def"
    return limits;
}

/* ---- The type --------------------------------------------------------------------------------------------------------- */

/* The arguments of a type arrive as a tuple and a dict; args_match wants what functions get. */
static int match_options(module_state *st, PyObject *args, PyObject *kwargs, PyObject **values)
{
    static const signature sig = {"LZOptions",
                                  0,
                                  0,
                                  LZ_OPTIONS,
                                  {
#define OPTION(kind, name, ...) NAME(name),
#include "../lz/options.def"
                                  }};
    PyObject *given[LZ_OPTIONS + 1], *key, *value;
    const Py_ssize_t n = kwargs ? PyDict_GET_SIZE(kwargs) : 0;
    Py_ssize_t at = 0, i = 0;
    PyObject *names = PyTuple_New(n);
    while (names && i < n && PyDict_Next(kwargs, &at, &key, &value)) {
        given[i < LZ_OPTIONS ? i : LZ_OPTIONS] = value; /* more than there are can't all be known */
        PyTuple_SET_ITEM(names, i++, Py_NewRef(key));
    }
    const int status = names ? args_match(st, &sig, given, PyTuple_GET_SIZE(args), names, values) : -1;
    Py_XDECREF(names);
    return status;
}

static PyObject *options_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *v[LZ_OPTIONS];
    lz_penalty p = lz_default_penalty;
    if (match_options(PyType_GetModuleState(type), args, kwargs, v) < 0 || parse(v, &p) < 0)
        return NULL;
    lz_options *self = (lz_options *)type->tp_alloc(type, 0);
    if (self) {
        self->penalty = p;
        complete(self);
    }
    return (PyObject *)self;
}

static void options_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *options_compare(PyObject *self, PyObject *other, int op)
{
    if (Py_TYPE(other) != Py_TYPE(self) || (op != Py_EQ && op != Py_NE))
        Py_RETURN_NOTIMPLEMENTED;
    const lz_penalty *a = &((lz_options *)self)->penalty, *b = &((lz_options *)other)->penalty;
    return PyBool_FromLong((memcmp(a, b, sizeof *a) == 0) == (op == Py_EQ));
}

static Py_hash_t options_hash(PyObject *self)
{
    return ((lz_options *)self)->hash;
}

static PyObject *options_context(PyObject *self, void *ignored)
{
    (void)ignored;
    return PyLong_FromLong(((lz_options *)self)->context);
}

static PyObject *options_vocab_size(PyObject *self, void *ignored)
{
    (void)ignored;
    return PyLong_FromLongLong(((lz_options *)self)->vocab_size);
}

static PyObject *options_changed(PyObject *self, void *ignored)
{
    (void)ignored;
    const lz_marks *marks = &((lz_options *)self)->penalty.release;
    PyObject *ids = PySet_New(NULL);
    for (int32_t m = 0; m < marks->n; m++)
        for (int32_t k = 0; ids && k < marks->mark[m].n; k++) {
            PyObject *id = PyLong_FromLong(marks->mark[m].id[k]);
            if (!id || PySet_Add(ids, id) < 0)
                Py_CLEAR(ids);
            Py_XDECREF(id);
        }
    PyObject *tuple = ids ? PySequence_Tuple(ids) : NULL;
    Py_XDECREF(ids);
    return tuple;
}

static PyObject *options_address(PyObject *self, void *ignored)
{
    (void)ignored;
    return PyLong_FromVoidPtr(&((lz_options *)self)->c);
}

#define OPTION(kind, name, ...)                                                                                             \
    static PyObject *options_##name(PyObject *self, void *ignored)                                                          \
    {                                                                                                                       \
        (void)ignored;                                                                                                      \
        const lz_penalty *p = &((lz_options *)self)->penalty;                                                               \
        return WRITE_##kind(name);                                                                                          \
    }
#include "../lz/options.def"

static PyGetSetDef options_getset[] = {
#define OPTION(kind, name, standard, least, most, asked, unit, sentence) {#name, options_##name, NULL, sentence, NULL},
#include "../lz/options.def"
    {"context", options_context, NULL,
     "Newest tokens of a text that the penalty depends on: 0 if it is switched off, 2^31 - 1, the whole text, with "
     "`release` or `skip`.",
     NULL},
    {"vocab_size", options_vocab_size, NULL, "The smallest vocabulary that all ids are of, 0 without ids.", NULL},
    {"changed", options_changed, NULL, "The ids whose logits may change without standing in the text.", NULL},
    {"_as_parameter_", options_address, NULL,
     "For ctypes: these are passed where a function in C takes a `const lzpenalty_options *`.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef options_methods[] = {
    {"keywords", options_keywords, METH_NOARGS,
     "keywords($self, /)\n--\n\nThe options as a dict: ``LZOptions(**options.keywords())`` is equal to them."},
    {"__reduce__", options_reduce, METH_NOARGS, "__reduce__($self, /)\n--\n\nFor pickle and copy."},
    {NULL, NULL, 0, NULL},
};

/* clang-format off */
static const char doc_options[] =
    "LZOptions(*"
#define OPTION(kind, name, standard, ...) ", " #name "=" SIGNATURE_##kind(standard)
#include "../lz/options.def"
    ")\n--\n\n"
    "Options of the LZ penalty, checked and compiled once for many calls. Immutable; equal if all options are, and then they\n"
    "do the same. Can be pickled and copied.\n\n"
    "Parameters\n----------\n"
#define OPTION(kind, name, standard, least, most, asked, unit, sentence)                                                    \
    #name " : " DOC_##kind ", default " SIGNATURE_##kind(standard) "\n    " sentence " (" unit ")\n"
#include "../lz/options.def"
    "\nSequences of ids have at most 8 ids, and there are at most 16 in a list. A strength of more than 1000000 can't be meant:\n"
    "with that, a thousandth of a bit is 1000 nats.\n\n"
    "Raises\n------\n"
    "TypeError, ValueError\n"
    "    Naming the argument, what came and what is wanted.";
/* clang-format on */

static PyType_Slot options_slots[] = {
    {Py_tp_doc, (void *)doc_options},     {Py_tp_new, options_new},         {Py_tp_dealloc, options_dealloc},
    {Py_tp_richcompare, options_compare}, {Py_tp_hash, options_hash},       {Py_tp_repr, options_repr},
    {Py_tp_getset, options_getset},       {Py_tp_methods, options_methods}, {0, NULL},
};

static PyType_Spec options_spec = {
    .name = "lzpenalty._core.LZOptions",
    .basicsize = sizeof(lz_options),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = options_slots,
};

int add_options_type(PyObject *module)
{
    module_state *st = state_of(module);
    st->options_type = PyType_FromModuleAndSpec(module, &options_spec, NULL);
    return st->options_type ? PyModule_AddType(module, (PyTypeObject *)st->options_type) : -1;
}
