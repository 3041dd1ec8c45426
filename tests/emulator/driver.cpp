/* A libcuda.so.1 that runs the kernels on the emulator.
 *
 * Stricter than a real driver wherever that shows mistakes: launches run when somebody synchronises, not before; memory of
 * the device can only be touched by kernels and copies; each allocation ends at an unmapped page; modules are checked
 * against the PTX that they were loaded from. Functions that begin with emulator_ are for tests. */
#include "emulator.h"

#include "kernels.cu"

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <sys/mman.h>
#include <tuple>
#include <utility>
#include <vector>

#include "device.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

const cu_result SUCCESS = CU_SUCCESS, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_DEVICE = 101,
                INVALID_CONTEXT = 201, INVALID_PTX = 218, INVALID_HANDLE = 400, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700,
                OUT_OF_RESOURCES = 701, LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901;

const std::map<int, std::pair<const char *, const char *>> errors = {
    {INVALID_VALUE, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
    {OUT_OF_MEMORY, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}},
    {NOT_INITIALIZED, {"CUDA_ERROR_NOT_INITIALIZED", "initialization error"}},
    {INVALID_DEVICE, {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}},
    {INVALID_CONTEXT, {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}},
    {INVALID_PTX, {"CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"}},
    {INVALID_HANDLE, {"CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"}},
    {NOT_FOUND, {"CUDA_ERROR_NOT_FOUND", "named symbol not found"}},
    {ILLEGAL_ADDRESS, {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}},
    {OUT_OF_RESOURCES, {"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"}},
    {LAUNCH_FAILED, {"CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"}},
    {CAPTURE_UNSUPPORTED, {"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"}},
    {CAPTURE_INVALIDATED,
     {"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"}},
};

/* ---- what tests can ask and demand ---------------------------------------------------------------------------------- */

/* An entry point: how often it was called, the call from now on that is to fail, if any, and what that one answers. */
struct entry {
    long calls = 0;
    int failing = 0;
    cu_result failure = 0;
};

std::recursive_mutex everything;
std::map<std::string, entry> entries;
bool initialized, idle_launches;
std::string last_error;

