/* The floating-point types that kernels read and write. */
#ifndef LZPENALTY_CPU_DTYPE_H
#define LZPENALTY_CPU_DTYPE_H

typedef enum { FLOAT32, FLOAT16, BFLOAT16, FLOAT64 } float_dtype;

#endif
