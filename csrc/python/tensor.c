/* Borrowing tensors.
 *
 * How a type hands out its memory is found out once and remembered: the DLPack C exchange API (torch >= 2.10: no Python
 * code runs and nothing is allocated), the NumPy C API, or a DLPack capsule from __dlpack__. */
#include "tensor.h"

#include <stdio.h>

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define NPY_TARGET_VERSION NPY_2_0_API_VERSION
#include <numpy/arrayobject.h>

typedef enum { VIA_EXCHANGE_API, VIA_NUMPY, VIA_CAPSULE } route;

typedef struct producer {
    PyTypeObject *type;
    route via;
    const dl_exchange_api *api;
    int has_requires_grad;  /* asked for, since the exchange API does not refuse such tensors itself */
    int immutable;          /* jax arrays, whose capsules can't say so */
    atomic_int unversioned; /* __dlpack__ takes no max_version */
} producer;

static const struct {
    const char *name;
    dl_dtype dl;
    size_t size;
} dtypes[DTYPE_OTHER] = {
    [DTYPE_FLOAT32] = {"float32", {DL_FLOAT, 32, 1}, 4},    [DTYPE_FLOAT16] = {"float16", {DL_FLOAT, 16, 1}, 2},
    [DTYPE_BFLOAT16] = {"bfloat16", {DL_BFLOAT, 16, 1}, 2}, [DTYPE_FLOAT64] = {"float64", {DL_FLOAT, 64, 1}, 8},
    [DTYPE_INT32] = {"int32", {DL_INT, 32, 1}, 4},          [DTYPE_INT64] = {"int64", {DL_INT, 64, 1}, 8},
};

/* ---- errors --------------------------------------------------------------------------------------------------------- */

/* Replaces what a producer raised by an error that names the argument, and keeps the original as its cause. */
static int fail_from_producer(const char *name)
{
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_RuntimeError, "no reason given");
    if (!PyErr_ExceptionMatches(PyExc_Exception) || PyErr_ExceptionMatches(PyExc_MemoryError))
        return -1;
    PyObject *kind = PyErr_ExceptionMatches(PyExc_BufferError) ? PyExc_ValueError : PyExc_TypeError;
    PyObject *type, *cause, *traceback, *raised_type, *raised, *raised_traceback;
    PyErr_Fetch(&type, &cause, &traceback);
    PyErr_NormalizeException(&type, &cause, &traceback);
    PyErr_Format(kind, "%s: expected a tensor that can be borrowed through DLPack, got %s: %S", name,
                 ((PyTypeObject *)type)->tp_name, cause);
    PyErr_Fetch(&raised_type, &raised, &raised_traceback);
    PyErr_NormalizeException(&raised_type, &raised, &raised_traceback);
    PyException_SetCause(raised, cause);
    PyErr_Restore(raised_type, raised, raised_traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return -1;
}

int tensor_fail_dtype(const tensor *t, const char *wanted)
{
    PyObject *dtype = PyObject_GetAttrString(t->object, "dtype");
    if (dtype) {
        PyErr_Format(PyExc_TypeError, "%s: expected dtype %s, got %S", t->name, wanted, dtype);
        Py_DECREF(dtype);
    } else {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError, "%s: expected dtype %s, got one that is neither", t->name, wanted);
    }
    return -1;
}

const char *tensor_dtype_name(tensor_dtype dtype)
{
    return dtype < DTYPE_OTHER ? dtypes[dtype].name : "another";
}

size_t tensor_item_size(const tensor *t)
{
    return t->dtype < DTYPE_OTHER ? dtypes[t->dtype].size : 1;
}

strided tensor_strided(const tensor *t)
{
    return (strided){t->data, (int64_t)tensor_item_size(t), t->ndim, t->shape, t->strides};
}

