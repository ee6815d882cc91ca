// Cross entropy of rows of logits with one target class each: loss = log(sum of exp(logits)) - logits[target].
//
// logits are (rows, classes), contiguous; losses and their gradients are float32, and so is all arithmetic. What the
// backward needs of a row is its largest logit and the logarithm of the sum of exp(logits - largest).
#pragma once

#include <cstdint>

#include "../common/dtype.h"

namespace fastbert {

struct CrossEntropyParams {
  DType dtype;
  std::int64_t rows, classes;
  const void* logits;
  const std::int64_t* targets;  // (rows,)
  std::int64_t ignore_index;    // rows with this target have loss and gradient zero
};

struct CrossEntropyForwardParams : CrossEntropyParams {
  float *losses, *largest, *log_rest;  // (rows,); all 0 in ignored rows
  float* total;                        // the sum of the losses; null = not wanted
};

struct CrossEntropyBackwardParams : CrossEntropyParams {
  const float* dlosses;
  std::int64_t dlosses_stride;  // 0 = one gradient for all rows
  const float *largest, *log_rest;
  void* dlogits;
};

// The first row whose target is neither a class nor ignore_index, or -1.
std::int64_t first_wrong_target(const CrossEntropyParams& params);

void cross_entropy_forward(const CrossEntropyForwardParams& params, int num_threads);
void cross_entropy_backward(const CrossEntropyBackwardParams& params, int num_threads);

}  // namespace fastbert
