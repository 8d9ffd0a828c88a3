/* Double of libnvidia-ml.so.1, NVIDIA's management library: one machine's GPUs as told, in answers that fit each other.

   The driver
   NVML_DOUBLE_INIT                 what nvmlInit returns; 0 unless given
   NVML_DOUBLE_DRIVER               580.95.05 unless given
   NVML_DOUBLE_CUDA                 1000 * major + 10 * minor; what the driver's branch brings unless given
   NVML_DOUBLE_FORWARD_COMPAT=1     the cuda-compat package lifts CUDA above the branch; cuInit fails with 804 on GeForce
   NVML_DOUBLE_COUNT                GPUs, all alike but for UUID and bus; 1 unless given

   The GPU
   NVML_DOUBLE_NAME                 "NVIDIA L4" unless given; of a product that is not in PRODUCTS, capability and memory
                                    must be given
   NVML_DOUBLE_UUID                 of the only GPU
   NVML_DOUBLE_COMPUTE_CAPABILITY   10 * major + minor
   NVML_DOUBLE_MEMORY_MIB, NVML_DOUBLE_MEMORY_USED_MIB, NVML_DOUBLE_MEMORY_RESERVED_MIB
   NVML_DOUBLE_MIG                  0 or 1; a product that cannot MIG answers NOT_SUPPORTED
   NVML_DOUBLE_MIG_PROFILES         only with MIG=1; the instances that each GPU shows, such as "1g.10gb 2g.20gb"
   NVML_DOUBLE_ECC                  0 or 1; a product without ECC answers NOT_SUPPORTED
   NVML_DOUBLE_PCIE_GEN, NVML_DOUBLE_PCIE_GEN_MAX, NVML_DOUBLE_PCIE_WIDTH, NVML_DOUBLE_PCIE_WIDTH_MAX
   NVML_DOUBLE_CLOCK_EVENTS         bits of nvmlClocksEventReason
   NVML_DOUBLE_POWER_MW, NVML_DOUBLE_POWER_LIMIT_MW
   NVML_DOUBLE_PERSISTENCE          0 or 1
   NVML_DOUBLE_COMPUTE_MODE         0 default, 2 prohibited, 3 exclusive process
   NVML_DOUBLE_TEMPERATURE_C, NVML_DOUBLE_UTILIZATION, NVML_DOUBLE_MEMORY_UTILIZATION
   NVML_DOUBLE_PCIE_KBS             what nvmlDeviceGetPcieThroughput says, both ways
   NVML_DOUBLE_SM_CLOCK_MHZ
   NVML_DOUBLE_REMAPPED_ROWS        correctable,uncorrectable,pending,failure

   Faults, each in one call by its full name, such as nvmlDeviceGetName
   NVML_DOUBLE_HANG                 the call never returns
   NVML_DOUBLE_CRASH                the call ends the process by SIGSEGV
   NVML_DOUBLE_GARBAGE              the call writes bytes that are no text to stdout, then answers as ever
   NVML_DOUBLE_ERROR                call:code; the call returns the code */
#include <signal.h>
#include <unistd.h>

#define DOUBLE_NAME "libnvidia-ml double"
#include "double.h"

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    ARGUMENT_VERSION_MISMATCH = 25,
};

static const struct {
    int code;
    const char *text;
    int of_init; /* whether nvmlInit returns it on real machines */
} RESULTS[] = {
    {0, "Success", 1},
    {1, "Uninitialized", 0},
    {2, "Invalid Argument", 0},
    {3, "Not Supported", 0},
    {4, "Insufficient Permissions", 1},
    {6, "Not Found", 0},
    {7, "Insufficient Size", 0},
    {8, "Insufficient External Power", 0},
    {9, "Driver Not Loaded", 1},
    {10, "Timeout", 0},
    {11, "Interrupt Request Issue", 0},
    {13, "Function Not Found", 0},
    {14, "Corrupted infoROM", 0},
    {15, "GPU is lost", 1},
    {16, "GPU requires reset", 1},
    {17, "GPU access blocked by the operating system", 1},
    {18, "Driver/library version mismatch", 1},
    {20, "Insufficient Memory", 1},
    {21, "No data", 0},
    {25, "Argument version mismatch", 0},
    {27, "System is not ready for the request", 0},
    {28, "No GPUs were found", 1},
    {999, "Unknown Error", 1},
};

