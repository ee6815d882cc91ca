#include "cross_entropy.h"

#include "isa/elementwise.h"
#include "parallel_rows.h"

namespace fastbert {

std::int64_t first_wrong_target(const CrossEntropyParams& params) {
  for (std::int64_t row = 0; row < params.rows; ++row) {
    const std::int64_t target = params.targets[row];
    if (target != params.ignore_index && (target < 0 || target >= params.classes)) return row;
  }
  return -1;
}

void cross_entropy_forward(const CrossEntropyForwardParams& params, int num_threads) {
  const ElementwiseKernels& kernels = elementwise_kernels();
  parallel_rows(params.rows, params.classes * 8, num_threads,
                [&](std::int64_t begin, std::int64_t end) { kernels.cross_entropy_forward(params, begin, end); });
  if (params.total == nullptr) return;
  double total = 0;
  for (std::int64_t row = 0; row < params.rows; ++row) total += static_cast<double>(params.losses[row]);
  *params.total = static_cast<float>(total);
}

void cross_entropy_backward(const CrossEntropyBackwardParams& params, int num_threads) {
  const ElementwiseKernels& kernels = elementwise_kernels();
  parallel_rows(params.rows, params.classes * 8, num_threads,
                [&](std::int64_t begin, std::int64_t end) { kernels.cross_entropy_backward(params, begin, end); });
}

}  // namespace fastbert
