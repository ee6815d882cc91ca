// Which pieces of the backward there are, and who computes them.
#include <algorithm>
#include <memory>
#include <numeric>
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
class Pieces {
 public:
  Pieces(const AttentionBackwardParams& params, const Sequences& sequences, std::int64_t chunk, BackwardTurns* turns)
      : params_(params), sequences_(sequences), chunk_(chunk), turns_(turns) {
    if (!sequences.alike()) sort_sequences();
    std::int64_t living = sequences.count();
    for (std::int64_t c = 0; living > 0; ++c) {
      while (living > 0 && chunks(sequence(living - 1)) <= c) {
        living = sequences.alike() ? 0 : living - 1;
      }
      if (living > 0) before_.push_back(before_.back() + living * params.kv_heads);
    }
  }

  std::int64_t count() const { return before_.back(); }

  BackwardPiece at(std::int64_t index) const {
    const auto before = std::upper_bound(before_.begin(), before_.end(), index) - 1;
    const std::int64_t within = index - *before, first_key = (before - before_.begin()) * chunk_;
    const Sequence found = sequence(within / params_.kv_heads);
    return {&params_,
            found,
            within % params_.kv_heads,
            first_key,
            static_cast<int>(std::min(chunk_, found.seq_k - first_key)),
            chunks(found) == 1,
            turns_};
  }

 private:
  // A sequence without keys has one piece too: it clears dQ.
  std::int64_t chunks(const Sequence& sequence) const {
    return std::max<std::int64_t>(1, ceil_divide(sequence.seq_k, chunk_));
  }

  // By falling number of chunks.
  Sequence sequence(std::int64_t place) const {
    return sequences_.at(sequences_.alike() ? place : longest_first_[static_cast<std::size_t>(place)]);
  }

  void sort_sequences() {
    longest_first_.resize(static_cast<std::size_t>(sequences_.count()));
    std::iota(longest_first_.begin(), longest_first_.end(), 0);
    std::stable_sort(longest_first_.begin(), longest_first_.end(), [&](std::int64_t a, std::int64_t b) {
      return chunks(sequences_.at(a)) > chunks(sequences_.at(b));
    });
  }

  const AttentionBackwardParams& params_;
  const Sequences& sequences_;
  std::int64_t chunk_;
  BackwardTurns* turns_;
  std::vector<std::int64_t> longest_first_;  // not kept where all are alike
  std::vector<std::int64_t> before_{0};      // pieces before those of chunk c of all sequences
};

void clear_stray_rows(const AttentionBackwardParams& params, const Sequences& sequences) {
  clear_rows(params.dq, params.dtype, params.heads * params.head_dim, sequences.stray_queries());
  const StrayRows stray = sequences.stray_keys();
  clear_rows(params.dk, params.dtype, params.kv_heads * params.head_dim, stray);
  clear_rows(params.dv, params.dtype, params.kv_heads * params.head_dim, stray);
}

}  // namespace

void attention_backward(const AttentionBackwardParams& params, int num_threads) {
  const Sequences sequences(params);
  clear_stray_rows(params, sequences);
  const AttentionKernels& kernels = attention_kernels(params.dtype);
  const std::int64_t chunk = kernels.backward_chunk(params.head_dim);
  std::vector<std::uint32_t> done;
  std::unique_ptr<float[]> sums;  // written before it is read, so not cleared
  BackwardTurns turns{static_cast<float*>(params.dq), nullptr, kernels.backward_group};
  const Pieces pieces(params, sequences, chunk, &turns);
  if (pieces.count() == 0) return;
  if (sequences.longest_k() > chunk) {
    done.resize(static_cast<std::size_t>(params.heads * BackwardTurns::groups_of_head(params, kernels.backward_group)));
    turns.done = done.data();
    if (params.dtype != DType::float32) {
      const std::int64_t rows = params.cu_seqlens_q == nullptr ? params.batch * params.seq_q : params.total_q;
      sums.reset(new float[static_cast<std::size_t>(rows * params.heads * params.head_dim)]);
      turns.dq = sums.get();
    }
  }
  const std::int64_t rows = sequences.longest_q() * (params.heads / params.kv_heads);
  const std::int64_t flops = 10 * rows * std::min(sequences.longest_k(), chunk) * params.head_dim;
  const int threads = region_threads(num_threads, pieces.count(), flops / kFlopsPerByte);
  for_each_piece(threads, pieces.count(), kernels.backward_scratch(params.head_dim, sequences.longest_k()),
                 [&](std::int64_t index, void* scratch) { kernels.backward(pieces.at(index), scratch); });
}

}  // namespace fastbert
