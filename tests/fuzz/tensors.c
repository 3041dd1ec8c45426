/* Fuzz target of the binding: the public functions get tensors that lie, by every route, and any options.
 *
 * An input describes each argument. What a structure says of memory that is there is true, to the byte; what has to be
 * refused points to memory that can't be read. Whatever comes back, an exception is set if and only if the call failed,
 * every export was given back once, no reference is kept, what is read does not change, and after a failed call nothing
 * has. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <sys/mman.h>

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define NPY_TARGET_VERSION NPY_2_0_API_VERSION
#include <numpy/arrayobject.h>

#include "../../csrc/abi/dlpack.h"
#include "fuzz.h"

PyMODINIT_FUNC PyInit__core(void);

enum { MOST_NDIM = 6, MOST_ITEMS = 4096, MOST_BYTES = 1 << 16, MOST_TENSORS = 9, MOST_EXPORTS = 64, MOST_OPTIONS = 16 };

static PyObject *core, *numpy;
static void *forbidden; /* aligned, never to be read */
static input *current;  /* for what producers decide while a call runs */

/* ---- producers ------------------------------------------------------------------------------------------------------ */

typedef enum { DELETES, DELETES_NOT, RAISES, CALLS, CLEARS, DELETERS } deleter_kind;
typedef enum {
    EXPORTS,
    EXPORTS_OLD,
    WANTS_NO_KEYWORDS,
    RETURNS_NONE,
    RETURNS_NUMBER,
    RAISES_TYPE,
    RAISES_BUFFER,
    RAISES_INTERRUPT,
    REPLIES
} reply_kind;

/* An object that hands out what `tensor` says. */
typedef struct {
    PyObject_HEAD dl_tensor tensor;
    int64_t shape[MOST_NDIM], strides[MOST_NDIM];
    dl_version version;
    uint64_t flags;
    const char *capsule_name;
    deleter_kind deleter;
    reply_kind reply;
    int attributes; /* what asking for an attribute gives */
} producer;

/* What was handed out and has to come back. The memory of those that came back is freed. */
typedef struct {
    union {
        dl_managed_tensor_versioned versioned;
        dl_managed_tensor old;
    } managed;
    int64_t shape[MOST_NDIM], strides[MOST_NDIM];
    deleter_kind deleter;
    int number;
} export;

static export *exports[MOST_EXPORTS]; /* NULL once it came back */
static int n_exports;

static void give_back(export *e)
{
    static PyObject *ids;
    const deleter_kind kind = e->deleter;
    REQUIRE(exports[e->number] == e);
    exports[e->number] = NULL;
    free(e);
    if (kind == RAISES)
        PyErr_SetString(PyExc_RuntimeError, "a deleter raises");
    else if (kind == CLEARS)
        PyErr_Clear();
    else if (kind == CALLS) { /* with another call, of the same functions */
        if (!ids)
            REQUIRE(ids = PyObject_CallMethod(numpy, "zeros", "is", 5, "int64"));
        PyObject *result = PyObject_CallMethod(core, "codelength_deltas", "Oi", ids, 9);
        REQUIRE(result);
        Py_DECREF(result);
    }
}

static void delete_versioned(dl_managed_tensor_versioned *managed)
{
    give_back((export *)managed);
}

static void delete_old(dl_managed_tensor *managed)
{
    give_back((export *)managed);
}

static export *new_export(const dl_tensor *tensor, int is_old, dl_version version, uint64_t flags, deleter_kind deleter)
{
    export *e = calloc(1, sizeof *e);
    dl_tensor described = *tensor;
    const int n = tensor->ndim < 0 || tensor->ndim > MOST_NDIM ? MOST_NDIM : tensor->ndim;
    REQUIRE(e && n_exports < MOST_EXPORTS);
    e->number = n_exports;
    exports[n_exports++] = e;
    e->deleter = deleter;
    if (tensor->shape)
        described.shape = memcpy(e->shape, tensor->shape, (size_t)n * sizeof *e->shape);
    if (tensor->strides)
        described.strides = memcpy(e->strides, tensor->strides, (size_t)n * sizeof *e->strides);
    if (is_old) {
        e->managed.old.tensor = described;
        e->managed.old.deleter = deleter == DELETES_NOT ? NULL : delete_old;
    } else {
        e->managed.versioned.version = version;
        e->managed.versioned.flags = flags;
        e->managed.versioned.tensor = described;
        e->managed.versioned.deleter = deleter == DELETES_NOT ? NULL : delete_versioned;
    }
    return e;
}

/* What is not given back by a deleter that there is none of. */
static void drop_exports(void)
{
    for (int i = 0; i < n_exports; i++) {
        REQUIRE(!exports[i] || exports[i]->deleter == DELETES_NOT);
        free(exports[i]);
    }
    n_exports = 0;
}

static void destroy_capsule(PyObject *capsule)
{
    export *e = PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule));
    if (e->deleter != DELETES_NOT)
        give_back(e);
}

