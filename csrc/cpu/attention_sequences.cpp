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

std::vector<Sequence> sequences_of(const AttentionParams& params) {
  std::vector<Sequence> sequences(static_cast<std::size_t>(params.batch));
  std::int64_t past_q = 0, past_k = 0;
  for (std::int64_t index = 0; index < params.batch; ++index) {
    Sequence& sequence = sequences[static_cast<std::size_t>(index)];
    if (params.cu_seqlens_q == nullptr) {
      sequence = {index, 0, 0, params.seq_q, params.seq_k};
      continue;
    }
    const std::int64_t first_q = clamp(params.cu_seqlens_q[index], past_q, params.total_q);
    const std::int64_t first_k = clamp(params.cu_seqlens_k[index], past_k, params.total_k);
    past_q = clamp(params.cu_seqlens_q[index + 1], first_q, params.total_q);
    past_k = clamp(params.cu_seqlens_k[index + 1], first_k, params.total_k);
    sequence = {index, first_q, first_k, past_q - first_q, past_k - first_k};
    check_length("max_seqlen_q", sequence.seq_q, params.seq_q);
    check_length("max_seqlen_k", sequence.seq_k, params.seq_k);
  }
  return sequences;
}

StrayRows stray_queries(const AttentionParams& params, const std::vector<Sequence>& sequences) {
  if (params.cu_seqlens_q == nullptr || sequences.empty()) return stray(0, 0, params.total_q);
  return stray(sequences.front().first_q, sequences.back().first_q + sequences.back().seq_q, params.total_q);
}

StrayRows stray_keys(const AttentionParams& params, const std::vector<Sequence>& sequences) {
  if (params.cu_seqlens_k == nullptr || sequences.empty()) return stray(0, 0, params.total_k);
  return stray(sequences.front().first_k, sequences.back().first_k + sequences.back().seq_k, params.total_k);
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
