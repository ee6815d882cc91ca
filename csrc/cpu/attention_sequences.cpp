#include "attention_sequences.h"

#include <cstring>
#include <stdexcept>
#include <string>

namespace fastbert {
namespace {

void check_length(const char* name, std::int64_t length, std::int64_t bound) {
  if (length <= bound) return;
  throw std::invalid_argument(std::string("attention: ") + name + " is " + std::to_string(bound) +
                              ", but the longest sequence has " + std::to_string(length) +
                              " tokens; it must be an upper bound of the lengths");
}

StrayRows stray(std::int64_t first, std::int64_t past, std::int64_t total) { return {{0, first}, {past, total}}; }

}  // namespace

Sequences::Sequences(const AttentionParams& params) : params_(params) {
  if (params.batch == 0) return;
  if (params.cu_seqlens_q == nullptr) {
    longest_q_ = params.seq_q;
    longest_k_ = params.seq_k;
    return;
  }
  packed_.reserve(static_cast<std::size_t>(params.batch));
  std::int64_t past_q = 0, past_k = 0;
  for (std::int64_t index = 0; index < params.batch; ++index) {
    const std::int64_t first_q = clamp(params.cu_seqlens_q[index], past_q, params.total_q);
    const std::int64_t first_k = clamp(params.cu_seqlens_k[index], past_k, params.total_k);
    past_q = clamp(params.cu_seqlens_q[index + 1], first_q, params.total_q);
    past_k = clamp(params.cu_seqlens_k[index + 1], first_k, params.total_k);
    packed_.push_back({index, first_q, first_k, past_q - first_q, past_k - first_k});
    longest_q_ = greater(longest_q_, past_q - first_q);
    longest_k_ = greater(longest_k_, past_k - first_k);
  }
  check_length("max_seqlen_q", longest_q_, params.seq_q);
  check_length("max_seqlen_k", longest_k_, params.seq_k);
}

Sequence Sequences::at(std::int64_t index) const {
  return alike() ? Sequence{index, 0, 0, params_.seq_q, params_.seq_k} : packed_[static_cast<std::size_t>(index)];
}

StrayRows Sequences::stray_queries() const {
  if (packed_.empty()) return stray(0, 0, params_.total_q);
  return stray(packed_.front().first_q, packed_.back().first_q + packed_.back().seq_q, params_.total_q);
}

StrayRows Sequences::stray_keys() const {
  if (packed_.empty()) return stray(0, 0, params_.total_k);
  return stray(packed_.front().first_k, packed_.back().first_k + packed_.back().seq_k, params_.total_k);
}

void clear_rows(void* data, DType dtype, std::int64_t columns, const StrayRows& rows) {
  const std::int64_t row_bytes = columns * (dtype == DType::float32 ? 4 : 2);
  for (const Range& range : {rows.before, rows.past}) {
    if (range.empty()) continue;
    std::memset(static_cast<std::uint8_t*>(data) + range.begin * row_bytes, 0,
                static_cast<std::size_t>((range.end - range.begin) * row_bytes));
  }
}

}  // namespace fastbert