static PyObject *fail(PyObject *kind)
{
    PyErr_SetString(kind, "a producer fails");
    return NULL;
}

static PyObject *producer_dlpack(producer *self, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    (void)args, (void)n_args;
    switch (self->reply) {
    case WANTS_NO_KEYWORDS:
        if (kwnames && PyTuple_GET_SIZE(kwnames) > 0)
            return fail(PyExc_TypeError);
        break;
    case RETURNS_NONE:
        Py_RETURN_NONE;
    case RETURNS_NUMBER:
        return PyLong_FromLong(7);
    case RAISES_TYPE:
        return fail(PyExc_TypeError);
    case RAISES_BUFFER:
        return fail(PyExc_BufferError);
    case RAISES_INTERRUPT:
        return fail(PyExc_KeyboardInterrupt);
    default:
        break;
    }
    const int is_old = self->reply == EXPORTS_OLD || self->reply == WANTS_NO_KEYWORDS;
    const char *name = self->capsule_name ? self->capsule_name : is_old ? "dltensor" : "dltensor_versioned";
    export *e = new_export(&self->tensor, is_old, self->version, self->flags, self->deleter);
    PyObject *capsule = PyCapsule_New(e, name, destroy_capsule);
    REQUIRE(capsule);
    return capsule;
}

static PyObject *producer_namespace(producer *self, PyObject *ignored)
{
    (void)ignored;
    if (self->attributes & 1)
        return fail(PyExc_AttributeError);
    if (self->attributes & 2)
        return fail(PyExc_RuntimeError);
    return Py_NewRef(self->attributes & 4 ? core : numpy);
}

static PyObject *producer_dtype(producer *self, void *ignored)
{
    (void)ignored;
    return self->attributes & 8 ? fail(PyExc_RuntimeError) : PyUnicode_FromString("a dtype");
}

static PyObject *producer_requires_grad(producer *self, void *ignored)
{
    (void)ignored;
    return self->attributes & 16 ? fail(PyExc_RuntimeError) : PyBool_FromLong(self->attributes & 32);
}

static void producer_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static int tensor_from_object(void *object, dl_tensor *out)
{
    const producer *p = object;
    *out = p->tensor;
    if (p->reply == RETURNS_NONE)
        return -1;
    if (p->reply < RETURNS_NONE)
        return 0;
    fail(p->reply == RAISES_BUFFER ? PyExc_BufferError : PyExc_RuntimeError);
    return -1;
}

static int managed_from_object(void *object, dl_managed_tensor_versioned **out)
{
    const producer *p = object;
    dl_tensor ignored;
    if (tensor_from_object(object, &ignored) < 0) {
        *out = forbidden;
        return -1;
    }
    *out = &new_export(&p->tensor, 0, p->version, p->flags, p->deleter)->managed.versioned;
    return 0;
}

static int allocate(dl_tensor *prototype, dl_managed_tensor_versioned **out, void *error_ctx,
                    void (*set_error)(void *error_ctx, const char *kind, const char *message))
{
    static char memory[MOST_BYTES];
    const int decision = take_byte(current);
    size_t bytes = prototype->dtype.bits / 8;
    for (int i = 0; i < prototype->ndim; i++)
        bytes *= (size_t)prototype->shape[i];
    if (decision >= 240 || bytes > sizeof memory) {
        if (decision & 1)
            set_error(error_ctx, decision & 2 ? NULL : "kind", decision & 4 ? NULL : "message");
        else if (decision & 2)
            fail(PyExc_MemoryError);
        return -1;
    }
    dl_tensor tensor = *prototype;
    tensor.data = memory + sizeof memory - bytes;
    tensor.byte_offset = (uint64_t)(decision & 8);
    tensor.data = (char *)tensor.data - tensor.byte_offset;
    *out = &new_export(&tensor, 0, (dl_version){DLPACK_MAJOR, DLPACK_MINOR}, 0, DELETES)->managed.versioned;
    return 0;
}

/* Takes the tensor in any case. */
static int managed_to_object(dl_managed_tensor_versioned *managed, void **out)
{
    managed->deleter(managed);
    if (take_byte(current) >= 240)
        return fail(PyExc_RuntimeError), -1;
    *out = PyTuple_New(1);
    return 0;
}

static dl_exchange_api borrowing = {{DLPACK_MAJOR, DLPACK_MINOR}, NULL, allocate, managed_from_object, managed_to_object,
                                    tensor_from_object,           NULL};
static dl_exchange_api owning = {{DLPACK_MAJOR, 99}, NULL, allocate, managed_from_object, managed_to_object, NULL, NULL};
static dl_exchange_api newer = {.version = {DLPACK_MAJOR + 1, 0}, .prev = &owning};
static dl_exchange_api newest = {.version = {DLPACK_MAJOR + 2, 0}};

typedef enum { CAPSULE, JAX, NEWEST_API, WRONG_API, BORROWING, OWNING, NEWER_API, FRESH, ROUTES } route;
static PyObject *types[FRESH];

