// The forward of attention, tile by tile, on mma.sync: sm_80 and up.
//
//   S = Q K^T              scores of a block's queries against a tile of keys, float32 in registers
//   P = 2^(factor S - m)   factor = scale log2(e), m the running base of every row; masked scores are deselected
//   O = O 2^(m' - m) + kept(P) V
//   out = O / (sum of P * probability of survival),   lse = ln(2) (m + log2(sum of P))
//
// A block is forward_tile(head_dim).queries rows of one query head of one sequence, and walks the tiles of keys that
// any of them sees. q (batch, seq_q, heads, head_dim) and k, v (batch, seq_k, kv_heads, head_dim), or packed (total,
// ...), are bfloat16 or float16; out is contiguous in q's layout, lse float32 (batch, heads, seq_q) or (heads,
// total_q). P is rounded to the type of v, all else is float32.
//
// Roles. All threads copy: Q once, K and V through rings of stages, K a half step ahead of V, so that scores start
// before V has come. Each warp owns its rows from Q to out: its rows of Q are the only ones it reads, and out leaves
// through the same place. A warp none of whose rows sees a tile skips its arithmetic, never its copies and barriers.
#pragma once

#include <cmath>
#include <type_traits>

#include "../accumulator.cuh"
#include "../dropout.cuh"
#include "../kernel_params.h"
#include "../mask.cuh"
#include "../sequence.cuh"
#include "../softmax.cuh"
#include "../stray_rows.cuh"
#include "../tile.cuh"
#include "../tile_choice.h"

namespace fastbert {
namespace cuda {
namespace {

template <class Element, int kHeadDim, bool Dropped>
class Forward {
  static constexpr ForwardTile kTile = forward_tile(kHeadDim);
  static constexpr int kThreads = kTile.threads(), kStages = kTile.stages, kKeys = kTile.keys;
  static constexpr int kRows = kTile.queries / kTile.warps;  // of a warp
  static constexpr int kM = kRows / 16;
  static constexpr bool kKeepsQueries = kTile.keeps_queries;

  using QueryTile = SharedTile<kTile.queries, kHeadDim>;
  using KeyTile = SharedTile<kKeys, kHeadDim>;
  using Scores = Accumulator<kM, kKeys / 8>;
  using Out = Accumulator<kM, kHeadDim / 8>;
  using Living = LivingBits<kKeys>;

 public:
  static constexpr int kSharedBytes = QueryTile::bytes + 2 * kStages * KeyTile::bytes;
  static_assert(kSharedBytes == kTile.shared_bytes(kHeadDim));

  __device__ __forceinline__ static void run(const ForwardKernelParams& params, std::uint32_t shared) {
    const BlockPlace place = place_of(params.grid, params.heads);
    if (place.idle) return;
    if (place.sequence == params.batch) {
      clear_strays(params, place);
      return;
    }
    const Sequence sequence = sequence_of(params, place.sequence);
    const int first_query = place.tile * kTile.queries;
    if (first_query >= sequence.seq_q) return;
    Forward(params, sequence, place.head, first_query, shared).attend();
  }

 private:
  __device__ __forceinline__ Forward(const ForwardKernelParams& params, const Sequence& sequence, int head,
                                     int first_query, std::uint32_t shared)
      : params(params),
        sequence(sequence),
        head(head),
        first_query(first_query),
        first_row(first_query + warp() * kRows),
        queries{shared},
        dropout(params, params.rng, sequence.index, head) {}

  __device__ __forceinline__ void attend() {
    const Band band = band_of(params, sequence);
    const Range seen = band.keys(first_query, min(first_query + kTile.queries, sequence.seq_q));
    const float scale = params.scale == 0.0f ? 1.0f : fabsf(params.scale);  // see turn_queries
    Softmax<kM> softmax(scale * kLog2E);
    Out out;
    out.clear();
    __shared__ Results results;  // not in registers, of which the loop has none to spare
    if (thread() == 0) results = results_of_block();
    if (seen.empty()) {
      sync_block();
    } else {
      walk(band, seen, softmax, out);
    }
    finish(params, queries.base, results, softmax, out);
  }

