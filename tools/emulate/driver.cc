// CUDA's libraries as far as Gallop calls them, on the processor: memory is the process's own, kernels are compiled by
// the C++ compiler, and the threads of a block take turns. For tests on machines without a GPU: it is exact and slow.
//
// Memory begins full of what is not a number, so that reading what nothing wrote shows; writing past an end is found
// when the memory is given back; limits of grids, blocks and shared memory are checked as a Hopper GPU has them.

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "emulate.h"

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim
#undef __global__
#undef __device__
#undef __shared__

#define API extern "C" __attribute__((visibility("default")))

API Emulated gallop_emulated = {};

static void fail(const char *what, const std::string &name = "") {
    fprintf(stderr, "cuda-emulate: %s %s\n", what, name.c_str());
    abort();
}

// ---- Threads of a block that take turns ----

// Saves what a function must keep, and goes on where the other one was.
asm(R"(
    .text
gallop_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
extern "C" void gallop_switch(void **save, void *load);

static const size_t STACK = 256 << 10;

struct Barrier {
    int waiting = 0, generation = 0, alive = 0;
};

struct Fiber {
    void *stack = nullptr, *at = nullptr;
    uint3 thread;
    int warp;
    bool done, blocked;
    int generation;
    Barrier *barrier;
};


static std::vector<void *> spare_stacks;
static Fiber *running;
static void *scheduler;
static Barrier *block_barrier;
static std::vector<Barrier> *warp_barriers;
static void (*kernel_call)(void **);
static void **kernel_arguments;

static void arrive(Barrier &b) {
    if (b.waiting > 0 && b.waiting >= b.alive) {
        b.waiting = 0;
        b.generation++;
    }
}

static void wait_at(Barrier &b) {
    running->barrier = &b;
    running->generation = b.generation;
    b.waiting++;
    arrive(b);
    if (b.generation == running->generation) {
        running->blocked = true;
        gallop_switch(&running->at, scheduler);
    }
}

API void gallop_sync_block() { wait_at(*block_barrier); }
API void gallop_sync_warp() { wait_at((*warp_barriers)[running->warp]); }

static void fiber_main() {
    kernel_call(kernel_arguments);
    running->done = true;
    Barrier &warp = (*warp_barriers)[running->warp];
    warp.alive--;
    block_barrier->alive--;
    arrive(warp);
    arrive(*block_barrier);
    void *never;
    gallop_switch(&never, scheduler);
}

static void start(Fiber &f) {
    if (spare_stacks.empty()) spare_stacks.push_back(aligned_alloc(64, STACK));
    f.stack = spare_stacks.back();
    spare_stacks.pop_back();
    void **top = (void **)((char *)f.stack + STACK - 64);
    // At a function's begin the stack is 8 past a multiple of 16.
    *--top = nullptr;
    *--top = (void *)fiber_main;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    f.at = top;
}

static void resume(Fiber &f, unsigned char (*exchange)[64]) {
    running = &f;
    gallop_emulated.thread = f.thread;
    gallop_emulated.exchange = exchange;
    gallop_switch(&scheduler, f.at);
    if (f.done) {
        spare_stacks.push_back(f.stack);
        f.stack = nullptr;
    }
}

static void run_block(uint3 size) {
    static std::vector<Fiber> fibers;
    static std::vector<Barrier> warps;
    static unsigned char exchange[32][32][64];
    int threads = size.x * size.y * size.z;
    fibers.assign(threads, Fiber());
    warps.assign((threads + 31) / 32, Barrier());
    Barrier all;
    all.alive = threads;
    block_barrier = &all;
    warp_barriers = &warps;
    for (int i = 0; i < threads; i++) {
        Fiber &f = fibers[i];
        f.thread = {i % size.x, i / size.x % size.y, i / size.x / size.y};
        f.warp = i / 32;
        f.done = f.blocked = false;
        warps[i / 32].alive++;
    }
    int left = threads;
    for (bool first = true; left > 0; first = false) {
        bool moved = false;
        for (Fiber &f : fibers) {
            if (f.done) continue;
            if (f.blocked && f.barrier->generation == f.generation) continue;
            f.blocked = false;
            if (first) start(f);
            resume(f, exchange[f.warp]);
            moved = true;
            left -= f.done;
        }
        if (!moved) fail("threads wait for one another for ever");
    }
}

// ---- Modules and kernels ----

typedef int Result;
enum { OK = 0, INVALID_VALUE = 1, NOT_FOUND = 500 };

struct Module {
    void *library;
};

struct Function {
    std::string name;
    void (*call)(void **);
    int dynamic_shared = 48 << 10;
};

static std::string tool() {
    Dl_info info;
    dladdr((void *)tool, &info);
    std::string path = info.dli_fname;
    return path.substr(0, path.rfind('/') + 1);
}

static void *open_or_fail(const std::string &path) {
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) fail("cannot open", dlerror());
    return library;
}