/* A subclass with an attribute more. */
static PyObject *new_type(const char *module, PyObject *api)
{
    PyObject *type =
        PyObject_CallFunction((PyObject *)&PyType_Type, "s(O){ss}", "Producer", types[CAPSULE], "__module__", module);
    REQUIRE(type && (!api || PyObject_SetAttrString(type, "__dlpack_c_exchange_api__", api) == 0));
    Py_XDECREF(api);
    return type;
}

static void make_types(void)
{
    static PyMethodDef methods[] = {
        {"__dlpack__", (PyCFunction)(void (*)(void))producer_dlpack, METH_FASTCALL | METH_KEYWORDS, NULL},
        {"__array_namespace__", (PyCFunction)(void (*)(void))producer_namespace, METH_NOARGS, NULL},
        {NULL, NULL, 0, NULL}};
    static PyGetSetDef getset[] = {{"dtype", (getter)producer_dtype, NULL, NULL, NULL},
                                   {"requires_grad", (getter)producer_requires_grad, NULL, NULL, NULL},
                                   {NULL, NULL, NULL, NULL, NULL}};
    static PyType_Slot slots[] = {
        {Py_tp_methods, methods}, {Py_tp_getset, getset}, {Py_tp_dealloc, producer_dealloc}, {0, NULL}};
    static PyType_Spec spec = {.name = "fuzz.Producer",
                               .basicsize = sizeof(producer),
                               .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
                               .slots = slots};
    static const char *const name = "dlpack_exchange_api";
    REQUIRE(types[CAPSULE] = PyType_FromSpec(&spec));
    types[JAX] = new_type("jaxlib._jax", NULL);
    types[NEWEST_API] = new_type("fuzz", PyCapsule_New(&newest, name, NULL));
    types[WRONG_API] = new_type("fuzz", PyCapsule_New(&borrowing, "exchange_api", NULL));
    types[BORROWING] = new_type("fuzz", PyCapsule_New(&borrowing, name, NULL));
    types[OWNING] = new_type("fuzz", PyCapsule_New(&owning, name, NULL));
    types[NEWER_API] = new_type("fuzz", PyCapsule_New(&newer, name, NULL));
}

/* ---- tensors -------------------------------------------------------------------------------------------------------- */

/* What a function wants: a letter for the size of each dimension, and of the dtypes f: float32, h: float16, b: bfloat16,
 * d: float64, i: int32, l: int64. Tensors that are LONG may have any number of items that takes no memory. */
enum { READ, WRITTEN, ASCENDING, LONG };
typedef struct {
    const char *name, *shape, *dtypes;
    int use;
} wanted;

typedef struct {
    PyObject *object;
    span span;
    int written;
} argument;

typedef struct {
    argument tensors[MOST_TENSORS];
    int n, refused; /* whether the call has to fail */
    int one_row;    /* without the dimension of a batch, where that may be */
    int64_t sizes[128];
} call;

typedef enum {
    HONEST,
    ODD_SIZE,
    ODD_STRIDE,
    BROADCAST,
    NO_STRIDES,
    NO_SHAPE,
    ODD_NDIM,
    NO_DATA,
    MISALIGNED,
    ODD_DTYPE,
    ODD_DEVICE,
    ODD_OFFSET,
    ODD_VERSION,
    ODD_NAME,
    LIES
} lie;

static int64_t take_odd_number(input *in)
{
    static const int64_t odd[] = {0,         1,         -1,        2,         INT32_MAX, INT32_MAX + 1LL,
                                  1LL << 30, 1LL << 40, 1LL << 57, 1LL << 58, 1LL << 61, 1LL << 62,
                                  INT64_MAX, INT64_MIN, -INT64_MAX};
    return odd[take_byte(in) % (sizeof odd / sizeof *odd)];
}

static dl_dtype dtype_of(char letter)
{
    switch (letter) {
    case 'f':
        return (dl_dtype){DL_FLOAT, 32, 1};
    case 'h':
        return (dl_dtype){DL_FLOAT, 16, 1};
    case 'b':
        return (dl_dtype){DL_BFLOAT, 16, 1};
    case 'd':
        return (dl_dtype){DL_FLOAT, 64, 1};
    case 'i':
        return (dl_dtype){DL_INT, 32, 1};
    default:
        return (dl_dtype){DL_INT, 64, 1};
    }
}

static dl_dtype take_odd_dtype(input *in)
{
    static const dl_dtype odd[] = {{DL_FLOAT, 32, 2}, {DL_FLOAT, 32, 0},  {DL_INT, 64, 65535}, {DL_FLOAT, 24, 1},
                                   {DL_INT, 0, 1},    {DL_FLOAT, 255, 1}, {DL_UINT, 32, 1},    {DL_INT, 8, 1},
                                   {17, 32, 1},       {255, 255, 65535},  {DL_BOOL, 8, 1},     {DL_COMPLEX, 64, 1}};
    return odd[take_byte(in) % (sizeof odd / sizeof *odd)];
}

