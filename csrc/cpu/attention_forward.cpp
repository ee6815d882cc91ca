// Which pieces of the forward there are, and who computes them.
#include <algorithm>
#include <limits>
#include <vector>

#include "attention.h"
#include "attention_choice.h"
#include "attention_sequences.h"
#include "work_queue.h"

namespace fastbert {
namespace {

constexpr std::int64_t kPieceRows =
    192;  // query rows that share one packing of keys; packing costs a few percent of them
constexpr std::int64_t kFlopsPerByte = 10;  // of work, as region_threads measures it

// How the rows of a sequence are cut: so many queries by so many of the query heads that share a key head.
struct Cut {
  std::int64_t queries, heads;
  std::int64_t query_ranges, head_ranges;  // of one key head

  Cut(const AttentionParams& params, std::int64_t group_rows, std::int64_t seq_q) {
    const std::int64_t group = params.heads / params.kv_heads;
    queries = std::clamp<std::int64_t>(round_up(seq_q, group_rows), group_rows, kPieceRows);
    heads = std::clamp<std::int64_t>(kPieceRows / queries, 1, group);
    query_ranges = ceil_divide(seq_q, queries);
    head_ranges = ceil_divide(group, heads);
  }

  std::int64_t pieces(const AttentionParams& params) const { return query_ranges * head_ranges * params.kv_heads; }
};

// Later queries come first: under a causal mask they take longest.
ForwardPiece piece_of(const AttentionForwardParams& params, const Sequence& sequence, const Cut& cut,
                      std::int64_t index) {
  const std::int64_t group = params.heads / params.kv_heads, ranges = cut.head_ranges * params.kv_heads;
  const std::int64_t first_query = (cut.query_ranges - 1 - index / ranges) * cut.queries;
  const std::int64_t kv_head = index % ranges / cut.head_ranges, range = index % cut.head_ranges;
  return {&params,
          sequence,
          kv_head * group + range * cut.heads,
          first_query,
          static_cast<int>(std::min(cut.heads, group - range * cut.heads)),
          static_cast<int>(std::min(cut.queries, sequence.seq_q - first_query))};
}

void clear_stray_rows(const AttentionForwardParams& params, const std::vector<Sequence>& sequences) {
  const StrayRows stray = stray_queries(params, sequences);
  clear_rows(params.out, params.dtype, params.heads * params.head_dim, stray);
  for (const Range& range : {stray.before, stray.past}) {
    for (std::int64_t head = 0; head < params.heads && !range.empty(); ++head) {
      float* lse = params.lse + head * params.total_q;
      std::fill(lse + range.begin, lse + range.end, -std::numeric_limits<float>::infinity());
    }
  }
}

}  // namespace

void attention_forward(const AttentionForwardParams& params, int num_threads) {
  const std::vector<Sequence> sequences = sequences_of(params);
  clear_stray_rows(params, sequences);
  const AttentionKernels& kernels = attention_kernels(params.dtype);
  std::vector<std::int64_t> pieces_before{0};
  std::int64_t longest_q = 0, longest_k = 0;
  for (const Sequence& sequence : sequences) {
    pieces_before.push_back(pieces_before.back() + Cut(params, kernels.group_rows, sequence.seq_q).pieces(params));
    longest_q = std::max(longest_q, sequence.seq_q);
    longest_k = std::max(longest_k, sequence.seq_k);
  }
  const std::int64_t count = pieces_before.back();
  if (count == 0) return;

  const Cut largest(params, kernels.group_rows, longest_q);
  const std::int64_t rows = std::min(largest.queries, longest_q) * largest.heads;
  const std::int64_t flops = 4 * rows * longest_k * params.head_dim;
  const int threads = region_threads(num_threads, count, flops / kFlopsPerByte);
  const std::size_t scratch_bytes = kernels.forward_scratch(params.head_dim, kPieceRows, longest_k);
  for_each_piece(threads, count, scratch_bytes, [&](std::int64_t index, void* scratch) {
    const auto after = std::upper_bound(pieces_before.begin(), pieces_before.end(), index) - 1;
    const auto sequence = static_cast<std::size_t>(after - pieces_before.begin());
    const Cut cut(params, kernels.group_rows, sequences[sequence].seq_q);
    kernels.forward(piece_of(params, sequences[sequence], cut, index - *after), scratch);
  });
}

}  // namespace fastbert