static void device_name(dl_device device, char text[32])
{
    if (device.type == DL_CPU)
        snprintf(text, 32, "cpu");
    else if (device.type == DL_CUDA)
        snprintf(text, 32, "cuda:%d", (int)device.id);
    else
        snprintf(text, 32, "DLPack device %d:%d", (int)device.type, (int)device.id);
}

/* ---- what is known about a type ------------------------------------------------------------------------------------- */

/* NumPy's C API, if anybody has imported NumPy: until then no object can be an array of it. Returns 1, 0, or -1. */
static int numpy_is_loaded(module_state *st)
{
    PyObject *modules = PyImport_GetModuleDict(), *numpy = PyDict_GetItemWithError(modules, st->names.numpy);
    if (!numpy)
        return PyErr_Occurred() ? -1 : 0;
    return PyArray_ImportNumPyAPI() < 0 ? -1 : 1;
}

int is_integer(module_state *st, PyObject *object)
{
    if (PyLong_Check(object))
        return 1;
    const int numpy = PyIndex_Check(object) ? numpy_is_loaded(st) : 0;
    if (numpy < 0)
        PyErr_Clear();
    return numpy > 0 && PyArray_IsScalar(object, Integer);
}

/* The attribute of a type, NULL without an error if there is none. */
static PyObject *type_attribute(PyTypeObject *type, PyObject *name)
{
    PyObject *value = PyObject_GetAttr((PyObject *)type, name);
    if (!value && PyErr_ExceptionMatches(PyExc_AttributeError))
        PyErr_Clear();
    return value;
}

/* The name of the package that a type is from, empty if that can't be told. NULL with an exception. */
static PyObject *package_of(module_state *st, PyTypeObject *type)
{
    PyObject *module = type_attribute(type, st->names.__module__), *package = NULL;
    if (module && PyUnicode_Check(module)) {
        const Py_ssize_t length = PyUnicode_GET_LENGTH(module), dot = PyUnicode_FindChar(module, '.', 0, length, 1);
        package = PyUnicode_Substring(module, 0, dot < 0 ? length : dot);
    } else if (!PyErr_Occurred())
        package = PyUnicode_New(0, 0);
    Py_XDECREF(module);
    return package;
}

static int find_exchange_api(module_state *st, producer *p)
{
    PyObject *capsule = type_attribute(p->type, st->names.__dlpack_c_exchange_api__);
    if (!capsule)
        return PyErr_Occurred() ? -1 : 0;
    const dl_exchange_api *api = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    Py_DECREF(capsule); /* what it points to lives as long as the process */
    if (!api)
        PyErr_Clear();
    while (api && api->version.major != DLPACK_MAJOR)
        api = api->prev;
    p->api = api;
    return api != NULL;
}

/* Fills in how p->type hands out its memory. */
static int learn(module_state *st, producer *p, const char *name)
{
    int numpy = numpy_is_loaded(st), exchange;
    if (numpy < 0)
        return -1;
    if (numpy && PyType_IsSubtype(p->type, &PyArray_Type)) {
        p->via = VIA_NUMPY;
        return 0;
    }
    exchange = find_exchange_api(st, p);
    if (exchange < 0)
        return -1;
    PyObject *method = type_attribute(p->type, st->names.__dlpack__);
    if (!method && PyErr_Occurred())
        return -1;
    Py_XDECREF(method);
    if (exchange) {
        PyObject *attribute = type_attribute(p->type, st->names.requires_grad);
        if (!attribute && PyErr_Occurred())
            return -1;
        Py_XDECREF(attribute);
        p->has_requires_grad = attribute != NULL;
        p->via = VIA_EXCHANGE_API;
        return 0;
    }
    if (!method) {
        PyErr_Format(PyExc_TypeError, "%s: expected a tensor (NumPy, torch or anything with __dlpack__), got %s", name,
                     p->type->tp_name);
        return -1;
    }
    PyObject *package = package_of(st, p->type);
    if (!package)
        return -1;
    p->immutable =
        PyUnicode_CompareWithASCIIString(package, "jax") == 0 || PyUnicode_CompareWithASCIIString(package, "jaxlib") == 0;
    Py_DECREF(package);
    p->via = VIA_CAPSULE;
    return 0;
}

