// The backward of attention, tile by tile (Dao et al., FlashAttention, 2022, appendix B).
//
//   S  = scale Q K^T,  P = e^(S - lse)           S in the forward's own bits, so a row's only key has P = 1
//   dP = kept(s dO V^T)                          s is the survivors' scale
//   dS = P (dP - delta + dlse)                   delta = rowsum(P dP) = rowsum(dO O)
//   dV += s kept(P)^T dO,  dK += scale dS^T Q,  dQ = scale dS K
//
// A piece packs its keys and values once and meets all queries that see them, group by group. It owns its rows of dK
// and dV. dQ is complete where the piece holds all keys of its sequence; the pieces of longer ones add to dQ in
// float32, one after the other, in the order of the keys: the sums are the same bits for any number of threads.
//
// delta is rowsum(P dP) for rows that see keys of this piece alone: it is at hand, does not read a rounded O, and is
// exact where a row sees one key. Rows that see more take rowsum(dO O).
#pragma once

#include "attention_kernels.h"
#include "backward_group.h"
#include "scratch.h"
#include "softmax.h"
#include "strips.h"
#include "turns.h"

namespace fastbert {
namespace {

template <class Products>
class Backward {
  using V = typename Products::Vector;

 public:
  static std::int64_t chunk(std::int64_t head_dim) { return Products::Backward::chunk(head_dim); }

  static std::size_t scratch_bytes(std::int64_t head_dim, std::int64_t seq_k) {
    Scratch measure(nullptr);
    Backward(head_dim, lesser(seq_k, chunk(head_dim)), measure);
    return measure.used();
  }

  static void run(const BackwardPiece& piece, void* memory, const PhiloxStreamKernels& philox) {
    [[maybe_unused]] const typename Products::Session session{};
    Scratch scratch(memory);
    Backward backward(piece.params->head_dim, piece.keys, scratch);
    backward.run(piece, philox);
  }

 private:
  Backward(std::int64_t head_dim, std::int64_t keys, Scratch& scratch)
      : dim(static_cast<int>(head_dim)),
        columns(round_up(keys, kTileColumns)),
        stride(row_pitch(columns)),
        pitch(row_pitch(Products::width_of(head_dim))),
        products(head_dim, columns, scratch) {
    dq = scratch.floats(Products::group_rows * pitch);
    if constexpr (!kTransposed) {
      scores = scratch.floats(Products::group_rows * stride);
      gradients = scratch.floats(Products::group_rows * stride);
      bytes = scratch.bytes(Products::group_rows * stride);
    }
    alive = scratch.bytes(columns);
  }

  // Whether the products do all from scores to gradients themselves, keys by queries.
  static constexpr bool kTransposed = Products::transposed;
  using Group = BackwardGroup<Products::group_rows>;

  // The last living key before the piece and the first one after it, -1 and seq_k where there are none. A row that sees
  // neither sees no key of another piece.
  struct Neighbours {
    std::int64_t before, after;

    Neighbours(const BackwardPiece& piece, const std::uint8_t* living)
        : before(piece.first_key - 1), after(piece.first_key + piece.keys) {
      if (living == nullptr) return;
      while (before >= 0 && living[before] == 0) --before;
      while (after < piece.sequence.seq_k && living[after] == 0) ++after;
    }

    bool unseen(Range keys) const { return before < keys.begin && keys.end <= after; }
  };

