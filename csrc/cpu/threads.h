/* Fork and join: independent units of one job, shared among a few threads. They are started when a job first wants them and
 * sleep between jobs, unless the next one comes within some microseconds; a child process starts its own, and they are
 * joined when the process or this library ends. */
#ifndef LZPENALTY_CPU_THREADS_H
#define LZPENALTY_CPU_THREADS_H

#include <stdint.h>

enum { CPU_MAX_THREADS = 256 }; /* however many are asked for */

/* Threads that this process may run at once. */
int cpu_thread_count(void);

/* How many of the wanted threads so many units of a job can have. */
int cpu_threads_for(int wanted, int64_t units);

/* Calls run(job, unit, thread) for every unit in [0, units), each once, with thread in [0, threads): the calling thread is
 * one of them, number 0. Fewer threads are used where more can't be had or come too late, and the caller alone while another
 * caller has the workers: processors are busy then, and a call never waits for the work of another. */
void cpu_fork_join(int threads, int64_t units, void (*run)(void *job, int64_t unit, int thread), void *job);

#endif