enum { TURING = 6, AMPERE = 7, ADA = 8, HOPPER = 9 };

static const struct {
    const char *name;
    int capability, memory_mib, pcie_gen, power_w, data_centre, mig, ecc, remaps;
} PRODUCTS[] = {
    {"Tesla T4", 75, 15360, 3, 70, 1, 0, 1, 0},
    {"NVIDIA A10", 86, 23028, 4, 150, 1, 0, 1, 1},
    {"NVIDIA A10G", 86, 23028, 4, 300, 1, 0, 1, 1},
    {"NVIDIA A100-SXM4-40GB", 80, 40960, 4, 400, 1, 1, 1, 1},
    {"NVIDIA A100-SXM4-80GB", 80, 81920, 4, 400, 1, 1, 1, 1},
    {"NVIDIA L4", 89, 23034, 4, 72, 1, 0, 1, 1},
    {"NVIDIA L40S", 89, 46068, 4, 350, 1, 0, 1, 1},
    {"NVIDIA H100 80GB HBM3", 90, 81559, 5, 700, 1, 1, 1, 1},
    {"NVIDIA H200", 90, 143771, 5, 700, 1, 1, 1, 1},
    {"NVIDIA GeForce RTX 3090", 86, 24576, 4, 350, 0, 0, 0, 0},
};
enum { PRODUCT_COUNT = sizeof PRODUCTS / sizeof *PRODUCTS };

/* The first driver branch that brings each CUDA version. */
static const struct {
    int branch, cuda;
} BRANCHES[] = {
    {450, 11000}, {455, 11010}, {460, 11020}, {465, 11030}, {470, 11040}, {495, 11050}, {510, 11060}, {515, 11070},
    {520, 11080}, {525, 12000}, {530, 12010}, {535, 12020}, {545, 12030}, {550, 12040}, {555, 12050}, {560, 12060},
    {565, 12070}, {570, 12080}, {575, 12090}, {580, 13000}, {590, 13010},
};

static const char *const VARIABLES[] = {
    "NVML_DOUBLE_INIT", "NVML_DOUBLE_DRIVER", "NVML_DOUBLE_CUDA", "NVML_DOUBLE_FORWARD_COMPAT", "NVML_DOUBLE_COUNT",
    "NVML_DOUBLE_NAME", "NVML_DOUBLE_UUID", "NVML_DOUBLE_COMPUTE_CAPABILITY", "NVML_DOUBLE_MEMORY_MIB",
    "NVML_DOUBLE_MEMORY_USED_MIB", "NVML_DOUBLE_MEMORY_RESERVED_MIB", "NVML_DOUBLE_MIG", "NVML_DOUBLE_MIG_PROFILES", "NVML_DOUBLE_ECC",
    "NVML_DOUBLE_PCIE_GEN", "NVML_DOUBLE_PCIE_GEN_MAX", "NVML_DOUBLE_PCIE_WIDTH", "NVML_DOUBLE_PCIE_WIDTH_MAX",
    "NVML_DOUBLE_CLOCK_EVENTS", "NVML_DOUBLE_POWER_MW", "NVML_DOUBLE_POWER_LIMIT_MW", "NVML_DOUBLE_PERSISTENCE",
    "NVML_DOUBLE_COMPUTE_MODE", "NVML_DOUBLE_TEMPERATURE_C", "NVML_DOUBLE_UTILIZATION",
    "NVML_DOUBLE_MEMORY_UTILIZATION", "NVML_DOUBLE_PCIE_KBS", "NVML_DOUBLE_SM_CLOCK_MHZ", "NVML_DOUBLE_REMAPPED_ROWS",
    "NVML_DOUBLE_HANG", "NVML_DOUBLE_CRASH", "NVML_DOUBLE_GARBAGE", "NVML_DOUBLE_ERROR", NULL,
};