#define ENTRY(name)                                                                                                         \
    static entry &self = entries[#name];                                                                                    \
    std::lock_guard<std::recursive_mutex> lock(everything);                                                                 \
    self.calls++;                                                                                                           \
    if (self.failing > 0 && --self.failing == 0)                                                                            \
        return self.failure;

/* ---- devices -------------------------------------------------------------------------------------------------------- */

struct context {
    int device;
    int retained = 0;
    cu_result sticky = 0; /* after a kernel failed, everything does */
};

struct properties {
    std::map<int, int> attributes;
    const char *name;
};

const int n_devices = 4;
properties devices[n_devices] = {
    {{{75, 9}, {76, 0}, {97, 227 << 10}, {16, 132}}, "Emulated Hopper"},
    {{{75, 7}, {76, 5}, {97, 64 << 10}, {16, 40}}, "Emulated Turing"},
    {{{75, 7}, {76, 0}, {97, 96 << 10}, {16, 80}}, "Emulated Volta"},
    {{{75, 8}, {76, 6}, {97, 99 << 10}, {16, 28}}, "Emulated Ampere"},
};
context contexts[n_devices] = {{0}, {1}, {2}, {3}};
thread_local std::vector<context *> current;

context *top()
{
    return current.empty() ? nullptr : current.back();
}

/* ---- memory --------------------------------------------------------------------------------------------------------- */

struct allocation {
    char *mapping;
    size_t mapped, bytes;
    int device;
};

const size_t page = 4096;
std::map<uint64_t, allocation> memory;
bool opened;

void protect(const allocation &a, int protection)
{
    mprotect(a.mapping, a.mapped - page, protection); /* the last page is never mapped */
}

/* Lets the host at the device's memory, for as long as it lives. */
struct open_memory {
    bool outer;
    open_memory() : outer(!opened)
    {
        opened = true;
        if (outer)
            for (auto &[at, a] : memory)
                protect(a, PROT_READ | PROT_WRITE);
    }
    ~open_memory()
    {
        if (outer) {
            for (auto &[at, a] : memory)
                protect(a, PROT_NONE);
            opened = false;
        }
    }
};

/* Whether [at, at + bytes) lies within one allocation. */
bool is_device_memory(uint64_t at, size_t bytes)
{
    auto next = memory.upper_bound(at);
    if (next == memory.begin())
        return false;
    const auto &[start, a] = *--next;
    return at - start <= a.bytes && bytes <= a.bytes - (at - start);
}

void release(uint64_t at)
{
    auto found = memory.find(at);
    if (found != memory.end()) {
        munmap(found->second.mapping, found->second.mapped);
        memory.erase(found);
    }
}

/* ---- modules and kernels -------------------------------------------------------------------------------------------- */

/* What the host's compiler knows of a kernel, and how to run it on a copy of its parameters. */
struct host_kernel {
    std::vector<size_t> sizes;
    std::function<void()> (*bind)(const std::vector<std::vector<char>> &parameters);
};

template <auto kernel> struct thunk;
template <class... A, void (*kernel)(A...)> struct thunk<kernel> {
    template <size_t... I>
    static std::function<void()> bind_all(const std::vector<std::vector<char>> &p, std::index_sequence<I...>)
    {
        auto values = std::make_shared<std::tuple<std::remove_const_t<A>...>>(
            *reinterpret_cast<const std::remove_const_t<A> *>(p[I].data())...);
        return [values] { std::apply(kernel, *values); };
    }
    static std::function<void()> bind(const std::vector<std::vector<char>> &p)
    {
        return bind_all(p, std::index_sequence_for<A...>{});
    }
    static host_kernel make()
    {
        return {{sizeof(A)...}, bind};
    }
};

#define EMULATED(name) {#name, thunk<name>::make()},
const std::map<std::string, host_kernel> host_kernels = {CUDA_KERNELS(EMULATED)};

struct module;
struct function {
    std::string name;
    module *from;
    const host_kernel *host = nullptr;
    std::vector<size_t> parameters = {};
    unsigned most_threads = 1024, static_shared = 0;
    int most_dynamic = 48 << 10;
};

struct module {
    context *home;
    std::string ptx;
    std::map<std::string, std::unique_ptr<function>> functions;
};

/* Bytes of "[.align N ].bW name[COUNT]" or without the count. */
unsigned size_of_declaration(const std::string &text)
{
    const size_t dot = text.find_first_of("0123456789", text.find(".align") == 0 ? text.find('.', 1) : 0);
    const size_t open = text.find('['), end = text.find_first_of(",;\n");
    const unsigned bits = (unsigned)std::stoul(text.substr(dot));
    return bits / 8 * (open < end ? (unsigned)std::stoul(text.substr(open + 1)) : 1);
}

/* What the PTX says about an entry: sizes of parameters, launch bounds, static shared memory. */
bool read_entry(const std::string &ptx, const std::string &name, function &f)
{
    const size_t at = ptx.find(".entry " + name + "(");
    if (at == std::string::npos)
        return false;
    const size_t open = ptx.find("\n{\n", at), end = ptx.find("\n}\n", open);
    const std::string head = ptx.substr(at, open - at), body = ptx.substr(open, end - open);
    for (size_t i = 0; (i = head.find(".param ", i)) != std::string::npos; i++)
        f.parameters.push_back(size_of_declaration(head.substr(i + 7)));
    if (size_t i = head.find(".maxntid "); i != std::string::npos)
        f.most_threads = (unsigned)std::stoul(head.substr(i + 9));
    for (size_t i = 0; (i = ptx.find("\n.shared ", i)) < ptx.find(".entry "); i++) {
        const std::string declaration = ptx.substr(i + 9, ptx.find(';', i) - i - 9);
        const std::string symbol = declaration.substr(declaration.rfind(' ') + 1);
        if (body.find(symbol.substr(0, symbol.find('[')) + ";") != std::string::npos ||
            body.find(symbol.substr(0, symbol.find('[')) + "]") != std::string::npos ||
            body.find(symbol.substr(0, symbol.find('[')) + "+") != std::string::npos)
            f.static_shared += size_of_declaration(declaration + ";");
    }
    return true;
}

/* ---- streams and graphs --------------------------------------------------------------------------------------------- */

struct launch {
    function *f;
    emulator::dim grid, block;
    unsigned shared;
    std::vector<std::vector<char>> parameters;
    uint64_t freed = 0; /* instead of a kernel */
};

struct stream {
    context *home;
    std::deque<launch> pending;
    bool capturing = false, invalidated = false;
    std::vector<launch> captured;
    explicit stream(context *home_) : home(home_)
    {
    }
};

struct graph {
    std::vector<launch> launches;
};

std::map<void *, std::unique_ptr<stream>> streams; /* those of cuStreamCreate, and the default ones by context */
struct {
    std::string name;
    emulator::dim grid, block;
    unsigned shared;
    void *stream;
} last_launch;

stream *stream_of(cu_stream handle)
{
    uintptr_t number = (uintptr_t)handle;
    void *key = number <= 2 ? (void *)((char *)top() + (number == 2)) : (void *)handle;
    auto &found = streams[key];
    if (!found && number > 2) {
        streams.erase(key);
        return nullptr;
    }
    if (!found)
        found.reset(new stream(top()));
    return found.get();
}

bool any_capturing(context *c)
{
    bool any = false;
    for (auto &[key, s] : streams)
        if (s->home == c && s->capturing)
            any = s->invalidated = true;
    return any;
}

/* Does what the stream has been told. */
void drain(stream *s)
{
    while (!s->pending.empty() && !s->home->sticky) {
        launch next = std::move(s->pending.front());
        s->pending.pop_front();
        if (next.freed) {
            release(next.freed);
            continue;
        }
        open_memory open;
        auto kernel = next.f->host->bind(next.parameters);
        std::string wrong = emulator::run(next.grid, next.block, next.shared, kernel);
        if (!wrong.empty()) {
            last_error = next.f->name + ": " + wrong;
            s->home->sticky = wrong.find("address") != std::string::npos ? ILLEGAL_ADDRESS : LAUNCH_FAILED;
        }
    }
}

cu_result drain_all(context *c)
{
    for (auto &[key, s] : streams)
        if (s->home == c)
            drain(s.get());
    return c->sticky;
}

} // namespace