  void run(const BackwardPiece& piece, const PhiloxStreamKernels& philox) {
    const AttentionBackwardParams& params = *piece.params;
    const Sequence& sequence = piece.sequence;
    const Band band = band_of(params, sequence);
    const KeyBlock block = load_keys(piece, band);
    const Neighbours neighbours(piece, living_keys(params, sequence));
    const std::int64_t heads_of_key = params.heads / params.kv_heads;
    const Range keys{piece.first_key, piece.first_key + piece.keys};
    for (std::int64_t head = piece.kv_head * heads_of_key; head < (piece.kv_head + 1) * heads_of_key; ++head) {
      if (piece.first_key == 0) clear_blind_groups(params, sequence, band, head);
      const Range seeing = band.queries(keys.begin, keys.end);
      for (std::int64_t first = group_start(seeing.begin); first < seeing.end; first += Products::group_rows) {
        const Range queries{first, lesser(first + Products::group_rows, sequence.seq_q)};
        const Range visible = band.keys(queries.begin, queries.end);
        Group group;
        load_queries(piece, band, neighbours, head, queries, group);
        prefetch_queries(params, sequence, head, {queries.end, lesser(queries.end + Products::group_rows, seeing.end)});
        if constexpr (kTransposed) {
          products.differentiate(params, sequence, band, block, group, dq, pitch);
        } else if (params.dropout_threshold > 0) {
          fill_bytes(philox, params, sequence, head, first, group.rows, piece.first_key, piece.keys, bytes, stride);
          differentiate<true>(piece, band, block, group);
        } else {
          differentiate<false>(piece, band, block, group);
        }
        add_dq(piece, group, visible);
      }
    }
    store_keys(piece);
  }

  KeyBlock load_keys(const BackwardPiece& piece, const Band& band) {
    const AttentionBackwardParams& params = *piece.params;
    const Sequence& sequence = piece.sequence;
    const Range seen = band.keys(0, sequence.seq_q);
    const std::uint8_t* living = living_keys(params, sequence);
    products.load_keys(key_rows(params, params.k, params.k_strides, sequence, piece.kv_head, seen, living),
                       key_rows(params, params.v, params.v_strides, sequence, piece.kv_head, seen, living),
                       piece.first_key, piece.keys);
    return {piece.first_key, piece.keys, whole_panels<Products::panel>(living, piece.first_key, piece.keys, alive)};
  }

  void load_queries(const BackwardPiece& piece, const Band& band, const Neighbours& neighbours, std::int64_t head,
                    Range queries, Group& group) {
    const AttentionBackwardParams& params = *piece.params;
    const Sequence& sequence = piece.sequence;
    group.head = head;
    group.queries = queries;
    group.rows = static_cast<int>(queries.end - queries.begin);
    const std::int64_t place = lse_index(params, sequence, head, queries.begin);
    // Rows that see no key are packed as zeros: whatever they and their gradients hold reaches nothing.
    for (int row = group.rows; row < Products::group_rows; ++row) {
      group.lse[row] = -kMinusInfinity;
      group.delta[row] = 0.0f;
      group.sums_weights[row] = 0;
    }
    std::uint8_t sees[Products::group_rows], sees_others[Products::group_rows];
    bool all_see = true, any_sees_others = false, all_see_others = true;
    for (int row = 0; row < group.rows; ++row) {
      const float lse = params.lse[place + row];
      sees[row] = lse != kMinusInfinity;
      group.lse[row] = sees[row] ? lse : -kMinusInfinity;
      group.delta[row] = params.dlse == nullptr || !sees[row] ? 0.0f : -params.dlse[place + row];
      group.sums_weights[row] = neighbours.unseen(band.keys(queries.begin + row));
      sees_others[row] = sees[row] != 0 && group.sums_weights[row] == 0;
      all_see &= sees[row] != 0;
      any_sees_others |= sees_others[row] != 0;
      all_see_others &= sees_others[row] != 0;
    }
    const auto rows_of = [&](const void* data, const AttentionStrides& strides, bool given,
                             const std::uint8_t* living) {
      const std::int64_t first = offset_of(strides, sequence, sequence.first_q, queries.begin, head);
      const Range live{0, given ? group.rows : 0};
      return Rows{params.dtype, at(params.dtype, data, first), strides.row, dim, live, living};
    };
    const bool given = params.dout != nullptr;
    const std::uint8_t* seeing = all_see ? nullptr : sees;
    products.load_queries(rows_of(params.q, params.q_strides, true, seeing),
                          rows_of(params.dout, params.dout_strides, given, seeing), group.rows, params.scale);
    if (any_sees_others) {
      const std::int64_t row = params.heads * params.head_dim;
      const AttentionStrides packed{params.cu_seqlens_q == nullptr ? params.seq_q * row : 0, row, params.head_dim};
      const std::uint8_t* seeing_others = all_see_others ? nullptr : sees_others;
      add_dot_products<V>(rows_of(params.dout, params.dout_strides, given, seeing_others),
                          rows_of(params.out, packed, true, seeing_others), group.rows, group.delta);
    }
  }

