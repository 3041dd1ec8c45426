#include "levels.h"

#if CPU_HAS_X86_LEVELS
TARGET_AVX512_FMA
#define LEVEL_AVX512
#define KERNELS cache_kernels_avx512
#include "../cpu/vector.h"
#include "score.h"
#include "attend.h"
TARGET_END
#endif
