// LayerNorm of the residual sum: sum = residual + dropout(x), out = (sum - mean) / sqrt(variance + eps) * weight + bias
// with mean and variance of each row (Ba, Kiros and Hinton 2016; the order of Vaswani et al. 2017, section 3.1).
//
// Activations are (rows, columns), contiguous, of one type; weight, bias and statistics are float32, and so is all
// arithmetic. A sum that is wanted is rounded to the activations' type first, so that what is normalised, forward and
// backward, is what the caller sees; else it never reaches memory and is computed again in the backward.
#pragma once

#include <cstdint>

#include "../common/dtype.h"
#include "dropout_params.h"

namespace fastbert {

struct LayerNormForwardParams {
  DType dtype;
  std::int64_t rows, columns;
  const void *x, *residual;
  const float *weight, *bias;  // (columns,)
  float eps;
  void* out;
  void* sum;           // null = not wanted
  float *mean, *rstd;  // (rows,)
  DropoutParams dropout;
};

// With g = dout * weight and normalised = (sum - mean) * rstd:
//   dsum' = dsum + rstd * (g - average(g) - normalised * average(g * normalised)),  averages over each row
//   dresidual = dsum',  dx = dropout's gradient of it,  dweight = rows' sum of dout * normalised,  dbias = that of
//   dout.
struct LayerNormBackwardParams {
  DType dtype;
  std::int64_t rows, columns;
  const void* dout;
  const void* dsum;          // null = zero
  const void* sum;           // null = computed again from x and residual
  const void *x, *residual;  // not read where there is a sum
  const float* weight;
  const float *mean, *rstd;
  void* dx;  // written only where there is dropout; else it equals dresidual
  void* dresidual;
  float *dweight, *dbias;
  DropoutParams dropout;
};

void layer_norm_forward(const LayerNormForwardParams& params, int num_threads);
void layer_norm_backward(const LayerNormBackwardParams& params, int num_threads);

}  // namespace fastbert
