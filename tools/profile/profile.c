// Where a GPU's time goes: totals of kernels and copies, and of driver calls by thread, of a window of any program's run.
// The driver loads this where CUDA_INJECTION64_PATH names it; `tools/gpu-profile` builds it. CUPTI's activity API
// (docs.nvidia.com/cupti): records come in buffers that it fills.
//
//   PROFILE_OUT    file that the table is written to when the program ends (default: profile.txt)
//   PROFILE_FROM   seconds after the program's start before which nothing counts (default: 0)
//   PROFILE_UNTIL  seconds after which nothing counts (default: no end)
//   PROFILE_CALLS  if set, driver calls count too, which slows the program down
#include <cupti.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAMES 8192
#define LONGEST 120
#define BUFFER (8 << 20)
// Copies of more bytes than this wait for memory that the driver can send from.
#define LARGE 65536
#define SHOWN 90

struct total {
    char name[LONGEST];
    uint64_t count, ns, bytes;
};

static struct total work[NAMES], calls[NAMES];
static uint64_t start, from, until, first, last, busy;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct total *find(struct total *table, const char *name) {
    uint64_t hash = 1469598103934665603ull;  // FNV-1a
    for (const char *c = name; *c; c++) hash = (hash ^ (unsigned char)*c) * 1099511628211ull;
    for (int i = 0; i < NAMES; i++) {
        struct total *at = &table[(hash + i) % NAMES];
        if (!at->count) snprintf(at->name, LONGEST, "%s", name);
        if (!at->count || !strncmp(at->name, name, LONGEST - 1)) return at;
    }
    return table;
}

static void add(struct total *table, const char *name, uint64_t begin, uint64_t end, uint64_t bytes) {
    if (begin < start + from || end > start + until) return;
    struct total *at = find(table, name);
    at->count++;
    at->ns += end - begin;
    at->bytes += bytes;
    if (table != work) return;
    busy += end - begin;
    if (!first || begin < first) first = begin;
    if (end > last) last = end;
}

static void CUPTIAPI wanted(uint8_t **buffer, size_t *size, size_t *most) {
    *size = BUFFER;
    *buffer = aligned_alloc(64, BUFFER);
    *most = 0;
}

static void CUPTIAPI filled(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
    CUpti_Activity *record = NULL;
    char name[LONGEST];
    pthread_mutex_lock(&lock);
    while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
        switch (record->kind) {
        case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
            KERNEL *is = (KERNEL *)record;
            add(work, is->name ? is->name : "?", is->start, is->end, 0);
            break;
        }
        case CUPTI_ACTIVITY_KIND_MEMCPY: {
            MEMCPY *is = (MEMCPY *)record;
            const char *ways[] = {"?", "to the GPU", "from the GPU"};
            const char *way = is->copyKind < 3 ? ways[is->copyKind] : "within the GPU";
            snprintf(name, sizeof name, "[copy %s, %s]", way, is->bytes > LARGE ? "large" : "small");
            add(work, name, is->start, is->end, is->bytes);
            break;
        }
        case CUPTI_ACTIVITY_KIND_MEMSET: {
            MEMSET *is = (MEMSET *)record;
            add(work, "[set memory]", is->start, is->end, is->bytes);
            break;
        }
        case CUPTI_ACTIVITY_KIND_DRIVER: {
            CUpti_ActivityAPI *is = (CUpti_ActivityAPI *)record;
            const char *call = NULL;
            cuptiGetCallbackName(CUPTI_CB_DOMAIN_DRIVER_API, is->cbid, &call);
            snprintf(name, sizeof name, "%u %s", is->threadId, call ? call : "?");
            add(calls, name, is->start, is->end, 0);
            break;
        }
        default:
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    free(buffer);
}

static int longest_first(const void *a, const void *b) {
    uint64_t x = ((const struct total *)a)->ns, y = ((const struct total *)b)->ns;
    return (x < y) - (x > y);
}

static void print(FILE *file, struct total *table) {
    qsort(table, NAMES, sizeof *table, longest_first);
    for (int i = 0; i < SHOWN && table[i].count; i++) {
        struct total t = table[i];
        fprintf(file, "%10.2f ms %8lu x %10.2f us %9.1f MB  %s\n", t.ns / 1e6, t.count, t.ns / 1e3 / t.count,
                t.bytes / 1e6, t.name);
    }
}

static void finish(void) {
    cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
    const char *out = getenv("PROFILE_OUT");
    FILE *file = fopen(out ? out : "profile.txt", "w");
    if (!file) return;
    fprintf(file, "window %.3f s, GPU busy %.3f s\n", (last - first) / 1e9, busy / 1e9);
    print(file, work);
    if (getenv("PROFILE_CALLS")) fprintf(file, "driver calls by thread\n");
    print(file, calls);
    fclose(file);
}

static uint64_t nanoseconds(const char *variable, double otherwise) {
    const char *text = getenv(variable);
    return (uint64_t)((text ? atof(text) : otherwise) * 1e9);
}

__attribute__((visibility("default"))) int InitializeInjection(void) {
    from = nanoseconds("PROFILE_FROM", 0);
    until = nanoseconds("PROFILE_UNTIL", 1e9);
    cuptiGetTimestamp(&start);
    cuptiActivityRegisterCallbacks(wanted, filled);
    cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
    cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY);
    cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMSET);
    if (getenv("PROFILE_CALLS")) cuptiActivityEnable(CUPTI_ACTIVITY_KIND_DRIVER);
    atexit(finish);
    return 1;
}
