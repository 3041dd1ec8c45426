#include "device.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef _WIN32
#include <pthread.h>
#endif

#include "ptx/ptx.h"

static const char *const kernel_names[CUDA_N_KERNELS] = {
#define KERNEL_NAME(name) #name,
    CUDA_KERNELS(KERNEL_NAME)
#undef KERNEL_NAME
};

/* Devices that are ready. They stay so until the process ends: streams may still have launches when it does. */
static _Atomic(const cuda_device *) ready[CUDA_MOST_DEVICES];

/* Makes the device's context current. *pushed says whether that has to be undone. */
static cuda_status enter(const cuda_device *device, int *pushed, cuda_error *error)
{
    const cu_driver *driver = device->driver;
    cu_context current;
    *pushed = 0;
    cuda_status status = cuda_check(driver, driver->context_current(&current), "cuCtxGetCurrent", error);
    if (status != CUDA_OK || current == device->context)
        return status;
    *pushed = 1;
    return cuda_check(driver, driver->context_push(device->context), "cuCtxPushCurrent", error);
}

static void leave(const cuda_device *device, int pushed)
{
    cu_context popped;
    if (pushed)
        device->driver->context_pop(&popped);
}

cuda_status cuda_launch(const cuda_device *device, cuda_kernel kernel, cu_stream stream, int64_t blocks, int threads,
                        size_t shared_bytes, void **parameters, cuda_error *error)
{
    int pushed;
    if (blocks == 0)
        return CUDA_OK;
    if (blocks > INT32_MAX) {
        error->status = CUDA_FAILED;
        snprintf(error->text, sizeof error->text, "a grid has at most 2^31 - 1 blocks, %lld are needed", (long long)blocks);
        return CUDA_FAILED;
    }
    cuda_status status = enter(device, &pushed, error);
    if (status == CUDA_OK) {
        cu_result code = device->driver->launch(device->kernels[kernel].function, (unsigned)blocks, 1, 1, (unsigned)threads,
                                                1, 1, (unsigned)shared_bytes, stream, parameters, NULL);
        status = cuda_check(device->driver, code, "cuLaunchKernel", error);
    }
    leave(device, pushed);
    return status;
}

cuda_status cuda_wait(const cuda_device *device, cu_stream stream, cuda_error *error)
{
    int pushed;
    cuda_status status = enter(device, &pushed, error);
    if (status == CUDA_OK)
        status = cuda_check(device->driver, device->driver->stream_synchronize(stream), "cuStreamSynchronize", error);
    leave(device, pushed);
    return status;
}

cuda_status cuda_count_devices(int *count, int *driver_version, cuda_error *error)
{
    const cu_driver *driver = cuda_open(error);
    if (!driver)
        return error->status;
    cuda_status status = cuda_check(driver, driver->driver_version(driver_version), "cuDriverGetVersion", error);
    return status == CUDA_OK ? cuda_check(driver, driver->device_count(count), "cuDeviceGetCount", error) : status;
}

#define CHECK(call, name)                                                                                                   \
    if (cuda_check(driver, call, name, error) != CUDA_OK)                                                                   \
    return error->status

cuda_status cuda_describe_device(int number, cuda_device_info *info, cuda_error *error)
{
    const cu_driver *driver = cuda_open(error);
    cu_device device;
    *info = (cuda_device_info){.ready = number < CUDA_MOST_DEVICES && atomic_load(&ready[number]) != NULL};
    if (!driver)
        return error->status;
    CHECK(driver->device_get(&device, number), "cuDeviceGet");
    CHECK(driver->device_name(info->name, sizeof info->name, device), "cuDeviceGetName");
    CHECK(driver->device_attribute(&info->capability_major, CU_COMPUTE_CAPABILITY_MAJOR, device), "cuDeviceGetAttribute");
    CHECK(driver->device_attribute(&info->capability_minor, CU_COMPUTE_CAPABILITY_MINOR, device), "cuDeviceGetAttribute");
    CHECK(driver->device_attribute(&info->shared_bytes, CU_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device),
          "cuDeviceGetAttribute");
    return CUDA_OK;
}

/* The table of logarithms that rounds as the CPU's does, copied to the device. */
static cuda_status load_log2(cuda_device *d, cuda_error *error)
{
    const cu_driver *driver = d->driver;
    const size_t bytes = CUDA_N_LOG2 * sizeof(float);
    float *table = malloc(bytes);
    if (!table) {
        *error = (cuda_error){CUDA_FAILED, "no memory"};
        return CUDA_FAILED;
    }
    table[0] = 0; /* no length or distance is 0 */
    for (int i = 1; i < CUDA_N_LOG2; i++)
        table[i] = (float)log2((double)i);
    cuda_status status = cuda_check(driver, driver->memory_allocate(&d->log2, bytes), "cuMemAlloc", error);
    if (status == CUDA_OK)
        status = cuda_check(driver, driver->copy_to_device(d->log2, table, bytes), "cuMemcpyHtoD", error);
    free(table);
    return status;
}

/* The kernels, with as much shared memory as the device has. Asking for their attributes also makes the driver load what
 * it would otherwise leave until their first launch, which might be captured. */
