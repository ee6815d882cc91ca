#include "launch.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>

#include "registry.h"

namespace fastbert {
namespace cuda {
namespace {

constexpr unsigned kSharedForAll = 48 << 10;  // beyond it a kernel must opt in
constexpr int kMostDevices = 128;

std::unordered_map<std::string, const void*>& registry() {
  static std::unordered_map<std::string, const void*> kernels;  // registrations come from static constructors
  return kernels;
}

std::string code_of(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + " (" + std::to_string(static_cast<int>(error)) +
         "): " + cudaGetErrorString(error);
}

void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // taken, so that the next check, torch's perhaps, does not find it again
  throw std::runtime_error(std::string(what) + " failed: " + code_of(error));
}

// The calling thread's device, while this lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    require(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ == device) return;
    require(cudaSetDevice(device), "cudaSetDevice");
    changed_ = true;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

std::string dtype_name(DType dtype) { return dtype == DType::bfloat16 ? "bfloat16" : "float16"; }

std::string describe(const AttentionParams& call) {
  const auto number = [](std::int64_t n) { return std::to_string(n); };
  return dtype_name(call.dtype) + (call.cu_seqlens_q == nullptr ? ", dense" : ", packed") + ", batch " +
         number(call.batch) + ", heads " + number(call.heads) + "/" + number(call.kv_heads) + ", head_dim " +
         number(call.head_dim) + ", seq_q " + number(call.seq_q) + ", seq_k " + number(call.seq_k) +
         (call.cu_seqlens_q == nullptr ? ""
                                       : ", total_q " + number(call.total_q) + ", total_k " + number(call.total_k));
}

std::runtime_error failure(const Launch& launch, const AttentionParams& call, int device, cudaError_t error) {
  cudaGetLastError();
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  const std::string capability = std::to_string(major) + std::to_string(minor);
  const bool not_built = error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion ||
                         error == cudaErrorInvalidDeviceFunction;
  return std::runtime_error("attention: " + launch.kernel + " on a grid of " + std::to_string(launch.grid[0]) + " x " +
                            std::to_string(launch.grid[1]) + " blocks of " + std::to_string(launch.threads) +
                            " threads and " + std::to_string(launch.shared_bytes) + " bytes (" + describe(call) +
                            ") failed: " + code_of(error) +
                            (not_built ? "; this device needs a build with FASTBERT_CUDA_ARCHS=" + capability : ""));
}

// A kernel may have more shared memory than every device gives by itself, once that was allowed on the device.
cudaError_t allow_shared(const void* kernel, unsigned bytes, int device) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> allowed;
  if (bytes <= kSharedForAll) return cudaSuccess;
  const std::lock_guard<std::mutex> lock(mutex);
  if (allowed.count({kernel, device}) > 0) return cudaSuccess;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (error == cudaSuccess) allowed.insert({kernel, device});
  return error;
}

}  // namespace

Registration::Registration(const char* name, const void* kernel) { registry().emplace(name, kernel); }

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const auto& entry : registry()) names.push_back(entry.first);
  std::sort(names.begin(), names.end());
  return names;
}

int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

DeviceLimits limits_of_device(int device) {
  static std::atomic<int> known[kMostDevices];  // 0 = not asked yet
  if (device < 0 || device >= kMostDevices) throw std::invalid_argument("no such device: " + std::to_string(device));
  int bytes = known[device].load(std::memory_order_relaxed);
  if (bytes == 0) {
    require(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
            "asking a device's limits");
    known[device].store(bytes, std::memory_order_relaxed);
  }
  return {bytes};
}

void launch(const std::vector<Launch>& launches, const void* params, const AttentionParams& call, int device,
            void* stream) {
  if (launches.empty()) return;
  const DeviceGuard guard(device);
  void* arguments[] = {const_cast<void*>(params)};
  for (const Launch& one : launches) {
    const auto found = registry().find(one.kernel);
    if (found == registry().end()) throw std::runtime_error("attention: this build has no kernel " + one.kernel);
    cudaError_t error = allow_shared(found->second, one.shared_bytes, device);
    if (error == cudaSuccess) {
      error = cudaLaunchKernel(found->second, dim3(one.grid[0], one.grid[1], one.grid[2]), dim3(one.threads), arguments,
                               one.shared_bytes, static_cast<cudaStream_t>(stream));
    }
    if (error != cudaSuccess) throw failure(one, call, device, error);
  }
}

}  // namespace cuda
}  // namespace fastbert
