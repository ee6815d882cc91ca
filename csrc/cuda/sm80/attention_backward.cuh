// The backward of attention, tile by tile, on mma.sync: sm_80 and up (Dao et al., FlashAttention, 2022, appendix B).
//
//   P = 2^(factor S - log2(e) lse)    S = Q K^T, factor = scale log2(e); 0 where masked
//   dP = kept(s dO V^T)               s is the survivors' scale
//   dS = P (dP - delta)               delta = rowsum(P dP) - dlse = rowsum(dO O) - dlse
//   dV = s kept(P)^T dO,  dK = scale dS^T Q,  dQ = scale dS K
//
// A block is one tile of keys of one key head of one sequence. It keeps K and V in shared memory, dK and dV in
// registers, and walks the query heads that share the key head and, of each, the tiles of queries that see the keys. q,
// dout and out (batch, seq_q, heads, head_dim), k, v (batch, seq_k, kv_heads, head_dim), or packed (total, ...), are
// bfloat16 or float16; lse, dlse and delta float32 (batch, heads, seq_q) or (heads, total_q). P and dS are rounded to
// that type for the products, all else is float32.
//
// Everything is transposed: rows of S^T = K Q^T are keys. A group of warps has kWarpKeys keys; each of its warps
// computes the scores of kPartQueries queries, kStep at a time, and keeps kColumns columns of dK and dV. With one warp
// a group, P^T and dS^T are operands of dV and dK as they lie in registers. With two, they meet in shared memory. dS^T
// goes there anyway: all warps share dQ of the tile, each a block of it.
//
// dQ is complete where the block has all keys of the sequence (dq_sum = null): it goes to dq, for all rows of the
// sequence, zeros included. Else it is added to dq_sum, in any order or in turns (attention_backward_dq.cuh), which
// prepare has cleared and finish reads (attention_backward_rows.cuh).
//
// delta is rowsum(P dP) of rows that see living keys of this tile alone: it is at hand, does not read a rounded O, and
// is exact where a row sees one key. Other rows take prepare's rowsum(dO O).
//
// Rows that no sequence owns get zeros: dk and dv here, dq here or by finish. Dead keys (past the end, seen by nobody,
// padding) and rows with lse = -inf are zeros in shared memory and are not read.
#pragma once

#include <cmath>
#include <cstdint>

#include "../accumulator.cuh"
#include "../dropout.cuh"
#include "../kernel_params.h"
#include "../mask.cuh"
#include "../sequence.cuh"
#include "../stray_rows.cuh"
#include "../tile.cuh"
#include "../tile_choice.h"
#include "attention_backward_dq.cuh"
#include "attention_backward_scores.cuh"

namespace fastbert {
namespace cuda {
namespace {

template <class Element, int kHeadDim, int kKeys, int kQueries, bool Dropped>
class Backward {
  static constexpr BackwardTile kTile = backward_tile_of(kHeadDim, kKeys, kQueries);
  static_assert(kTile.keys == kKeys && kTile.queries == kQueries);
  static constexpr int kThreads = kTile.threads(), kWarps = kThreads / 32, kStages = kTile.stages;
  static constexpr int kGroups = kTile.groups, kParts = kTile.parts;
  static constexpr int kWarpKeys = kKeys / kGroups, kM = kWarpKeys / 16;
  static constexpr int kPartQueries = kQueries / kParts;
  static constexpr int kStep = kPartQueries < 32 ? kPartQueries : 32, kSteps = kPartQueries / kStep;
  static constexpr int kColumns = kHeadDim / kParts;
  static constexpr bool kShared = kParts > 1;  // P and dS reach dV and dK through shared memory

  // The block of dQ that a warp computes.
  static constexpr bool kTall = kHeadDim * kQueries / 32 / kWarps % 16 == 0;
  static constexpr int kDqRows = kTall ? 32 : 16;
  static constexpr int kDqAcross = kWarps / (kQueries / kDqRows), kDqColumns = kHeadDim / kDqAcross;

  using KeyTile = SharedTile<kKeys, kHeadDim>;
  using QueryTile = SharedTile<kQueries, kHeadDim>;
  using Slice = SharedTile<kKeys, 32>;  // of P^T or dS^T: 32 queries
  using Scores = Accumulator<kM, kStep / 8>;
  using Gradient = Accumulator<kM, kColumns / 8>;
  using DqBlock = Accumulator<kDqRows / 16, kDqColumns / 8>;
  using Weights = ScoreGradients<kM, kStep / 8, Dropped>;

  static constexpr int kSlices = kQueries / 32;

