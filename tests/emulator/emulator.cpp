/* Fibers, and the scheduler that makes a block of them. */
#include "emulator.h"

#include <algorithm>
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define FRESH_STACK(at, size) __asan_unpoison_memory_region(at, size)
#else
#define FRESH_STACK(at, size)
#endif

extern unsigned char __start_emulated_shared[], __stop_emulated_shared[];

namespace emulator {

namespace {

const size_t stack_size = 64 << 10;
const unsigned most_threads = 1024;
enum { RUNNABLE, AT_BLOCK, AT_WARP, DONE };

#if defined(__x86_64__)
typedef void *place;
extern "C" void emulator_switch(place *from, place to);
asm(".text\n.globl emulator_switch\n.hidden emulator_switch\nemulator_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\nmov %rsp, (%rdi)\n"
    "mov %rsi, %rsp\npop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");
void go(place *from, place *to)
{
    emulator_switch(from, *to);
}
void prepare(place *at, char *stack, void (*entry)())
{
    void **top = (void **)(stack + stack_size - 64);
    *--top = nullptr;
    *--top = (void *)entry;
    for (int i = 0; i < 6; i++)
        *--top = nullptr;
    *at = top;
}
#else
typedef ucontext_t place;
void go(place *from, place *to)
{
    swapcontext(from, to);
}
void prepare(place *at, char *stack, void (*entry)())
{
    getcontext(at);
    at->uc_stack.ss_sp = stack;
    at->uc_stack.ss_size = stack_size;
    at->uc_link = nullptr;
    makecontext(at, entry, 0);
}
#endif

struct fiber {
    place at;
    dim index;
    int state;
    meeting kind;
    unsigned mask;
    uint64_t brought;
    uint64_t received[32];
};

fiber fibers[most_threads];
char *stacks;
std::vector<unsigned char> dynamic_memory;
std::vector<unsigned> runnable;
place scheduler;
unsigned current, n_threads;
dim the_block, the_size, the_grid;
bool block_result;
const std::function<void()> *the_kernel;
uint64_t random_state = 1;
sigjmp_buf escape;

unsigned draw(unsigned n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)((random_state >> 32) * n >> 32);
}

void leave()
{
    go(&fibers[current].at, &scheduler);
}

void start()
{
    (*the_kernel)();
    fibers[current].state = DONE;
    leave();
    abort();
}

void wake(unsigned i)
{
    fibers[i].state = RUNNABLE;
    runnable.push_back(i);
}

/* Lets the lanes go on that the fiber was the last to meet. Returns what is wrong with their meeting, if anything. */
const char *close_warp(unsigned i)
{
    const unsigned first = i & ~31u, mask = fibers[i].mask;
    if (!(mask >> (i - first) & 1))
        return "a lane meets others with a mask that leaves it out";
    for (unsigned lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1))
            continue;
        if (first + lane >= n_threads)
            return "a mask names lanes that do not exist";
        const fiber &other = fibers[first + lane];
        if (other.state != AT_WARP)
            return nullptr;
        if (other.mask != mask || other.kind != fibers[i].kind)
            return "lanes meet at different operations or with different masks";
    }
    for (unsigned lane = 0; lane < 32; lane++)
        if (mask >> lane & 1)
            for (unsigned k = 0; k < 32; k++)
                fibers[first + lane].received[k] = mask >> k & 1 ? fibers[first + k].brought : 0xa5a5a5a5a5a5a5a5u;
    for (unsigned lane = 0; lane < 32; lane++)
        if (mask >> lane & 1)
            wake(first + lane);
    return nullptr;
}

const char *close_block()
{
    block_result = false;
    for (unsigned i = 0; i < n_threads; i++) {
        if (fibers[i].state == DONE)
            return "some threads wait at a barrier that others have returned without";
        if (fibers[i].kind != fibers[0].kind)
            return "threads wait at different kinds of barriers";
        block_result |= fibers[i].brought != 0;
    }
    for (unsigned i = 0; i < n_threads; i++)
        wake(i);
    return nullptr;
}