  // What the next group reads, to the second-level cache.
  static void prefetch_queries(const AttentionBackwardParams& params, const Sequence& sequence, std::int64_t head,
                               Range queries) {
    const std::int64_t row_bytes = params.head_dim * (params.dtype == DType::float32 ? 4 : 2);
    const std::int64_t out_row = params.heads * params.head_dim;
    const AttentionStrides packed{params.cu_seqlens_q == nullptr ? params.seq_q * out_row : 0, out_row,
                                  params.head_dim};
    const auto prefetch_tensor = [&](const void* data, const AttentionStrides& strides) {
      for (std::int64_t row = queries.begin; row < queries.end && data != nullptr; ++row) {
        const std::int64_t place = offset_of(strides, sequence, sequence.first_q, row, head);
        prefetch_far(at(params.dtype, data, place), row_bytes);
      }
    };
    prefetch_tensor(params.q, params.q_strides);
    prefetch_tensor(params.dout, params.dout_strides);
    prefetch_tensor(params.out, packed);
  }

  template <bool Dropped>
  void differentiate(const BackwardPiece& piece, const Band& band, const KeyBlock& block, const Group& group) {
    constexpr bool kScaled = Products::scaled;
    const AttentionBackwardParams& params = *piece.params;
    const Strips<Products> strips(band, group.queries, block);
    products.multiply_keys(strips, scores, gradients, stride);
    for (const Strip& strip : strips) {
      for (int row = strip.row; row < strip.row + strip.rows; ++row) {
        float *row_scores = scores + row * stride, *row_gradients = gradients + row * stride;
        clear_outside(strips, strip, row_scores);
        clear_outside(strips, strip, row_gradients);
        if (strip.empty()) continue;
        const RowMask mask = row_mask(band, group.queries.begin + row, block);
        const KeptBytes kept{bytes + row * stride, params.dropout_threshold};
        const auto weigh =
            strip.unmasked ? weigh_row<V, kScaled, false, Dropped> : weigh_row<V, kScaled, true, Dropped>;
        const float average =
            weigh(row_scores, row_gradients, strip.begin, strip.end, params.scale, group.lse[row], mask, kept);
        const float delta = group.sums_weights[row] != 0 ? average + group.delta[row] : group.delta[row];
        differentiate_row<V, Dropped>(row_scores, row_gradients, strip.begin, strip.end, delta, kept);
      }
    }
    products.add_to_keys(strips, band, block, group.queries, scores, gradients, stride);
    for (const Strip& strip : strips) {
      if (strip.empty()) {
        std::memset(dq + strip.row * pitch, 0, sizeof(float) * static_cast<std::size_t>(strip.rows * pitch));
      }
    }
    products.multiply_gradients(strips, gradients, stride, block.count, dq);
  }

  // A strip's columns that only other strips of the tile see.
  static void clear_outside(const Strips<Products>& strips, const Strip& strip, float* row) {
    const int begin = strip.empty() ? strips.past_column : strip.begin;
    const int end = strip.empty() ? strips.past_column : strip.end;
    for (int column = strips.first_column; column < begin; column += V::lanes) V::store(row + column, V::zero());
    for (int column = end; column < strips.past_column; column += V::lanes) V::store(row + column, V::zero());
  }

