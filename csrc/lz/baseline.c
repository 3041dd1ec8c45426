#include "levels.h"

#define KERNELS lz_kernels_baseline
#include "kernels.h"

const lz_kernels *lz_current_kernels(void)
{
    switch (cpu_current_level()) {
#if CPU_HAS_X86_LEVELS
    case CPU_AVX512:
    case CPU_AVX512_BF16:
    case CPU_AMX:
#if !defined(CPU_EMULATED)
        return &lz_kernels_avx512;
#endif
    case CPU_AVX2:
        return &lz_kernels_avx2;
#endif
    default:
        return &lz_kernels_baseline;
    }
}