static const char *const CALLS[] = {
    "nvmlInit_v2", "nvmlInitWithFlags", "nvmlShutdown", "nvmlSystemGetDriverVersion", "nvmlSystemGetNVMLVersion",
    "nvmlSystemGetCudaDriverVersion", "nvmlSystemGetCudaDriverVersion_v2", "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetIndex", "nvmlDeviceGetName",
    "nvmlDeviceGetUUID", "nvmlDeviceGetCudaComputeCapability", "nvmlDeviceGetArchitecture", "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount",
    "nvmlDeviceGetMigDeviceHandleByIndex", "nvmlDeviceGetEccMode", "nvmlDeviceGetCurrPcieLinkGeneration",
    "nvmlDeviceGetMaxPcieLinkGeneration", "nvmlDeviceGetCurrPcieLinkWidth", "nvmlDeviceGetMaxPcieLinkWidth",
    "nvmlDeviceGetPcieThroughput", "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetEnforcedPowerLimit",
    "nvmlDeviceGetPowerManagementLimit", "nvmlDeviceGetPersistenceMode", "nvmlDeviceGetComputeMode",
    "nvmlDeviceGetTemperature", "nvmlDeviceGetTemperatureV", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetClockInfo",
    "nvmlDeviceGetRemappedRows", NULL,
};

enum { ABSENT = -1 };
enum { COMPAT_NOT_SUPPORTED_ON_DEVICE = 804 }; /* of cuInit */

static struct {
    int init, cuda, count, capability, mig, ecc, pcie_gen, pcie_gen_max, pcie_width, pcie_width_max, persistence;
    int compute_mode, temperature_c, utilization, memory_utilization, pcie_kbs, sm_clock_mhz, power_mw, power_limit_mw;
    int remapped[4];
    unsigned long long memory, used, reserved, clock_events;
    const char *driver, *name, *uuid, *mig_profiles;
} world;

static const char *hanging, *crashing, *garbling;
static char failing[64];
static int failure, users;

static int known_code(int code)
{
    for (size_t row = 0; row < sizeof RESULTS / sizeof *RESULTS; row++)
        if (RESULTS[row].code == code)
            return (int)row;
    return ABSENT;
}

static const char *fault_in(const char *variable, const char *call)
{
    int known = 0;
    if (!call)
        return NULL;
    for (const char *const *name = CALLS; *name && !known; name++)
        known = !strcmp(*name, call);
    if (!known)
        refuse("%s: this double has no call named %s", variable, call);
    if (world.init && strncmp(call, "nvmlInit", strlen("nvmlInit")))
        refuse("%s: %s is never reached where nvmlInit returns %d", variable, call, world.init);
    return call;
}

static void read_driver(void)
{
    int branch, brought = 0;
    char *end;
    world.driver = text("NVML_DOUBLE_DRIVER", "580.95.05");
    branch = (int)strtol(world.driver, &end, 10);
    if (branch < 100 || branch > 999 || *end != '.')
        refuse("NVML_DOUBLE_DRIVER=%s is not a driver version such as 580.95.05", world.driver);
    for (size_t row = 0; row < sizeof BRANCHES / sizeof *BRANCHES; row++)
        if (BRANCHES[row].branch <= branch)
            brought = BRANCHES[row].cuda;
    if (!brought)
        refuse("driver %s is older than any that this double knows", world.driver);
    world.cuda = (int)number("NVML_DOUBLE_CUDA", brought, 11000, 13990);
    if (world.cuda % 10 || world.cuda % 1000 > 99)
        refuse("NVML_DOUBLE_CUDA=%d is not 1000 * major + 10 * minor", world.cuda);
    if (world.cuda > brought && branch < BRANCHES[sizeof BRANCHES / sizeof *BRANCHES - 1].branch &&
        !number("NVML_DOUBLE_FORWARD_COMPAT", 0, 0, 1))
        refuse("driver %s brings CUDA %d, not %d", world.driver, brought, world.cuda);
    if (world.cuda < brought)
        refuse("driver %s brings CUDA %d: it never says %d", world.driver, brought, world.cuda);
    if (given("CUDA_DOUBLE_DRIVER_VERSION") && number("CUDA_DOUBLE_DRIVER_VERSION", 0, 0, 19990) != world.cuda)
        refuse("NVML and libcuda are of one driver: CUDA %d here, %s there", world.cuda, getenv("CUDA_DOUBLE_DRIVER_VERSION"));
}

