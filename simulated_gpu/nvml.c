/* libnvidia-ml.so.1 for GPUs that do not exist: the functions that vLLM, SGLang and the worker call
 * before they use CUDA. The environment describes the GPUs:
 *
 *   SIMULATED_GPUS                    how many (1)
 *   SIMULATED_GPU_NAME                (NVIDIA H100 80GB HBM3)
 *   SIMULATED_GPU_CAPABILITY          the compute capability (9.0)
 *   SIMULATED_GPU_MIB                 memory of each (81559)
 *   SIMULATED_GPU_USED_MIB            what other processes hold of it (0)
 *   SIMULATED_GPU_MIG_MIB             memory of its one MIG slice; without it MIG mode is off
 *   SIMULATED_GPU_DRIVER              the driver's version (580.95.05)
 *   SIMULATED_GPU_CUDA                the newest CUDA that the driver runs (13000 for 13.0)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int status;
typedef unsigned int uint;
typedef unsigned long long bytes;
/* A handle is the GPU's index + 1; a MIG slice's has MIG_SLICE added. */
typedef void *device;

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6 };
enum { MIG_SLICE = 1000 };

typedef struct { bytes total, free, used; } memory;
typedef struct { uint version; bytes total, reserved, free, used; } memory_v2;
typedef struct {
    char old_bus_id[16];
    uint domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} pci_info;

static const char *setting(const char *name, const char *fallback)
{
    const char *value = getenv(name);
    return value && *value ? value : fallback;
}

static uint number_of_gpus(void) { return (uint)atoi(setting("SIMULATED_GPUS", "1")); }
static int has_mig(void) { return *setting("SIMULATED_GPU_MIG_MIB", "") != 0; }
static int is_slice(device d) { return (size_t)d > MIG_SLICE; }
static uint index_of(device d) { return (uint)((size_t)d % MIG_SLICE) - 1; }
static bytes mebibytes(const char *name, const char *fallback)
{
    return strtoull(setting(name, fallback), 0, 10) << 20;
}

static status copy(char *to, uint length, const char *from)
{
    snprintf(to, length, "%s", from);
    return SUCCESS;
}

/* ---- the library and the driver ---- */

status nvmlInit(void) { return SUCCESS; }
status nvmlInit_v2(void) { return SUCCESS; }
status nvmlInitWithFlags(uint flags) { return SUCCESS; }
status nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(status s)
{
    switch (s) {
    case SUCCESS: return "Success";
    case NOT_SUPPORTED: return "Not Supported";
    case NOT_FOUND: return "Not Found";
    default: return "Invalid Argument";
    }
}

status nvmlSystemGetDriverVersion(char *version, uint length)
{
    return copy(version, length, setting("SIMULATED_GPU_DRIVER", "580.95.05"));
}

status nvmlSystemGetNVMLVersion(char *version, uint length)
{
    return copy(version, length, "13.580.95.05");
}

status nvmlSystemGetCudaDriverVersion(int *version)
{
    *version = atoi(setting("SIMULATED_GPU_CUDA", "13000"));
    return SUCCESS;
}
status nvmlSystemGetCudaDriverVersion_v2(int *version) { return nvmlSystemGetCudaDriverVersion(version); }

/* ---- handles ---- */

status nvmlDeviceGetCount_v2(uint *count) { *count = number_of_gpus(); return SUCCESS; }
status nvmlDeviceGetCount(uint *count) { return nvmlDeviceGetCount_v2(count); }

status nvmlDeviceGetHandleByIndex_v2(uint index, device *d)
{
    if (index >= number_of_gpus()) return INVALID_ARGUMENT;
    *d = (device)(size_t)(index + 1);
    return SUCCESS;
}
status nvmlDeviceGetHandleByIndex(uint index, device *d) { return nvmlDeviceGetHandleByIndex_v2(index, d); }