/* ---- the driver API ------------------------------------------------------------------------------------------------- */

#define NEED_CONTEXT                                                                                                        \
    if (!top())                                                                                                             \
        return INVALID_CONTEXT;                                                                                             \
    if (top()->sticky)                                                                                                      \
        return top()->sticky;

EXPORT cu_result cuInit(unsigned flags)
{
    ENTRY(cuInit)
    initialized = true;
    return flags ? INVALID_VALUE : SUCCESS;
}

EXPORT cu_result cuDriverGetVersion(int *version)
{
    ENTRY(cuDriverGetVersion)
    *version = 13000;
    return SUCCESS;
}

EXPORT cu_result cuGetErrorName(cu_result code, const char **text)
{
    auto found = errors.find(code);
    *text = found == errors.end() ? nullptr : found->second.first;
    return found == errors.end() ? INVALID_VALUE : SUCCESS;
}

EXPORT cu_result cuGetErrorString(cu_result code, const char **text)
{
    auto found = errors.find(code);
    *text = found == errors.end() ? nullptr : found->second.second;
    return found == errors.end() ? INVALID_VALUE : SUCCESS;
}

EXPORT cu_result cuDeviceGetCount(int *count)
{
    ENTRY(cuDeviceGetCount)
    *count = n_devices;
    return initialized ? SUCCESS : NOT_INITIALIZED;
}

EXPORT cu_result cuDeviceGet(cu_device *device, int ordinal)
{
    ENTRY(cuDeviceGet)
    if (!initialized)
        return NOT_INITIALIZED;
    *device = ordinal;
    return ordinal >= 0 && ordinal < n_devices ? SUCCESS : INVALID_DEVICE;
}

EXPORT cu_result cuDeviceGetName(char *name, int size, cu_device device)
{
    ENTRY(cuDeviceGetName)
    std::snprintf(name, (size_t)size, "%s", devices[device].name);
    return SUCCESS;
}

EXPORT cu_result cuDeviceGetAttribute(int *value, int attribute, cu_device device)
{
    ENTRY(cuDeviceGetAttribute)
    if (!devices[device].attributes.count(attribute))
        return INVALID_VALUE;
    *value = devices[device].attributes[attribute];
    return SUCCESS;
}