/* The entry for a type. Entries are never changed or removed while the module lives, so that readers need no lock. A type
 * that comes when all places are taken is learned anew each time, into *overflow. */
static const producer *producer_of(module_state *st, PyTypeObject *type, const char *name, producer **overflow)
{
    *overflow = NULL;
    for (int i = 0; i < MAX_PRODUCERS; i++) {
        producer *p = atomic_load_explicit(&st->producers[i], memory_order_acquire);
        if (!p)
            break;
        if (p->type == type)
            return p;
    }
    producer *p = PyMem_Calloc(1, sizeof *p);
    if (!p) {
        PyErr_NoMemory();
        return NULL;
    }
    p->type = type;
    if (learn(st, p, name) < 0) {
        PyMem_Free(p);
        return NULL;
    }
    Py_INCREF(type);
    for (int i = 0; i < MAX_PRODUCERS; i++) {
        producer *empty = NULL;
        if (atomic_compare_exchange_strong(&st->producers[i], &empty, p))
            return p;
    }
    *overflow = p;
    return p;
}

static void forget(producer *p)
{
    Py_DECREF(p->type);
    PyMem_Free(p);
}

int tensor_traverse(module_state *st, visitproc visit, void *arg)
{
    for (int i = 0; i < MAX_PRODUCERS; i++) {
        producer *p = atomic_load(&st->producers[i]);
        if (p)
            Py_VISIT(p->type);
    }
    return 0;
}

void tensor_clear(module_state *st)
{
    for (int i = 0; i < MAX_PRODUCERS; i++) {
        producer *p = atomic_exchange(&st->producers[i], NULL);
        if (p)
            forget(p);
    }
}

/* ---- borrowing ------------------------------------------------------------------------------------------------------ */

static tensor_dtype dtype_of(dl_dtype dl)
{
    int i = 0;
    while (i < DTYPE_OTHER && (dtypes[i].dl.code != dl.code || dtypes[i].dl.bits != dl.bits || dl.lanes != 1))
        i++;
    return (tensor_dtype)i;
}

/* Items of a tensor, with sizes of 0 counted as 1, and how far its strides lead, stay below this: no product of sizes, and
 * no sum of strides in bytes, can overflow. */
static const int64_t most_items = INT64_MAX / 32;

static int extent_is_sane(const tensor *t)
{
    double extent = 0;
    for (int i = 0; i < t->ndim; i++) {
        double stride = (double)t->strides[i], size = t->shape[i] > 0 ? (double)t->shape[i] : 1;
        extent += (stride < 0 ? -stride : stride) * size;
    }
    return extent < (double)most_items;
}

static int64_t item_count(const tensor *t)
{
    int64_t count = 1;
    for (int i = 0; i < t->ndim; i++)
        count *= t->shape[i];
    return count;
}

static int take_layout(tensor *t, int ndim, const int64_t *shape, const int64_t *strides)
{
    if (ndim < 0 || ndim > TENSOR_MAX_NDIM || (ndim > 0 && !shape)) {
        PyErr_Format(PyExc_ValueError, "%s: expected at most %d dimensions, got %d", t->name, TENSOR_MAX_NDIM, ndim);
        return -1;
    }
    int64_t compact = 1;
    t->ndim = ndim;
    for (int i = ndim - 1; i >= 0; i--) {
        if (shape[i] < 0) {
            PyErr_Format(PyExc_ValueError, "%s: expected a shape without negative sizes, got %lld in dimension %d", t->name,
                         (long long)shape[i], i);
            return -1;
        }
        const int64_t size = shape[i] > 0 ? shape[i] : 1;
        t->shape[i] = shape[i];
        t->strides[i] = strides ? strides[i] : compact;
        if (compact > most_items / size) {
            PyErr_Format(PyExc_ValueError, "%s: expected a shape that fits in memory, got one of over 2^58 items", t->name);
            return -1;
        }
        compact *= size;
    }
    return 0;
}

