/* emulated.Tensor: a tensor in the emulator's memory that hands itself out like torch's, through the C exchange API.
 *
 * The library is given by the environment variable LZPENALTY_LIBCUDA, as for lzpenalty itself. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dlfcn.h>
#include <stdlib.h>

#include "../../csrc/abi/cuda.h"
#include "../../csrc/abi/dlpack.h"

enum { MOST_NDIM = 4 };

static struct {
    CU_FUNCTIONS(CU_DECLARE)
    cu_result (*allocate_async)(cu_pointer *, size_t, cu_stream);
    cu_result (*free_async)(cu_pointer, cu_stream);
    cu_result (*copy_to_host)(void *, cu_pointer, size_t);
} cuda;

static cu_stream current_stream; /* what the exchange API says that tensors are worked on */
static long allocated, dropped;  /* by allocate(), and by the deleters of what it returned */

typedef struct {
    PyObject_HEAD dl_tensor tensor;
    int64_t shape[MOST_NDIM], strides[MOST_NDIM];
    cu_pointer memory; /* 0 for what is not owned */
    size_t bytes;
} Tensor;

static PyTypeObject *tensor_type;

static int fail(cu_result code, const char *what)
{
    const char *name = NULL;
    if (code == CU_SUCCESS)
        return 0;
    cuda.error_name(code, &name);
    PyErr_Format(PyExc_RuntimeError, "%s: %s (%d)", what, name ? name : "?", code);
    return -1;
}

/* Runs with the device's context current. */
static cu_context enter(int device)
{
    cu_context context = NULL;
    cuda.init(0);
    if (fail(cuda.context_retain(&context, device), "cuDevicePrimaryCtxRetain") < 0 ||
        fail(cuda.context_push(context), "cuCtxPushCurrent") < 0)
        return NULL;
    return context;
}

static void leave(void)
{
    cu_context popped;
    cuda.context_pop(&popped);
}

/* Tensor(host bytes, shape, strides, offset, code, bits, device): a copy of the bytes on the device, and a view of it.
 * The offset and the strides count items. */
static PyObject *tensor_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    Py_buffer host;
    PyObject *shape, *strides;
    long long offset;
    int code, bits, device;
    if (!PyArg_ParseTuple(args, "y*O!O!Liii", &host, &PyTuple_Type, &shape, &PyTuple_Type, &strides, &offset, &code, &bits,
                          &device))
        return NULL;
    (void)keywords;
    Tensor *t = (Tensor *)type->tp_alloc(type, 0);
    for (int i = 0; i < (int)PyTuple_GET_SIZE(shape) && i < MOST_NDIM; i++) {
        t->shape[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(shape, i));
        t->strides[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(strides, i));
    }
    t->bytes = (size_t)host.len;
    t->tensor = (dl_tensor){.device = {DL_CUDA, device},
                            .ndim = (int)PyTuple_GET_SIZE(shape),
                            .dtype = {(uint8_t)code, (uint8_t)bits, 1},
                            .shape = t->shape,
                            .strides = t->strides};
    int entered = enter(device) != NULL;
    if (entered && t->bytes > 0 && fail(cuda.memory_allocate(&t->memory, t->bytes), "cuMemAlloc") == 0)
        fail(cuda.copy_to_device(t->memory, host.buf, t->bytes), "cuMemcpyHtoD");
    if (entered)
        leave();
    t->tensor.data = t->memory ? (char *)(uintptr_t)t->memory + offset * bits / 8 : NULL;
    PyBuffer_Release(&host);
    if (PyErr_Occurred())
        Py_CLEAR(t);
    return (PyObject *)t;
}

/* Frees in the order of the stream, as a caching allocator does. */
static void release(cu_pointer memory, int device)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (memory && enter(device)) {
        cuda.free_async(memory, current_stream);
        leave();
    }
    PyErr_Restore(type, value, traceback);
}

static void tensor_dealloc(PyObject *self)
{
    Tensor *t = (Tensor *)self;
    PyTypeObject *type = Py_TYPE(self);
    release(t->memory, t->tensor.device.id);
    type->tp_free(self);
    Py_DECREF(type);
}

/* All of the memory, as bytes: waits for the device. */
static PyObject *tensor_bytes(PyObject *self, PyObject *ignored)
{
    Tensor *t = (Tensor *)self;
    (void)ignored;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)t->bytes);
    if (t->bytes == 0 || !enter(t->tensor.device.id))
        return bytes;
    if (fail(cuda.copy_to_host(PyBytes_AS_STRING(bytes), t->memory, t->bytes), "cuMemcpyDtoH") < 0)
        Py_CLEAR(bytes);
    leave();
    return bytes;
}

static PyObject *tensor_shape(PyObject *self, void *ignored)
{
    Tensor *t = (Tensor *)self;
    (void)ignored;
    PyObject *shape = PyTuple_New(t->tensor.ndim);
    for (int i = 0; i < t->tensor.ndim; i++)
        PyTuple_SET_ITEM(shape, i, PyLong_FromLongLong(t->shape[i]));
    return shape;
}

static PyObject *tensor_info(PyObject *self, void *ignored)
{
    const dl_tensor *t = &((Tensor *)self)->tensor;
    (void)ignored;
    return Py_BuildValue("(Kiii)", (unsigned long long)(uintptr_t)t->data, t->dtype.code, t->dtype.bits, t->device.id);
}

static PyObject *tensor_requires_grad(PyObject *self, void *ignored)
{
    (void)self, (void)ignored;
    Py_RETURN_FALSE;
}

/* ---- the exchange API ----------------------------------------------------------------------------------------------- */

typedef struct {
    dl_managed_tensor_versioned managed;
    int64_t shape[MOST_NDIM], strides[MOST_NDIM];
    size_t bytes;
} owned;