 public:
  static constexpr int kSharedBytes = 2 * KeyTile::bytes + 2 * kStages * QueryTile::bytes +
                                      (kShared ? 2 : 1) * kSlices * Slice::bytes + kTile.sums_bytes();
  static_assert(kSharedBytes == kTile.shared_bytes(kHeadDim));

  __device__ __forceinline__ static void run(const BackwardKernelParams& params, std::uint32_t shared) {
    const BlockPlace place = place_of(params.grid, params.kv_heads);
    if (place.idle) return;
    if (place.sequence == params.batch) {
      clear_stray_gradients<kThreads>(params, place);
      return;
    }
    const Sequence sequence = sequence_of(params, place.sequence);
    const int first_key = place.tile * kKeys;
    const bool whole = params.dq_sum == nullptr;
    if (first_key >= sequence.seq_k && !whole) return;
    Backward(params, sequence, static_cast<int>(place.head), first_key, whole, shared).differentiate();
  }

 private:
  __device__ __forceinline__ Backward(const BackwardKernelParams& params, const Sequence& sequence, int kv_head,
                                      int first_key, bool whole, std::uint32_t shared)
      : params(params),
        batch(static_cast<int>(sequence.index)),
        first_q(static_cast<int>(sequence.first_q)),
        kv_head(kv_head),
        heads(static_cast<int>(params.heads / params.kv_heads)),
        band(band_of(params, sequence)),
        first_key(first_key),
        whole(whole) {
    key_tile.base = shared;
    value_tile.base = key_tile.base + KeyTile::bytes;
    ring = value_tile.base + KeyTile::bytes;
    gradient_slices = ring + 2 * kStages * QueryTile::bytes;
    weight_slices = gradient_slices + kSlices * Slice::bytes;
    sums = gradient_slices + (kShared ? 2 : 1) * kSlices * Slice::bytes;
  }

  // Without first_k, which is read anew where it is needed: before the walk and after it.
  __device__ __forceinline__ Sequence sequence() const { return {batch, first_q, 0, band.seq_q, band.seq_k}; }
  __device__ __forceinline__ std::int64_t first_k() const { return sequence_of(params, batch).first_k; }

  // A tile of queries of one head: its first query, and the stage of the ring that it lies in.
  struct Item {
    int head, query, stage;
  };

  __device__ __forceinline__ void differentiate() {
    const Range seeing = band.queries(first_key, past_key());
    const Range seen = band.keys(0, band.seq_q);
    const LivingKeys living = living_keys(params, sequence());
    living_bits = WarpKeys<kWarpKeys>::living(living, seen, first_key + group() * kWarpKeys);
    const bool lives = __syncthreads_or(living_bits != 0);

    Range queries{seeing.begin / kQueries * kQueries, seeing.end};
    if (seeing.empty() || (whole && !lives)) queries = {0, 0};
    if (whole) {
      const Range tiles{queries.begin, (queries.end + kQueries - 1) / kQueries * kQueries};
      clear_dq_outside<kThreads>(params, sequence(), kv_head, tiles);
    }
    walked = queries;
    const bool sees = !queries.empty();

    Gradient dk, dv;
    dk.clear();
    dv.clear();
    if (sees && lives) {
      load_keys(living, seen);
      inside = rows_inside(band, living, first_key, first_key + kKeys);
      walk(dk, dv);
    } else if (sees && params.turns != nullptr) {
      pass_turns();
    }
    anew().store_keys(dk, dv);
  }

  __device__ __forceinline__ void store_keys(const Gradient& dk, const Gradient& dv) const {
    const int key = first_key + group() * kWarpKeys;
    const std::int64_t first = row_k(params, sequence_of(params, batch), key);
    const auto rows = [&](void* data) {
      return GradientRows(params, data, first, params.kv_heads, kv_head, part() * kColumns, past_key() - key);
    };
    store_rounded<Element>(dk, params.scale, rows(params.dk));
    store_rounded<Element>(dv, Dropped ? survivor_scale(params) : 1.0f, rows(params.dv));
  }

  __device__ __forceinline__ void load_keys(const LivingKeys& living, Range seen) const {
    const auto alive = [&](int key) { return seen.begin <= key && key < seen.end && living(key); };
    load_tile<kThreads>(key_tile, rows_of(params, params.k, params.k_strides, batch, first_k(), kv_head), first_key,
                        alive);
    load_tile<kThreads>(value_tile, rows_of(params, params.v, params.v_strides, batch, first_k(), kv_head), first_key,
                        alive);
  }

