#include "levels.h"

#if CPU_HAS_AMX
TARGET_AMX
#define LEVEL_AVX512
#define LEVEL_BF16
#define LEVEL_AMX
#define KERNELS cache_kernels_amx
#include "../cpu/vector.h"
#include "score.h"
#include "attend.h"
TARGET_END
#endif
