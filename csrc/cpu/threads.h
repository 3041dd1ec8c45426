/* Fork and join: independent units of one job, shared among a few threads that live for the call only. */
#ifndef LZPENALTY_CPU_THREADS_H
#define LZPENALTY_CPU_THREADS_H

#include <stdint.h>

enum { CPU_MAX_THREADS = 256 }; /* however many are asked for */

/* Threads that this process may run at once. */
int cpu_thread_count(void);

/* Calls run(job, unit, thread) for every unit in [0, units), each once, with thread in [0, threads): the calling thread is
 * one of them. Fewer threads are used where more can't be had. */
void cpu_fork_join(int threads, int64_t units, void (*run)(void *job, int64_t unit, int thread), void *job);

#endif