  // All tiles of queries that see the keys. Copies of the next one pass under the products of this one. What says which
  // of its rows to copy is read under the products of dQ before that, where registers are free.
  __device__ __forceinline__ void walk(Gradient& dk, Gradient& dv) {
    Item item{kv_head * heads, walked.begin, 0};
    RowsThatSee<kQueries> rows;
    ask(rows, item);
    begin_copies(rows, item);
    ask(rows, after(item));
    for (; !past(item); item = after(item)) {
      wait_for_copies<0>();
      __syncthreads();  // the tile is there, and everybody is done with the one before
      if constexpr (kStages == 2) anew().begin_copies(rows, after(item));
      anew().differentiate_scores(item, dk, dv);
      __syncthreads();  // dS is there
      if constexpr (kShared) (Dropped ? anew() : *this).add_to_keys(item, dk, dv);
      if constexpr (kStages == 2) (Dropped && !kShared ? *this : anew()).ask(rows, after(after(item)));
      anew().add_dq(item);
      if constexpr (kStages == 1) {
        __syncthreads();
        anew().begin_copies(rows, after(item));
        anew().ask(rows, after(after(item)));
      }
    }
  }

  // The same block. What follows from its numbers is cheap to compute, and is computed anew: kept over the products, it
  // would not fit in registers. Which calls need that was tried out: anew() everywhere, or nowhere, spills.
  __device__ __forceinline__ Backward anew() const {
    Backward block = *this;
    refresh(block.batch, block.first_q, block.first_key, block.band.first, block.band.past, block.band.seq_q,
            block.band.seq_k);
    if constexpr (kShared) refresh(block.ring, block.gradient_slices, block.weight_slices);
    return block;
  }

  __device__ __forceinline__ bool past(const Item& item) const { return item.head >= (kv_head + 1) * heads; }

  __device__ __forceinline__ Item after(const Item& item) const {
    const int query = item.query + kQueries, stage = kStages == 1 ? 0 : item.stage ^ 1;
    return query < walked.end ? Item{item.head, query, stage} : Item{item.head + 1, walked.begin, stage};
  }

  __device__ __forceinline__ void ask(RowsThatSee<kQueries>& rows, const Item& item) const {
    if (!past(item))
      rows.ask(params.lse + lse_index(params, sequence(), item.head, item.query), band.seq_q - item.query);
  }

  // Of the rows of Q and dO that see a key.
  __device__ __forceinline__ void begin_copies(const RowsThatSee<kQueries>& rows, const Item& item) const {
    if (past(item)) return;
    const std::uint64_t seeing = rows.bits();
    const bool given = params.dout != nullptr;
    const GlobalRows q = rows_of(params, params.q, params.q_strides, batch, first_q, item.head);
    load_tile<kThreads>(query_tile(item), q, item.query,
                        [&](int query) { return (seeing >> (query - item.query) & 1) != 0; });
    const GlobalRows dout = given ? rows_of(params, params.dout, params.dout_strides, batch, first_q, item.head) : q;
    load_tile<kThreads>(dout_tile(item), dout, item.query,
                        [&](int query) { return given && (seeing >> (query - item.query) & 1) != 0; });
    commit_copies();
  }

  // The warp's share of S^T, dP^T, P^T and dS^T, step by step.
  __device__ __forceinline__ void differentiate_scores(const Item& item, Gradient& dk, Gradient& dv) const {
    const Range tile{item.query, min(item.query + kQueries, band.seq_q)};
    const WarpKeys<kWarpKeys> warp_keys = keys_of_warp();
    const bool sums_rows = max(inside.begin, tile.begin) < min(inside.end, tile.end);  // of some row
    const int row = group() * kWarpKeys;
    const QueryTile q = query_tile(item), dout = dout_tile(item);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int column = part() * kPartQueries + step * kStep;  // of the tile
      const Range queries{item.query + column, min(item.query + column + kStep, band.seq_q)};
      const int mine = item.query + column + lane() % kStep;
      const bool is_inside = inside.begin <= mine && mine < inside.end;
      QueryRow query = query_row(item.head, mine, is_inside);
      const bool sees = warp_keys.seen(band, queries);
      Weights weights;
      weights.clear();
      if constexpr (Dropped) {
        const Dropout dropout(params, params.rng, batch, item.head);
        weights.kept.draw(dropout, queries.begin, first_key + row);
      }
      if (sees) {
        multiply(weights.p, key_tile.below(row), q.below(column));
        multiply(weights.ds, value_tile.below(row), dout.below(column));
      }
      const bool covered = sees && warp_keys.covered(band, queries);
      weights.weigh(query.lse, params.scale * kLog2E, Dropped ? survivor_scale(params) : 1.0f, covered, band, warp_keys,
                    queries.begin);
      if (sums_rows) {
        const float average = average_of_row(weights, column, step);
        if (is_inside) query.delta = average - query.delta;
      }
      weights.differentiate(query.lse == -INFINITY ? 0.0f : query.delta);
      if constexpr (!kShared) {
        if (sees) {
#pragma unroll
          for (int s = 0; s < kStep / 16; ++s) {
            std::uint32_t a[kM][4];
#pragma unroll
            for (int m = 0; m < kM; ++m) weights.template kept_as_a<Element>(a[m], m, s);
            multiply_rows<Element>(dv, a, dout.below(column + 16 * s), 0, 0);
          }
        }
      }
#pragma unroll
      for (int s = 0; s < kStep / 16; ++s) {
        std::uint32_t a[kM][4];
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          if constexpr (kShared) {
            weights.template kept_as_a<Element>(a[m], m, s);
            store_a(slice_at(weight_slices, column).below(row), a[m], 16 * m, column % 32 + 16 * s);
          }
          as_a<Element>(a[m], weights.ds, m, s);
          store_a(slice_at(gradient_slices, column).below(row), a[m], 16 * m, column % 32 + 16 * s);
        }
        if constexpr (!kShared) {
          if (sees) multiply_rows<Element>(dk, a, q.below(column + 16 * s), 0, 0);
        }
      }
    }
  }

