// Where the sequences of a call lie, and which keys a query sees: integers only.
//
// Included by files compiled for different instruction sets, so every function here is local to its file or inlined.
#pragma once

#include <cstdint>

#include "../common/attention_params.h"

namespace fastbert {

// One sequence of a call. Row r of it is row `first + r` of the packed tensor, or row r of batch entry `index`.
struct Sequence {
  std::int64_t index;
  std::int64_t first_q, first_k;  // 0 for dense calls
  std::int64_t seq_q, seq_k;
};

// Half-open range.
struct Range {
  std::int64_t begin, end;
  __attribute__((always_inline)) bool empty() const { return begin >= end; }
};

namespace {

inline std::int64_t lesser(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t greater(std::int64_t a, std::int64_t b) { return a < b ? b : a; }
inline std::int64_t clamp(std::int64_t x, std::int64_t low, std::int64_t high) { return greater(low, lesser(x, high)); }
inline std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_divide(a, b) * b; }

// The keys that query i sees are the j in [i + first, i + past) that exist; both ends move on with i.
struct Band {
  std::int64_t first, past, seq_q, seq_k;

  Range keys(std::int64_t query) const { return keys(query, query + 1); }

  // Seen by any of the queries [begin, end).
  Range keys(std::int64_t begin, std::int64_t end) const {
    const Range seen{clamp(begin + first, 0, seq_k), clamp(end - 1 + past, 0, seq_k)};
    return begin < end && first < past && seen.begin < seen.end ? seen : Range{0, 0};
  }

  // That see any of the keys [begin, end).
  Range queries(std::int64_t begin, std::int64_t end) const {
    const Range seeing{clamp(begin - past + 1, 0, seq_q), clamp(end - first, 0, seq_q)};
    return begin < end && first < past && seeing.begin < seeing.end ? seeing : Range{0, 0};
  }

  // Whether every one of the queries sees every one of the keys.
  bool covers(Range queries, Range keys) const {
    return queries.end - 1 + first <= keys.begin && keys.end <= queries.begin + past && keys.end <= seq_k;
  }
};

inline Band band_of(const AttentionParams& params, const Sequence& sequence) {
  const std::int64_t diagonal = sequence.seq_k - sequence.seq_q;
  return {diagonal - params.window_left, diagonal + params.window_right + 1, sequence.seq_q, sequence.seq_k};
}

// Row of a contiguous (batch, seq, ...) or (total, ...) tensor.
inline std::int64_t row_q(const AttentionParams& params, const Sequence& sequence, std::int64_t query) {
  return params.cu_seqlens_q == nullptr ? sequence.index * params.seq_q + query : sequence.first_q + query;
}
inline std::int64_t row_k(const AttentionParams& params, const Sequence& sequence, std::int64_t key) {
  return params.cu_seqlens_k == nullptr ? sequence.index * params.seq_k + key : sequence.first_k + key;
}

// Place in lse: (batch, heads, seq_q) or (heads, total_q).
inline std::int64_t lse_index(const AttentionParams& params, const Sequence& sequence, std::int64_t head,
                              std::int64_t query) {
  if (params.cu_seqlens_q == nullptr) return (sequence.index * params.heads + head) * params.seq_q + query;
  return head * params.total_q + sequence.first_q + query;
}

// Element offset of a row of a tensor with strides.
inline std::int64_t offset_of(const AttentionStrides& strides, const Sequence& sequence, std::int64_t first,
                              std::int64_t row, std::int64_t head) {
  return sequence.index * strides.batch + (first + row) * strides.row + head * strides.head;
}

}  // namespace
}  // namespace fastbert
