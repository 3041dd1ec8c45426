/* buffers.Tensor: any buffer as a tensor that hands itself out like torch's, through the DLPack C exchange API. Unlike NumPy
 * and torch it loads in every interpreter. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdlib.h>

#include "../../csrc/abi/dlpack.h"

enum { MOST_NDIM = 4 };

typedef struct {
    PyObject_HEAD dl_tensor tensor;
    int64_t shape[MOST_NDIM];
    Py_buffer buffer; /* of the object that owns the memory */
    void *memory;     /* or else it is its own */
    Py_ssize_t bytes;
} Tensor;

/* A tensor of such a shape, and how many bytes it has. */
static Tensor *new_tensor(PyTypeObject *type, dl_dtype dtype, int ndim, const int64_t *shape)
{
    Tensor *t = (Tensor *)type->tp_alloc(type, 0);
    if (!t)
        return NULL;
    t->bytes = dtype.bits / 8;
    for (int i = 0; i < ndim; i++)
        t->bytes *= (Py_ssize_t)(t->shape[i] = shape[i]);
    t->tensor = (dl_tensor){.device = {DL_CPU, 0}, .ndim = ndim, .dtype = dtype, .shape = t->shape};
    return t;
}

/* Tensor(buffer, shape, code, bits): on the memory of a writable buffer. */
static PyObject *tensor_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *object, *sizes;
    int code, bits;
    int64_t shape[MOST_NDIM];
    (void)keywords;
    if (!PyArg_ParseTuple(args, "OO!ii", &object, &PyTuple_Type, &sizes, &code, &bits))
        return NULL;
    for (int i = 0; i < (int)PyTuple_GET_SIZE(sizes) && i < MOST_NDIM; i++)
        shape[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(sizes, i));
    Tensor *t = new_tensor(type, (dl_dtype){(uint8_t)code, (uint8_t)bits, 1}, (int)PyTuple_GET_SIZE(sizes), shape);
    if (!t || PyObject_GetBuffer(object, &t->buffer, PyBUF_CONTIG) < 0) {
        Py_XDECREF(t);
        return NULL;
    }
    t->tensor.data = t->buffer.buf;
    if (t->buffer.len == t->bytes)
        return (PyObject *)t;
    Py_DECREF(t);
    return PyErr_Format(PyExc_ValueError, "buffer: of another size than the shape");
}

static void tensor_dealloc(PyObject *self)
{
    Tensor *t = (Tensor *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyBuffer_Release(&t->buffer);
    free(t->memory);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *tensor_bytes(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    return PyBytes_FromStringAndSize(((Tensor *)self)->tensor.data, ((Tensor *)self)->bytes);
}

static PyObject *tensor_shape(PyObject *self, void *ignored)
{
    const dl_tensor *t = &((Tensor *)self)->tensor;
    (void)ignored;
    PyObject *shape = PyTuple_New(t->ndim);
    for (int i = 0; shape && i < t->ndim; i++)
        PyTuple_SET_ITEM(shape, i, PyLong_FromLongLong(t->shape[i]));
    return shape;
}

/* ---- the exchange API ----------------------------------------------------------------------------------------------- */

static int from_object(void *object, dl_tensor *out)
{
    *out = ((Tensor *)object)->tensor;
    return 0;
}

static int managed_from_object(void *object, dl_managed_tensor_versioned **out)
{
    (void)object, (void)out;
    PyErr_SetString(PyExc_BufferError, "only borrowed");
    return -1;
}

static void drop(dl_managed_tensor_versioned *managed)
{
    Py_DECREF((PyObject *)managed->manager_ctx);
    free(managed);
}

/* The type is that of the interpreter that runs. */
static int allocate(dl_tensor *like, dl_managed_tensor_versioned **out, void *context,
                    void (*set_error)(void *, const char *, const char *))
{
    PyObject *module = PyImport_ImportModule("buffers");
    PyObject *type = module ? PyObject_GetAttrString(module, "Tensor") : NULL;
    Tensor *t = type ? new_tensor((PyTypeObject *)type, like->dtype, like->ndim, like->shape) : NULL;
    Py_XDECREF(type);
    Py_XDECREF(module);
    if (t)
        t->tensor.data = t->memory = malloc(t->bytes > 0 ? (size_t)t->bytes : 1);
    dl_managed_tensor_versioned *managed = t ? calloc(1, sizeof *managed) : NULL;
    if (!managed || !t->memory) {
        free(managed);
        Py_XDECREF(t);
        set_error(context, "MemoryError", "no memory");
        return -1;
    }
    *managed = (dl_managed_tensor_versioned){.version = {1, 3}, .manager_ctx = t, .deleter = drop, .tensor = t->tensor};
    *out = managed;
    return 0;
}

static int to_object(dl_managed_tensor_versioned *managed, void **out)
{
    *out = managed->manager_ctx;
    free(managed);
    return 0;
}

static dl_exchange_api api = {.version = {1, 3},
                              .allocate = allocate,
                              .managed_from_object = managed_from_object,
                              .managed_to_object = to_object,
                              .tensor_from_object = from_object};

/* ---- the module ----------------------------------------------------------------------------------------------------- */

static PyMethodDef tensor_methods[] = {
    {"bytes", tensor_bytes, METH_NOARGS, "All of the memory."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef tensor_getset[] = {
    {"shape", tensor_shape, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot tensor_slots[] = {
    {Py_tp_new, tensor_new},
    {Py_tp_dealloc, tensor_dealloc},
    {Py_tp_methods, tensor_methods},
    {Py_tp_getset, tensor_getset},
    {0, NULL},
};
static PyType_Spec tensor_spec = {"buffers.Tensor", sizeof(Tensor), 0, Py_TPFLAGS_DEFAULT, tensor_slots};

static int execute(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &tensor_spec, NULL);
    PyObject *capsule = PyCapsule_New(&api, "dlpack_exchange_api", NULL);
    int status = type && capsule ? PyObject_SetAttrString(type, "__dlpack_c_exchange_api__", capsule) : -1;
    if (status == 0)
        status = PyModule_AddType(module, (PyTypeObject *)type);
    Py_XDECREF(capsule);
    Py_XDECREF(type);
    return status;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030d0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "buffers", .m_slots = slots};

PyMODINIT_FUNC PyInit_buffers(void)
{
    return PyModuleDef_Init(&definition);
}