  void add_dq(const BackwardPiece& piece, const Group& group, Range visible) {
    const AttentionBackwardParams& params = *piece.params;
    const std::int64_t row_stride = params.heads * params.head_dim;
    const std::int64_t place =
        row_q(params, piece.sequence, group.queries.begin) * row_stride + group.head * params.head_dim;
    if (!piece.whole) {
      const std::int64_t size = chunk(params.head_dim);
      const std::int64_t turn = piece.first_key / size - visible.begin / size;
      const bool last = visible.end <= piece.first_key + size;
      std::uint32_t* done = piece.turns->counter(params, piece.sequence, group.head, group.queries.begin);
      wait_for_turn(done, static_cast<std::uint32_t>(turn));
      float* total = piece.turns->dq + place;
      for (int row = 0; row < group.rows; ++row) {
        if (row + kRowsAhead < group.rows) prefetch<true>(total + (row + kRowsAhead) * row_stride, dim * 4);
        add_row(total + row * row_stride, dq + row * pitch, turn > 0);
      }
      if (last) {  // back to a buffer whose rows end in whole vectors
        for (int row = 0; row < group.rows; ++row) {
          std::memcpy(dq + row * pitch, total + row * row_stride, sizeof(float) * static_cast<std::size_t>(dim));
        }
      }
      end_turn(done);
      if (!last) return;
    }
    unpack_rows<V>(params.dtype,
                   {dq, pitch, group.rows, dim, params.scale, nullptr, at(params.dtype, params.dq, place), row_stride});
  }

  void add_row(float* total, const float* row, bool add) const {
    const int whole = dim / V::lanes * V::lanes;
    for (int column = 0; column < whole; column += V::lanes) {
      const typename V::Float x = V::load(row + column);
      V::store(total + column, add ? V::load(total + column) + x : x);
    }
    for (int column = whole; column < dim; ++column) total[column] = add ? total[column] + row[column] : row[column];
  }

  static std::int64_t group_start(std::int64_t query) { return query / Products::group_rows * Products::group_rows; }

  // Zeros in dQ of the groups that no piece adds to, because none of their rows sees a key.
  void clear_blind_groups(const AttentionBackwardParams& params, const Sequence& sequence, const Band& band,
                          std::int64_t head) {
    const Range seeing = band.queries(0, sequence.seq_k);
    const std::int64_t row_stride = params.heads * params.head_dim;
    std::memset(dq, 0, sizeof(float) * static_cast<std::size_t>(Products::group_rows * pitch));
    for (std::int64_t first = 0; first < sequence.seq_q; first += Products::group_rows) {
      const std::int64_t past = lesser(first + Products::group_rows, sequence.seq_q);
      if (first < seeing.end && past > seeing.begin) continue;
      const std::int64_t place = row_q(params, sequence, first) * row_stride + head * params.head_dim;
      unpack_rows<V>(params.dtype, {dq, pitch, static_cast<int>(past - first), dim, 1.0f, nullptr,
                                    at(params.dtype, params.dq, place), row_stride});
    }
  }

  void store_keys(const BackwardPiece& piece) {
    const AttentionBackwardParams& params = *piece.params;
    const std::int64_t row_stride = params.kv_heads * params.head_dim;
    const std::int64_t place =
        row_k(params, piece.sequence, piece.first_key) * row_stride + piece.kv_head * params.head_dim;
    products.store_keys(params.dtype, piece.keys, dim, Products::scaled ? 1.0f : params.scale,
                        at(params.dtype, params.dk, place), survivor_scale(params.dropout_threshold),
                        at(params.dtype, params.dv, place), row_stride);
  }

  int dim;
  std::int64_t columns;          // keys, rounded up to whole tiles of random bytes
  std::ptrdiff_t stride, pitch;  // of rows of scores, of rows of dQ
  typename Products::Backward products;
  float *dq, *scores, *gradients;
  std::uint8_t *bytes, *alive;
};

}  // namespace
}  // namespace fastbert