static int borrow_numpy(tensor *t)
{
    PyArrayObject *array = (PyArrayObject *)t->object;
    PyArray_Descr *descr = PyArray_DESCR(array);
    int64_t size = (int64_t)PyDataType_ELSIZE(descr), shape[TENSOR_MAX_NDIM], strides[TENSOR_MAX_NDIM];
    int ndim = PyArray_NDIM(array);
    dl_dtype dl = {DL_BOOL, (uint8_t)(size <= 16 ? size * 8 : 0), 1};
    const char *type_name = strrchr(descr->typeobj->tp_name, '.');
    if (descr->kind == 'f')
        dl.code = DL_FLOAT;
    else if (descr->kind == 'i')
        dl.code = DL_INT;
    else if (size == 2 && strcmp(type_name ? type_name + 1 : descr->typeobj->tp_name, "bfloat16") == 0)
        dl.code = DL_BFLOAT; /* ml_dtypes */
    t->dtype = PyArray_ISNOTSWAPPED(array) ? dtype_of(dl) : DTYPE_OTHER;
    t->data = PyArray_DATA(array);
    t->device = (dl_device){DL_CPU, 0};
    t->read_only = !PyArray_ISWRITEABLE(array);
    if (!t->capsule && !(t->capsule = PyWeakref_NewRef(t->object, NULL))) /* an array with one refuses to be resized */
        return -1;
    for (int i = 0; i < ndim && i < TENSOR_MAX_NDIM; i++) {
        int64_t stride = PyArray_STRIDE(array, i);
        shape[i] = PyArray_DIM(array, i);
        if (size > 0 && stride % size != 0 && shape[i] > 1) {
            PyErr_Format(PyExc_ValueError, "%s: expected strides that are multiples of the item size %lld, got %lld bytes",
                         t->name, (long long)size, (long long)stride);
            return -1;
        }
        strides[i] = size > 0 ? stride / size : 0;
    }
    return take_layout(t, ndim, shape, strides);
}

static int take_dl_tensor(tensor *t, const dl_tensor *dl)
{
    t->data = dl->data ? (void *)((uintptr_t)dl->data + dl->byte_offset) : NULL;
    t->device = dl->device;
    if (dl->device.type == DL_CUDA_HOST || dl->device.type == DL_ROCM_HOST)
        t->device = (dl_device){DL_CPU, 0};
    t->dtype = dtype_of(dl->dtype);
    return take_layout(t, dl->ndim, dl->shape, dl->strides);
}

static int take_managed(tensor *t, const dl_managed_tensor_versioned *managed)
{
    if (managed->version.major != DLPACK_MAJOR) {
        PyErr_Format(PyExc_ValueError, "%s: expected DLPack version %d.x, got %u.%u", t->name, DLPACK_MAJOR,
                     (unsigned)managed->version.major, (unsigned)managed->version.minor);
        return -1;
    }
    t->read_only = (managed->flags & DL_FLAG_READ_ONLY) != 0;
    return take_dl_tensor(t, &managed->tensor);
}

static int borrow_exchange(module_state *st, tensor *t)
{
    const dl_exchange_api *api = t->producer->api;
    int status;
    if (api->tensor_from_object) {
        dl_tensor dl = {0};
        if (api->tensor_from_object(t->object, &dl) != 0)
            return fail_from_producer(t->name);
        status = take_dl_tensor(t, &dl);
    } else {
        dl_managed_tensor_versioned *managed;
        if (api->managed_from_object(t->object, &managed) != 0)
            return fail_from_producer(t->name);
        t->managed = managed;
        status = take_managed(t, managed);
    }
    if (status == 0 && t->producer->has_requires_grad && t->dtype < DTYPE_INT32) {
        PyObject *requires_grad = PyObject_GetAttr(t->object, st->names.requires_grad);
        if (!requires_grad)
            return fail_from_producer(t->name);
        Py_DECREF(requires_grad);
        if (requires_grad == Py_True) {
            PyErr_Format(PyExc_ValueError,
                         "%s: expected a tensor outside autograd, got one that requires grad: detach() it, "
                         "or compute it under torch.no_grad()",
                         t->name);
            return -1;
        }
    }
    return status;
}

