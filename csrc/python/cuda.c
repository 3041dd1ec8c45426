#include "cuda.h"

#include "args.h"
#include "functions.h"

static int fail(const cuda_error *error)
{
    PyErr_SetString(PyExc_RuntimeError, error->text);
    return -1;
}

int cuda_begin(module_state *st, tensor *const *tensors, int n, cuda_call *call)
{
    void *stream;
    if (tensor_agree_on_stream(st, tensors, n, &stream, &call->unordered) < 0)
        return -1;
    call->stream = stream;
    call->device = cuda_ready_device(tensors[0]->device.id);
    if (!call->device) {
        Py_BEGIN_ALLOW_THREADS /* the driver compiles for a good part of a second when it sees the kernels first */
            call->device = cuda_get_device(tensors[0]->device.id, call->stream, &call->error);
        Py_END_ALLOW_THREADS
    }
    if (!call->device)
        return fail(&call->error);
    if (call->unordered && cuda_is_capturing(call->device->driver, call->stream)) {
        PyErr_Format(PyExc_RuntimeError,
                     "%s: expected a tensor whose library says which stream it works on, through the DLPack exchange API "
                     "(torch 2.10 or newer), while a graph is captured, got %s, which would have to be waited for",
                     call->unordered->name, Py_TYPE(call->unordered->object)->tp_name);
        return -1;
    }
    return tensor_settle(tensors, n);
}

int cuda_end(cuda_call *call, cuda_status status)
{
    if (status == CUDA_OK && call->unordered)
        CUDA_RUN(status, cuda_wait(call->device, call->stream, &call->error));
    return status == CUDA_OK ? 0 : fail(&call->error);
}

int cuda_check_ids(const char *name, int32_t n, int32_t most)
{
    if (n <= most)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected at most %d ids for CUDA tensors, got %d", name, (int)most, (int)n);
    return -1;
}

const char doc_warmup[] =
    "warmup($module, /, device=0)\n--\n\n"
    "Makes a CUDA device ready for calls: loads the kernels, which the driver compiles when it sees them for the first\n"
    "time, and allocates what they need. The first call on a device does the same, but can't while a CUDA graph is being\n"
    "captured.\n\n"
    "Parameters\n----------\n"
    "device : int, default 0\n"
    "    The device's number, as in 'cuda:0'.\n\n"
    "Returns\n-------\n"
    "None\n\n"
    "Raises\n------\n"
    "RuntimeError\n"
    "    Without a CUDA driver or such a device, or with what the driver says.";

PyObject *py_warmup(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {"warmup", 0, 1, 1, {NAME(device)}};
    PyObject *v[1];
    cuda_call call;
    int32_t device = 0;
    if (args_match(state_of(module), &sig, args, n_args, kwnames, v) < 0 || arg_int(v[0], "device", 0, &device) < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS call.device = cuda_get_device(device, CU_STREAM_LEGACY, &call.error);
    Py_END_ALLOW_THREADS if (!call.device)
    {
        fail(&call.error);
        return NULL;
    }
    Py_RETURN_NONE;
}

const char doc_cuda_devices[] = "cuda_devices($module, /)\n--\n\n"
                                "The driver's CUDA version and the devices: (version, [(name, (major, minor), bytes of\n"
                                "shared memory per block, whether it is ready)]). RuntimeError without a driver.";

PyObject *py_cuda_devices(PyObject *module, PyObject *ignored)
{
    (void)module, (void)ignored;
    cuda_error error;
    int count, version;
    if (cuda_count_devices(&count, &version, &error) != CUDA_OK) {
        fail(&error);
        return NULL;
    }
    PyObject *devices = PyList_New(0);
    for (int i = 0; devices && i < count; i++) {
        cuda_device_info info;
        PyObject *device = NULL;
        if (cuda_describe_device(i, &info, &error) != CUDA_OK)
            fail(&error);
        else
            device = Py_BuildValue("(s(ii)iN)", info.name, info.capability_major, info.capability_minor, info.shared_bytes,
                                   PyBool_FromLong(info.ready));
        if (!device || PyList_Append(devices, device) < 0)
            Py_CLEAR(devices);
        Py_XDECREF(device);
    }
    return devices ? Py_BuildValue("((ii)N)", version / 1000, version % 1000 / 10, devices) : NULL;
}
