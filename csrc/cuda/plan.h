// How a call of attention is launched: pure host C++, so that the launcher and a test without a GPU run the same plan.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernel_params.h"

namespace fastbert {
namespace cuda {

// Of the device that runs the plan.
struct DeviceLimits {
  int shared_bytes;  // that a block may opt in to: 166,912 on sm_80, 101,376 on sm_86, 89 and 120, 232,448 on sm_90
};

struct Launch {
  std::string kernel;  // name of the extern "C" symbol
  std::array<unsigned, 3> grid;
  unsigned threads;       // of a block
  unsigned shared_bytes;  // dynamic
};

// Every kernel of a plan takes the one struct of parameters.
struct ForwardPlan {
  ForwardKernelParams params;
  std::vector<Launch> launches;  // none where there is nothing to write
};

struct BackwardPlan {
  BackwardKernelParams params;
  std::vector<Launch> launches;
};

ForwardPlan plan_launch(const AttentionForwardParams& params, const std::uint64_t* rng, const DeviceLimits& limits);

// Bytes of workspace that the backward of a call needs, aligned to 256; 0 where it needs none.
std::size_t backward_workspace(const AttentionBackwardParams& params, bool deterministic, const DeviceLimits& limits);

BackwardPlan plan_launch(const AttentionBackwardParams& params, const std::uint64_t* rng, bool deterministic,
                         void* workspace, const DeviceLimits& limits);

}  // namespace cuda
}  // namespace fastbert
