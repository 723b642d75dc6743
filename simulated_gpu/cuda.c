/* libcuda.so.1 without a device: the engines' extensions and Triton's module load, and every call
 * answers CUDA_ERROR_NO_DEVICE. The environment:
 *
 *   SIMULATED_CUDA_CALLS         a file to which each call adds its process and its name
 *   SIMULATED_CUDA_INITIALISED   answer as if the process had called cuInit (no)
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { CUDA_SUCCESS = 0, CUDA_ERROR_NOT_INITIALIZED = 3, CUDA_ERROR_NO_DEVICE = 100 };

static int without_device(const char *function)
{
    const char *path = getenv("SIMULATED_CUDA_CALLS");
    FILE *calls = path && *path ? fopen(path, "a") : 0;
    if (calls) {
        fprintf(calls, "%d %s\n", getpid(), function);
        fclose(calls);
    }
    return CUDA_ERROR_NO_DEVICE;
}

#define WITHOUT_DEVICE(function) int function(void) { return without_device(#function); }

/* What tells whether cuInit was called, without calling it. */
int cuDeviceGetCount(int *count)
{
    *count = 0;
    return getenv("SIMULATED_CUDA_INITIALISED") ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

WITHOUT_DEVICE(cuInit)
WITHOUT_DEVICE(cuDriverGetVersion)
WITHOUT_DEVICE(cuGetErrorName)
WITHOUT_DEVICE(cuGetErrorString)
WITHOUT_DEVICE(cuGetProcAddress)
WITHOUT_DEVICE(cuGetProcAddress_v2)

WITHOUT_DEVICE(cuDeviceGet)
WITHOUT_DEVICE(cuDeviceGetAttribute)
WITHOUT_DEVICE(cuDevicePrimaryCtxRelease_v2)
WITHOUT_DEVICE(cuDevicePrimaryCtxRetain)
WITHOUT_DEVICE(cuCtxGetCurrent)
WITHOUT_DEVICE(cuCtxGetDevice)
WITHOUT_DEVICE(cuCtxGetLimit)
WITHOUT_DEVICE(cuCtxSetCurrent)
WITHOUT_DEVICE(cuCtxSetLimit)

WITHOUT_DEVICE(cuMemAddressFree)
WITHOUT_DEVICE(cuMemAddressReserve)
WITHOUT_DEVICE(cuMemCreate)
WITHOUT_DEVICE(cuMemGetAddressRange_v2)
WITHOUT_DEVICE(cuMemGetAllocationGranularity)
WITHOUT_DEVICE(cuMemMap)
WITHOUT_DEVICE(cuMemRelease)
WITHOUT_DEVICE(cuMemSetAccess)
WITHOUT_DEVICE(cuMemUnmap)
WITHOUT_DEVICE(cuPointerGetAttribute)
WITHOUT_DEVICE(cuTensorMapEncodeTiled)

WITHOUT_DEVICE(cuFuncGetAttribute)
WITHOUT_DEVICE(cuFuncSetAttribute)
WITHOUT_DEVICE(cuFuncSetCacheConfig)
WITHOUT_DEVICE(cuLaunchKernel)
WITHOUT_DEVICE(cuLaunchKernelEx)
WITHOUT_DEVICE(cuModuleGetFunction)
WITHOUT_DEVICE(cuModuleLoadData)
WITHOUT_DEVICE(cuModuleUnload)
WITHOUT_DEVICE(cuOccupancyMaxActiveBlocksPerMultiprocessor)
WITHOUT_DEVICE(cuStreamWaitValue32_v2)
WITHOUT_DEVICE(cuStreamWriteValue32_v2)