const char *run_block()
{
    unsigned done = 0, waiting = 0;
    const char *wrong = nullptr;
    std::memset(__start_emulated_shared, 0xa5, (size_t)(__stop_emulated_shared - __start_emulated_shared));
    std::fill(dynamic_memory.begin(), dynamic_memory.end(), 0xa5); /* most kernels have none, and memset wants a pointer */
    FRESH_STACK(stacks, stack_size * n_threads);
    runnable.clear();
    for (unsigned i = 0; i < n_threads; i++) {
        fibers[i].index = {i % the_size.x, i / the_size.x % the_size.y, i / the_size.x / the_size.y};
        prepare(&fibers[i].at, stacks + i * stack_size, start);
        wake(i);
    }
    while (!runnable.empty() && !wrong) {
        unsigned &chosen = runnable[draw((unsigned)runnable.size())];
        current = chosen;
        chosen = runnable.back();
        runnable.pop_back();
        go(&scheduler, &fibers[current].at);
        switch (fibers[current].state) {
        case DONE:
            done++;
            break;
        case AT_BLOCK:
            waiting++;
            break;
        case AT_WARP:
            wrong = close_warp(current);
            break;
        default:
            runnable.push_back(current);
        }
        if (waiting > 0 && waiting + done == n_threads) {
            wrong = close_block();
            waiting = 0;
        }
    }
    if (!wrong && done < n_threads)
        wrong = "threads wait for others that never come";
    return wrong;
}

void on_fault(int)
{
    siglongjmp(escape, 1);
}

} // namespace

const dim &thread_index()
{
    return fibers[current].index;
}

const dim &block_index()
{
    return the_block;
}

const dim &block_size()
{
    return the_size;
}

const dim &grid_size()
{
    return the_grid;
}

unsigned char *shared_memory()
{
    return dynamic_memory.data();
}

unsigned lane()
{
    return current & 31;
}

bool meet_block(meeting kind, bool value)
{
    fiber &me = fibers[current];
    me.kind = kind;
    me.brought = value;
    me.state = AT_BLOCK;
    leave();
    return block_result;
}

const uint64_t *meet_warp(meeting kind, unsigned mask, uint64_t value)
{
    fiber &me = fibers[current];
    me.kind = kind;
    me.mask = mask;
    me.brought = value;
    me.state = AT_WARP;
    leave();
    return me.received;
}

void interrupt()
{
    if (draw(8) == 0)
        leave();
}

void seed(uint64_t value)
{
    random_state = value * 2 + 1;
}

std::string run(dim grid, dim block, unsigned shared_bytes, const std::function<void()> &kernel)
{
    struct sigaction action = {}, before_segv, before_bus;
    const char *wrong = nullptr;
    static dim at; /* not lost by the jump out of a fault */
    if (!stacks)
        stacks = (char *)mmap(nullptr, stack_size * most_threads, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    the_kernel = &kernel;
    the_size = block;
    the_grid = grid;
    n_threads = block.x * block.y * block.z;
    dynamic_memory.resize(shared_bytes);
    action.sa_handler = on_fault;
    action.sa_flags = SA_NODEFER;
    sigaction(SIGSEGV, &action, &before_segv);
    sigaction(SIGBUS, &action, &before_bus);
    if (sigsetjmp(escape, 1) == 0) {
        for (at.z = 0; at.z < grid.z && !wrong; at.z++)
            for (at.y = 0; at.y < grid.y && !wrong; at.y++)
                for (at.x = 0; at.x < grid.x && !wrong; at.x++) {
                    the_block = at;
                    wrong = run_block();
                }
    } else
        wrong = "an address outside all memory";
    sigaction(SIGSEGV, &before_segv, nullptr);
    sigaction(SIGBUS, &before_bus, nullptr);
    if (!wrong)
        return "";
    char text[256];
    std::snprintf(text, sizeof text, "block %u, thread %u: %s", the_block.x, current, wrong);
    return text;
}

} // namespace emulator
