/* What all kernels share: the dynamic shared memory and reductions over a block.
 *
 * Kernels are compiled twice: to PTX, and by the host's compiler for the emulator of tests/emulator, which declares what a
 * CUDA compiler brings along. */
#ifndef LZPENALTY_CUDA_BLOCK_CUH
#define LZPENALTY_CUDA_BLOCK_CUH

#include <float.h>
#include <limits.h>
#include <math.h>

#define SHARED_FUNCTION static __device__ inline
#include "../cpu/number.h"
#include "../lz/mark.h"
#include "args.h"

#ifndef SHARED_MEMORY /* the emulator has its own */
extern __shared__ __align__(16) unsigned char shared_memory[];
#define SHARED_MEMORY shared_memory
#endif

#define EVERY_LANE 0xffffffffu

#ifndef ONE_AT_A_TIME /* loops that wait for memory gain nothing from being unrolled, and the text is shorter */
#define ONE_AT_A_TIME _Pragma("unroll 1")
#endif

/* Shares i in [0, n) among the threads of the block. */
#define FOR_EACH(i, n)                                                                                                      \
    ONE_AT_A_TIME                                                                                                           \
    for (int i = threadIdx.x; i < (n); i += blockDim.x)

/* The same, in turns that all lanes of a warp take: i may be n or more. */
#define FOR_EACH_OF_WARP(i, n)                                                                                              \
    ONE_AT_A_TIME                                                                                                           \
    for (int i = threadIdx.x; i - lane_id() < (n); i += blockDim.x)

template <typename number> static __device__ number least(number a, number b)
{
    return b < a ? b : a;
}

template <typename number> static __device__ number most(number a, number b)
{
    return b > a ? b : a;
}

static __device__ int lane_id()
{
    return threadIdx.x % 32;
}

/* The largest of the warp's values, in all lanes. */
static __device__ unsigned warp_max(unsigned value)
{
    for (int step = 16; step > 0; step /= 2)
        value = most(value, __shfl_xor_sync(EVERY_LANE, value, step));
    return value;
}

#endif