status nvmlDeviceGetHandleByUUID(const char *uuid, device *d)
{
    uint index;
    int slice = has_mig() && sscanf(uuid, "MIG-%8u", &index) == 1;
    if (!slice && sscanf(uuid, "GPU-%8u", &index) != 1) return NOT_FOUND;
    if (index >= number_of_gpus()) return NOT_FOUND;
    *d = (device)(size_t)(index + 1 + (slice ? MIG_SLICE : 0));
    return SUCCESS;
}

/* ---- MIG: one slice on each GPU ---- */

status nvmlDeviceGetMigMode(device d, uint *current, uint *pending)
{
    *current = *pending = (uint)has_mig();
    return SUCCESS;
}
status nvmlDeviceIsMigDeviceHandle(device d, uint *is) { *is = (uint)is_slice(d); return SUCCESS; }
status nvmlDeviceGetMaxMigDeviceCount(device d, uint *count) { *count = has_mig() ? 7 : 0; return SUCCESS; }

status nvmlDeviceGetMigDeviceHandleByIndex(device d, uint index, device *slice)
{
    if (!has_mig() || index > 0) return NOT_FOUND;
    *slice = (device)((size_t)d + MIG_SLICE);
    return SUCCESS;
}

status nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device slice, device *d)
{
    *d = (device)((size_t)slice % MIG_SLICE);
    return SUCCESS;
}

/* ---- what a GPU is ---- */

status nvmlDeviceGetIndex(device d, uint *index) { *index = index_of(d); return SUCCESS; }

status nvmlDeviceGetName(device d, char *name, uint length)
{
    return copy(name, length, setting("SIMULATED_GPU_NAME", "NVIDIA H100 80GB HBM3"));
}

status nvmlDeviceGetUUID(device d, char *uuid, uint length)
{
    const char *kind = is_slice(d) ? "MIG" : "GPU";
    snprintf(uuid, length, "%s-%08u-0000-0000-0000-000000000000", kind, index_of(d));
    return SUCCESS;
}

status nvmlDeviceGetCudaComputeCapability(device d, int *major, int *minor)
{
    const char *capability = setting("SIMULATED_GPU_CAPABILITY", "9.0");
    return sscanf(capability, "%d.%d", major, minor) == 2 ? SUCCESS : INVALID_ARGUMENT;
}

status nvmlDeviceGetMemoryInfo(device d, memory *m)
{
    m->total = mebibytes(is_slice(d) ? "SIMULATED_GPU_MIG_MIB" : "SIMULATED_GPU_MIB", "81559");
    m->used = mebibytes("SIMULATED_GPU_USED_MIB", "0");
    m->free = m->total - m->used;
    return SUCCESS;
}

status nvmlDeviceGetMemoryInfo_v2(device d, memory_v2 *m)
{
    memory first;
    nvmlDeviceGetMemoryInfo(d, &first);
    m->total = first.total;
    m->free = first.free;
    m->used = first.used;
    m->reserved = 0;
    return SUCCESS;
}

status nvmlDeviceGetPciInfo_v3(device d, pci_info *pci)
{
    memset(pci, 0, sizeof *pci);
    pci->bus = index_of(d);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", index_of(d));
    return SUCCESS;
}

/* ---- how GPUs are connected, and who uses them ---- */

status nvmlDeviceGetNumaNodeId(device d, uint *node) { *node = 0; return SUCCESS; }
status nvmlDeviceGetP2PStatus(device a, device b, int kind, int *s) { *s = 0; return SUCCESS; }
status nvmlDeviceGetTopologyCommonAncestor(device a, device b, int *level) { *level = 0; return SUCCESS; }
status nvmlDeviceGetNvLinkState(device d, uint link, int *active) { return NOT_SUPPORTED; }
status nvmlDeviceGetGpuFabricInfoV(device d, void *info) { return NOT_SUPPORTED; }
status nvmlDeviceGetCpuAffinity(device d, uint length, unsigned long *set) { return NOT_SUPPORTED; }
status nvmlDeviceGetComputeRunningProcesses_v3(device d, uint *count, void *processes)
{
    *count = 0;
    return SUCCESS;
}