  // lse of one query, and delta; dlse where it sees living keys of this tile alone.
  __device__ __forceinline__ QueryRow query_row(int head, int query, bool is_inside) const {
    QueryRow row{-INFINITY, 0.0f};
    if (query < band.seq_q) {
      const std::int64_t place = lse_index(params, sequence(), head, query);
      const float* const deltas = is_inside ? params.dlse : params.delta;
      row.lse = params.lse[place];
      if (deltas != nullptr) row.delta = deltas[place];
    }
    return row;
  }

  // kWarpKeys rows of a tile of keys times kStep rows of one of queries, transposed.
  __device__ __forceinline__ void multiply(Scores& scores, const KeyTile& of_keys, const QueryTile& of_queries) const {
#pragma unroll
    for (int s = 0; s < kHeadDim / 16; ++s) {
      std::uint32_t a[kM][4];
#pragma unroll
      for (int m = 0; m < kM; ++m) load_a(a[m], of_keys, 16 * m, 16 * s);
      multiply_columns<Element>(scores, a, of_queries, 0, 16 * s);
    }
  }

  // Of one query of the step, the lane's: the average of dP under P, over all keys of the block.
  __device__ __forceinline__ float average_of_row(const Weights& weights, int column, int step) const {
    // The last step has a buffer of its own, an earlier one the slice of dS that only the next step fills.
    const std::uint32_t buffer = step + 1 < kSteps ? gradient_slices + (step + 1) * Slice::bytes : sums;
    constexpr int kRow = kShared ? kQueries : kStep;
    const int first = kShared ? column : 0;
    const auto place = [&](int from, int query) { return buffer + (from * kRow + first + query) * 8; };
    const WeightSums mine = weights.sum_of_keys();
    if (mine.writes) store_shared(place(group(), mine.query), mine.sums);
    __syncthreads();
    const int lane = fresh_thread() % 32;
    float2 total{0.0f, 0.0f};
#pragma unroll
    for (int from = 0; from < kGroups; ++from) {
      const float2 sums = load_shared_pair(place(from, lane % kStep));
      total.x += sums.x;
      total.y += sums.y;
    }
    // The weights add up to 1 but for the rounding of lse. Divided by their sum, it cancels in dP - delta.
    return total.x == 0.0f ? 0.0f : total.y / total.x;
  }

  __device__ __forceinline__ static Slice slice_at(std::uint32_t slices, int query) {
    return {slices + query / 32 * Slice::bytes};
  }

