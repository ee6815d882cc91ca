// The row-by-row kernels of one instruction set.
//
// Each works on the rows from `begin` to `end` and on nothing else, so that the caller decides which thread does what.
#pragma once

#include <cstdint>

#include "../bias_gelu.h"
#include "../cross_entropy.h"
#include "../elementwise_dropout.h"
#include "../layer_norm.h"

namespace fastbert {

struct ElementwiseKernels {
  void (*dropout_add)(const DropoutAddParams& params, std::int64_t begin, std::int64_t end);
  void (*layer_norm_forward)(const LayerNormForwardParams& params, std::int64_t begin, std::int64_t end);
  // dweight, dbias: (columns,), set to what these rows add.
  void (*layer_norm_backward)(const LayerNormBackwardParams& params, std::int64_t begin, std::int64_t end,
                              float* dweight, float* dbias);
  void (*bias_gelu_forward)(const BiasGeluForwardParams& params, std::int64_t begin, std::int64_t end);
  void (*bias_gelu_backward)(const BiasGeluBackwardParams& params, std::int64_t begin, std::int64_t end, float* dbias);
  void (*cross_entropy_forward)(const CrossEntropyForwardParams& params, std::int64_t begin, std::int64_t end);
  void (*cross_entropy_backward)(const CrossEntropyBackwardParams& params, std::int64_t begin, std::int64_t end);
};

const ElementwiseKernels& elementwise_generic();
const ElementwiseKernels& elementwise_avx2();
const ElementwiseKernels& elementwise_avx512();

// Those of the instruction set in use.
const ElementwiseKernels& elementwise_kernels();

}  // namespace fastbert