/* Calls __dlpack__, with a stream if there is one to pass. */
static PyObject *export_capsule(module_state *st, tensor *t, PyObject *stream)
{
    producer *p = (producer *)t->producer;
    PyObject *args[3] = {t->object, stream ? stream : st->max_version, st->max_version};
    const size_t flags = 1 | PY_VECTORCALL_ARGUMENTS_OFFSET;
    if (!atomic_load_explicit(&p->unversioned, memory_order_relaxed)) {
        PyObject *capsule =
            PyObject_VectorcallMethod(st->names.__dlpack__, args, flags, stream ? st->stream_kw : st->version_kw);
        if (capsule || !PyErr_ExceptionMatches(PyExc_TypeError))
            return capsule;
        PyErr_Clear();
    }
    PyObject *kwnames = stream ? PyTuple_GetSlice(st->stream_kw, 0, 1) : NULL;
    PyObject *capsule = PyObject_VectorcallMethod(st->names.__dlpack__, args, flags, kwnames);
    Py_XDECREF(kwnames);
    if (capsule)
        atomic_store_explicit(&p->unversioned, 1, memory_order_relaxed);
    return capsule;
}

static int borrow_capsule(module_state *st, tensor *t, PyObject *stream)
{
    t->capsule = export_capsule(st, t, stream);
    if (!t->capsule)
        return fail_from_producer(t->name);
    /* The capsule is held, not consumed: it destroys the tensor's export when it is released. */
    if (PyCapsule_IsValid(t->capsule, "dltensor_versioned"))
        return take_managed(t, PyCapsule_GetPointer(t->capsule, "dltensor_versioned"));
    if (PyCapsule_IsValid(t->capsule, "dltensor"))
        return take_dl_tensor(t, &((dl_managed_tensor *)PyCapsule_GetPointer(t->capsule, "dltensor"))->tensor);
    PyErr_Format(PyExc_TypeError, "%s: expected a DLPack capsule that nobody has consumed from __dlpack__, got %R", t->name,
                 t->capsule);
    return -1;
}

static int is_same_memory(const tensor *a, const tensor *b)
{
    const size_t size = (size_t)a->ndim * sizeof *a->shape;
    return a->data == b->data && a->dtype == b->dtype && a->ndim == b->ndim && memcmp(a->shape, b->shape, size) == 0 &&
           memcmp(a->strides, b->strides, size) == 0;
}

static int check_memory(const tensor *t)
{
    if (!extent_is_sane(t)) {
        PyErr_Format(PyExc_ValueError, "%s: expected strides that stay in memory, got strides beyond 2^58 items", t->name);
        return -1;
    }
    if (item_count(t) == 0)
        return 0;
    if (!t->data) {
        PyErr_Format(PyExc_ValueError, "%s: expected memory, got a null pointer", t->name);
        return -1;
    }
    if (t->dtype != DTYPE_OTHER && (uintptr_t)t->data % dtypes[t->dtype].size != 0) {
        PyErr_Format(PyExc_ValueError, "%s: expected memory aligned to its %zu-byte items, got address %p", t->name,
                     dtypes[t->dtype].size, t->data);
        return -1;
    }
    return 0;
}

int tensor_borrow(module_state *st, PyObject *object, const char *name, tensor *t)
{
    producer *overflow;
    int status;
    *t = (tensor){.name = name, .object = object};
    t->producer = producer_of(st, Py_TYPE(object), name, &overflow);
    if (!t->producer)
        return -1;
    switch (t->producer->via) {
    case VIA_EXCHANGE_API:
        status = borrow_exchange(st, t);
        break;
    case VIA_NUMPY:
        status = borrow_numpy(t);
        break;
    default:
        status = borrow_capsule(st, t, NULL);
    }
    t->read_only |= t->producer->immutable;
    t->overflow = overflow;
    if (status == 0)
        status = check_memory(t);
    if (status < 0)
        tensor_release(t);
    return status;
}