// Kernels' text becomes a library by the C++ compiler; the same text the same library.
static std::string build(const std::string &text) {
    std::string base = tool() + "kernels-" + std::to_string(std::hash<std::string>()(text));
    std::string library = base + ".so", source = base + "." + std::to_string(getpid()) + ".cu";
    if (access(library.c_str(), R_OK) != 0) {
        FILE *file = fopen(source.c_str(), "w");
        if (!file) fail("cannot write", source);
        fwrite(text.data(), 1, text.size(), file);
        fclose(file);
        std::string command = tool() + "compile " + source + " " + library;
        if (system(command.c_str()) != 0) fail("cannot compile", source);
    }
    return library;
}

API Result cuModuleLoadData(Module **module, const void *image) {
    std::string text((const char *)image);
    *module = new Module();
    // Gallop's own text comes as it is; what is PTX is candle's, whose kernels were compiled beforehand.
    bool own = text.find("KERNEL") != std::string::npos;
    (*module)->library = open_or_fail(own ? build(text) : tool() + "candle.so");
    return OK;
}
API Result cuModuleUnload(Module *module) {
    delete module;
    return OK;
}
API Result cuModuleGetFunction(Function **function, Module *module, const char *name) {
    static std::map<std::pair<void *, std::string>, Function *> known;
    static std::mutex guard;
    std::lock_guard<std::mutex> hold(guard);
    Function *&found = known[{module->library, name}];
    if (!found) {
        void *call = dlsym(module->library, ("gallop_call_" + std::string(name)).c_str());
        if (!call) {
            fprintf(stderr, "cuda-emulate: no kernel %s\n", name);
            return NOT_FOUND;
        }
        found = new Function{name, (void (*)(void **))call};
    }
    *function = found;
    return OK;
}
API Result cuFuncSetAttribute(Function *function, int attribute, int value) {
    if (attribute != 8 || value > 227 << 10) return INVALID_VALUE;
    function->dynamic_shared = value;
    return OK;
}
API Result cuFuncGetAttribute(int *value, int, Function *) {
    *value = 0;
    return OK;
}

API Result cuLaunchKernel(Function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned shared, void *, void **arguments, void **) {
    static std::mutex guard;
    std::lock_guard<std::mutex> hold(guard);
    if (!gx || !gy || !gz || gx > 0x7fffffff || gy > 65535 || gz > 65535 || !bx || !by || !bz || bx * by * bz > 1024 ||
        (int)shared > f->dynamic_shared) {
        fprintf(stderr, "cuda-emulate: %s cannot be started with grid %u %u %u, block %u %u %u, %u bytes shared\n",
                f->name.c_str(), gx, gy, gz, bx, by, bz, shared);
        return INVALID_VALUE;
    }
    std::vector<unsigned char> memory(shared + 64);
    unsigned char *begin = (unsigned char *)(((uintptr_t)memory.data() + 15) / 16 * 16);
    gallop_emulated.block_size = {bx, by, bz};
    gallop_emulated.grid_size = {gx, gy, gz};
    gallop_emulated.shared = begin;
    kernel_call = f->call;
    kernel_arguments = arguments;
    for (unsigned z = 0; z < gz; z++)
        for (unsigned y = 0; y < gy; y++)
            for (unsigned x = 0; x < gx; x++) {
                memset(begin, 0xff, shared);
                memset(begin + shared, 0xa5, 16);
                gallop_emulated.block = {x, y, z};
                run_block({bx, by, bz});
                for (int i = 0; i < 16; i++)
                    if (begin[shared + i] != 0xa5) fail("shared memory was overrun by", f->name);
            }
    return OK;
}

// ---- Memory ----

static std::map<uintptr_t, size_t> allocated;
static std::mutex allocated_guard;
static size_t in_use, most_in_use;
static const size_t FENCE = 256;

API Result cuMemAlloc_v2(uintptr_t *to, size_t bytes) {
    unsigned char *p = (unsigned char *)aligned_alloc(256, (bytes + FENCE + 255) / 256 * 256);
    if (!p) return 2;
    memset(p, 0xff, bytes);
    memset(p + bytes, 0xa5, FENCE);
    std::lock_guard<std::mutex> hold(allocated_guard);
    allocated[(uintptr_t)p] = bytes;
    in_use += bytes;
    if (in_use > most_in_use) most_in_use = in_use;
    *to = (uintptr_t)p;
    return OK;
}
API Result cuMemAllocAsync(uintptr_t *to, size_t bytes, void *) { return cuMemAlloc_v2(to, bytes); }
API Result cuMemFree_v2(uintptr_t at) {
    if (!at) return OK;
    std::lock_guard<std::mutex> hold(allocated_guard);
    auto found = allocated.find(at);
    if (found == allocated.end()) fail("memory given back twice");
    for (size_t i = 0; i < FENCE; i++)
        if (((unsigned char *)at)[found->second + i] != 0xa5) fail("a kernel wrote past the end of its memory");
    in_use -= found->second;
    allocated.erase(found);
    free((void *)at);
    return OK;
}
API Result cuMemFreeAsync(uintptr_t at, void *) { return cuMemFree_v2(at); }