  // All tiles of keys that the block sees.
  __device__ __forceinline__ void walk(const Band& band, Range seen, Softmax<kM>& softmax, Out& out) {
    const int first = seen.begin / kKeys * kKeys;
    const int kv_head = kv_head_of(params, head);
    TileStream<kThreads, KeyTile> k(
        rows_of(params, params.k, params.k_strides, sequence.index, sequence.first_k, kv_head), first);
    TileStream<kThreads, KeyTile> v(
        rows_of(params, params.v, params.v_strides, sequence.index, sequence.first_k, kv_head), first);
    const auto copy_keys = [&](int key, const Living& alive) {
      if (key < seen.end) k.copy_next(key_tile(key), alive);
      commit_copies();
    };
    const auto copy_values = [&](int key, const Living& alive) {
      if (key < seen.end) v.copy_next(value_tile(key), alive);
      commit_copies();
    };

    LivingTiles<kKeys> mask(living_keys(params, sequence), seen);  // a NaN that none of the block sees must not matter
    Living living[kStages + 1];  // of this tile and of those whose copies are under way
    copy_queries();
#pragma unroll
    for (int stage = 0; stage < kStages; ++stage) {
      const int key = first + stage * kKeys;
      mask.ask(key);
      living[stage] = mask.bits();
      copy_keys(key, living[stage]);
      if (stage < kStages - 1) copy_values(key, living[stage]);
    }
    if (params.scale <= 0.0f) turn_queries();
    QueryFragments kept;
    if constexpr (kKeepsQueries) {
      wait_for_copies<kPending>();
      sync_block();
#pragma unroll
      for (int s = 0; s < kHeadDim / 16; ++s) load_queries(kept.a[s], s);
    }

    // Row i of the warp sees keys begin + i to past + i - 1; a warp without rows sees none.
    const int begin = first_row < sequence.seq_q ? first_row + band.first : seen.end;
    const int past = first_row + band.past;
    for (int key = first; key < seen.end; key += kKeys) {
      mask.ask(key + kStages * kKeys);
      wait_for_copies<kPending>();
      sync_block();  // K of this tile is there, and everybody is done with V of the one before
      copy_values(key + (kStages - 1) * kKeys, living[kStages - 1]);

      const auto turn_to_values = [&] {
        living[kStages] = mask.bits();
        wait_for_copies<kPending>();
        sync_block();  // V of this tile is there, and everybody is done with K
        copy_keys(key + kStages * kKeys, living[kStages]);
      };
      if (begin < key + kKeys && key < past + kRows - 1) {
        Scores scores;
        scores.clear();
        multiply_keys(scores, kept, key_tile(key));
        const bool all = begin + kRows - 1 <= key && key + kKeys <= past && living[0].all();
        if (!all) hide(scores, living[0], begin - key, past - key);
        softmax.meet(scores, out);
        turn_to_values();
        add_values(scores, softmax, value_tile(key), key, out);
      } else {
        turn_to_values();
      }
#pragma unroll
      for (int stage = 0; stage < kStages; ++stage) living[stage] = living[stage + 1];
    }
  }

  // Groups of copies that may be under way where the one before them is needed.
  static constexpr int kPending = 2 * (kStages - 1);

  // Where the tile from a key on lies.
  __device__ __forceinline__ KeyTile key_tile(int key) const {
    return {queries.base + QueryTile::bytes + key / kKeys % kStages * KeyTile::bytes};
  }
  __device__ __forceinline__ KeyTile value_tile(int key) const {
    return {key_tile(key).base + kStages * KeyTile::bytes};
  }

  // A operands of a warp's rows of Q, where they are kept.
  struct QueryFragments {
    std::uint32_t a[kHeadDim / 16][kM][4];
  };

  __device__ __forceinline__ void copy_queries() const {
    const GlobalRows q = rows_of(params, params.q, params.q_strides, sequence.index, sequence.first_q, head);
    load_tile<kThreads>(queries, q, first_query, [&](int query) { return query < sequence.seq_q; });
  }

  // A negative scale turns the signs of Q, and 0 makes Q zero: all that follows has a positive factor. Each thread
  // turns what it copied.
  __device__ __forceinline__ void turn_queries() const {
    wait_for_copies<0>();
    const ChunkShare<kThreads, QueryTile> share(thread());
    const std::uint32_t address = queries.at(share.row, share.chunk);
    share.for_each(
        [&](int down, int across) { turn_signs(address + QueryTile::distance(down, across), params.scale < 0.0f); });
  }

  // Columns 16 s to 16 s + 15 of the warp's rows of Q.
  __device__ __forceinline__ void load_queries(std::uint32_t (&a)[kM][4], int s) const {
#pragma unroll
    for (int m = 0; m < kM; ++m) load_a(a[m], queries, warp() * kRows + 16 * m, 16 * s);
  }

