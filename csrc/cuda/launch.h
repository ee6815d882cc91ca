// Plans onto a GPU, and what the build and the device have to offer. Only in builds with CUDA kernels.
//
// Nothing here waits for the device, and nothing allocates on it: a stream that is being captured records the launches.
#pragma once

#include <string>
#include <vector>

#include "../common/attention_params.h"
#include "plan.h"

namespace fastbert {
namespace cuda {

// Launches in order on a stream (a cudaStream_t) of a device, each with `params` as its one parameter. Throws
// std::runtime_error, one sentence, where CUDA refuses; `call` is for its words.
void launch(const std::vector<Launch>& launches, const void* params, const AttentionParams& call, int device,
            void* stream);

// Asked of the device once.
DeviceLimits limits_of_device(int device);

// The newest CUDA that the driver supports, as 12080; 0 where there is no driver.
int driver_version();

// The kernels that this build contains, sorted.
std::vector<std::string> kernel_names();

}  // namespace cuda
}  // namespace fastbert