// Whether a range lies in memory that is in use.
static void check_range(uintptr_t at, size_t bytes) {
    std::lock_guard<std::mutex> hold(allocated_guard);
    auto next = allocated.upper_bound(at);
    if (next == allocated.begin()) fail("a copy outside of all memory");
    --next;
    if (at + bytes > next->first + next->second) fail("a copy past the end of memory");
}
API Result cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t bytes, void *) {
    if (bytes) check_range(to, bytes);
    memcpy((void *)to, from, bytes);
    return OK;
}
API Result cuMemcpyHtoD_v2(uintptr_t to, const void *from, size_t bytes) {
    return cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr);
}
API Result cuMemcpyDtoHAsync_v2(void *to, uintptr_t from, size_t bytes, void *) {
    if (bytes) check_range(from, bytes);
    memcpy(to, (void *)from, bytes);
    return OK;
}
API Result cuMemcpyDtoH_v2(void *to, uintptr_t from, size_t bytes) {
    return cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr);
}
API Result cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t bytes, void *) {
    if (bytes) check_range(to, bytes), check_range(from, bytes);
    memcpy((void *)to, (void *)from, bytes);
    return OK;
}
API Result cuMemcpyDtoD_v2(uintptr_t to, uintptr_t from, size_t bytes) {
    return cuMemcpyDtoDAsync_v2(to, from, bytes, nullptr);
}
API Result cuMemsetD8Async(uintptr_t at, unsigned char value, size_t bytes, void *) {
    if (bytes) check_range(at, bytes);
    memset((void *)at, value, bytes);
    return OK;
}
API Result cuMemsetD8_v2(uintptr_t at, unsigned char value, size_t bytes) {
    return cuMemsetD8Async(at, value, bytes, nullptr);
}
API Result cuMemHostAlloc(void **to, size_t bytes, unsigned) {
    *to = malloc(bytes);
    return *to ? OK : 2;
}
API Result cuMemFreeHost(void *at) {
    free(at);
    return OK;
}
// What is reserved and in use now, and the most that was in use.
API Result cuMemPoolGetAttribute(void *, int attribute, unsigned long long *value) {
    std::lock_guard<std::mutex> hold(allocated_guard);
    *value = attribute == 8 || attribute == 6 ? most_in_use : in_use;
    return OK;
}
API Result cuMemPoolSetAttribute(void *, int attribute, unsigned long long *) {
    std::lock_guard<std::mutex> hold(allocated_guard);
    if (attribute == 8) most_in_use = in_use;
    return OK;
}
API Result cuMemGetInfo_v2(size_t *free, size_t *total) {
    *total = 141ull << 30;
    *free = *total - in_use;
    return OK;
}

// ---- Devices, contexts, streams, events: there is one of each, and all is done at once ----

static int one;
#define HANDLE(name, ...)                                                                                              \
    API Result name(void **to, ##__VA_ARGS__) {                                                                       \
        *to = &one;                                                                                                    \
        return OK;                                                                                                     \
    }
#define NOTHING(name)                                                                                                  \
    API Result name() { return OK; }

NOTHING(cuInit)
NOTHING(cuCtxSetCurrent)
NOTHING(cuCtxSynchronize)
NOTHING(cuCtxSetFlags)
NOTHING(cuDevicePrimaryCtxRelease_v2)
NOTHING(cuStreamSynchronize)
NOTHING(cuStreamDestroy_v2)
NOTHING(cuStreamWaitEvent)
NOTHING(cuEventRecord)
NOTHING(cuEventSynchronize)
NOTHING(cuEventQuery)
NOTHING(cuEventDestroy_v2)
HANDLE(cuDevicePrimaryCtxRetain, int)
HANDLE(cuCtxGetCurrent)
HANDLE(cuStreamCreate, unsigned)
HANDLE(cuStreamCreateWithPriority, unsigned, int)
HANDLE(cuEventCreate, unsigned)
HANDLE(cuDeviceGetDefaultMemPool, int)
API Result cuDeviceGet(int *device, int) {
    *device = 0;
    return OK;
}
API Result cuDeviceGetCount(int *count) {
    *count = 1;
    return OK;
}
API Result cuDeviceGetName(char *name, int size, int) {
    snprintf(name, size, "emulated");
    return OK;
}
API Result cuDeviceTotalMem_v2(size_t *bytes, int) {
    *bytes = 141ull << 30;
    return OK;
}
API Result cuDeviceGetAttribute(int *value, int attribute, int) {
    // Compute capability 9.0; memory pools; 132 multiprocessors.
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 16 ? 132 : 1;
    return OK;
}
API Result cuStreamIsCapturing(void *, int *status) {
    *status = 0;
    return OK;
}
API Result cuEventElapsedTime(float *ms, void *, void *) {
    *ms = 0;
    return OK;
}
API Result cuEventElapsedTime_v2(float *ms, void *, void *) {
    *ms = 0;
    return OK;
}
API Result cuGetErrorName(int, const char **text) {
    *text = "emulated error";
    return OK;
}
API Result cuGetErrorString(int, const char **text) {
    *text = "emulated error";
    return OK;
}