EXPORT cu_result cuDevicePrimaryCtxRetain(cu_context *c, cu_device device)
{
    ENTRY(cuDevicePrimaryCtxRetain)
    contexts[device].retained++;
    *c = (cu_context)&contexts[device];
    return SUCCESS;
}

EXPORT cu_result cuDevicePrimaryCtxRelease_v2(cu_device device)
{
    ENTRY(cuDevicePrimaryCtxRelease_v2)
    return contexts[device].retained-- > 0 ? SUCCESS : INVALID_CONTEXT;
}

EXPORT cu_result cuCtxGetCurrent(cu_context *c)
{
    ENTRY(cuCtxGetCurrent)
    *c = (cu_context)top();
    return SUCCESS;
}

EXPORT cu_result cuCtxPushCurrent_v2(cu_context c)
{
    ENTRY(cuCtxPushCurrent_v2)
    current.push_back((context *)c);
    return SUCCESS;
}

EXPORT cu_result cuCtxPopCurrent_v2(cu_context *c)
{
    ENTRY(cuCtxPopCurrent_v2)
    if (current.empty())
        return INVALID_CONTEXT;
    *c = (cu_context)current.back();
    current.pop_back();
    return SUCCESS;
}

EXPORT cu_result cuCtxSetCurrent(cu_context c)
{
    ENTRY(cuCtxSetCurrent)
    current.clear();
    if (c)
        current.push_back((context *)c);
    return SUCCESS;
}

EXPORT cu_result cuModuleLoadDataEx(cu_module *m, const void *image, unsigned n, int *options, void **values)
{
    ENTRY(cuModuleLoadDataEx)
    NEED_CONTEXT
    if (any_capturing(top()))
        return CAPTURE_UNSUPPORTED;
    std::string ptx((const char *)image);
    const size_t target = ptx.find("\n.target sm_");
    if (ptx.find(".version ") != 0 || target == std::string::npos) {
        for (unsigned i = 0; i < n; i++)
            if (options[i] == CU_JIT_ERROR_LOG_BUFFER)
                std::strcpy((char *)values[i], "ptxas fatal : this is no PTX");
        return INVALID_PTX;
    }
    auto &has = devices[top()->device].attributes;
    if (std::stoi(ptx.substr(target + 12)) > has[75] * 10 + has[76])
        return INVALID_PTX;
    *m = (cu_module) new module{top(), ptx, {}};
    return SUCCESS;
}

EXPORT cu_result cuModuleUnload(cu_module m)
{
    ENTRY(cuModuleUnload)
    delete (module *)m;
    return SUCCESS;
}

EXPORT cu_result cuModuleGetFunction(cu_function *out, cu_module handle, const char *name)
{
    ENTRY(cuModuleGetFunction)
    NEED_CONTEXT
    module *m = (module *)handle;
    auto host = host_kernels.find(name);
    std::unique_ptr<function> f(new function{name, m});
    if (host == host_kernels.end() || !read_entry(m->ptx, name, *f))
        return NOT_FOUND;
    f->host = &host->second;
    if (f->parameters != host->second.sizes) {
        std::fprintf(stderr, "emulator: %s has other parameters in the PTX than in kernels.cu\n", name);
        return INVALID_PTX;
    }
    *out = (cu_function)f.get();
    m->functions[name] = std::move(f);
    return SUCCESS;
}

EXPORT cu_result cuFuncGetAttribute(int *value, int attribute, cu_function handle)
{
    ENTRY(cuFuncGetAttribute)
    const function *f = (function *)handle;
    *value = attribute == CU_SHARED_SIZE_BYTES ? (int)f->static_shared : f->most_dynamic;
    return attribute == CU_SHARED_SIZE_BYTES || attribute == CU_MAX_DYNAMIC_SHARED_SIZE_BYTES ? SUCCESS : INVALID_VALUE;
}

EXPORT cu_result cuFuncSetAttribute(cu_function handle, int attribute, int value)
{
    ENTRY(cuFuncSetAttribute)
    function *f = (function *)handle;
    const int most = devices[f->from->home->device].attributes[CU_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN];
    if (attribute != CU_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || value + (int)f->static_shared > most)
        return INVALID_VALUE;
    f->most_dynamic = value;
    return SUCCESS;
}