static void delete_owned(dl_managed_tensor_versioned *managed)
{
    dropped++;
    release((cu_pointer)(uintptr_t)managed->tensor.data, managed->tensor.device.id);
    free(managed);
}

static int exchange_allocate(dl_tensor *like, dl_managed_tensor_versioned **out, void *error_ctx,
                             void (*set_error)(void *, const char *, const char *))
{
    owned *o = calloc(1, sizeof *o);
    cu_pointer memory = 0;
    o->bytes = like->dtype.bits / 8;
    for (int i = like->ndim - 1; i >= 0; i--) {
        o->strides[i] = (int64_t)(o->bytes * 8 / like->dtype.bits);
        o->shape[i] = like->shape[i];
        o->bytes *= (size_t)like->shape[i];
    }
    if (like->device.type != DL_CUDA ||
        (o->bytes > 0 &&
         (!enter(like->device.id) || fail(cuda.allocate_async(&memory, o->bytes, current_stream), "cuMemAllocAsync") < 0))) {
        PyErr_Clear();
        free(o);
        set_error(error_ctx, "MemoryError", "out of emulated memory");
        return -1;
    }
    if (o->bytes > 0)
        leave();
    o->managed = (dl_managed_tensor_versioned){.version = {1, 3}, .deleter = delete_owned, .tensor = *like};
    o->managed.tensor.data = (void *)(uintptr_t)memory;
    o->managed.tensor.shape = o->shape;
    o->managed.tensor.strides = o->strides;
    o->managed.tensor.byte_offset = 0;
    allocated++;
    *out = &o->managed;
    return 0;
}

static int exchange_from_object(void *object, dl_tensor *out)
{
    *out = ((Tensor *)object)->tensor;
    return 0;
}

static int exchange_managed_from_object(void *object, dl_managed_tensor_versioned **out)
{
    (void)object, (void)out;
    PyErr_SetString(PyExc_BufferError, "only borrowed");
    return -1;
}

static int exchange_to_object(dl_managed_tensor_versioned *managed, void **out)
{
    owned *o = (owned *)managed;
    Tensor *t = (Tensor *)tensor_type->tp_alloc(tensor_type, 0);
    t->tensor = managed->tensor;
    memcpy(t->shape, o->shape, sizeof t->shape);
    memcpy(t->strides, o->strides, sizeof t->strides);
    t->tensor.shape = t->shape;
    t->tensor.strides = t->strides;
    t->memory = (cu_pointer)(uintptr_t)managed->tensor.data;
    t->bytes = o->bytes;
    free(o);
    *out = t;
    return 0;
}

static int exchange_current_stream(int32_t device_type, int32_t device_id, void **out)
{
    (void)device_id;
    *out = device_type == DL_CUDA ? current_stream : NULL;
    return 0;
}

static dl_exchange_api api = {.version = {1, 3},
                              .allocate = exchange_allocate,
                              .managed_from_object = exchange_managed_from_object,
                              .managed_to_object = exchange_to_object,
                              .tensor_from_object = exchange_from_object,
                              .current_stream = exchange_current_stream};

/* ---- the module ----------------------------------------------------------------------------------------------------- */

static PyObject *set_stream(PyObject *module, PyObject *handle)
{
    (void)module;
    current_stream = (cu_stream)PyLong_AsVoidPtr(handle);
    Py_RETURN_NONE;
}

static PyObject *counts(PyObject *module, PyObject *ignored)
{
    (void)module, (void)ignored;
    return Py_BuildValue("(ll)", allocated, dropped);
}

static PyMethodDef tensor_methods[] = {
    {"bytes", tensor_bytes, METH_NOARGS, "All of the memory."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef tensor_getset[] = {
    {"shape", tensor_shape, NULL, NULL, NULL},
    {"info", tensor_info, NULL, "(address, code, bits, device)", NULL},
    {"requires_grad", tensor_requires_grad, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot tensor_slots[] = {
    {Py_tp_new, tensor_new},
    {Py_tp_dealloc, tensor_dealloc},
    {Py_tp_methods, tensor_methods},
    {Py_tp_getset, tensor_getset},
    {0, NULL},
};
static PyType_Spec tensor_spec = {"emulated.Tensor", sizeof(Tensor), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
                                  tensor_slots};
static PyMethodDef methods[] = {
    {"set_stream", set_stream, METH_O, "The stream that the exchange API names from now on."},
    {"counts", counts, METH_NOARGS, "Tensors that were allocated through the exchange API, and those dropped again."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "emulated", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_emulated(void)
{
    const char *path = getenv("LZPENALTY_LIBCUDA");
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library)
        return PyErr_Format(PyExc_ImportError, "LZPENALTY_LIBCUDA: %s", path ? dlerror() : "not set");
#define RESOLVE(member, symbol, parameters) *(void **)&cuda.member = dlsym(library, symbol);
    CU_FUNCTIONS(RESOLVE)
    RESOLVE(allocate_async, "cuMemAllocAsync", )
    RESOLVE(free_async, "cuMemFreeAsync", )
    RESOLVE(copy_to_host, "cuMemcpyDtoH_v2", )
    PyObject *module = PyModule_Create(&definition), *capsule = PyCapsule_New(&api, "dlpack_exchange_api", NULL);
    tensor_type = (PyTypeObject *)PyType_FromSpec(&tensor_spec);
    if (!module || !capsule || !tensor_type ||
        PyObject_SetAttrString((PyObject *)tensor_type, "__dlpack_c_exchange_api__", capsule) < 0)
        return NULL;
#ifdef Py_GIL_DISABLED
    PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
#endif
    Py_DECREF(capsule);
    Py_INCREF(tensor_type);
    PyModule_AddObject(module, "Tensor", (PyObject *)tensor_type);
    return module;
}
