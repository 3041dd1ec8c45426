#ifdef __linux__
#define _GNU_SOURCE /* sched_getaffinity */
#include <sched.h>
#endif

#include "target.h"
#include "threads.h"

#include <stdatomic.h>
#include <stdlib.h>

#ifndef _WIN32
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>
#endif

typedef struct {
    int64_t units;
    void (*run)(void *job, int64_t unit, int thread);
    void *job;
    _Atomic int64_t next;
} fork_join;

static void work(fork_join *shared, int thread)
{
    int64_t unit;
    while ((unit = atomic_fetch_add(&shared->next, 1)) < shared->units)
        shared->run(shared->job, unit, thread);
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

int cpu_threads_for(int wanted, int64_t units)
{
    const int64_t most = units < CPU_MAX_THREADS ? units : CPU_MAX_THREADS;
    return wanted < most ? wanted : (int)most;
}

#ifndef _WIN32

/* To sleep and to be woken takes some ten microseconds, and longer where the system wakes a thread on the processor of who
 * called it. So many rounds, as many microseconds or a few more, whoever waits looks first whether it is time yet. */
enum { ROUNDS = 64, LOOKS = 16 };

/* The workers of the process. Everything is written under the lock, but what a job's threads share. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t wanted;   /* there are invitations, or it is over */
    pthread_cond_t finished; /* the last worker has left the job */
    pthread_t ids[CPU_MAX_THREADS];
    int started;            /* workers that there are */
    int busy;               /* a caller has them */
    int impatient;          /* there is a processor for each of them: they may look for work before they sleep */
    atomic_int invitations; /* workers that may still join the job */
    atomic_int working;     /* workers that have joined and not left it */
    int joined;             /* how many ever did, which numbers them */
    int stopping;           /* the workers return, and none is started any more */
    int prepared;           /* fork and exit know of them */
    fork_join *job;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .wanted = PTHREAD_COND_INITIALIZER, .finished = PTHREAD_COND_INITIALIZER};

/* Waits for a while until the count is zero or until it isn't, without the lock. Whoever else has something to do on this
 * processor comes first. */
static void look(atomic_int *count, int wanted)
{
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < LOOKS; i++) {
            if ((atomic_load_explicit(count, memory_order_relaxed) != 0) == wanted)
                return;
            RELAX();
        }
        sched_yield();
    }
}

/* A worker's life. */
static void *help(void *ignored)
{
    (void)ignored;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        if (!pool.invitations && !pool.stopping && pool.impatient) {
            pthread_mutex_unlock(&pool.lock);
            look(&pool.invitations, 1);
            pthread_mutex_lock(&pool.lock);
        }
        while (!pool.invitations && !pool.stopping)
            pthread_cond_wait(&pool.wanted, &pool.lock);
        if (!pool.invitations)
            break;
        pool.invitations--;
        pool.working++;
        const int thread = ++pool.joined;
        fork_join *job = pool.job;
        pthread_mutex_unlock(&pool.lock);
        work(job, thread);
        pthread_mutex_lock(&pool.lock);
        if (--pool.working == 0)
            pthread_cond_signal(&pool.finished);
    }
    pthread_mutex_unlock(&pool.lock);
    return NULL;
}

/* Fork copies the calling thread only, and memory as it is at that moment: the lock is held, so that this is no moment in
 * between, and the child begins without workers. */
static void before_fork(void)
{
    pthread_mutex_lock(&pool.lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&pool.lock);
}

static void after_fork_in_child(void)
{
    pthread_cond_t fresh = PTHREAD_COND_INITIALIZER; /* those of the parent count threads that wait */
    pool.wanted = pool.finished = fresh;
    pool.started = pool.busy = 0;
    pool.invitations = 0; /* one at a time: clang 14 takes no value from an assignment to an atomic */
    pool.working = 0;
    pthread_mutex_unlock(&pool.lock);
}

static void stop(void)
{
    pthread_mutex_lock(&pool.lock);
    pool.stopping = 1;
    pthread_cond_broadcast(&pool.wanted);
    const int started = pool.started;
    pool.started = 0;
    pthread_mutex_unlock(&pool.lock);
    for (int i = 0; i < started; i++)
        pthread_join(pool.ids[i], NULL);
}

/* Starts workers until there are `wanted`, as far as possible. With the lock. */
static void start_workers(int wanted)
{
    sigset_t all, before;
    if (pool.started >= wanted || pool.stopping)
        return;
    if (!pool.prepared) {
        /* A library that is unloaded runs what it has registered with atexit as well. */
        if (pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) != 0 || atexit(stop) != 0)
            return;
        pool.prepared = 1;
    }
    sigfillset(&all); /* signals are for the threads that the program knows of */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool.started < wanted && pthread_create(&pool.ids[pool.started], NULL, help, NULL) == 0)
        pool.started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pool.impatient = pool.started < cpu_thread_count();
}

/* Invites workers to the job. Returns whether the caller has the pool. */
static int invite(fork_join *job, int workers)
{
    pthread_mutex_lock(&pool.lock);
    const int mine = !pool.busy;
    if (mine) {
        start_workers(workers);
        pool.busy = 1;
        pool.job = job;
        pool.joined = 0;
        pool.invitations = workers < pool.started ? workers : pool.started;
        for (int i = 0; i < pool.invitations; i++)
            pthread_cond_signal(&pool.wanted);
    }
    pthread_mutex_unlock(&pool.lock);
    return mine;
}

/* Waits for the workers that have joined the job; those who come later find nothing to do. */
static void dismiss(void)
{
    if (pool.impatient) /* which changes only while the caller has the pool */
        look(&pool.working, 0);
    pthread_mutex_lock(&pool.lock);
    pool.invitations = 0;
    while (pool.working)
        pthread_cond_wait(&pool.finished, &pool.lock);
    pool.busy = 0;
    pthread_mutex_unlock(&pool.lock);
}

void cpu_fork_join(int threads, int64_t units, void (*run)(void *job, int64_t unit, int thread), void *job)
{
    fork_join shared = {.units = units, .run = run, .job = job};
    if (threads > CPU_MAX_THREADS)
        threads = CPU_MAX_THREADS;
    if (threads > units)
        threads = (int)units;
    const int mine = threads > 1 && invite(&shared, threads - 1);
    work(&shared, 0);
    if (mine)
        dismiss();
}

#else

void cpu_fork_join(int threads, int64_t units, void (*run)(void *job, int64_t unit, int thread), void *job)
{
    fork_join shared = {.units = units, .run = run, .job = job};
    (void)threads;
    work(&shared, 0);
}

#endif
