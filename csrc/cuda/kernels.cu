/* The kernels' entry points. generate.py makes ptx.c of this file. */
#include "dry.cuh"
#include "lz.cuh"
#include "period.cuh"

#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)

KERNEL(CUDA_MOST_THREADS) lz_penalize(const __grid_constant__ cuda_lz_args a)
{
    penalize_row(a, NULL);
}

KERNEL(CUDA_MOST_THREADS) lz_penalize_neutral(const __grid_constant__ cuda_lz_args a, const __grid_constant__ cuda_ids neutral)
{
    penalize_row(a, &neutral);
}

KERNEL(CUDA_MOST_THREADS) dry_penalize(const __grid_constant__ cuda_dry_args a)
{
    dry_row(a, NULL);
}

KERNEL(CUDA_MOST_THREADS) dry_penalize_breakers(const __grid_constant__ cuda_dry_args a, const __grid_constant__ cuda_ids breakers)
{
    dry_row(a, &breakers);
}

KERNEL(CUDA_PERIOD_THREADS) repetition_period(const __grid_constant__ cuda_period_args a)
{
    find_period(a);
}