static int product_of(const char *name)
{
    for (int row = 0; row < PRODUCT_COUNT; row++)
        if (!strcmp(PRODUCTS[row].name, name))
            return row;
    return ABSENT;
}

static int feature(const char *variable, int product, int supported, int otherwise)
{
    int wanted = (int)number(variable, otherwise, 0, 1);
    if (product != ABSENT && !supported) {
        if (given(variable))
            refuse("%s: %s has no such mode", variable, world.name);
        return ABSENT;
    }
    return wanted;
}

static int link_width(const char *variable, int otherwise)
{
    int width = (int)number(variable, otherwise, 1, 16);
    if (width & (width - 1))
        refuse("%s=%d: a PCIe link has 1, 2, 4, 8 or 16 lanes", variable, width);
    return width;
}

static void read_device(void)
{
    int product, limit_w;
    world.count = (int)number("NVML_DOUBLE_COUNT", 1, 0, 16);
    world.name = text("NVML_DOUBLE_NAME", "NVIDIA L4");
    product = product_of(world.name);
    if (product == ABSENT && !(given("NVML_DOUBLE_COMPUTE_CAPABILITY") && given("NVML_DOUBLE_MEMORY_MIB")))
        refuse("%s is no product of this double: give its compute capability and memory", world.name);
    if (product != ABSENT && !PRODUCTS[product].data_centre && number("NVML_DOUBLE_FORWARD_COMPAT", 0, 0, 1) &&
        number("CUDA_DOUBLE_CUINIT", 0, 0, 999) != COMPAT_NOT_SUPPORTED_ON_DEVICE)
        refuse("with forward compatibility on %s, cuInit returns 804", world.name);
    world.capability = (int)number("NVML_DOUBLE_COMPUTE_CAPABILITY", product == ABSENT ? 0 : PRODUCTS[product].capability, 50, 129);
    if (product != ABSENT && world.capability != PRODUCTS[product].capability)
        refuse("%s has compute capability %d, not %d", world.name, PRODUCTS[product].capability, world.capability);
    if (world.capability >= 100 && world.cuda < 12080)
        refuse("compute capability %d needs CUDA 12.8, not %d", world.capability, world.cuda);
    if (world.capability < 75 && world.cuda >= 13000)
        refuse("CUDA 13 has no driver for compute capability %d", world.capability);
    world.memory = (unsigned long long)number("NVML_DOUBLE_MEMORY_MIB", product == ABSENT ? 0 : PRODUCTS[product].memory_mib, 1, 1 << 20) << 20;
    if (product != ABSENT && world.memory > (unsigned long long)PRODUCTS[product].memory_mib << 20)
        refuse("%s has %d MiB", world.name, PRODUCTS[product].memory_mib);
    world.used = (unsigned long long)number("NVML_DOUBLE_MEMORY_USED_MIB", 0, 0, 1 << 20) << 20;
    world.reserved = (unsigned long long)number("NVML_DOUBLE_MEMORY_RESERVED_MIB", 0, 0, 1 << 20) << 20;
    if (world.used + world.reserved > world.memory)
        refuse("more memory is used and reserved than there is");
    world.mig = feature("NVML_DOUBLE_MIG", product, product != ABSENT && PRODUCTS[product].mig, 0);
    world.mig_profiles = text("NVML_DOUBLE_MIG_PROFILES", "");
    if (*world.mig_profiles && world.mig != 1)
        refuse("NVML_DOUBLE_MIG_PROFILES: only a GPU in MIG mode has instances");
    world.ecc = feature("NVML_DOUBLE_ECC", product, product != ABSENT && PRODUCTS[product].ecc, 1);
    world.pcie_gen_max = (int)number("NVML_DOUBLE_PCIE_GEN_MAX", product == ABSENT ? 4 : PRODUCTS[product].pcie_gen, 1, 6);
    if (product != ABSENT && world.pcie_gen_max > PRODUCTS[product].pcie_gen)
        refuse("%s has PCIe generation %d at most", world.name, PRODUCTS[product].pcie_gen);
    world.pcie_gen = (int)number("NVML_DOUBLE_PCIE_GEN", world.pcie_gen_max, 1, 6);
    world.pcie_width_max = link_width("NVML_DOUBLE_PCIE_WIDTH_MAX", 16);
    world.pcie_width = link_width("NVML_DOUBLE_PCIE_WIDTH", world.pcie_width_max);
    if (world.pcie_gen > world.pcie_gen_max || world.pcie_width > world.pcie_width_max)
        refuse("the PCIe link runs above its maximum");
    world.clock_events = (unsigned long long)number("NVML_DOUBLE_CLOCK_EVENTS", 0, 0, 0x7ff);
    limit_w = product == ABSENT ? 300 : PRODUCTS[product].power_w;
    world.power_limit_mw = (int)number("NVML_DOUBLE_POWER_LIMIT_MW", limit_w * 1000LL, 1000, 2000000);
    if (product != ABSENT && world.power_limit_mw > limit_w * 1000)
        refuse("%s takes %d W at most", world.name, limit_w);
    world.power_mw = (int)number("NVML_DOUBLE_POWER_MW", world.power_limit_mw / 4, 0, 2000000);
    world.persistence = (int)number("NVML_DOUBLE_PERSISTENCE", 1, 0, 1);
    world.compute_mode = (int)number("NVML_DOUBLE_COMPUTE_MODE", 0, 0, 3);
    if (world.compute_mode == 1)
        refuse("compute mode 1, exclusive thread, was removed from the driver");
    world.temperature_c = (int)number("NVML_DOUBLE_TEMPERATURE_C", 45, 0, 120);
    if (world.mig == 1 && (given("NVML_DOUBLE_UTILIZATION") || given("NVML_DOUBLE_MEMORY_UTILIZATION")))
        refuse("a GPU in MIG mode does not report utilisation");
    world.utilization = (int)number("NVML_DOUBLE_UTILIZATION", 0, 0, 100);
    world.memory_utilization = (int)number("NVML_DOUBLE_MEMORY_UTILIZATION", 0, 0, 100);
    world.pcie_kbs = (int)number("NVML_DOUBLE_PCIE_KBS", 0, 0, 64000000);
    world.sm_clock_mhz = (int)number("NVML_DOUBLE_SM_CLOCK_MHZ", 1410, 100, 4000);
    world.uuid = text("NVML_DOUBLE_UUID", "");
    if (*world.uuid && world.count != 1)
        refuse("NVML_DOUBLE_UUID names one GPU, but there are %d", world.count);
    if (*world.uuid && strncmp(world.uuid, "GPU-", 4))
        refuse("NVML_DOUBLE_UUID=%s does not begin with GPU-", world.uuid);
    if (product != ABSENT && !PRODUCTS[product].remaps) {
        if (given("NVML_DOUBLE_REMAPPED_ROWS"))
            refuse("%s does not remap rows", world.name);
        world.remapped[0] = ABSENT;
    } else {
        const char *rows = text("NVML_DOUBLE_REMAPPED_ROWS", "0,0,0,0");
        int length = 0, *row = world.remapped;
        if (sscanf(rows, "%d,%d,%d,%d%n", row, row + 1, row + 2, row + 3, &length) != 4 || rows[length] || row[0] < 0 ||
            row[1] < 0 || (row[2] | 1) != 1 || (row[3] | 1) != 1)
            refuse("NVML_DOUBLE_REMAPPED_ROWS=%s is not correctable,uncorrectable,pending,failure", rows);
        if (row[2] && !row[0] && !row[1])
            refuse("no row is remapped, so no remapping is pending");
    }
}

