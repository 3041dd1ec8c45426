#define _GNU_SOURCE /* syscall */
#include "level.h"

#include <stdatomic.h>

#include "target.h"

#if CPU_HAS_AVX512_BF16
#include <cpuid.h>
#endif
#if CPU_HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if CPU_HAS_NEON_BF16 && defined(__linux__)
#include <sys/auxv.h>
#elif CPU_HAS_NEON_BF16 && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

static const char *const names[CPU_LEVELS] = {"scalar", "neon", "neon_bf16", "avx2", "avx512", "avx512_bf16", "amx"};

#if defined(CPU_EMULATED)
enum { EMULATED = 1 }; /* the levels beyond AVX2 are functions */
#elif CPU_HAS_X86_LEVELS
enum { EMULATED = 0 };
#endif

/* The level plus one, so that zero means "not chosen yet". */
static atomic_int chosen;

const char *cpu_level_name(cpu_level level)
{
    return names[level];
}

#if CPU_HAS_AVX512_BF16
static int has_avx512_bf16(void)
{
    enum { BF16 = 1 << 5 };
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & BF16);
}
#endif

#if CPU_HAS_NEON_BF16
static int has_neon_bf16(void)
{
#if defined(__linux__)
    return (getauxval(AT_HWCAP2) >> 14 & 1) != 0; /* HWCAP2_BF16 */
#elif defined(__APPLE__)
    int has = 0;
    size_t size = sizeof has;
    return sysctlbyname("hw.optional.arm.FEAT_BF16", &has, &size, NULL, 0) == 0 && has;
#else
    return 0;
#endif
}
#endif

#if CPU_HAS_AMX
/* Linux lends tile registers, for good, to processes that ask; older kernels and some sandboxes don't. */
static int has_amx(void)
{
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18, TILE = 1 << 24, TILE_BF16 = 1 << 22 };
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & TILE) && (d & TILE_BF16) &&
           syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

int cpu_level_available(cpu_level level)
{
    switch (level) {
    case CPU_SCALAR:
        return 1;
    case CPU_NEON:
        return CPU_HAS_NEON;
#if CPU_HAS_NEON_BF16
    case CPU_NEON_BF16:
        return has_neon_bf16();
#endif
#if CPU_HAS_X86_LEVELS
    /* __builtin_cpu_supports also asks the operating system whether it saves the wide registers. */
    case CPU_AVX2:
        /* Every processor with AVX2 has f16c, which not every compiler lets us ask for. */
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma");
    case CPU_AVX512:
        return EMULATED ||
               (cpu_level_available(CPU_AVX2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"));
#endif
#if CPU_HAS_AVX512_BF16
    case CPU_AVX512_BF16:
        return EMULATED || (cpu_level_available(CPU_AVX512) && has_avx512_bf16());
#endif
#if CPU_HAS_AMX
    case CPU_AMX:
        return EMULATED || (cpu_level_available(CPU_AVX512_BF16) && has_amx());
#endif
    default:
        return 0;
    }
}

cpu_level cpu_current_level(void)
{
    int level = atomic_load_explicit(&chosen, memory_order_relaxed) - 1;
    if (level < 0) {
        level = CPU_LEVELS - 1;
        while (!cpu_level_available((cpu_level)level))
            level--;
        atomic_store_explicit(&chosen, level + 1, memory_order_relaxed);
    }
    return (cpu_level)level;
}

int cpu_set_level(cpu_level level)
{
    if (!cpu_level_available(level))
        return -1;
    atomic_store_explicit(&chosen, (int)level + 1, memory_order_relaxed);
    return 0;
}