int tensor_settle(tensor *const *tensors, int n)
{
    for (int i = 0; i < n; i++) {
        const tensor *t = tensors[i];
        tensor now = {.name = t->name, .object = t->object, .producer = t->producer, .capsule = t->capsule};
        dl_tensor dl = {0};
        if (!t->object || t->managed || t->producer->via == VIA_CAPSULE)
            continue; /* what is held can't go away */
        if (t->producer->via == VIA_NUMPY) {
            if (borrow_numpy(&now) < 0)
                return -1;
        } else if (t->producer->api->tensor_from_object(t->object, &dl) != 0)
            return fail_from_producer(t->name);
        else if (take_dl_tensor(&now, &dl) < 0)
            return -1;
        if (is_same_memory(&now, t) && now.read_only <= t->read_only)
            continue;
        PyErr_Format(PyExc_ValueError, "%s: expected a tensor that stays as it is during the call, got one that changes",
                     t->name);
        return -1;
    }
    return 0;
}

void tensor_release(tensor *t)
{
    PyObject *type, *value, *traceback;
    if (!t->capsule && !t->managed && !t->overflow)
        return;
    PyErr_Fetch(&type, &value, &traceback); /* deleters may run Python code */
    Py_CLEAR(t->capsule);
    if (t->managed && t->managed->deleter)
        t->managed->deleter(t->managed);
    t->managed = NULL;
    if (t->overflow)
        forget(t->overflow);
    t->overflow = NULL;
    PyErr_Restore(type, value, traceback);
}

/* ---- checks --------------------------------------------------------------------------------------------------------- */

int tensor_check_float(const tensor *t)
{
    return t->dtype < DTYPE_INT32 ? 0 : tensor_fail_dtype(t, "float32, float16, bfloat16 or float64");
}

int tensor_check_int(const tensor *t)
{
    return t->dtype == DTYPE_INT32 || t->dtype == DTYPE_INT64 ? 0 : tensor_fail_dtype(t, "int32 or int64");
}

int tensor_check_writable(const tensor *t)
{
    if (t->read_only) {
        PyErr_Format(PyExc_ValueError, "%s: expected a writable tensor, got a read-only %s", t->name,
                     Py_TYPE(t->object)->tp_name);
        return -1;
    }
    const strided a = tensor_strided(t);
    const int at = strided_collision(&a); /* two indices must never name the same number */
    if (at < 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected a tensor without overlapping elements, got stride %lld in dimension %d",
                 t->name, (long long)t->strides[at], at);
    return -1;
}

int tensor_check_device(const tensor *t, const tensor *reference)
{
    char wanted[32], got[32];
    if (reference && (t->device.type != reference->device.type || t->device.id != reference->device.id)) {
        device_name(t->device, got);
        device_name(reference->device, wanted);
        PyErr_Format(PyExc_ValueError, "%s: expected the device of %s, which is %s, got %s", t->name, reference->name,
                     wanted, got);
        return -1;
    }
    if (t->device.type != DL_CPU && t->device.type != DL_CUDA) {
        device_name(t->device, got);
        PyErr_Format(PyExc_ValueError, "%s: expected a tensor on cpu or cuda, got %s", t->name, got);
        return -1;
    }
    return 0;
}

int tensor_check_cpu(const tensor *t)
{
    char got[32];
    if (t->device.type == DL_CPU)
        return 0;
    device_name(t->device, got);
    PyErr_Format(PyExc_ValueError, "%s: expected a tensor on cpu, got %s", t->name, got);
    return -1;
}

