#include "driver.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32

const cu_driver *cuda_open(cuda_error *error)
{
    error->status = CUDA_NO_DRIVER;
    snprintf(error->text, sizeof error->text, "CUDA is not supported on Windows");
    return NULL;
}

#else

#include <dlfcn.h>
#include <pthread.h>

static struct {
    pthread_once_t once;
    cu_driver calls;
    int usable;
    cuda_error error; /* why not */
} driver = {.once = PTHREAD_ONCE_INIT};

static const struct {
    const char *symbol;
    size_t offset; /* in cu_driver */
} functions[] = {
#define FUNCTION(member, symbol, parameters) {symbol, offsetof(cu_driver, member)},
    CU_FUNCTIONS(FUNCTION)
#undef FUNCTION
};

static void open_driver(void)
{
    const char *path = getenv("LZPENALTY_LIBCUDA");
    void *library = dlopen(path && *path ? path : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    driver.error.status = CUDA_NO_DRIVER;
    if (!library) {
        snprintf(driver.error.text, sizeof driver.error.text, "no CUDA driver: %s", dlerror());
        return;
    }
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void *function = dlsym(library, functions[i].symbol);
        if (!function) {
            snprintf(driver.error.text, sizeof driver.error.text, "the CUDA driver is too old: it lacks %s",
                     functions[i].symbol);
            return;
        }
        /* POSIX says that dlsym returns functions, too; C that no void pointer is one. */
        memcpy((char *)&driver.calls + functions[i].offset, (const void *)&function, sizeof function);
    }
    cu_result code = driver.calls.init(0);
    if (cuda_check(&driver.calls, code, "cuInit", &driver.error) != CUDA_OK) {
        driver.error.status = CUDA_NO_DRIVER; /* as on a machine whose driver finds no device */
        return;
    }
    driver.usable = 1;
}

const cu_driver *cuda_open(cuda_error *error)
{
    pthread_once(&driver.once, open_driver);
    if (driver.usable)
        return &driver.calls;
    *error = driver.error;
    return NULL;
}

#endif

cuda_status cuda_check(const cu_driver *calls, cu_result code, const char *function, cuda_error *error)
{
    const char *name = NULL, *text = NULL;
    if (code == CU_SUCCESS)
        return CUDA_OK;
    if (calls->error_name(code, &name) != CU_SUCCESS || !name)
        name = "unknown error";
    if (calls->error_string(code, &text) != CU_SUCCESS || !text)
        text = "no description";
    error->status = CUDA_FAILED;
    snprintf(error->text, sizeof error->text, "%s failed: %s (%d): %s", function, name, code, text);
    return CUDA_FAILED;
}