static cu_result allocate(cu_pointer *out, size_t bytes)
{
    if (bytes == 0)
        return INVALID_VALUE;
    const size_t rounded = (bytes + 15) & ~(size_t)15, mapped = (rounded + page - 1) / page * page + page;
    char *mapping = (char *)mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED)
        return OUT_OF_MEMORY;
    *out = (cu_pointer)(mapping + mapped - page - rounded); /* ends where the unmapped page begins */
    memory[*out] = {mapping, mapped, bytes, top()->device};
    open_memory open;
    protect(memory[*out], PROT_READ | PROT_WRITE);
    std::memset(mapping, 0xa5, mapped - page);
    protect(memory[*out], PROT_NONE);
    return SUCCESS;
}

EXPORT cu_result cuMemAlloc_v2(cu_pointer *out, size_t bytes)
{
    ENTRY(cuMemAlloc_v2)
    NEED_CONTEXT
    return any_capturing(top()) ? CAPTURE_UNSUPPORTED : allocate(out, bytes);
}

/* What caching allocators are built on: also while a stream is capturing. */
EXPORT cu_result cuMemAllocAsync(cu_pointer *out, size_t bytes, cu_stream handle)
{
    ENTRY(cuMemAllocAsync)
    NEED_CONTEXT
    return stream_of(handle) ? allocate(out, bytes) : INVALID_HANDLE;
}

EXPORT cu_result cuMemFree_v2(cu_pointer at)
{
    ENTRY(cuMemFree_v2)
    NEED_CONTEXT
    if (!memory.count(at))
        return INVALID_VALUE;
    cu_result status = drain_all(top());
    release(at);
    return status;
}

EXPORT cu_result cuMemFreeAsync(cu_pointer at, cu_stream handle)
{
    ENTRY(cuMemFreeAsync)
    NEED_CONTEXT
    stream *s = stream_of(handle);
    if (!s || !memory.count(at))
        return INVALID_VALUE;
    if (s->capturing) /* as memory of a graph's pool */
        return SUCCESS;
    if (s->pending.empty())
        release(at);
    else
        s->pending.push_back({nullptr, {}, {}, 0, {}, at});
    return SUCCESS;
}

EXPORT cu_result cuMemcpyHtoD_v2(cu_pointer to, const void *from, size_t bytes)
{
    ENTRY(cuMemcpyHtoD_v2)
    NEED_CONTEXT
    if (any_capturing(top()))
        return CAPTURE_UNSUPPORTED;
    if (!is_device_memory(to, bytes))
        return INVALID_VALUE;
    cu_result status = drain_all(top());
    open_memory open;
    std::memcpy((void *)to, from, bytes);
    return status;
}

EXPORT cu_result cuMemcpyDtoH_v2(void *to, cu_pointer from, size_t bytes)
{
    ENTRY(cuMemcpyDtoH_v2)
    NEED_CONTEXT
    if (any_capturing(top()))
        return CAPTURE_UNSUPPORTED;
    if (!is_device_memory(from, bytes))
        return INVALID_VALUE;
    cu_result status = drain_all(top());
    open_memory open;
    std::memcpy(to, (void *)from, bytes);
    return status;
}

EXPORT cu_result cuStreamCreate(cu_stream *out, unsigned)
{
    ENTRY(cuStreamCreate)
    NEED_CONTEXT
    std::unique_ptr<stream> s(new stream(top()));
    *out = (cu_stream)s.get();
    streams[s.get()] = std::move(s);
    return SUCCESS;
}

EXPORT cu_result cuStreamSynchronize(cu_stream handle)
{
    ENTRY(cuStreamSynchronize)
    NEED_CONTEXT
    stream *s = stream_of(handle);
    if (!s)
        return INVALID_HANDLE;
    if (s->capturing) {
        s->invalidated = true;
        return CAPTURE_UNSUPPORTED;
    }
    drain(s);
    return top()->sticky;
}

EXPORT cu_result cuCtxSynchronize(void)
{
    ENTRY(cuCtxSynchronize)
    NEED_CONTEXT
    return any_capturing(top()) ? CAPTURE_UNSUPPORTED : drain_all(top());
}

EXPORT cu_result cuStreamIsCapturing(cu_stream handle, int *status)
{
    ENTRY(cuStreamIsCapturing)
    NEED_CONTEXT
    stream *s = stream_of(handle);
    if (!s)
        return INVALID_HANDLE;
    *status = !s->capturing ? 0 : s->invalidated ? 2 : 1;
    return SUCCESS;
}