  // dV += kept(P)^T dO and dK += dS^T Q, from shared memory.
  __device__ __forceinline__ void add_to_keys(const Item& item, Gradient& dk, Gradient& dv) const {
    const WarpKeys<kWarpKeys> warp_keys = keys_of_warp();
#pragma unroll
    for (int query = 0; query < kQueries; query += 16) {
      const int first = item.query + query;
      if (!warp_keys.seen(band, Range{first, min(first + 16, band.seq_q)})) continue;
      std::uint32_t a[kM][4];
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        load_a(a[m], slice_at(weight_slices, query).below(group() * kWarpKeys), 16 * m, query % 32);
      }
      multiply_rows<Element>(dv, a, dout_tile(item), query, part() * kColumns);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        load_a(a[m], slice_at(gradient_slices, query).below(group() * kWarpKeys), 16 * m, query % 32);
      }
      multiply_rows<Element>(dk, a, query_tile(item), query, part() * kColumns);
    }
  }

  // dQ of the tile of queries: the warp's block of dS K, over the keys that the queries see.
  __device__ __forceinline__ void add_dq(const Item& item) const {
    const unsigned block = warp();
    const int row = block / kDqAcross * kDqRows, column = block % kDqAcross * kDqColumns;
    const Range visible = band.keys(item.query, min(item.query + kQueries, band.seq_q));
    const int begin = max(visible.begin - first_key, 0) / 16 * 16, end = min(visible.end, past_key()) - first_key;
    DqBlock dq;
    dq.clear();
    const Slice gradients = slice_at(gradient_slices, row);
#pragma unroll 2
    for (int key = begin; key < end; key += 16) {
      std::uint32_t a[kDqRows / 16][4];
#pragma unroll
      for (int m = 0; m < kDqRows / 16; ++m) load_a_transposed(a[m], gradients.below(key), 0, row % 32 + 16 * m);
      multiply_rows<Element>(dq, a, key_tile.below(key), 0, column);
    }
    const int query = item.query + row, rows = band.seq_q - query;
    const std::int64_t first = row_q(params, sequence(), query);
    if (whole) {
      store_rounded<Element>(dq, params.scale,
                             GradientRows(params, params.dq, first, params.heads, item.head, column, rows));
      return;
    }
    const std::int64_t stride = params.heads * params.head_dim;
    float* const to = params.dq_sum + first * stride + item.head * params.head_dim + column;
    const int columns = static_cast<int>(params.head_dim) - column;
    if (params.turns == nullptr) {
      add_to_sums<true>(dq, to, stride, rows, columns);
      return;
    }
    const Turn turn(counter(item), visible, first_key, kKeys);
    if (threadIdx.x == 0) turn.await();
    __syncthreads();
    add_to_sums<false>(dq, to, stride, rows, columns);
    __syncthreads();
    if (threadIdx.x == 0) turn.end();
  }

  __device__ __forceinline__ std::uint32_t* counter(const Item& item) const {
    const int before =
        params.cu_seqlens_q == nullptr ? batch * ((band.seq_q + kQueries - 1) / kQueries) : first_q / kQueries + batch;
    return params.turns + item.head * params.turns_of_head + before + item.query / kQueries;
  }

  // A tile of dead keys adds nothing, but others wait for it.
  __device__ __forceinline__ void pass_turns() const {
    if (threadIdx.x != 0) return;
    for (Item item{kv_head * heads, walked.begin, 0}; !past(item); item = after(item)) {
      const Turn turn(counter(item), band.keys(item.query, min(item.query + kQueries, band.seq_q)), first_key, kKeys);
      turn.await();
      turn.end();
    }
  }

  __device__ __forceinline__ QueryTile query_tile(const Item& item) const {
    return {ring + item.stage * 2 * QueryTile::bytes};
  }
  __device__ __forceinline__ QueryTile dout_tile(const Item& item) const {
    return {ring + (item.stage * 2 + 1) * QueryTile::bytes};
  }

  __device__ __forceinline__ WarpKeys<kWarpKeys> keys_of_warp() const {
    return {first_key + group() * kWarpKeys, living_bits};
  }
  __device__ __forceinline__ int past_key() const { return min(first_key + kKeys, band.seq_k); }  // of the tile

  __device__ __forceinline__ static int lane() { return fresh_thread() % 32; }
  __device__ __forceinline__ static int warp() { return fresh_thread() / 32; }
  __device__ __forceinline__ static int group() { return fresh_thread() / (32 * kParts); }
  __device__ __forceinline__ static int part() { return kParts == 1 ? 0 : static_cast<unsigned>(warp()) % kParts; }

  const BackwardKernelParams& params;
  int batch, first_q;  // the sequence's; 32 bits hold them, and registers are short
  int kv_head, heads;  // query heads that share it
  Band band;
  int first_key;
  Range inside;               // queries that see living keys of this tile alone
  bool whole;                 // the tile has all keys of the sequence
  Range walked;               // queries, from the start of a tile on
  std::uint32_t living_bits;  // of the warp's keys
  KeyTile key_tile, value_tile;
  std::uint32_t ring, gradient_slices, weight_slices, sums;  // shared addresses
};

}  // namespace
}  // namespace cuda
}  // namespace fastbert
