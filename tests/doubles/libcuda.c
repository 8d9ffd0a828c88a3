/* Double of libcuda.so.1, the CUDA driver's library: it starts as told, says what it was told, and computes nothing.

   CUDA_DOUBLE_CUINIT              what cuInit returns; 100 (no device) unless given, 0 for a driver that works
   CUDA_DOUBLE_DRIVER_VERSION      1000 * major + 10 * minor; 13000 unless given
   CUDA_DOUBLE_DEVICE_COUNT        only with CUINIT=0; 1 unless given
   CUDA_DOUBLE_DEVICE_NAME         only with CUINIT=0; "NVIDIA L4" unless given
   CUDA_DOUBLE_COMPUTE_CAPABILITY  only with CUINIT=0; 10 * major + minor; 89 unless given
   CUDA_DOUBLE_MEMORY_MIB          only with CUINIT=0; 23034 unless given
   CUDA_DOUBLE_TRACE=1             names each entry point that is looked up, on stderr

   Texts and codes: CUDA Driver API, CUresult; the texts are the ones in libcudart.so.13. */
#include <stdint.h>

#define DOUBLE_NAME "libcuda double"
#include "double.h"

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    NOT_INITIALIZED = 3,
    STUB_LIBRARY = 34,
    INVALID_DEVICE = 101,
    NOT_FOUND = 500,
};

/* What cuGetProcAddress says about a symbol. */
enum { SYMBOL_FOUND = 0, SYMBOL_NEEDS_NEWER_DRIVER = 2 };

static const struct {
    int code;
    const char *name, *text;
    int of_cuinit; /* whether cuInit returns it on real machines */
} RESULTS[] = {
    {0, "CUDA_SUCCESS", "no error", 1},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument", 0},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory", 1},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error", 0},
    {4, "CUDA_ERROR_DEINITIALIZED", "driver shutting down", 0},
    {34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library", 1},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable", 0},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected", 1},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal", 1},
    {304, "CUDA_ERROR_OPERATING_SYSTEM", "OS call failed or operation not supported on this OS", 1},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found", 0},
    {800, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted", 0},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported", 0},
    {802, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized", 1},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination", 1},
    {804, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", "forward compatibility was attempted on non supported HW", 1},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error", 1},
};

static const char *const VARIABLES[] = {
    "CUDA_DOUBLE_CUINIT",       "CUDA_DOUBLE_DRIVER_VERSION",     "CUDA_DOUBLE_DEVICE_COUNT", "CUDA_DOUBLE_DEVICE_NAME",
    "CUDA_DOUBLE_MEMORY_MIB",   "CUDA_DOUBLE_COMPUTE_CAPABILITY", "CUDA_DOUBLE_TRACE",        NULL,
};

static const char *const DEVICE_VARIABLES[] = {
    "CUDA_DOUBLE_DEVICE_COUNT", "CUDA_DOUBLE_DEVICE_NAME", "CUDA_DOUBLE_MEMORY_MIB", "CUDA_DOUBLE_COMPUTE_CAPABILITY", NULL,
};

static int cuinit, driver_version, device_count, capability, traced, started;
static unsigned long long memory_bytes;
static const char *device_name;

static int row_of(int code)
{
    for (int row = 0; row < (int)(sizeof RESULTS / sizeof *RESULTS); row++)
        if (RESULTS[row].code == code)
            return row;
    return -1;
}

