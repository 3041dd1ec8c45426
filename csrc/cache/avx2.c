#include "levels.h"

#if CPU_HAS_X86_LEVELS
TARGET_AVX2_FMA
#define LEVEL_AVX2
#define KERNELS cache_kernels_avx2
#include "../cpu/vector.h"
#include "score.h"
#include "attend.h"
TARGET_END
#endif
