// The backward's kernels of one type, head_dim and tile: without dropout and with it.
#include "attention_backward.cuh"

#include "../registry.h"

#define FASTBERT_JOIN(element, head_dim, keys, queries, suffix) \
  fastbert_attention_backward_##element##_##head_dim##_##keys##x##queries##suffix
#define FASTBERT_NAME(element, head_dim, keys, queries, suffix) FASTBERT_JOIN(element, head_dim, keys, queries, suffix)

namespace fastbert {
namespace cuda {
namespace {

constexpr BackwardTile kTile = backward_tile_of(FASTBERT_HEAD_DIM, FASTBERT_KEYS, FASTBERT_QUERIES);

template <bool Dropped>
__device__ __forceinline__ void attention_backward(const BackwardKernelParams& params) {
  extern __shared__ __align__(128) std::uint8_t shared[];
  Backward<FASTBERT_ELEMENT, FASTBERT_HEAD_DIM, FASTBERT_KEYS, FASTBERT_QUERIES, Dropped>::run(params,
                                                                                               shared_address(shared));
}

}  // namespace

#define FASTBERT_KERNEL(suffix, dropped)                                                       \
  extern "C" __global__ void __launch_bounds__(kTile.threads(), kTile.blocks)                  \
      FASTBERT_NAME(FASTBERT_ELEMENT_NAME, FASTBERT_HEAD_DIM, FASTBERT_KEYS, FASTBERT_QUERIES, \
                    suffix)(const __grid_constant__ BackwardKernelParams params) {             \
    attention_backward<dropped>(params);                                                       \
  }                                                                                            \
  FASTBERT_REGISTER(FASTBERT_NAME(FASTBERT_ELEMENT_NAME, FASTBERT_HEAD_DIM, FASTBERT_KEYS, FASTBERT_QUERIES, suffix))

FASTBERT_KERNEL(, false);
FASTBERT_KERNEL(_dropout, true);

}  // namespace cuda
}  // namespace fastbert
