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

constexpr std::int64_t kLeastRows = 192;  // query rows that share one packing of keys, whatever the number of pieces
constexpr std::int64_t kManyPieces =
    64;  // more rows than that only where there are so many pieces: threads wait for work
constexpr std::int64_t kFlopsPerByte = 10;  // of work, as region_threads measures it

// The most query rows of a piece. It depends on the problem alone and not on the threads, as results must.
std::int64_t rows_of_piece(const AttentionParams& params, const AttentionKernels& kernels) {
  const std::int64_t rows = params.cu_seqlens_q == nullptr ? params.batch * params.seq_q : params.total_q;
  return std::clamp(rows * params.heads / kManyPieces, kLeastRows, kernels.forward_rows) / kernels.forward_group *
         kernels.forward_group;
}

// How the rows of a sequence are cut: so many queries by so many of the query heads that share a key head.
struct Cut {
  std::int64_t queries, heads;
  std::int64_t query_ranges, head_ranges;  // of one key head

  Cut(const AttentionParams& params, const AttentionKernels& kernels, std::int64_t seq_q) {
    const std::int64_t group = params.heads / params.kv_heads, rows = rows_of_piece(params, kernels);
    queries = std::clamp<std::int64_t>(round_up(seq_q, kernels.forward_group), kernels.forward_group, rows);
    heads = std::clamp<std::int64_t>(rows / queries, 1, group);
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

// Which piece of which sequence a number means.
class Pieces {
 public:
  Pieces(const AttentionForwardParams& params, const Sequences& sequences, const AttentionKernels& kernels)
      : params_(params), sequences_(sequences), kernels_(kernels) {
    if (sequences.alike()) return;
    for (std::int64_t index = 0; index < sequences.count(); ++index) {
      before_.push_back(before_.back() + pieces(sequences.at(index)));
    }
  }

  std::int64_t count() const {
    if (!sequences_.alike()) return before_.back();
    return sequences_.count() == 0 ? 0 : sequences_.count() * pieces(sequences_.at(0));
  }

  ForwardPiece at(std::int64_t index) const {
    std::int64_t sequence, within;
    if (sequences_.alike()) {
      const std::int64_t each = pieces(sequences_.at(0));
      sequence = index / each;
      within = index % each;
    } else {
      const auto before = std::upper_bound(before_.begin(), before_.end(), index) - 1;
      sequence = before - before_.begin();
      within = index - *before;
    }
    const Sequence found = sequences_.at(sequence);
    return piece_of(params_, found, Cut(params_, kernels_, found.seq_q), within);
  }

 private:
  std::int64_t pieces(const Sequence& sequence) const { return Cut(params_, kernels_, sequence.seq_q).pieces(params_); }

  const AttentionForwardParams& params_;
  const Sequences& sequences_;
  const AttentionKernels& kernels_;
  std::vector<std::int64_t> before_{0};
};

void clear_stray_rows(const AttentionForwardParams& params, const Sequences& sequences) {
  const StrayRows stray = sequences.stray_queries();
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
  const Sequences sequences(params);
  clear_stray_rows(params, sequences);
  const AttentionKernels& kernels = attention_kernels(params.dtype);
  const Pieces pieces(params, sequences, kernels);
  if (pieces.count() == 0) return;

  const Cut largest(params, kernels, sequences.longest_q());
  const std::int64_t rows = std::min(largest.queries, sequences.longest_q()) * largest.heads;
  const std::int64_t flops = 4 * rows * sequences.longest_k() * params.head_dim;
  const int threads = region_threads(num_threads, pieces.count(), flops / kFlopsPerByte);
  const std::size_t scratch_bytes =
      kernels.forward_scratch(params.head_dim, rows_of_piece(params, kernels), sequences.longest_k());
  for_each_piece(threads, pieces.count(), scratch_bytes,
                 [&](std::int64_t index, void* scratch) { kernels.forward(pieces.at(index), scratch); });
}

}  // namespace fastbert