static int64_t stride_of(const dl_tensor *t, int i)
{
    int64_t compact = 1;
    for (int k = i + 1; k < t->ndim; k++)
        compact *= t->shape[k];
    return t->strides ? t->strides[i] : compact;
}

/* Whether the layout is one that memory can have: sizes of 0 count as 1. */
static int is_possible(const dl_tensor *t)
{
    double items = 1, extent = 0;
    if (t->ndim < 0 || t->ndim > 4 || (t->ndim > 0 && !t->shape))
        return 0;
    for (int i = 0; i < t->ndim; i++) {
        if (t->shape[i] < 0)
            return 0;
        items *= t->shape[i] > 0 ? (double)t->shape[i] : 1;
    }
    for (int i = 0; items < 0x1p58 && i < t->ndim; i++)
        extent += (t->shape[i] > 0 ? (double)t->shape[i] : 1) * fabs((double)stride_of(t, i));
    return items < 0x1p58 && extent < 0x1p58;
}

static int is_empty(const dl_tensor *t)
{
    for (int i = 0; i < t->ndim; i++)
        if (t->shape[i] == 0)
            return 1;
    return 0;
}

/* Whether there can be memory for it here, and work on it ends soon. */
static int is_small(const dl_tensor *t, int use)
{
    int64_t reach = 0, items = 1;
    for (int i = 0; i < t->ndim; i++) {
        reach += llabs(stride_of(t, i)) * t->shape[i];
        if (use != LONG || i < t->ndim - 1)
            items *= t->shape[i];
    }
    return reach < MOST_BYTES / 8 && items < MOST_ITEMS;
}

static void fill(const input *in, span *s, char dtype, int ascending)
{
    const size_t item = dtype_of(dtype).bits / 8;
    for (size_t i = 0; (dtype == 'i' || dtype == 'l') && i < s->bytes / item; i++) {
        const uint8_t byte = in->left > 0 ? in->at[i % in->left] : 0;
        const int64_t wide = ascending ? (int64_t)i : id_of(byte, 16);
        memcpy(s->memory + i * item, dtype == 'i' ? (const void *)&(int32_t){(int32_t)wide} : &wide, item);
    }
    memcpy(s->before, s->memory, s->bytes);
}

/* An array of NumPy with the same layout, NULL if it has none such. */
static PyObject *new_array(const producer *p, char dtype, int swapped, int writeable)
{
    static const char letters[] = "fhdil";
    static const int numbers[] = {NPY_FLOAT32, NPY_FLOAT16, NPY_FLOAT64, NPY_INT32, NPY_INT64};
    const char *at = strchr(letters, dtype);
    const dl_tensor *t = &p->tensor;
    npy_intp dims[MOST_NDIM], steps[MOST_NDIM];
    if (!at)
        return NULL;
    for (int i = 0; i < t->ndim; i++) {
        dims[i] = t->shape[i];
        steps[i] = stride_of(t, i) * t->dtype.bits / 8;
    }
    PyArray_Descr *descr = PyArray_DescrFromType(numbers[at - letters]);
    if (swapped)
        Py_SETREF(descr, PyArray_DescrNewByteorder(descr, NPY_SWAP));
    PyObject *array =
        PyArray_NewFromDescr(&PyArray_Type, descr, t->ndim, dims, steps, t->data, writeable ? NPY_ARRAY_WRITEABLE : 0, NULL);
    PyErr_Clear();
    return array;
}

/* Lies that are told of any layout. Returns whether it has to be refused. */
static int tell_lie(input *in, lie lied, producer *p)
{
    static const dl_device devices[] = {{DL_CUDA_HOST, 0}, {DL_ROCM_HOST, 3}, {8, 0},
                                        {INT32_MIN, -1},   {DL_CUDA, 0},      {DL_CUDA, -1}};
    static const int32_t ndims[] = {-1, 0, 1, 5, 99, INT32_MAX, INT32_MIN};
    dl_tensor *t = &p->tensor;
    const int byte = take_byte(in), which = t->ndim > 0 ? byte % t->ndim : 0;
    switch (lied) {
    case ODD_SIZE:
        p->shape[which] = take_odd_number(in);
        break;
    case ODD_STRIDE:
        p->strides[which] = take_odd_number(in);
        break;
    case BROADCAST:
        p->strides[which] = 0;
        p->shape[which] = take_odd_number(in);
        break;
    case NO_STRIDES:
        t->strides = NULL;
        break;
    case NO_SHAPE:
        t->shape = NULL;
        break;
    case ODD_NDIM:
        t->ndim = ndims[byte % 7];
        break;
    case ODD_DTYPE:
        t->dtype = take_odd_dtype(in);
        return 1;
    case ODD_DEVICE:
        t->device = devices[byte % 6];
        return t->device.type == 8 || t->device.type == INT32_MIN;
    default:
        break;
    }
    return 0;
}

