/* Kernels with mistakes, and whether the emulator finds them: prints one line for each, "name: what it said". */
#include "emulator.h"

#include <cstdio>
#include <sys/mman.h>
#include <vector>

static std::string run(unsigned threads, unsigned shared, const std::function<void()> &kernel)
{
    return emulator::run({1, 1, 1}, {threads, 1, 1}, shared, kernel);
}

static unsigned out[64];

static void neighbours(bool barrier)
{
    unsigned *cells = (unsigned *)emulator::shared_memory();
    cells[threadIdx.x] = threadIdx.x;
    if (barrier)
        __syncthreads();
    out[threadIdx.x] = cells[(threadIdx.x + 1) % blockDim.x];
}

static bool neighbours_are_right(bool barrier)
{
    bool right = true;
    for (unsigned seed = 0; seed < 20; seed++) {
        emulator::seed(seed);
        run(64, 256, [=] { neighbours(barrier); });
        for (unsigned i = 0; i < 64; i++)
            right &= out[i] == (i + 1) % 64;
    }
    return right;
}

static unsigned lost_updates(bool atomic)
{
    unsigned total = 0;
    for (unsigned seed = 0; seed < 20; seed++) {
        emulator::seed(seed);
        run(32, 4, [=, &total] {
            unsigned *cell = (unsigned *)emulator::shared_memory();
            if (threadIdx.x == 0)
                *cell = 0;
            __syncthreads();
            if (atomic)
                atomicAdd(cell, 1u);
            else {
                unsigned before = *cell;
                emulator::interrupt(); /* as any other atomic in between would */
                *cell = before + 1;
            }
            __syncthreads();
            if (threadIdx.x == 0)
                total += 32 - *cell;
        });
    }
    return total;
}

int main()
{
    struct {
        const char *name;
        std::string said;
    } found[] = {
        {"barrier that some return without", run(64, 0,
                                                 [] {
                                                     if (threadIdx.x < 40)
                                                         __syncthreads();
                                                 })},
        {"barrier in one branch, shuffle in the other", run(64, 0,
                                                            [] {
                                                                if (threadIdx.x < 40)
                                                                    __syncthreads();
                                                                else
                                                                    __shfl_xor_sync(0xffffffffu, 1, 1);
                                                            })},
        {"different barriers", run(64, 0,
                                   [] {
                                       if (threadIdx.x < 32)
                                           __syncthreads();
                                       else
                                           __syncthreads_or(1);
                                   })},
        {"shuffle that some lanes miss", run(32, 0,
                                             [] {
                                                 if (threadIdx.x % 2)
                                                     __shfl_xor_sync(0xffffffffu, 1, 1);
                                             })},
        {"mask without oneself", run(32, 0, [] { __shfl_sync(1u, 1, 0); })},
        {"mask of lanes that do not exist", run(16, 0, [] { __ballot_sync(0xffffffffu, 1); })},
        {"different masks", run(32, 0, [] { __any_sync(threadIdx.x < 16 ? 0xffffffffu : 0xfffffffeu, 1); })},
        {"null pointer", run(32, 0, [] { *(volatile int *)(threadIdx.x * 4096ul) = 1; })},
        {"nothing", run(64, 0,
                        [] {
                            __shfl_xor_sync(0xffffffffu, 1, 1);
                            __syncthreads();
                        })},
    };
    for (auto &f : found)
        std::printf("%s: %s\n", f.name, f.said.empty() ? "fine" : f.said.c_str());
    std::printf("neighbours without a barrier: %s\n", neighbours_are_right(false) ? "fine" : "wrong");
    std::printf("neighbours with a barrier: %s\n", neighbours_are_right(true) ? "fine" : "wrong");
    std::printf("counting without atomics: %s\n", lost_updates(false) ? "wrong" : "fine");
    std::printf("counting with atomics: %s\n", lost_updates(true) ? "wrong" : "fine");

    /* Shared memory is not what the block before left there. */
    unsigned poison = 0;
    run(32, 4, [&] { *(unsigned *)emulator::shared_memory() = 7; });
    run(32, 4, [&] { poison = *(unsigned *)emulator::shared_memory(); });
    std::printf("shared memory at first: %08x\n", poison);
}

__shared__ int used_by_nobody; /* the section has to exist */
int *keep = &used_by_nobody;
