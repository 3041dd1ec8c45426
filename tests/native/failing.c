/* Preloaded by failing.py: lets one allocation of a call fail, or the start of every thread. */
#define _GNU_SOURCE /* RTLD_NEXT */
#include <Python.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>

static __thread long remaining; /* allocations until the one that fails; 0 for none */
static __thread uintptr_t first, last;
static int threads_fail;

static int fails(const void *caller)
{
    return remaining > 0 && (uintptr_t)caller >= first && (uintptr_t)caller <= last && --remaining == 0;
}

#define ALLOCATOR(name, parameters, ...)                                                                                    \
    void *name parameters                                                                                                   \
    {                                                                                                                       \
        static __typeof__(&name) real;                                                                                      \
        if (!real)                                                                                                          \
            real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                                                              \
        return fails(__builtin_return_address(0)) ? NULL : real(__VA_ARGS__);                                               \
    }

ALLOCATOR(malloc, (size_t size), size)
ALLOCATOR(calloc, (size_t items, size_t size), items, size)
ALLOCATOR(realloc, (void *memory, size_t size), memory, size)

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
    static __typeof__(&pthread_create) real;
    if (!real)
        real = (__typeof__(&pthread_create))dlsym(RTLD_NEXT, "pthread_create");
    return threads_fail ? EAGAIN : real(thread, attributes, run, argument);
}

void fail_threads(int fail)
{
    threads_fail = fail;
}

/* function(), in which the n-th allocation by code from one address to another fails; *met says whether there was one. */
PyObject *call_failing(PyObject *function, long n, uintptr_t from, uintptr_t to, int *met)
{
    first = from;
    last = to;
    remaining = n;
    PyObject *result = PyObject_CallNoArgs(function);
    *met = remaining == 0;
    remaining = 0;
    return result;
}
