// The Gaussian error linear unit of x + bias (Hendrycks and Gimpel 2016): y * Phi(y), Phi the normal distribution, or
// its approximation with tanh.
//
// x is (rows, columns), contiguous; bias is (columns,) float32; arithmetic is in float32.
#pragma once

#include <cstdint>

#include "../common/dtype.h"

namespace fastbert {

struct BiasGeluParams {
  DType dtype;
  bool tanh;
  std::int64_t rows, columns;
  const void* x;
  const float* bias;
};

struct BiasGeluForwardParams : BiasGeluParams {
  void* out;
};

struct BiasGeluBackwardParams : BiasGeluParams {
  const void* dout;
  void* dx;
  float* dbias;
};

void bias_gelu_forward(const BiasGeluForwardParams& params, int num_threads);
void bias_gelu_backward(const BiasGeluBackwardParams& params, int num_threads);

}  // namespace fastbert