__attribute__((constructor)) static void read_world(void)
{
    const char *error = NULL;
    only_known("NVML_DOUBLE_", VARIABLES);
    world.init = (int)number("NVML_DOUBLE_INIT", 0, 0, 999);
    if (world.init == 12)
        refuse("12 is what a binding says where this library is missing: leave the double out");
    if (known_code(world.init) == ABSENT || !RESULTS[known_code(world.init)].of_init)
        refuse("nvmlInit never returns %d", world.init);
    read_driver();
    read_device();
    hanging = fault_in("NVML_DOUBLE_HANG", text("NVML_DOUBLE_HANG", NULL));
    crashing = fault_in("NVML_DOUBLE_CRASH", text("NVML_DOUBLE_CRASH", NULL));
    garbling = fault_in("NVML_DOUBLE_GARBAGE", text("NVML_DOUBLE_GARBAGE", NULL));
    error = text("NVML_DOUBLE_ERROR", NULL);
    if (error) {
        int length = 0;
        if (sscanf(error, "%63[A-Za-z0-9_]:%d%n", failing, &failure, &length) != 2 || error[length])
            refuse("NVML_DOUBLE_ERROR=%s is not call:code", error);
        fault_in("NVML_DOUBLE_ERROR", failing);
        if (!failure || known_code(failure) == ABSENT)
            refuse("NVML_DOUBLE_ERROR: %d is no error of NVML", failure);
    }
}