/* Lies that have to be told by each route in its own way. Returns whether what comes of them has to be refused. */
static int take_reply(input *in, route via, lie lied, char dtype, int written, producer *p)
{
    static const char *const names[] = {"used_dltensor", "used_dltensor_versioned", "dltensor ", ""};
    static const uint32_t majors[] = {0, 2, UINT32_MAX};
    const int byte = take_byte(in), is_capsule = via < BORROWING || via == FRESH, is_float = dtype != 'i' && dtype != 'l';
    p->version = (dl_version){DLPACK_MAJOR, (uint32_t)byte};
    p->flags = byte & 16 ? ~(uint64_t)DL_FLAG_READ_ONLY : 0;
    p->deleter = (deleter_kind)(take_byte(in) % DELETERS);
    p->reply = byte < 192 ? (reply_kind)(byte % RETURNS_NONE) : (reply_kind)(byte % REPLIES);
    p->attributes = take_byte(in) & (byte & 32 ? 63 : 7);
    if (byte & 64)
        p->flags ^= DL_FLAG_READ_ONLY;
    if (lied == ODD_VERSION)
        p->version.major = majors[byte % 3];
    if (lied == ODD_NAME)
        p->capsule_name = names[byte % 4];
    const int says_version = is_capsule ? p->reply == EXPORTS : via != BORROWING;
    return p->reply >= RETURNS_NONE || (lied == ODD_NAME && is_capsule) || (lied == ODD_VERSION && says_version) ||
           (written && (via == JAX || (says_version && (p->flags & DL_FLAG_READ_ONLY)))) ||
           (!is_capsule && is_float && (p->attributes & 48));
}