__attribute__((constructor)) static void read_world(void)
{
    only_known("CUDA_DOUBLE_", VARIABLES);
    cuinit = (int)number("CUDA_DOUBLE_CUINIT", 100, 0, 999);
    if (cuinit == 35)
        refuse("35 is an answer of the CUDA runtime: let cuInit succeed and set an old CUDA_DOUBLE_DRIVER_VERSION");
    if (row_of(cuinit) < 0 || !RESULTS[row_of(cuinit)].of_cuinit)
        refuse("cuInit never returns %d", cuinit);
    driver_version = (int)number("CUDA_DOUBLE_DRIVER_VERSION", 13000, 6050, 19990);
    if (driver_version % 10 || driver_version % 1000 > 90 + 9)
        refuse("CUDA_DOUBLE_DRIVER_VERSION=%d is not 1000 * major + 10 * minor", driver_version);
    for (const char *const *name = DEVICE_VARIABLES; *name; name++)
        if (cuinit && given(*name))
            refuse("%s describes a device, but cuInit fails with %d", *name, cuinit);
    device_count = (int)number("CUDA_DOUBLE_DEVICE_COUNT", 1, 0, 16);
    if (!cuinit && !device_count)
        refuse("a driver without a device does not start: CUDA_DOUBLE_CUINIT=100");
    device_name = text("CUDA_DOUBLE_DEVICE_NAME", "NVIDIA L4");
    capability = (int)number("CUDA_DOUBLE_COMPUTE_CAPABILITY", 89, 50, 129);
    memory_bytes = (unsigned long long)number("CUDA_DOUBLE_MEMORY_MIB", 23034, 1, 1 << 20) << 20;
    traced = (int)number("CUDA_DOUBLE_TRACE", 0, 0, 1);
}

/* A stub library, made to be linked against, answers everything with one code. */
#define UNLESS_STUB                 \
    do {                            \
        if (cuinit == STUB_LIBRARY) \
            return STUB_LIBRARY;    \
    } while (0)
#define ONLY_STARTED                \
    do {                            \
        UNLESS_STUB;                \
        if (!started)               \
            return NOT_INITIALIZED; \
    } while (0)
#define ONLY_DEVICE(device)                       \
    do {                                          \
        ONLY_STARTED;                             \
        if ((device) < 0 || (device) >= device_count) \
            return INVALID_DEVICE;                \
    } while (0)

int cuInit(unsigned flags)
{
    UNLESS_STUB;
    if (flags)
        return INVALID_VALUE;
    started = !cuinit;
    return cuinit;
}

int cuDriverGetVersion(int *version)
{
    UNLESS_STUB;
    if (!version)
        return INVALID_VALUE;
    *version = driver_version;
    return SUCCESS;
}

int cuGetErrorName(int code, const char **name)
{
    UNLESS_STUB;
    *name = row_of(code) < 0 ? NULL : RESULTS[row_of(code)].name;
    return *name ? SUCCESS : INVALID_VALUE;
}

int cuGetErrorString(int code, const char **string)
{
    UNLESS_STUB;
    *string = row_of(code) < 0 ? NULL : RESULTS[row_of(code)].text;
    return *string ? SUCCESS : INVALID_VALUE;
}

int cuDeviceGetCount(int *count)
{
    ONLY_STARTED;
    *count = device_count;
    return SUCCESS;
}

int cuDeviceGet(int *device, int ordinal)
{
    ONLY_DEVICE(ordinal);
    *device = ordinal;
    return SUCCESS;
}

int cuDeviceGetName(char *name, int length, int device)
{
    ONLY_DEVICE(device);
    snprintf(name, (size_t)length, "%s", device_name);
    return SUCCESS;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device)
{
    ONLY_DEVICE(device);
    *bytes = memory_bytes;
    return SUCCESS;
}

int cuDeviceGetUuid_v2(unsigned char *uuid, int device)
{
    ONLY_DEVICE(device);
    memset(uuid, 0, 16);
    uuid[15] = (unsigned char)(device + 1);
    return SUCCESS;
}

int cuDeviceGetUuid(unsigned char *uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    enum { CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76 };
    ONLY_DEVICE(device);
    if (attribute == CAPABILITY_MAJOR)
        *value = capability / 10;
    else if (attribute == CAPABILITY_MINOR)
        *value = capability % 10;
    else
        refuse("cuDeviceGetAttribute(%d) was asked of a device that does not exist", attribute);
    return SUCCESS;
}

/* Everything else is work on a device, which this library cannot do. */
static int cannot(const char *function)
{
    ONLY_STARTED;
    refuse("%s was called: this driver is a double and cannot compute", function);
}

