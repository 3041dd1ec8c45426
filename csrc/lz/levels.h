/* What the files that compile the kernels for one level need before they switch instruction sets. */
#ifndef LZPENALTY_LZ_LEVELS_H
#define LZPENALTY_LZ_LEVELS_H

#include <float.h>
#include <math.h>
#include <string.h>

#include "../cpu/number.h"
#include "../cpu/target.h"
#include "bits.h"
#include "mark.h"
#include "scratch.h"

/* Or results would depend on the processor. */
#if FLT_EVAL_METHOD != 0
#error "lzpenalty needs a processor and a compiler that compute float as float"
#endif

#if CPU_HAS_X86_LEVELS
#include <immintrin.h>
#endif

/* At the baseline, which is "scalar" on x86-64 (SSE2 at most) and NEON on arm. */
extern const lz_kernels lz_kernels_baseline;
extern const lz_kernels lz_kernels_avx2, lz_kernels_avx512;

#endif
