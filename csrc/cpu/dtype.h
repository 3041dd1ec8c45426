/* The floating-point types that kernels read and write. The interfaces' lists of types begin with them. */
#ifndef LZPENALTY_CPU_DTYPE_H
#define LZPENALTY_CPU_DTYPE_H

typedef enum { FLOAT32, FLOAT16, BFLOAT16, FLOAT64 } float_dtype;

/* Bytes of a number. */
static inline int float_size(float_dtype dtype)
{
    return dtype == FLOAT32 ? 4 : dtype == FLOAT64 ? 8 : 2;
}

#endif