EXPORT cu_result cuStreamBeginCapture_v2(cu_stream handle, int)
{
    ENTRY(cuStreamBeginCapture_v2)
    NEED_CONTEXT
    stream *s = stream_of(handle);
    if (!s || (uintptr_t)handle <= 1 || s->capturing)
        return INVALID_HANDLE;
    s->capturing = true;
    s->invalidated = false;
    s->captured.clear();
    return SUCCESS;
}

EXPORT cu_result cuStreamEndCapture(cu_stream handle, void **out)
{
    ENTRY(cuStreamEndCapture)
    NEED_CONTEXT
    stream *s = stream_of(handle);
    if (!s || !s->capturing)
        return INVALID_HANDLE;
    s->capturing = false;
    *out = nullptr;
    if (s->invalidated)
        return CAPTURE_INVALIDATED;
    *out = new graph{s->captured};
    return SUCCESS;
}

/* Graphs are launched as they were captured; there is nothing to instantiate. */
EXPORT cu_result cuGraphLaunch(void *handle, cu_stream on)
{
    ENTRY(cuGraphLaunch)
    NEED_CONTEXT
    stream *s = stream_of(on);
    if (!s || !handle)
        return INVALID_HANDLE;
    for (const launch &l : ((graph *)handle)->launches)
        s->pending.push_back(l);
    return SUCCESS;
}

EXPORT cu_result cuLaunchKernel(cu_function handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                unsigned bz, unsigned shared, cu_stream on, void **parameters, void **extra)
{
    if (idle_launches)
        return SUCCESS;
    ENTRY(cuLaunchKernel)
    NEED_CONTEXT
    function *f = (function *)handle;
    stream *s = stream_of(on);
    if (!s || f->from->home != top() || s->home != top())
        return INVALID_HANDLE;
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || gx > 0x7fffffff || !bx || !by || !bz || extra ||
        (uint64_t)bx * by * bz > 1024 || shared > (unsigned)f->most_dynamic)
        return INVALID_VALUE;
    if (bx * by * bz > f->most_threads)
        return OUT_OF_RESOURCES;
    launch l{f, {gx, gy, gz}, {bx, by, bz}, shared, {}};
    for (size_t i = 0; i < f->parameters.size(); i++)
        l.parameters.emplace_back((char *)parameters[i], (char *)parameters[i] + f->parameters[i]);
    last_launch = {f->name, l.grid, l.block, shared, (void *)on};
    if (s->capturing)
        s->captured.push_back(std::move(l));
    else
        s->pending.push_back(std::move(l));
    return SUCCESS;
}

/* ---- for tests ------------------------------------------------------------------------------------------------------ */

EXPORT long emulator_calls(const char *name)
{
    return entries[name].calls;
}

/* The n-th call of an entry point from now on fails. */
EXPORT void emulator_fail(const char *name, cu_result code, int n)
{
    entries[name].failure = code;
    entries[name].failing = n;
}

EXPORT void emulator_seed(uint64_t value)
{
    emulator::seed(value);
}

/* Whether launches do nothing at all: to measure what everything else takes. */
EXPORT void emulator_idle(int idle)
{
    idle_launches = idle;
}

EXPORT const char *emulator_last_error(void)
{
    return last_error.c_str();
}

EXPORT const char *emulator_last_launch(unsigned numbers[5], void **on)
{
    numbers[0] = last_launch.grid.x, numbers[1] = last_launch.grid.y, numbers[2] = last_launch.grid.z;
    numbers[3] = last_launch.block.x, numbers[4] = last_launch.shared;
    *on = last_launch.stream;
    return last_launch.name.c_str();
}

EXPORT long emulator_pending(void)
{
    long n = 0;
    for (auto &[key, s] : streams)
        n += (long)s->pending.size();
    return n;
}

EXPORT long emulator_allocations(void)
{
    return (long)memory.size();
}

/* Makes a device as good as new after a kernel failed on it. */
EXPORT void emulator_reset(int device)
{
    contexts[device].sticky = 0;
    last_error.clear();
    for (auto &[key, s] : streams)
        if (s->home == &contexts[device])
            s->pending.clear();
}
