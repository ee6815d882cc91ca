// Exact attention on the CPU: the whole operator contract, forward and backward.
//
// Results are the same bits for any number of threads. A call holds one scratch for each thread, whatever the lengths,
// of some hundred kilobytes, in bfloat16 on tiles of 1.5 to 4 MB; the backward of sequences longer than one chunk of
// keys also holds a counter for each group of query rows and, for 16-bit types, dq in float32.
#pragma once

#include "../common/attention_params.h"

namespace fastbert {

// Writes all of out and lse: rows that see no key, or belong to no sequence, are 0 and -inf.
void attention_forward(const AttentionForwardParams& params, int num_threads);

// Writes all of dq, dk and dv.
void attention_backward(const AttentionBackwardParams& params, int num_threads);

}  // namespace fastbert
