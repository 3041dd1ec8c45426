/* Compiler-specific words, all in one place.
 *
 * TARGET_AVX2 / TARGET_AVX512 open a region whose functions are compiled for that instruction set, TARGET_END closes it.
 * A kernel source is included once a level between the two, so that one plain C body serves them all. */
#ifndef LZPENALTY_CPU_TARGET_H
#define LZPENALTY_CPU_TARGET_H

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define CPU_HAS_X86_LEVELS 1
#else
#define CPU_HAS_X86_LEVELS 0
#endif

/* Products of pairs of bfloat16. */
#if CPU_HAS_X86_LEVELS && ((defined(__clang__) && __clang_major__ >= 9) || __GNUC__ >= 10)
#define CPU_HAS_AVX512_BF16 1
#else
#define CPU_HAS_AVX512_BF16 0
#endif

/* Tile registers have to be asked of the system for, which is written for Linux. */
#if CPU_HAS_X86_LEVELS && defined(__linux__) && ((defined(__clang__) && __clang_major__ >= 12) || __GNUC__ >= 11)
#define CPU_HAS_AMX 1
#else
#define CPU_HAS_AMX 0
#endif

#if defined(__aarch64__) || defined(_M_ARM64)
#define CPU_HAS_NEON 1
#else
#define CPU_HAS_NEON 0
#endif

/* Whether a processor has them is asked of Linux or macOS. */
#if defined(__aarch64__) && !defined(__ARM_BIG_ENDIAN) && (defined(__linux__) || defined(__APPLE__)) &&                     \
    ((defined(__clang__) && __clang_major__ >= 16) || (!defined(__clang__) && __GNUC__ >= 10))
#define CPU_HAS_NEON_BF16 1
#else
#define CPU_HAS_NEON_BF16 0
#endif

#if defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch(address)
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#else
#define PREFETCH(address) ((void)(address))
#define ALWAYS_INLINE static inline
#endif

/* What a loop does that waits for another thread. */
#if CPU_HAS_X86_LEVELS
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() ((void)0)
#endif

/* With CPU_EMULATED what a processor lacks are functions of a header, tests/native/emulated.h: for tests. */
#define PRAGMA_(text) _Pragma(#text)
#if defined(CPU_EMULATED)
#define TARGET_BEGIN_(features)
#define TARGET_END
#elif defined(__clang__)
#define TARGET_BEGIN_(features) PRAGMA_(clang attribute push(__attribute__((target(features))), apply_to = function))
#define TARGET_END PRAGMA_(clang attribute pop)
#elif defined(__GNUC__)
#define TARGET_BEGIN_(features) PRAGMA_(GCC push_options) PRAGMA_(GCC target(features))
#define TARGET_END PRAGMA_(GCC pop_options)
#endif

/* Without fma, whose contraction would make the levels round differently; the _FMA regions are for kernels that allow it. */
#define AVX2_ "avx2,bmi,bmi2,lzcnt,popcnt"
#define AVX512_ AVX2_ ",avx512f,avx512vl,avx512bw,avx512dq"
#if !defined(__clang__)
#define AVX512_WIDE_ AVX512_ ",prefer-vector-width=512"
#else
#define AVX512_WIDE_ AVX512_
#endif
#define TARGET_AVX2 TARGET_BEGIN_(AVX2_)
#define TARGET_AVX2_FMA TARGET_BEGIN_(AVX2_ ",fma,f16c")
#define TARGET_AVX512 TARGET_BEGIN_(AVX512_WIDE_)
#define TARGET_AVX512_FMA TARGET_BEGIN_(AVX512_WIDE_ ",fma,f16c")
#define TARGET_AVX512_BF16 TARGET_BEGIN_(AVX512_WIDE_ ",fma,f16c,avx512bf16")
#define TARGET_AMX TARGET_BEGIN_(AVX512_WIDE_ ",fma,f16c,avx512bf16,amx-tile,amx-bf16")
#if defined(__clang__)
#define TARGET_NEON_BF16 TARGET_BEGIN_("bf16")
#else
#define TARGET_NEON_BF16 TARGET_BEGIN_("arch=armv8.2-a+bf16")
#endif

#endif
