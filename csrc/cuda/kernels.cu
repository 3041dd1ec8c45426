/* The kernels' entry points. generate.py makes ptx.c of this file. */
#include "dry.cuh"
#include "lz.cuh"
#include "move.cuh"
#include "period.cuh"
#include "score.cuh"
#include "select.cuh"

#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)

KERNEL(CUDA_MOST_THREADS) lz_penalize(const __grid_constant__ cuda_lz_args a)
{
    penalize_row(a);
}

KERNEL(CUDA_MOST_THREADS) dry_penalize(const __grid_constant__ cuda_dry_args a)
{
    dry_row(a, NULL);
}

KERNEL(CUDA_MOST_THREADS)
dry_penalize_breakers(const __grid_constant__ cuda_dry_args a, const __grid_constant__ cuda_ids breakers)
{
    dry_row(a, &breakers);
}

KERNEL(CUDA_PERIOD_THREADS) repetition_period(const __grid_constant__ cuda_period_args a)
{
    find_period(a);
}

KERNEL(CUDA_MOST_THREADS) loop_evidence(const __grid_constant__ cuda_evidence_args a)
{
    evidence_row(a);
}

KERNEL(CUDA_TILE_THREADS) score_maxima(const __grid_constant__ cuda_score_args a)
{
    find_maxima(a);
}

KERNEL(CUDA_TILE_THREADS) score_totals(const __grid_constant__ cuda_score_args a)
{
    combine_maxima(a);
}

KERNEL(CUDA_TILE_THREADS) score_weights(const __grid_constant__ cuda_score_args a)
{
    add_weights(a);
}

KERNEL(CUDA_TILE_THREADS) score_smooth(const __grid_constant__ cuda_smooth_args a)
{
    smooth(a);
}

KERNEL(CUDA_MOST_THREADS) select_top(const __grid_constant__ cuda_select_args a)
{
    select_row(a);
}

/* One of each for every unit that rows are moved in. */
#define MOVE_KERNELS(bytes, unit)                                                                                           \
    KERNEL(CUDA_MOVE_THREADS) compact_##bytes(const __grid_constant__ cuda_compact_args a)                                  \
    {                                                                                                                       \
        compact<unit>(a, NULL);                                                                                             \
    }                                                                                                                       \
    KERNEL(CUDA_MOVE_THREADS) append_##bytes(const __grid_constant__ cuda_append_args a)                                    \
    {                                                                                                                       \
        append<unit>(a);                                                                                                    \
    }                                                                                                                       \
    KERNEL(CUDA_MOVE_THREADS)                                                                                               \
    compact_blocks_##bytes(const __grid_constant__ cuda_compact_args a, const __grid_constant__ cuda_table table)           \
    {                                                                                                                       \
        compact<unit>(a, &table);                                                                                           \
    }                                                                                                                       \
    KERNEL(CUDA_MOVE_THREADS)                                                                                               \
    gather_blocks_##bytes(const __grid_constant__ cuda_gather_args a, const __grid_constant__ cuda_table table)             \
    {                                                                                                                       \
        gather<unit>(a, &table);                                                                                            \
    }
MOVE_KERNELS(16, unit16)
MOVE_KERNELS(4, uint32_t)
MOVE_KERNELS(2, uint16_t)
