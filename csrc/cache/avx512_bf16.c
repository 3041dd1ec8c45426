#include "levels.h"

#if CPU_HAS_AVX512_BF16
TARGET_AVX512_BF16
#define LEVEL_AVX512
#define LEVEL_BF16
#define KERNELS cache_kernels_avx512_bf16
#include "../cpu/vector.h"
#include "score.h"
#include "attend.h"
TARGET_END
#endif