// ---- NVRTC: the text itself is what it compiles to ----

API Result nvrtcCreateProgram(std::string **program, const char *text, const char *, int, const char **, const char **) {
    *program = new std::string(text);
    return OK;
}
NOTHING(nvrtcCompileProgram)
API Result nvrtcDestroyProgram(std::string **program) {
    delete *program;
    return OK;
}
API Result nvrtcGetPTXSize(std::string *program, size_t *size) {
    *size = program->size() + 1;
    return OK;
}
API Result nvrtcGetPTX(std::string *program, char *to) {
    memcpy(to, program->c_str(), program->size() + 1);
    return OK;
}
API Result nvrtcGetProgramLogSize(std::string *, size_t *size) {
    *size = 1;
    return OK;
}
API Result nvrtcGetProgramLog(std::string *, char *to) {
    *to = 0;
    return OK;
}
API const char *nvrtcGetErrorString(int) { return "emulated error"; }

// ---- cuBLAS ----

HANDLE(cublasCreate_v2)
NOTHING(cublasDestroy_v2)
NOTHING(cublasSetStream_v2)
NOTHING(cublasSetWorkspace_v2)
NOTHING(cublasSetMathMode)

enum { F32 = 0, BF16_TYPE = 14 };

static float load(const void *p, int type, size_t i) {
    if (type == F32) return ((const float *)p)[i];
    if (type == BF16_TYPE) return __uint_as_float((unsigned)((const uint16_t *)p)[i] << 16);
    fail("cuBLAS with numbers of another type");
    return 0;
}

static Result product(int ta, int tb, int m, int n, int k, float alpha, const void *a, int at, int lda, const void *b,
                      int bt, int ldb, float beta, float *c, int ldc) {
    if (m < 0 || n < 0 || k < 0 || lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m) {
        fprintf(stderr, "cuda-emulate: cuBLAS: m %d n %d k %d lda %d ldb %d ldc %d\n", m, n, k, lda, ldb, ldc);
        return 7;
    }
    std::vector<float> row(k);
    for (int i = 0; i < m; i++) {
        for (int p = 0; p < k; p++) row[p] = load(a, at, ta ? p + (size_t)i * lda : i + (size_t)p * lda);
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int p = 0; p < k; p++) sum += (double)row[p] * load(b, bt, tb ? j + (size_t)p * ldb : p + (size_t)j * ldb);
            float &to = c[i + (size_t)j * ldc];
            to = (float)(alpha * sum) + (beta != 0.0f ? beta * to : 0.0f);
        }
    }
    return OK;
}

API Result cublasGemmEx(void *, int ta, int tb, int m, int n, int k, const float *alpha, const void *a, int at, int lda,
                        const void *b, int bt, int ldb, const float *beta, void *c, int ct, int ldc, int, int) {
    if (ct != F32) fail("cuBLAS with a result of another type");
    return product(ta, tb, m, n, k, *alpha, a, at, lda, b, bt, ldb, *beta, (float *)c, ldc);
}
API Result cublasGemmStridedBatchedEx(void *, int ta, int tb, int m, int n, int k, const float *alpha, const void *a,
                                      int at, int lda, long long sa, const void *b, int bt, int ldb, long long sb,
                                      const float *beta, void *c, int ct, int ldc, long long sc, int batch, int, int) {
    if (ct != F32) fail("cuBLAS with a result of another type");
    size_t wa = at == F32 ? 4 : 2, wb = bt == F32 ? 4 : 2;
    for (int i = 0; i < batch; i++) {
        Result done = product(ta, tb, m, n, k, *alpha, (const char *)a + i * sa * wa, at, lda,
                              (const char *)b + i * sb * wb, bt, ldb, *beta, (float *)c + i * sc, ldc);
        if (done) return done;
    }
    return OK;
}

// ---- cuRAND: made, never asked ----

HANDLE(curandCreateGenerator, int)
NOTHING(curandDestroyGenerator)
NOTHING(curandSetStream)
NOTHING(curandSetPseudoRandomGeneratorSeed)
NOTHING(curandSetGeneratorOffset)
