// The forward's kernels of one type and one head_dim: without dropout and with it.
#include "attention_forward.cuh"

#include "../registry.h"

#define FASTBERT_JOIN(a, b, c) fastbert_attention_forward_##a##_##b##c
#define FASTBERT_NAME(element, head_dim, suffix) FASTBERT_JOIN(element, head_dim, suffix)

namespace fastbert {
namespace cuda {
namespace {

constexpr ForwardTile kTile = forward_tile(FASTBERT_HEAD_DIM);
constexpr int kThreads = kTile.threads();
constexpr int kDropoutBlocks = 2;  // random bits take registers: a third block of head_dim 32 would spill

template <bool Dropped>
__device__ __forceinline__ void attention_forward(const ForwardKernelParams& params) {
  extern __shared__ __align__(128) std::uint8_t shared[];
  Forward<FASTBERT_ELEMENT, FASTBERT_HEAD_DIM, Dropped>::run(params, shared_address(shared));
}

}  // namespace

#define FASTBERT_KERNEL(name, dropped, blocks)                                                                         \
  extern "C" __global__ void __launch_bounds__(kThreads, blocks) name(const __grid_constant__ ForwardKernelParams p) { \
    attention_forward<dropped>(p);                                                                                     \
  }                                                                                                                    \
  FASTBERT_REGISTER(name)

FASTBERT_KERNEL(FASTBERT_NAME(FASTBERT_ELEMENT_NAME, FASTBERT_HEAD_DIM, ), false, kTile.blocks);
FASTBERT_KERNEL(FASTBERT_NAME(FASTBERT_ELEMENT_NAME, FASTBERT_HEAD_DIM, _dropout), true, kDropoutBlocks);

}  // namespace cuda
}  // namespace fastbert
