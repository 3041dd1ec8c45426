#include "levels.h"

#if CPU_HAS_X86_LEVELS
TARGET_AVX2
#define KERNELS lz_kernels_avx2
#include "kernels.h"
TARGET_END
#endif