int check_apart(const tensor *t, const tensor *from)
{
    const strided a = tensor_strided(t), b = tensor_strided(from);
    if (!strided_meet(&a, &b, t->dtype == from->dtype))
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected memory apart from that of %s, got some of the same", t->name, from->name);
    return -1;
}

/* ---- streams -------------------------------------------------------------------------------------------------------- */

int tensor_agree_on_stream(module_state *st, tensor *const *tensors, int n, void **stream, const tensor **unordered)
{
    int known = 0, status = 0;
    *unordered = NULL;
    PyObject *number = NULL;
    for (int i = 0; i < n && !known; i++) {
        const tensor *t = tensors[i];
        if (!t->object || t->producer->via != VIA_EXCHANGE_API || !t->producer->api->current_stream)
            continue;
        if (t->producer->api->current_stream(t->device.type, t->device.id, stream) != 0)
            return fail_from_producer(t->name);
        known = 1;
    }
    if (!known)
        *stream = (void *)(uintptr_t)DL_STREAM_LEGACY;
    for (int i = 0; i < n && status == 0; i++) {
        tensor *t = tensors[i];
        if (!t->object || t->producer->via != VIA_CAPSULE)
            continue;
        /* The protocol knows no stream 0: CUDA's is called 1. */
        if (!number)
            number = PyLong_FromUnsignedLongLong(*stream ? (uintptr_t)*stream : DL_STREAM_LEGACY);
        tensor before = *t;
        *unordered = t;
        t->capsule = NULL;
        before.overflow = NULL;
        status = number ? borrow_capsule(st, t, number) : -1;
        if (status == 0 && !is_same_memory(t, &before)) {
            PyErr_Format(PyExc_ValueError, "%s: expected the same memory from __dlpack__ each time, got another tensor",
                         t->name);
            status = -1;
        }
        tensor_release(&before);
    }
    Py_XDECREF(number);
    return status;
}

/* ---- new tensors ---------------------------------------------------------------------------------------------------- */

/* Called by a foreign allocator that fails: keeps what it says. */
static void note_error(void *text, const char *kind, const char *message)
{
    snprintf(text, 256, "%s: %s", kind ? kind : "error", message ? message : "no message");
}

static int allocate(const producer *p, dl_device device, tensor_dtype dtype, int ndim, const int64_t *shape,
                    dl_managed_tensor_versioned **allocated)
{
    char message[256] = "no message";
    int64_t own_shape[TENSOR_MAX_NDIM] = {0};
    memcpy(own_shape, shape, (size_t)ndim * sizeof *shape);
    dl_tensor prototype = {.device = device, .ndim = ndim, .dtype = dtypes[dtype].dl, .shape = own_shape};
    *allocated = NULL;
    if (p->api->allocate(&prototype, allocated, message, note_error) == 0)
        return 0;
    if (!PyErr_Occurred())
        PyErr_Format(PyExc_RuntimeError, "the allocator of %s failed: %s", p->type->tp_name, message);
    return -1;
}

static PyObject *new_exchange(const producer *p, tensor_dtype dtype, int ndim, const int64_t *shape, const void *data,
                              size_t size)
{
    dl_managed_tensor_versioned *managed;
    void *object = NULL;
    if (allocate(p, (dl_device){DL_CPU, 0}, dtype, ndim, shape, &managed) < 0)
        return NULL;
    if (size > 0)
        memcpy(tensor_memory(managed), data, size);
    if (p->api->managed_to_object(managed, &object) != 0)
        return NULL;
    return object;
}

int tensor_allocate(const tensor *like, tensor_dtype dtype, int ndim, const int64_t *shape,
                    dl_managed_tensor_versioned **allocated)
{
    if (like->producer->via == VIA_EXCHANGE_API)
        return allocate(like->producer, like->device, dtype, ndim, shape, allocated);
    PyErr_Format(PyExc_TypeError,
                 "%s: expected a tensor of a library that can allocate results on the device, through the DLPack exchange "
                 "API (torch 2.10 or newer), got %s",
                 like->name, Py_TYPE(like->object)->tp_name);
    return -1;
}

