/* What CPU and CUDA compile from the same source says SHARED_FUNCTION, which cuda/block.cuh defines first. */
#ifndef LZPENALTY_CPU_SHARED_H
#define LZPENALTY_CPU_SHARED_H

#ifndef SHARED_FUNCTION
#define SHARED_FUNCTION static inline
#endif

#endif