static PyObject *take_tensor(input *in, call *c, const wanted *w)
{
    const int choice = take_byte(in), layout = take_byte(in);
    const int choice_of_route = take_byte(in) % (ROUTES + 2), as_array = choice_of_route >= ROUTES;
    const route via = as_array ? CAPSULE : (route)choice_of_route;
    const lie lied = choice < 160 ? HONEST : (lie)(choice % LIES);
    const char dtype = w->dtypes[(size_t)layout / 16 % strlen(w->dtypes)];
    const int skipped = c->one_row && w->shape[0] == 'b' && strlen(w->shape) < 3;
    argument *a = &c->tensors[c->n++];
    REQUIRE(c->n <= MOST_TENSORS);

    PyObject *type = via == FRESH ? new_type("fuzz", NULL) : Py_NewRef(types[via]);
    producer *p = (producer *)((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, 0);
    REQUIRE(p);
    Py_DECREF(type);
    dl_tensor *t = &p->tensor;
    *t = (dl_tensor){.ndim = (int32_t)strlen(w->shape) - skipped,
                     .dtype = dtype_of(dtype),
                     .device = {DL_CPU, 0},
                     .shape = p->shape,
                     .strides = p->strides};
    for (int i = 0; i < t->ndim; i++)
        p->shape[i] = c->sizes[(int)w->shape[i + skipped]];
    if (t->ndim > 0)
        take_strides(in, t->ndim, p->shape, layout & 7, p->strides);
    int refused = tell_lie(in, lied, p);
    refused |= take_reply(in, via, lied, dtype, w->use == WRITTEN, p);

    const int possible = is_possible(t), empty = possible && is_empty(t);
    t->data = empty && layout & 8 ? NULL : forbidden;
    if (possible && !empty && (lied == NO_DATA || !is_small(t, w->use)))
        t->data = NULL;
    else if (possible && !empty && t->device.type != DL_CUDA && lied != ODD_DTYPE) {
        int64_t sizes[MOST_NDIM], strides[MOST_NDIM];
        for (int i = 0; i < t->ndim; i++) {
            sizes[i] = t->shape[i];
            strides[i] = stride_of(t, i);
        }
        a->span = new_span(in, t->ndim, sizes, strides, t->dtype.bits / 8);
        fill(in, &a->span, dtype, w->use == ASCENDING && !(layout & 8));
        t->data = (char *)a->span.data + (lied == MISALIGNED);
    }
    refused |= !possible || (!empty && (!t->data || lied == MISALIGNED));
    if (t->data && lied == ODD_OFFSET) {
        t->byte_offset = (uint64_t)take_odd_number(in) & ~(uint64_t)7;
        t->data = (void *)((uintptr_t)t->data - t->byte_offset);
    }
    a->object = (PyObject *)p;
    a->written = w->use == WRITTEN;
    if (as_array && possible && lied <= NO_STRIDES && t->data && t->data != forbidden) {
        const int swapped = choice % 16 == 1, writeable = choice % 16 != 2;
        PyObject *array = new_array(p, dtype, swapped, writeable);
        if (array) {
            refused = swapped || (a->written && !writeable);
            Py_SETREF(a->object, array);
        }
    }
    c->refused |= refused;
    return a->object;
}

/* ---- options -------------------------------------------------------------------------------------------------------- */

static PyObject *take_odd_option(input *in)
{
    switch (take_byte(in) % 16) {
    case 0:
        return PyLong_FromLong(-1);
    case 1:
        return PyLong_FromLongLong(INT32_MAX);
    case 2:
        return PyLong_FromLongLong(INT32_MAX + 1LL);
    case 3:
        return PyLong_FromString("1000000000000000000000000000000", NULL, 10);
    case 4:
        return PyLong_FromString("-1000000000000000000000000000000", NULL, 10);
    case 5:
        return PyFloat_FromDouble(2.5);
    case 6:
        return PyFloat_FromDouble(NAN);
    case 7:
        return PyFloat_FromDouble(INFINITY);
    case 8:
        return PyFloat_FromDouble(-0.0);
    case 9:
        return PyFloat_FromDouble(3e38);
    case 10:
        return PyFloat_FromDouble(1e-60);
    case 11:
        return PyUnicode_FromString("text");
    case 12:
        return Py_NewRef(Py_None);
    case 13:
        return PyDict_New();
    case 14:
        return Py_NewRef(Py_True);
    default:
        return Py_NewRef(core);
    }
}

static PyObject *take_ids(input *in)
{
    const int kind = take_byte(in), n = take_number(in, 0, 6);
    PyObject *ids = PyList_New(n);
    for (int i = 0; i < n; i++) {
        const int byte = take_byte(in);
        PyList_SET_ITEM(ids, i, byte < 240 ? PyLong_FromLong(byte % 24) : take_odd_option(in));
    }
    if (kind & 1)
        Py_SETREF(ids, PyList_AsTuple(ids));
    else if (kind & 2)
        Py_SETREF(ids, PyObject_GetIter(ids));
    return ids;
}

static PyObject *take_option(input *in, const call *c, const char *name)
{
    static const char *const costs[] = {"lzss", "pair", "distance"};
    const int byte = take_byte(in);
    if (byte >= 224)
        return take_odd_option(in);
    if (strcmp(name, "cost") == 0)
        return PyUnicode_FromString(costs[byte % 3]);
    if (strcmp(name, "aggregation") == 0)
        return PyUnicode_FromString(byte & 1 ? "layer" : "group");
    if (strstr("section_gate", name))
        return Py_BuildValue("(ii)", byte % 16, byte % 16 + byte / 32);
    if (strstr("release open skip resume sequence_breakers", name))
        return take_ids(in);
    if (strstr("strength release_rate multiplier base tolerance scale softcap", name))
        return PyFloat_FromDouble(byte / 64.0);
    if (strstr("start stop length position k", name))
        return PyLong_FromLongLong(byte % (c->sizes['t'] + 1));
    return PyLong_FromLong(byte % 40);
}

static PyObject *take_options(input *in, const call *c)
{
    static const char *const names[] = {"strength", "window",       "buffer",        "cost",    "min_match",
                                        "gate",     "release_rate", "release_after", "release", "open",
                                        "skip",     "resume",       "section_gate",  "other"};
    enum { NAMES = sizeof names / sizeof *names };
    PyObject *kwargs = PyDict_New(), *nothing = PyTuple_New(0);
    for (int i = 0; i < NAMES; i++) {
        if (take_byte(in) < (i < NAMES - 1 ? 80 : 250))
            continue;
        PyObject *value = take_option(in, c, names[i]);
        PyDict_SetItemString(kwargs, names[i], value);
        Py_DECREF(value);
    }
    PyObject *type = PyObject_GetAttrString(core, "LZOptions"), *options = PyObject_Call(type, nothing, kwargs);
    REQUIRE((options == NULL) == (PyErr_Occurred() != NULL));
    PyErr_Clear();
    if (!options)
        options = PyObject_CallNoArgs(type);
    REQUIRE(PyObject_Hash(options) != -1 && PyObject_RichCompareBool(options, options, Py_EQ) == 1);
    PyObject *text = PyObject_Repr(options);
    REQUIRE(text);
    Py_DECREF(text), Py_DECREF(type), Py_DECREF(kwargs), Py_DECREF(nothing);
    return options;
}

/* {row: (LZOptions, tokens)} */
static PyObject *take_rows(input *in, call *c)
{
    static const wanted tokens = {"tokens", "t", "il", READ};
    PyObject *rows = PyDict_New();
    for (int i = take_number(in, 0, 3); i > 0; i--) {
        const int byte = take_byte(in);
        PyObject *row = byte < 240 ? PyLong_FromLong(byte % 4) : take_odd_option(in);
        if (PyDict_Contains(rows, row) == 0) {
            PyObject *options = byte == 239 ? PyList_New(0) : take_options(in, c);
            PyObject *ids = byte & 64 ? take_ids(in) : Py_NewRef(take_tensor(in, c, &tokens));
            PyObject *job = PyTuple_Pack(2, options, ids);
            REQUIRE(PyDict_SetItem(rows, row, job) == 0);
            Py_DECREF(options), Py_DECREF(ids), Py_DECREF(job);
        }
        PyErr_Clear(); /* some can't be keys */
        Py_DECREF(row);
    }
    return rows;
}

/* ---- calls ---------------------------------------------------------------------------------------------------------- */

#define FLOATS "fhbd"
#define NARROW "fhb"
#define INTS "il"

/* Options that are always given come first, up to an empty name. */
static const struct {
    const char *name;
    wanted tensors[5];
    const char *options[MOST_OPTIONS];
} functions[] = {
    {"lz_penalize_",
     {{"logits", "bv", FLOATS, WRITTEN}, {"tokens", "bt", INTS, LONG}},
     {"", "strength", "window", "buffer", "cost", "min_match", "gate", "release_rate", "starts"}},
    /* Sections are looked for in the whole text, which takes its time in one of 2^31 tokens. */
    {"lz_penalize_",
     {{"logits", "bv", FLOATS, WRITTEN}, {"tokens", "bt", INTS, READ}},
     {"", "strength", "window", "buffer", "cost", "min_match", "gate", "release_rate", "release_after", "release", "starts",
      "options", "open", "skip", "section_gate", "resume"}},
    {"lz_penalize_rows_", {{"logits", "bv", FLOATS, WRITTEN}}, {"rows", ""}},
    {"gather_tokens_", {{"tokens", "bt", "i", WRITTEN}}, {"rows", ""}},
    {"dry_penalize_",
     {{"logits", "bv", FLOATS, WRITTEN}, {"tokens", "bt", INTS, LONG}},
     {"", "multiplier", "base", "allowed_length", "window", "sequence_breakers", "starts"}},
    {"codelength_deltas",
     {{"tokens", "t", INTS, READ}},
     {"vocab_size", "", "window", "buffer", "cost", "min_match", "options"}},
    {"token_bits", {{"tokens", "t", INTS, READ}}, {"vocab_size", "", "window", "buffer", "cost", "min_match", "options"}},
    {"repetition_period", {{"tokens", "bt", INTS, LONG}}, {"", "ngram", "count", "max_period", "starts"}},
    {"attention_scores",
     {{"queries", "bqrd", NARROW, READ}, {"keys", "bhtd", NARROW, READ}},
     {"start", "stop", "", "scale", "kernel", "aggregation", "check"}},
    {"select_top", {{"scores", "bht", "f", READ}}, {"k", ""}},
    {"compact_",
     {{"keys", "bhtd", NARROW, WRITTEN}, {"values", "bhte", NARROW, WRITTEN}, {"positions", "bhk", "l", ASCENDING}},
     {"start", "stop", "length", ""}},
    {"append_",
     {{"keys", "bhtd", NARROW, WRITTEN},
      {"values", "bhte", NARROW, WRITTEN},
      {"new_keys", "bhnd", NARROW, READ},
      {"new_values", "bhne", NARROW, READ}},
     {"position", ""}},
    {"compact_blocks_",
     {{"keys", "Nhod", NARROW, WRITTEN},
      {"values", "Nhoe", NARROW, WRITTEN},
      {"blocks", "w", INTS, READ},
      {"positions", "1hk", "l", ASCENDING}},
     {"start", "stop", "length", "", "evidence"}},
    {"gather_blocks_",
     {{"out", "1hnd", NARROW, WRITTEN}, {"cache", "Nhod", NARROW, READ}, {"blocks", "w", INTS, READ}},
     {"start", ""}},
    {"echo_blocks_",
     {{"evidence", "No", "f", WRITTEN},
      {"queries", "1qrd", NARROW, READ},
      {"keys", "N1od", NARROW, READ},
      {"blocks", "hw", "l", READ},
      {"lengths", "1h", "l", READ}},
     {"start", "", "scale", "asked", "window"}},
    {"append_ragged_",
     {{"keys", "td", NARROW, WRITTEN},
      {"values", "te", NARROW, WRITTEN},
      {"new_keys", "bhnd", NARROW, READ},
      {"new_values", "bhne", NARROW, READ}},
     {"starts", "lengths", ""}},
    {"echo_scores_",
     {{"evidence", "t", "f", WRITTEN}, {"queries", "bqrd", NARROW, READ}, {"keys", "td", NARROW, READ}},
     {"starts", "lengths", "", "scale", "asked", "window", "start"}},
    {"attend",
     {{"queries", "bqrd", NARROW, READ}, {"keys", "bhtd", NARROW, READ}, {"values", "bhte", NARROW, READ}},
     {"", "lengths", "pads", "scale", "softcap", "lse"}},
    {"parse_lz77", {{"tokens", "t", INTS, READ}}, {"window", ""}},
    {"parse_lz78", {{"tokens", "t", INTS, READ}}, {""}},
    {"find_loops", {{"tokens", "t", INTS, READ}}, {"min_repeats", "tolerance", "max_period", ""}},
};

/* The options among these that are tensors. */
static const struct {
    const char *function;
    wanted tensor;
} named[] = {
    {"compact_blocks_", {"evidence", "No", "f", WRITTEN}},
    {"echo_blocks_", {"asked", "1qrd", NARROW, READ}},
    {"append_ragged_", {"starts", "bh", "l", READ}},
    {"append_ragged_", {"lengths", "bh", "l", READ}},
    {"echo_scores_", {"starts", "bh", "l", READ}},
    {"echo_scores_", {"lengths", "bh", "l", READ}},
    {"echo_scores_", {"asked", "bqrd", NARROW, READ}},
    {"attend", {"lengths", "b", "l", READ}},
    {"attend", {"pads", "b", "l", READ}},
    {"attend", {"lse", "bqr", "f", WRITTEN}},
};

static void take_sizes(input *in, call *c)
{
    static const char letters[] = "bhqrtdevknNow1";
    static const int most[] = {3, 2, 3, 5, 24, 9, 5, 40, 5, 5, 4, 5, 4, 1};
    const int byte = take_byte(in);
    c->one_row = byte & 1;
    for (int i = 0; letters[i]; i++)
        c->sizes[(int)letters[i]] = letters[i] == '1' ? 1 : take_number(in, byte < 240, most[i]);
    c->sizes['q'] *= c->sizes['h'];
    if (byte & 2)
        c->sizes['h'] = 1;
}

static PyObject *take_argument(input *in, call *c, size_t which, const char *name)
{
    static const wanted starts = {"starts", "b", INTS, READ};
    for (size_t i = 0; i < sizeof named / sizeof *named; i++)
        if (strcmp(named[i].function, functions[which].name) == 0 && strcmp(named[i].tensor.name, name) == 0)
            return Py_NewRef(take_tensor(in, c, &named[i].tensor));
    if (strcmp(name, "rows") == 0)
        return take_byte(in) < 250 ? take_rows(in, c) : take_odd_option(in);
    if (strcmp(name, "starts") == 0 && take_byte(in) < 128)
        return Py_NewRef(take_tensor(in, c, &starts));
    if (strcmp(name, "options") == 0)
        return take_options(in, c);
    return take_option(in, c, name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {data, size};
    call c = {0};
    PyObject *values[MOST_TENSORS + MOST_OPTIONS], *names = PyList_New(0);
    size_t n = 0, n_positional;
    const size_t which = (size_t)take_number(&in, 0, sizeof functions / sizeof *functions - 1);
    int given = 1;
    current = &in;
    take_sizes(&in, &c);
    for (; n < 5 && functions[which].tensors[n].name; n++)
        values[n] = Py_NewRef(take_tensor(&in, &c, &functions[which].tensors[n]));
    n_positional = n;
    for (int i = 0; i < MOST_OPTIONS && functions[which].options[i]; i++) {
        const char *name = functions[which].options[i];
        if (name[0] == '\0')
            given = 0;
        else if (given || take_byte(&in) >= 128) {
            PyObject *key = PyUnicode_InternFromString(name);
            values[n++] = take_argument(&in, &c, which, name);
            REQUIRE(values[n - 1] && PyList_Append(names, key) == 0);
            Py_DECREF(key);
        }
    }
    PyObject *kwnames = PyList_AsTuple(names), *function = PyObject_GetAttrString(core, functions[which].name);
    REQUIRE(kwnames && function && !PyErr_Occurred());

    PyObject *result = PyObject_Vectorcall(function, values, n_positional, kwnames);
    const int failed = result == NULL;
    REQUIRE(failed == (PyErr_Occurred() != NULL));
    REQUIRE(failed || !c.refused);
    PyErr_Clear();
    Py_XDECREF(result);
    drop_exports();
    for (size_t i = 0; i < n; i++)
        Py_DECREF(values[i]);
    Py_DECREF(names), Py_DECREF(kwnames), Py_DECREF(function);
    for (int i = 0; i < c.n; i++) {
        REQUIRE(Py_REFCNT(c.tensors[i].object) == 1);
        Py_DECREF(c.tensors[i].object);
        REQUIRE((c.tensors[i].written && !failed) || !c.tensors[i].span.memory || is_unchanged(&c.tensors[i].span));
        free_span(&c.tensors[i].span);
    }
    return 0;
}

/* Memory that is asked for because sizes say so is refused when it is much. */
const char *__asan_default_options(void)
{
    return "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=64";
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    PyPreConfig before;
    PyConfig config;
    (void)argc, (void)argv;
    setenv("LZPENALTY_LIBCUDA", "/nonexistent", 1); /* no device, whatever tensors say */
    PyPreConfig_InitPythonConfig(&before);
    before.allocator = PYMEM_ALLOCATOR_MALLOC;
    REQUIRE(!PyStatus_Exception(Py_PreInitialize(&before)));
    PyConfig_InitPythonConfig(&config);
    config.install_signal_handlers = 0;
    REQUIRE(PyImport_AppendInittab("_core", PyInit__core) == 0);
    REQUIRE(!PyStatus_Exception(PyConfig_SetBytesString(&config, &config.program_name, FUZZ_PYTHON)));
    REQUIRE(!PyStatus_Exception(Py_InitializeFromConfig(&config)));
    REQUIRE((core = PyImport_ImportModule("_core")) && (numpy = PyImport_ImportModule("numpy")));
    REQUIRE(PyArray_ImportNumPyAPI() == 0);
    forbidden = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(forbidden != MAP_FAILED);
    make_types();
    return 0;
}