void *tensor_memory(const dl_managed_tensor_versioned *allocated)
{
    return (char *)allocated->tensor.data + allocated->tensor.byte_offset;
}

PyObject *tensor_hand_over(const tensor *like, dl_managed_tensor_versioned *allocated)
{
    void *object = NULL;
    return like->producer->api->managed_to_object(allocated, &object) == 0 ? object : NULL;
}

void tensor_drop(dl_managed_tensor_versioned *allocated)
{
    if (allocated && allocated->deleter)
        allocated->deleter(allocated);
}

/* NumPy itself has no bfloat16: an array of it is only made like another. */
static PyObject *new_numpy(const tensor *like, tensor_dtype dtype, int ndim, const int64_t *shape, const void *data,
                           size_t size)
{
    static const int numbers[DTYPE_OTHER] = {[DTYPE_FLOAT32] = NPY_FLOAT32,
                                             [DTYPE_FLOAT16] = NPY_FLOAT16,
                                             [DTYPE_FLOAT64] = NPY_FLOAT64,
                                             [DTYPE_INT32] = NPY_INT32,
                                             [DTYPE_INT64] = NPY_INT64};
    npy_intp sizes[TENSOR_MAX_NDIM];
    for (int i = 0; i < ndim; i++)
        sizes[i] = (npy_intp)shape[i];
    if (PyArray_ImportNumPyAPI() < 0)
        return NULL;
    PyArray_Descr *descr;
    if (dtype != DTYPE_BFLOAT16)
        descr = PyArray_DescrFromType(numbers[dtype]);
    else if (like->producer->via == VIA_NUMPY && like->dtype == dtype)
        Py_INCREF(descr = PyArray_DESCR((PyArrayObject *)like->object));
    else {
        PyErr_Format(PyExc_TypeError, "out: expected a tensor to write to, since %s has no way to make one of bfloat16",
                     Py_TYPE(like->object)->tp_name);
        return NULL;
    }
    PyObject *array = descr ? PyArray_NewFromDescr(&PyArray_Type, descr, ndim, sizes, NULL, NULL, 0, NULL) : NULL;
    if (array && size > 0)
        memcpy(PyArray_DATA((PyArrayObject *)array), data, size);
    return array;
}

/* The from_dlpack of an object's own library: its array-API namespace, or the package that its type is from. */
static PyObject *find_from_dlpack(module_state *st, PyObject *object)
{
    PyObject *home = PyObject_CallMethodNoArgs(object, st->names.__array_namespace__);
    if (!home && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        PyObject *package = package_of(st, Py_TYPE(object));
        home = package ? PyImport_GetModule(package) : NULL;
        Py_XDECREF(package);
    }
    PyObject *function = home ? PyObject_GetAttr(home, st->names.from_dlpack) : NULL;
    Py_XDECREF(home);
    return function;
}

PyObject *tensor_new(module_state *st, const tensor *like, tensor_dtype dtype, int ndim, const int64_t *shape,
                     const void *data)
{
    size_t size = dtypes[dtype].size;
    for (int i = 0; i < ndim; i++)
        size *= (size_t)shape[i];
    if (like->producer->via == VIA_EXCHANGE_API)
        return new_exchange(like->producer, dtype, ndim, shape, data, size);
    PyObject *array = new_numpy(like, dtype, ndim, shape, data, size);
    if (!array || like->producer->via == VIA_NUMPY)
        return array;
    PyObject *from_dlpack = find_from_dlpack(st, like->object);
    if (!from_dlpack) {
        /* A producer that can't consume gets NumPy arrays. */
        if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_AttributeError))
            Py_CLEAR(array);
        else
            PyErr_Clear();
        return array;
    }
    PyObject *converted = PyObject_CallOneArg(from_dlpack, array);
    Py_DECREF(from_dlpack);
    Py_DECREF(array);
    return converted;
}