int cuTensorMapEncodeTiled(void) { return cannot("cuTensorMapEncodeTiled"); }
int cuGetExportTable(const void **table, const void *id)
{
    (void)id;
    *table = NULL;
    return cannot("cuGetExportTable");
}

/* The runtime looks up hundreds of entry points before it starts the driver. Each gets a function of its own, so that
   the one that is called can be named. */
enum { THUNKS = 1024 };
static char *thunk_names[THUNKS];
static int thunk_count;
#define THUNK(n) \
    static int thunk_##n(void) { return cannot(thunk_names[0##n]); }
#define EIGHT(f, n) f(n##0) f(n##1) f(n##2) f(n##3) f(n##4) f(n##5) f(n##6) f(n##7)
#define EIGHT_OF_EIGHT(f, n) EIGHT(f, n##0) EIGHT(f, n##1) EIGHT(f, n##2) EIGHT(f, n##3) EIGHT(f, n##4) EIGHT(f, n##5) EIGHT(f, n##6) EIGHT(f, n##7)
#define HALF(f, n) EIGHT_OF_EIGHT(f, n##0) EIGHT_OF_EIGHT(f, n##1) EIGHT_OF_EIGHT(f, n##2) EIGHT_OF_EIGHT(f, n##3) \
    EIGHT_OF_EIGHT(f, n##4) EIGHT_OF_EIGHT(f, n##5) EIGHT_OF_EIGHT(f, n##6) EIGHT_OF_EIGHT(f, n##7)
#define ADDRESS(n) (void *)thunk_##n,
HALF(THUNK, 0) HALF(THUNK, 1)
static void *const THUNK_ADDRESSES[THUNKS] = {HALF(ADDRESS, 0) HALF(ADDRESS, 1)};

static void *thunk_of(const char *function)
{
    for (int index = 0; index < thunk_count; index++)
        if (!strcmp(thunk_names[index], function))
            return THUNK_ADDRESSES[index];
    if (thunk_count == THUNKS)
        refuse("more than %d entry points were looked up", THUNKS);
    thunk_names[thunk_count] = strdup(function);
    return THUNK_ADDRESSES[thunk_count++];
}

int cuGetProcAddress_v2(const char *function, void **address, int version, uint64_t flags, int *status)
{
    static const struct {
        const char *name;
        void *address;
    } OWN[] = {
        {"cuInit", (void *)cuInit},
        {"cuDriverGetVersion", (void *)cuDriverGetVersion},
        {"cuGetErrorName", (void *)cuGetErrorName},
        {"cuGetErrorString", (void *)cuGetErrorString},
        {"cuDeviceGetCount", (void *)cuDeviceGetCount},
        {"cuDeviceGet", (void *)cuDeviceGet},
        {"cuDeviceGetName", (void *)cuDeviceGetName},
        {"cuDeviceTotalMem", (void *)cuDeviceTotalMem_v2},
        {"cuDeviceGetUuid", (void *)cuDeviceGetUuid_v2},
        {"cuDeviceGetAttribute", (void *)cuDeviceGetAttribute},
        {"cuGetProcAddress", (void *)cuGetProcAddress_v2},
        {"cuGetExportTable", (void *)cuGetExportTable},
    };
    (void)flags;
    UNLESS_STUB;
    if (traced)
        fprintf(stderr, DOUBLE_NAME ": %s of %d is looked up\n", function, version);
    if (status)
        *status = SYMBOL_FOUND;
    if (version > driver_version) {
        *address = NULL;
        if (status)
            *status = SYMBOL_NEEDS_NEWER_DRIVER;
        return NOT_FOUND;
    }
    for (size_t row = 0; row < sizeof OWN / sizeof *OWN; row++)
        if (!strcmp(OWN[row].name, function)) {
            *address = OWN[row].address;
            return SUCCESS;
        }
    *address = thunk_of(function);
    return SUCCESS;
}

int cuGetProcAddress(const char *function, void **address, int version, uint64_t flags)
{
    return cuGetProcAddress_v2(function, address, version, flags, NULL);
}
