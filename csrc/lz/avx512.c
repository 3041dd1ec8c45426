#include "levels.h"

#if CPU_HAS_X86_LEVELS && !defined(CPU_EMULATED)
TARGET_AVX512
#define LEVEL_AVX512
#define KERNELS lz_kernels_avx512
#include "kernels.h"
TARGET_END
#endif
