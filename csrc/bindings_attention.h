// What the doors to attention's kernels share, on the CPU and on CUDA: one call as Python describes it, checked.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "common/attention_params.h"

namespace fastbert {

using Address = std::uintptr_t;
using Strides = std::array<std::int64_t, 3>;  // batch, row, head

template <class Pointer>
Pointer* pointer(Address address) {
  return reinterpret_cast<Pointer*>(address);
}

// One attention call without its tensors, as Python describes it.
struct Problem {
  std::string dtype;
  std::int64_t batch, heads, kv_heads, head_dim, seq_q, seq_k, total_q, total_k;
  Address cu_seqlens_q, cu_seqlens_k, key_padding_mask;
  std::optional<std::int64_t> window_left, window_right;
  double scale;
  int dropout_threshold;
  Address rng;
  int num_threads;

  std::int64_t rows_q() const { return cu_seqlens_q == 0 ? batch * seq_q : total_q; }
  std::int64_t rows_k() const { return cu_seqlens_k == 0 ? batch * seq_k : total_k; }
};

// The calls in plain numbers. seed and offset stay 0: `rng` may be an address that only a device can read. Throws
// std::invalid_argument for what C++ could not survive; see bindings.cpp.
AttentionForwardParams forward_params(const Problem& problem, Address q, const Strides& q_strides, Address k,
                                      const Strides& k_strides, Address v, const Strides& v_strides, Address out,
                                      Address lse);
AttentionBackwardParams backward_params(const Problem& problem, Address q, const Strides& q_strides, Address k,
                                        const Strides& k_strides, Address v, const Strides& v_strides, Address out,
                                        Address lse, Address dout, const Strides& dout_strides, Address dlse,
                                        Address dq, Address dk, Address dv);

// A backward's numbers alone.
AttentionBackwardParams without_tensors(const Problem& problem);

}  // namespace fastbert
