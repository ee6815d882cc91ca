// One attention call in plain numbers: what kernels are handed, on the CPU and on CUDA alike.
//
// q is (batch, seq_q, heads, head_dim), k and v are (batch, seq_k, kv_heads, head_dim), or packed (total, heads,
// head_dim) with cumulative lengths. Strides count elements; the last dimension has stride 1. Outputs are contiguous in
// the layout of what they belong to; lse is (batch, heads, seq_q) or (heads, total_q).
#pragma once

#include <cstdint>

#include "dtype.h"

namespace fastbert {

struct AttentionStrides {
  std::int64_t batch, row, head;  // batch is 0 for packed tensors
};

constexpr std::int64_t kUnboundedWindow = std::int64_t{1} << 40;  // beyond any sequence, and safe to add to one

struct AttentionParams {
  DType dtype;
  std::int64_t batch, heads, kv_heads, head_dim;
  std::int64_t seq_q, seq_k;      // lengths; for packed calls upper bounds of them
  std::int64_t total_q, total_k;  // rows of the packed tensors; 0 for dense calls

  const void *q, *k, *v;
  AttentionStrides q_strides, k_strides, v_strides;
  const std::int32_t *cu_seqlens_q, *cu_seqlens_k;  // batch + 1 each; null for dense calls
  const std::uint8_t* key_padding_mask;             // (batch, seq_k) contiguous, nonzero = a key; null = all are

  // Query i sees key j where i + d - window_left <= j <= i + d + window_right, with d = seq_k - seq_q of the sequence.
  std::int64_t window_left, window_right;  // kUnboundedWindow or less in absolute value; may be negative
  float scale;

  int dropout_threshold;  // 0 = none, else weights survive where their byte is at least this
  std::uint64_t seed;
  std::uint32_t offset;
};

struct AttentionForwardParams : AttentionParams {
  void* out;
  float* lse;
};

struct AttentionBackwardParams : AttentionParams {
  const void* dout;  // null = zero, as is dlse
  AttentionStrides dout_strides;
  const float* dlse;  // contiguous, as lse
  const void* out;
  const float* lse;
  void *dq, *dk, *dv;
};

}  // namespace fastbert
