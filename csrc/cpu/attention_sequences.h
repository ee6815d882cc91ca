// The sequences of a call, read from the cumulative lengths.
#pragma once

#include <vector>

#include "attention_geometry.h"

namespace fastbert {

// The rows of packed queries, or keys, that belong to no sequence: before the first and past the last one.
struct StrayRows {
  Range before, past;
};

// In order. Cumulative lengths are clamped to the buffers and never run backwards, so that wrong ones touch no memory
// that is not there. Throws std::invalid_argument where a packed sequence is longer than the call's bounds.
class Sequences {
 public:
  explicit Sequences(const AttentionParams& params);

  std::int64_t count() const { return params_.batch; }
  Sequence at(std::int64_t index) const;
  // Whether all have the same lengths, as in a dense call, which keeps nothing for each of them.
  bool alike() const { return packed_.empty(); }
  std::int64_t longest_q() const { return longest_q_; }
  std::int64_t longest_k() const { return longest_k_; }
  StrayRows stray_queries() const;
  StrayRows stray_keys() const;

 private:
  const AttentionParams& params_;
  std::vector<Sequence> packed_;
  std::int64_t longest_q_ = 0, longest_k_ = 0;
};

// Zeros in those rows of a contiguous (total, columns) tensor.
void clear_rows(void* data, DType dtype, std::int64_t columns, const StrayRows& rows);

}  // namespace fastbert
