#ifdef __linux__
#define _GNU_SOURCE /* sched_getaffinity */
#include <sched.h>
#endif

#include "threads.h"

#include <stdatomic.h>

#ifndef _WIN32
#include <pthread.h>
#include <unistd.h>
#endif

typedef struct {
    int64_t units;
    void (*run)(void *job, int64_t unit, int thread);
    void *job;
    _Atomic int64_t next;
} fork_join;

typedef struct {
    fork_join *shared;
    int number;
} worker;

static void *work(void *argument)
{
    worker *w = argument;
    int64_t unit;
    while ((unit = atomic_fetch_add(&w->shared->next, 1)) < w->shared->units)
        w->shared->run(w->shared->job, unit, w->number);
    return NULL;
}

int cpu_thread_count(void)
{
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        return CPU_COUNT(&set) < CPU_MAX_THREADS ? CPU_COUNT(&set) : CPU_MAX_THREADS;
#endif
#ifndef _WIN32
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    if (count > 0)
        return count < CPU_MAX_THREADS ? (int)count : CPU_MAX_THREADS;
#endif
    return 1;
}

void cpu_fork_join(int threads, int64_t units, void (*run)(void *job, int64_t unit, int thread), void *job)
{
    fork_join shared = {.units = units, .run = run, .job = job};
    worker first = {&shared, 0};
#ifndef _WIN32
    pthread_t ids[CPU_MAX_THREADS];
    worker workers[CPU_MAX_THREADS];
    int started = 0;
    if (threads > CPU_MAX_THREADS)
        threads = CPU_MAX_THREADS;
    while (started + 1 < threads && started + 1 < units) {
        workers[started] = (worker){&shared, started + 1};
        if (pthread_create(&ids[started], NULL, work, &workers[started]) != 0)
            break;
        started++;
    }
    work(&first);
    while (started > 0)
        pthread_join(ids[--started], NULL);
#else
    (void)threads;
    work(&first);
#endif
}
