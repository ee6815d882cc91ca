// Which pieces of the backward there are, and who computes them.
#include <algorithm>
#include <memory>
#include <vector>

#include "attention.h"
#include "attention_choice.h"
#include "attention_sequences.h"
#include "isa/turns.h"
#include "work_queue.h"

namespace fastbert {
namespace {

constexpr std::int64_t kFlopsPerByte = 10;  // of work, as region_threads measures it

// Earlier keys come first, over all sequences and heads: a piece that must wait for another comes long after it, and
// under a causal mask the longest pieces are begun first.
struct Pieces {
  std::int64_t chunk;
  std::vector<std::int64_t> longest_first;  // sequences by falling number of chunks
  std::vector<std::int64_t> before;         // pieces before those of chunk c of all sequences
  std::int64_t kv_heads;

  Pieces(const std::vector<Sequence>& sequences, std::int64_t chunk_keys, std::int64_t heads)
      : chunk(chunk_keys), longest_first(sequences.size()), before{0}, kv_heads(heads) {
    for (std::size_t index = 0; index < sequences.size(); ++index)
      longest_first[index] = static_cast<std::int64_t>(index);
    std::stable_sort(longest_first.begin(), longest_first.end(), [&](std::int64_t a, std::int64_t b) {
      return chunks(sequences[static_cast<std::size_t>(a)]) > chunks(sequences[static_cast<std::size_t>(b)]);
    });
    std::size_t living = sequences.size();
    for (std::int64_t c = 0; living > 0; ++c) {
      while (living > 0 && chunks(sequences[static_cast<std::size_t>(longest_first[living - 1])]) <= c) --living;
      if (living > 0) before.push_back(before.back() + static_cast<std::int64_t>(living) * kv_heads);
    }
  }

  // A sequence without keys has one piece too: it clears dQ.
  std::int64_t chunks(const Sequence& sequence) const {
    return std::max<std::int64_t>(1, ceil_divide(sequence.seq_k, chunk));
  }

  std::int64_t count() const { return before.back(); }

  BackwardPiece at(const AttentionBackwardParams& params, const std::vector<Sequence>& sequences, BackwardTurns* turns,
                   std::int64_t index) const {
    const auto c =
        static_cast<std::int64_t>(std::upper_bound(before.begin(), before.end(), index) - before.begin()) - 1;
    const std::int64_t within = index - before[static_cast<std::size_t>(c)];
    const Sequence& sequence =
        sequences[static_cast<std::size_t>(longest_first[static_cast<std::size_t>(within / kv_heads)])];
    const std::int64_t first_key = c * chunk;
    return {&params,
            sequence,
            within % kv_heads,
            first_key,
            static_cast<int>(std::min(chunk, sequence.seq_k - first_key)),
            chunks(sequence) == 1,
            turns};
  }
};

void clear_stray_rows(const AttentionBackwardParams& params, const std::vector<Sequence>& sequences) {
  clear_rows(params.dq, params.dtype, params.heads * params.head_dim, stray_queries(params, sequences));
  const StrayRows stray = stray_keys(params, sequences);
  clear_rows(params.dk, params.dtype, params.kv_heads * params.head_dim, stray);
  clear_rows(params.dv, params.dtype, params.kv_heads * params.head_dim, stray);
}

}  // namespace

void attention_backward(const AttentionBackwardParams& params, int num_threads) {
  const std::vector<Sequence> sequences = sequences_of(params);
  clear_stray_rows(params, sequences);
  std::int64_t longest_q = 0, longest_k = 0;
  for (const Sequence& sequence : sequences) {
    longest_q = std::max(longest_q, sequence.seq_q);
    longest_k = std::max(longest_k, sequence.seq_k);
  }
  const AttentionKernels& kernels = attention_kernels(params.dtype);
  const Pieces pieces(sequences, kernels.backward_chunk(params.head_dim), params.kv_heads);
  if (pieces.count() == 0) return;

  std::vector<std::uint32_t> done;
  std::unique_ptr<float[]> sums;  // written before it is read, so not cleared
  BackwardTurns turns{static_cast<float*>(params.dq), nullptr, kernels.group_rows};
  if (longest_k > pieces.chunk) {
    done.resize(static_cast<std::size_t>(params.heads * BackwardTurns::groups_of_head(params, kernels.group_rows)));
    turns.done = done.data();
    if (params.dtype != DType::float32) {
      const std::int64_t rows = params.cu_seqlens_q == nullptr ? params.batch * params.seq_q : params.total_q;
      sums.reset(new float[static_cast<std::size_t>(rows * params.heads * params.head_dim)]);
      turns.dq = sums.get();
    }
  }
  const std::int64_t rows = longest_q * (params.heads / params.kv_heads);
  const std::int64_t flops = 10 * rows * std::min(longest_k, pieces.chunk) * params.head_dim;
  const int threads = region_threads(num_threads, pieces.count(), flops / kFlopsPerByte);
  for_each_piece(threads, pieces.count(), kernels.backward_scratch(params.head_dim, longest_k),
                 [&](std::int64_t index, void* scratch) {
                   kernels.backward(pieces.at(params, sequences, &turns, index), scratch);
                 });
}

}  // namespace fastbert
