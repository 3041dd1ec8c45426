#include "levels.h"

#if CPU_HAS_NEON
#define LEVEL_NEON
#define KERNELS cache_kernels_neon
#include "../cpu/vector.h"
#include "score.h"
#include "attend.h"
#endif