static int fault(const char *call)
{
    if (crashing && !strcmp(crashing, call)) {
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
    }
    if (hanging && !strcmp(hanging, call))
        for (;;)
            pause();
    if (garbling && !strcmp(garbling, call)) {
        static const char bytes[] = "\xff\xfe\x00\x1b[31m{\"nvml\":\n\x80\x81\n";
        if (write(STDOUT_FILENO, bytes, sizeof bytes - 1) < 0)
            refuse("stdout cannot be written: %s", strerror(errno));
    }
    return strcmp(failing, call) ? SUCCESS : failure;
}

/* Each call begins with one of these. */
#define BEFORE_START                   \
    do {                               \
        int failed = fault(__func__);  \
        if (failed)                    \
            return failed;             \
    } while (0)
#define STARTED                    \
    do {                           \
        if (!users)                \
            return UNINITIALIZED;  \
        BEFORE_START;              \
    } while (0)
#define ON_DEVICE(handle)                                        \
    do {                                                         \
        STARTED;                                                 \
        if (index_of(handle) < 0 || index_of(handle) >= world.count) \
            return INVALID_ARGUMENT;                             \
    } while (0)

typedef struct device *Handle;

static int index_of(Handle handle) { return (int)(long)handle - 1; }

static int copied(const char *value, char *buffer, unsigned length)
{
    if (strlen(value) >= length)
        return INSUFFICIENT_SIZE;
    strcpy(buffer, value);
    return SUCCESS;
}

const char *nvmlErrorString(int code) { return known_code(code) == ABSENT ? "Unknown Error" : RESULTS[known_code(code)].text; }

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    BEFORE_START;
    if (!world.init)
        users++;
    return world.init;
}

int nvmlInit_v2(void)
{
    BEFORE_START;
    if (!world.init)
        users++;
    return world.init;
}

int nvmlShutdown(void)
{
    STARTED;
    users--;
    return SUCCESS;
}

int nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    STARTED;
    return copied(world.driver, version, length);
}

int nvmlSystemGetNVMLVersion(char *version, unsigned length)
{
    char both[96];
    STARTED;
    snprintf(both, sizeof both, "%d.%s", world.cuda / 1000, world.driver);
    return copied(both, version, length);
}

int nvmlSystemGetCudaDriverVersion(int *version)
{
    STARTED;
    *version = world.cuda;
    return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    STARTED;
    *version = world.cuda;
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    STARTED;
    *count = (unsigned)world.count;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle *handle)
{
    STARTED;
    if (index >= (unsigned)world.count)
        return INVALID_ARGUMENT;
    *handle = (Handle)(long)(index + 1);
    return SUCCESS;
}

static void uuid_of(int index, char *buffer, size_t length)
{
    if (*world.uuid)
        snprintf(buffer, length, "%s", world.uuid);
    else
        snprintf(buffer, length, "GPU-00000000-0000-0000-0000-%012d", index + 1);
}

