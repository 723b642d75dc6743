/* libcuda.so.1 without a device: the engines' extensions load, and every call answers
 * CUDA_ERROR_NO_DEVICE. */
enum { CUDA_ERROR_NO_DEVICE = 100 };

#define WITHOUT_DEVICE(function) int function(void) { return CUDA_ERROR_NO_DEVICE; }

WITHOUT_DEVICE(cuInit)
WITHOUT_DEVICE(cuDriverGetVersion)
WITHOUT_DEVICE(cuGetErrorName)
WITHOUT_DEVICE(cuGetErrorString)
WITHOUT_DEVICE(cuGetProcAddress)
WITHOUT_DEVICE(cuGetProcAddress_v2)

WITHOUT_DEVICE(cuDeviceGet)
WITHOUT_DEVICE(cuDeviceGetAttribute)
WITHOUT_DEVICE(cuDeviceGetCount)
WITHOUT_DEVICE(cuDevicePrimaryCtxRelease_v2)
WITHOUT_DEVICE(cuDevicePrimaryCtxRetain)
WITHOUT_DEVICE(cuCtxGetCurrent)
WITHOUT_DEVICE(cuCtxGetDevice)
WITHOUT_DEVICE(cuCtxSetCurrent)

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

WITHOUT_DEVICE(cuFuncSetAttribute)
WITHOUT_DEVICE(cuLaunchKernel)
WITHOUT_DEVICE(cuLaunchKernelEx)
WITHOUT_DEVICE(cuModuleGetFunction)
WITHOUT_DEVICE(cuModuleLoadData)
WITHOUT_DEVICE(cuModuleUnload)
WITHOUT_DEVICE(cuOccupancyMaxActiveBlocksPerMultiprocessor)
WITHOUT_DEVICE(cuStreamWaitValue32_v2)
WITHOUT_DEVICE(cuStreamWriteValue32_v2)