  // S += Q K^T.
  __device__ __forceinline__ void multiply_keys(Scores& scores, const QueryFragments& kept, const KeyTile& keys) const {
#pragma unroll
    for (int s = 0; s < kHeadDim / 16; ++s) {
      if constexpr (kKeepsQueries) {
        multiply_columns<Element>(scores, kept.a[s], keys, 0, 16 * s);
      } else {
        std::uint32_t a[kM][4];
        load_queries(a, s);
        multiply_columns<Element>(scores, a, keys, 0, 16 * s);
      }
    }
  }

  // O += kept(P) V, scores becoming weights 16 columns at a time.
  __device__ __forceinline__ void add_values(Scores& scores, Softmax<kM>& softmax, const KeyTile& values, int key,
                                             Out& out) const {
    PhiloxBlock random[kM];
#pragma unroll
    for (int s = 0; s < kKeys / 16; ++s) {
      softmax.weigh(scores, s);
      std::uint32_t a[kM][4];
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        as_a<Element>(a[m], scores, m, s);
        if constexpr (Dropped) {
          if (s % 2 == 0) random[m] = dropout.block(first_row / 16 + m, key / 32 + s / 2, thread() % 32);
          dropout.drop(a[m], random[m], s % 2);
        }
      }
      multiply_rows<Element>(out, a, values, 16 * s, 0);
    }
  }

  // Where the block's results begin, in numbers, and how many rows there are.
  struct Results {
    std::int64_t out, lse;
    int rows;
  };

  __device__ __forceinline__ Results results_of_block() const {
    return {(row_q(params, sequence, first_query) * params.heads + head) * params.head_dim,
            lse_index(params, sequence, head, first_query), sequence.seq_q - first_query};
  }

  // out and lse of the warp's rows.
  __device__ __forceinline__ static void finish(const ForwardKernelParams& params, std::uint32_t shared,
                                                const Results& results, const Softmax<kM>& softmax, const Out& out) {
    using Tile = SharedTile<kRows, kHeadDim>;  // the warp's rows of Q, which nobody needs any more
    const int first_row = warp() * kRows, lane = thread() % 32;
    const Tile tile{shared + warp() * Tile::bytes};
    const int rows = results.rows - first_row;
    const float survivors = Dropped ? survivor_scale(params) : 1.0f;
    float* const lse = params.lse + results.lse + first_row;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = fragment_row(m, 2 * half);
        const float sum = sum_of_row(softmax.sum[m][half]);
        const bool blind = sum == 0.0f;  // the row sees no key
        const float factor = blind ? 0.0f : survivors * reciprocal_approximate(sum);
        if (lane % 4 == 0 && row < rows) {
          lse[row] = blind ? -INFINITY : (softmax.base[m][half] + log2_approximate(sum)) * kLn2;
        }
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n) {
          const float* const pair = out.c[m][n] + 2 * half;
          store_shared(tile.at(row, n) + lane % 4 * 4, pack<Element>(pair[0] * factor, pair[1] * factor));
        }
      }
    }
    __syncwarp();
    const std::int64_t stride = params.heads * params.head_dim;
    const ChunkShare<32, Tile> share(lane);
    std::uint16_t* const to =
        static_cast<std::uint16_t*>(params.out) + results.out + (first_row + share.row) * stride + share.chunk * kChunk;
    share.for_each([&](int down, int across) {
      if (share.row + down >= rows || (share.chunk + across) * kChunk >= params.head_dim) return;
      store_global(to + down * stride + across * kChunk, load_shared(tile.at(share.row + down, share.chunk + across)));
    });
  }

  // Rows of a packed call that no sequence owns: out 0, lse -inf.
  __device__ __forceinline__ static void clear_strays(const ForwardKernelParams& params, const BlockPlace& place) {
    for_each_stray_row<kThreads>(params.cu_seqlens_q, params.batch, params.total_q, place.tile, params.grid.tiles,
                                 [&](std::int64_t row) {
                                   clear_row(params.out, row, params.heads, params.head_dim, place.head);
                                   if (thread() % 32 == 0) params.lse[place.head * params.total_q + row] = -INFINITY;
                                 });
  }

  __device__ __forceinline__ static int thread() { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ static int warp() { return thread() / 32; }

  const ForwardKernelParams& params;
  Sequence sequence;
  int head;
  int first_query, first_row;  // of the block, of the warp
  QueryTile queries;
  std::conditional_t<Dropped, Dropout, NoDropout> dropout;
};

}  // namespace
}  // namespace cuda
}  // namespace fastbert