int nvmlDeviceGetHandleByUUID(const char *wanted, Handle *handle)
{
    enum { NOT_FOUND = 6 };
    char uuid[96];
    STARTED;
    for (int index = 0; index < world.count; index++) {
        uuid_of(index, uuid, sizeof uuid);
        if (!strcmp(uuid, wanted)) {
            *handle = (Handle)(long)(index + 1);
            return SUCCESS;
        }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetIndex(Handle handle, unsigned *index)
{
    ON_DEVICE(handle);
    *index = (unsigned)index_of(handle);
    return SUCCESS;
}

/* The profile of an instance, by its place; 0 where there is none. */
static int profile_at(unsigned place, char *profile, unsigned length)
{
    const char *rest = world.mig_profiles;
    for (; *rest; place--) {
        size_t word = strcspn(rest, " ");
        if (!place) {
            snprintf(profile, length, "%.*s", (int)word, rest);
            return 1;
        }
        rest += word + (rest[word] == ' ');
    }
    return 0;
}

/* Handles of instances lie above those of GPUs. */
enum { FIRST_INSTANCE = 1000, INSTANCES_MAX = 7 };

int nvmlDeviceGetMaxMigDeviceCount(Handle handle, unsigned *count)
{
    ON_DEVICE(handle);
    *count = world.mig == ABSENT ? 0 : INSTANCES_MAX;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Handle handle, unsigned place, Handle *instance)
{
    char profile[32];
    ON_DEVICE(handle);
    if (world.mig != 1 || !profile_at(place, profile, sizeof profile))
        return NOT_FOUND;
    *instance = (Handle)(long)(FIRST_INSTANCE + place);
    return SUCCESS;
}

int nvmlDeviceGetName(Handle handle, char *name, unsigned length)
{
    char profile[32], both[160];
    if ((long)handle >= FIRST_INSTANCE && profile_at((unsigned)((long)handle - FIRST_INSTANCE), profile, sizeof profile)) {
        STARTED;
        snprintf(both, sizeof both, "%s MIG %s", world.name, profile);
        return copied(both, name, length);
    }
    ON_DEVICE(handle);
    return copied(world.name, name, length);
}

int nvmlDeviceGetUUID(Handle handle, char *buffer, unsigned length)
{
    char uuid[96];
    ON_DEVICE(handle);
    uuid_of(index_of(handle), uuid, sizeof uuid);
    return copied(uuid, buffer, length);
}

int nvmlDeviceGetCudaComputeCapability(Handle handle, int *major, int *minor)
{
    ON_DEVICE(handle);
    *major = world.capability / 10;
    *minor = world.capability % 10;
    return SUCCESS;
}

int nvmlDeviceGetArchitecture(Handle handle, unsigned *architecture)
{
    enum { UNKNOWN = -1 };
    ON_DEVICE(handle);
    switch (world.capability) {
    case 75: *architecture = TURING; break;
    case 80: case 86: case 87: *architecture = AMPERE; break;
    case 89: *architecture = ADA; break;
    case 90: *architecture = HOPPER; break;
    default: *architecture = (unsigned)UNKNOWN;
    }
    return SUCCESS;
}

struct memory {
    unsigned long long total, free, used;
};
struct memory_v2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};

/* The older call counts what is reserved as used. */
int nvmlDeviceGetMemoryInfo(Handle handle, struct memory *memory)
{
    ON_DEVICE(handle);
    memory->total = world.memory;
    memory->used = world.used + world.reserved;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(Handle handle, struct memory_v2 *memory)
{
    ON_DEVICE(handle);
    if (memory->version != (sizeof *memory | 2u << 24))
        return ARGUMENT_VERSION_MISMATCH;
    memory->total = world.memory;
    memory->reserved = world.reserved;
    memory->used = world.used;
    memory->free = world.memory - world.used - world.reserved;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(Handle handle, unsigned *current, unsigned *pending)
{
    ON_DEVICE(handle);
    if (world.mig == ABSENT)
        return NOT_SUPPORTED;
    *current = *pending = (unsigned)world.mig;
    return SUCCESS;
}

int nvmlDeviceGetEccMode(Handle handle, unsigned *current, unsigned *pending)
{
    ON_DEVICE(handle);
    if (world.ecc == ABSENT)
        return NOT_SUPPORTED;
    *current = *pending = (unsigned)world.ecc;
    return SUCCESS;
}

/* Calls that say one number. */
#define ONE_NUMBER(call, value)                     \
    int call(Handle handle, unsigned *number_of_it) \
    {                                               \
        ON_DEVICE(handle);                          \
        *number_of_it = (unsigned)(value);          \
        return SUCCESS;                             \
    }
ONE_NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, world.pcie_gen)
ONE_NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, world.pcie_gen_max)
ONE_NUMBER(nvmlDeviceGetCurrPcieLinkWidth, world.pcie_width)
ONE_NUMBER(nvmlDeviceGetMaxPcieLinkWidth, world.pcie_width_max)
ONE_NUMBER(nvmlDeviceGetPowerUsage, world.power_mw)
ONE_NUMBER(nvmlDeviceGetEnforcedPowerLimit, world.power_limit_mw)
ONE_NUMBER(nvmlDeviceGetPowerManagementLimit, world.power_limit_mw)
ONE_NUMBER(nvmlDeviceGetPersistenceMode, world.persistence)
ONE_NUMBER(nvmlDeviceGetComputeMode, world.compute_mode)

int nvmlDeviceGetPcieThroughput(Handle handle, unsigned counter, unsigned *kbs)
{
    ON_DEVICE(handle);
    if (counter > 1)
        return INVALID_ARGUMENT;
    *kbs = (unsigned)world.pcie_kbs;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(Handle handle, unsigned long long *reasons)
{
    ON_DEVICE(handle);
    *reasons = world.clock_events;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Handle handle, unsigned long long *reasons)
{
    ON_DEVICE(handle);
    *reasons = world.clock_events;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(Handle handle, unsigned sensor, unsigned *degrees)
{
    ON_DEVICE(handle);
    if (sensor)
        return INVALID_ARGUMENT;
    *degrees = (unsigned)world.temperature_c;
    return SUCCESS;
}

struct temperature {
    unsigned version, sensor;
    int degrees;
};

int nvmlDeviceGetTemperatureV(Handle handle, struct temperature *temperature)
{
    ON_DEVICE(handle);
    if (temperature->version != (sizeof *temperature | 1u << 24))
        return ARGUMENT_VERSION_MISMATCH;
    if (temperature->sensor)
        return INVALID_ARGUMENT;
    temperature->degrees = world.temperature_c;
    return SUCCESS;
}

struct utilization {
    unsigned gpu, memory;
};

int nvmlDeviceGetUtilizationRates(Handle handle, struct utilization *rates)
{
    ON_DEVICE(handle);
    if (world.mig == 1)
        return NOT_SUPPORTED;
    rates->gpu = (unsigned)world.utilization;
    rates->memory = (unsigned)world.memory_utilization;
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(Handle handle, unsigned clock, unsigned *mhz)
{
    enum { GRAPHICS, SM, MEMORY, VIDEO, CLOCKS };
    ON_DEVICE(handle);
    if (clock >= CLOCKS)
        return INVALID_ARGUMENT;
    if (clock == MEMORY || clock == VIDEO)
        return NOT_SUPPORTED;
    *mhz = (unsigned)world.sm_clock_mhz;
    return SUCCESS;
}

int nvmlDeviceGetRemappedRows(Handle handle, unsigned *correctable, unsigned *uncorrectable, unsigned *pending, unsigned *failed)
{
    ON_DEVICE(handle);
    if (world.remapped[0] == ABSENT)
        return NOT_SUPPORTED;
    *correctable = (unsigned)world.remapped[0];
    *uncorrectable = (unsigned)world.remapped[1];
    *pending = (unsigned)world.remapped[2];
    *failed = (unsigned)world.remapped[3];
    return SUCCESS;
}
