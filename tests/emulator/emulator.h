/* As much of CUDA C++ as the kernels use, for the host's compiler: included before csrc/cuda/kernels.cu.
 *
 * Every CUDA thread is a fiber. A fiber runs until it has to meet others, at a barrier or a warp's exchange, or until an
 * atomic operation, where it may be made to wait for no reason; which one runs next is drawn from a seeded generator. */
#ifndef LZPENALTY_EMULATOR_H
#define LZPENALTY_EMULATOR_H

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define ONE_AT_A_TIME
/* One block runs at a time, so its static shared memory can be static: in a section of its own, to be found and poisoned. */
#define __shared__ static __attribute__((section("emulated_shared")))
#define SHARED_MEMORY emulator::shared_memory()

namespace emulator {

struct dim {
    unsigned x, y, z;
};

enum meeting { SYNC, SYNC_OR, SHUFFLE, BALLOT };

const dim &thread_index();
const dim &block_index();
const dim &block_size();
const dim &grid_size();
unsigned char *shared_memory();
unsigned lane();

/* Waits for all threads of the block. Returns whether any brought something other than 0. */
bool meet_block(meeting kind, bool value);
/* Waits for the lanes of the mask. Returns what each lane of the warp brought. */
const uint64_t *meet_warp(meeting kind, unsigned mask, uint64_t value);
/* A place where other threads may run first. */
void interrupt();

/* Runs all blocks of a grid. Returns "" or what went wrong: "deadlock ...", "address ...". */
std::string run(dim grid, dim block, unsigned shared_bytes, const std::function<void()> &kernel);
void seed(uint64_t value);

template <typename T> T shuffle(unsigned mask, T value, unsigned source)
{
    static_assert(sizeof(T) <= 8);
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    const uint64_t *all = meet_warp(SHUFFLE, mask, bits);
    if (source < 32 && mask >> source & 1)
        std::memcpy(&value, &all[source], sizeof value);
    return value;
}

template <typename T, typename F> T update(T *cell, F next)
{
    interrupt();
    T before = *cell;
    *cell = next(before);
    interrupt();
    return before;
}

} // namespace emulator

#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block_index())
#define blockDim (emulator::block_size())
#define gridDim (emulator::grid_size())

inline void __syncthreads()
{
    emulator::meet_block(emulator::SYNC, false);
}

inline int __syncthreads_or(int value)
{
    return emulator::meet_block(emulator::SYNC_OR, value != 0);
}

template <typename T> T __shfl_sync(unsigned mask, T value, int source)
{
    return emulator::shuffle(mask, value, (unsigned)source & 31);
}

template <typename T> T __shfl_xor_sync(unsigned mask, T value, int with)
{
    return emulator::shuffle(mask, value, emulator::lane() ^ (unsigned)with);
}

template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned by)
{
    return emulator::shuffle(mask, value, emulator::lane() >= by ? emulator::lane() - by : emulator::lane());
}

inline unsigned __ballot_sync(unsigned mask, int value)
{
    const uint64_t *all = emulator::meet_warp(emulator::BALLOT, mask, value != 0);
    unsigned votes = 0;
    for (unsigned i = 0; i < 32; i++)
        votes |= mask >> i & 1 ? (unsigned)all[i] << i : 0;
    return votes;
}

inline int __any_sync(unsigned mask, int value)
{
    return __ballot_sync(mask, value) != 0;
}

inline unsigned __match_any_sync(unsigned mask, unsigned value)
{
    const uint64_t *all = emulator::meet_warp(emulator::SHUFFLE, mask, value);
    unsigned same = 0;
    for (unsigned i = 0; i < 32; i++)
        same |= (mask >> i & 1) && all[i] == value ? 1u << i : 0;
    return same;
}

inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}

inline int __ffs(unsigned x)
{
    return __builtin_ffs((int)x);
}

inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}

template <typename T> T atomicAdd(T *cell, T value)
{
    return emulator::update(cell, [=](T x) { return (T)(x + value); });
}

template <typename T> T atomicMin(T *cell, T value)
{
    return emulator::update(cell, [=](T x) { return value < x ? value : x; });
}

template <typename T> T atomicMax(T *cell, T value)
{
    return emulator::update(cell, [=](T x) { return value > x ? value : x; });
}

template <typename T> T atomicCAS(T *cell, T expected, T value)
{
    return emulator::update(cell, [=](T x) { return x == expected ? value : x; });
}

#endif
