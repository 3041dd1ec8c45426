/* What the files that compile the kernels for one level need before they switch instruction sets. */
#ifndef LZPENALTY_CACHE_LEVELS_H
#define LZPENALTY_CACHE_LEVELS_H

#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "../cpu/number.h"
#include "../cpu/target.h"
#include "cache.h"

#if defined(CPU_EMULATED)
#include <emulated.h>
#elif CPU_HAS_X86_LEVELS
#include <immintrin.h>
#elif CPU_HAS_NEON
#include <arm_neon.h>
#endif

extern const cache_kernels cache_kernels_scalar, cache_kernels_neon, cache_kernels_avx2, cache_kernels_avx512;
extern const cache_kernels cache_kernels_avx512_bf16, cache_kernels_amx, cache_kernels_neon_bf16;

#endif
