#include "levels.h"

#if CPU_HAS_NEON_BF16
TARGET_NEON_BF16
#define LEVEL_NEON
#define LEVEL_BF16
#define KERNELS cache_kernels_neon_bf16
#include "../cpu/vector.h"
#include "score.h"
#include "attend.h"
TARGET_END
#endif
