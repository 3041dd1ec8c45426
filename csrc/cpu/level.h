/* The instruction-set level that kernels run at: detected once, forced by tests. */
#ifndef LZPENALTY_CPU_LEVEL_H
#define LZPENALTY_CPU_LEVEL_H

/* CPU_NEON_BF16 and CPU_AVX512_BF16 have instructions for products of pairs of bfloat16, CPU_AMX tiles as well. */
typedef enum { CPU_SCALAR, CPU_NEON, CPU_NEON_BF16, CPU_AVX2, CPU_AVX512, CPU_AVX512_BF16, CPU_AMX, CPU_LEVELS } cpu_level;

/* The name of a level, as tests and `lzpenalty doctor` spell it. */
const char *cpu_level_name(cpu_level level);

/* Whether this processor, under this operating system, runs the level. */
int cpu_level_available(cpu_level level);

/* The level in use: the best available one unless cpu_set_level chose another. */
cpu_level cpu_current_level(void);

/* Chooses the level for the whole process. Returns 0, or -1 if it is not available. */
int cpu_set_level(cpu_level level);

#endif