static cuda_status load_kernels(cuda_device *d, int shared_bytes, cuda_error *error)
{
    const cu_driver *driver = d->driver;
    char log[256] = "";
    int options[2] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[2] = {log, (void *)(uintptr_t)sizeof log};
    if (cuda_check(driver, driver->module_load(&d->module, cuda_ptx, 2, options, values), "cuModuleLoadDataEx", error) !=
        CUDA_OK) {
        if (log[0]) {
            char text[256];
            snprintf(text, sizeof text, "%.255s", error->text);
            snprintf(error->text, sizeof error->text, "%.250s: %.250s", text, log);
        }
        return error->status;
    }
    for (int i = 0; i < CUDA_N_KERNELS; i++) {
        cu_function function;
        int fixed;
        CHECK(driver->module_function(&function, d->module, kernel_names[i]), "cuModuleGetFunction");
        CHECK(driver->function_attribute(&fixed, CU_SHARED_SIZE_BYTES, function), "cuFuncGetAttribute");
        CHECK(driver->function_set_attribute(function, CU_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes - fixed),
              "cuFuncSetAttribute");
        d->kernels[i].function = function;
        d->kernels[i].most_shared = (size_t)(shared_bytes - fixed);
    }
    return CUDA_OK;
}

static cuda_status make_ready(int number, cuda_device *d, cuda_error *error)
{
    const cu_driver *driver = d->driver;
    cuda_device_info info;
    cu_device device;
    int pushed;
    if (cuda_describe_device(number, &info, error) != CUDA_OK)
        return error->status;
    if (info.capability_major * 10 + info.capability_minor < CUDA_CAPABILITY_MAJOR * 10 + CUDA_CAPABILITY_MINOR) {
        error->status = CUDA_NO_DEVICE;
        snprintf(error->text, sizeof error->text, "cuda:%d is a %s of compute capability %d.%d; %d.%d or more is needed",
                 number, info.name, info.capability_major, info.capability_minor, CUDA_CAPABILITY_MAJOR,
                 CUDA_CAPABILITY_MINOR);
        return error->status;
    }
    CHECK(driver->device_get(&device, number), "cuDeviceGet");
    /* The context that torch and everything else with the runtime API use. */
    CHECK(driver->context_retain(&d->context, device), "cuDevicePrimaryCtxRetain");
    cuda_status status = enter(d, &pushed, error);
    if (status == CUDA_OK)
        status = load_kernels(d, info.shared_bytes, error);
    if (status == CUDA_OK)
        status = load_log2(d, error);
    if (status != CUDA_OK) {
        if (d->log2)
            driver->memory_free(d->log2);
        if (d->module)
            driver->module_unload(d->module);
    }
    leave(d, pushed);
    if (status != CUDA_OK)
        driver->context_release(device);
    return status;
}

int cuda_is_capturing(const cu_driver *driver, cu_stream stream)
{
    int capture = CU_STREAM_CAPTURE_NONE;
    cu_context current = NULL;
    if (driver->context_current(&current) != CU_SUCCESS || !current)
        return 0; /* without a context there is no stream */
    return driver->stream_is_capturing(stream, &capture) == CU_SUCCESS && capture != CU_STREAM_CAPTURE_NONE;
}

static const cuda_device *get_new_device(int number, cu_stream stream, cuda_error *error)
{
    const cu_driver *driver = cuda_open(error);
    const cuda_device *other = atomic_load(&ready[number]); /* by another thread, meanwhile */
    if (!driver || other)
        return other;
    if (cuda_is_capturing(driver, stream)) { /* if that can't be told, loading will say what is wrong */
        error->status = CUDA_CAPTURING;
        snprintf(error->text, sizeof error->text,
                 "cuda:%d: nothing can be loaded while a graph is captured; call lzpenalty.warmup(%d) before", number,
                 number);
        return NULL;
    }
    cuda_device *device = calloc(1, sizeof *device);
    if (!device) {
        *error = (cuda_error){CUDA_FAILED, "no memory"};
        return NULL;
    }
    device->driver = driver;
    if (make_ready(number, device, error) != CUDA_OK) {
        free(device);
        return NULL;
    }
    atomic_store(&ready[number], device);
    return device;
}

const cuda_device *cuda_ready_device(int number)
{
    if (number < 0 || number >= CUDA_MOST_DEVICES)
        return NULL;
    return atomic_load_explicit(&ready[number], memory_order_acquire);
}

const cuda_device *cuda_get_device(int number, cu_stream stream, cuda_error *error)
{
    const cuda_device *device = cuda_ready_device(number);
    if (device)
        return device;
    if (number < 0 || number >= CUDA_MOST_DEVICES) {
        error->status = CUDA_NO_DEVICE;
        snprintf(error->text, sizeof error->text, "expected a CUDA device from 0 to %d, got %d", CUDA_MOST_DEVICES - 1,
                 number);
        return NULL;
    }
#ifdef _WIN32
    return get_new_device(number, stream, error);
#else
    static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&loading);
    device = get_new_device(number, stream, error);
    pthread_mutex_unlock(&loading);
    return device;
#endif
}
