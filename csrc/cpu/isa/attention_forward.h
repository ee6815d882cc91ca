// The forward of attention, tile by tile.
//
//   S = scale Q K^T        scores of a group of queries against a block of keys
//   P = e^(S - m)          with the running maximum m of every row; masked scores are deselected
//   O = O e^(m' - m) + kept(P) V
//   out = O / (sum of P * probability of survival),   lse = m + ln(sum of P)
//
// A piece packs every block of keys and values once, for all of its query rows. Strips and panels of scores that nobody
// sees are not computed. Scores, weights and sums are float32; Products decides what the two products take.
#pragma once

#include "attention_kernels.h"
#include "pack.h"
#include "scratch.h"
#include "softmax.h"
#include "strips.h"

namespace fastbert {
namespace {

template <class Products>
class Forward {
  using V = typename Products::Vector;

 public:
  static std::size_t scratch_bytes(std::int64_t head_dim, std::int64_t rows, std::int64_t seq_k) {
    Scratch measure(nullptr);
    Forward(head_dim, rows, seq_k, measure);
    return measure.used();
  }

  static void run(const ForwardPiece& piece, void* memory, const PhiloxStreamKernels& philox) {
    const std::int64_t rows = piece.heads * round_up(piece.queries, Products::group_rows);
    [[maybe_unused]] const typename Products::Session session{};
    Scratch scratch(memory);
    Forward forward(piece.params->head_dim, rows, piece.sequence.seq_k, scratch);
    forward.run(piece, philox);
  }

 private:
  Forward(std::int64_t head_dim, std::int64_t rows, std::int64_t seq_k, Scratch& scratch)
      : dim(static_cast<int>(head_dim)),
        width(Products::width_of(head_dim)),
        block_keys(static_cast<int>(lesser(Products::block_keys, round_up(seq_k, kTileColumns)))),
        stride(row_pitch(block_keys)),
        pitch(row_pitch(width)),
        products(head_dim, rows, block_keys, scratch) {
    out = scratch.floats(rows * pitch);
    largest = scratch.floats(rows);
    sums = scratch.floats(rows);
    scores = scratch.floats(Products::group_rows * stride);
    bytes = scratch.bytes(Products::group_rows * stride);
    alive = scratch.bytes(block_keys);
  }

  // Rows of one head that travel together; `row` is where they lie in the piece's buffers.
  struct Group {
    std::int64_t head;
    Range queries;
    std::int64_t row;
    int rows;
  };

  template <class Function>
  static void for_each_group(const ForwardPiece& piece, const Function& function) {
    const std::int64_t rows_of_head = round_up(piece.queries, Products::group_rows);
    for (int head = 0; head < piece.heads; ++head) {
      for (std::int64_t row = 0; row < piece.queries; row += Products::group_rows) {
        const std::int64_t first = piece.first_query + row, rows = lesser(Products::group_rows, piece.queries - row);
        function(
            Group{piece.first_head + head, {first, first + rows}, head * rows_of_head + row, static_cast<int>(rows)});
      }
    }
  }

  void run(const ForwardPiece& piece, const PhiloxStreamKernels& philox) {
    const AttentionForwardParams& params = *piece.params;
    const Sequence& sequence = piece.sequence;
    const Band band = band_of(params, sequence);
    const Range seen = band.keys(piece.first_query, piece.first_query + piece.queries);
    for_each_group(piece, [&](const Group& group) { load(params, sequence, group); });

    const std::int64_t kv_head = piece.first_head / (params.heads / params.kv_heads);
    const std::uint8_t* living = living_keys(params, sequence);
    const Rows k = key_rows(params, params.k, params.k_strides, sequence, kv_head, seen, living);
    const Rows v = key_rows(params, params.v, params.v_strides, sequence, kv_head, seen, living);
    for (std::int64_t first = seen.begin / kTileColumns * kTileColumns; first < seen.end; first += block_keys) {
      const int count = static_cast<int>(lesser(block_keys, seen.end - first));
      products.load_keys(k, v, first, count);
      const KeyBlock block{first, count, whole_panels<Products::panel>(living, first, count, alive)};
      for_each_group(piece, [&](const Group& group) {
        const Range visible = band.keys(group.queries.begin, group.queries.end);
        if (visible.begin >= first + count || visible.end <= first) return;
        if (params.dropout_threshold > 0) {
          fill_bytes(philox, params, sequence, group.head, group.queries.begin, group.rows, first, count, bytes,
                     stride);
          attend<true>(params, band, group, block);
        } else {
          attend<false>(params, band, group, block);
        }
      });
    }
    for_each_group(piece, [&](const Group& group) { finish(params, sequence, group); });
  }

  void load(const AttentionForwardParams& params, const Sequence& sequence, const Group& group) {
    const Rows q{params.dtype,
                 at(params.dtype, params.q, offset_of(params.q_strides, sequence, sequence.first_q, 0, group.head)),
                 params.q_strides.row,
                 dim,
                 group.queries,
                 nullptr};
    products.load_queries(q, group.queries, group.row, params.scale);
    std::memset(out + group.row * pitch, 0, sizeof(float) * static_cast<std::size_t>(group.rows * pitch));
    for (int row = 0; row < group.rows; ++row) {
      largest[group.row + row] = kMinusInfinity;
      sums[group.row + row] = 0.0f;
    }
  }

  // One group of queries against one block of keys.
  template <bool Dropped>
  void attend(const AttentionForwardParams& params, const Band& band, const Group& group, const KeyBlock& block) {
    constexpr bool kScaled = Products::scaled;
    const Strips<Products> strips(band, group.queries, block);
    products.multiply_keys(strips, group.row, scores, stride);
    for (const Strip& strip : strips) {
      if (strip.empty()) continue;
      for (int row = strip.row; row < strip.row + strip.rows; ++row) {
        const RowMask mask = row_mask(band, group.queries.begin + row, block);
        const KeptBytes kept{bytes + row * stride, params.dropout_threshold};
        const RowState state{largest + group.row + row, sums + group.row + row};
        const auto softmax =
            strip.unmasked ? softmax_row<V, kScaled, false, Dropped> : softmax_row<V, kScaled, true, Dropped>;
        const float correction =
            softmax(scores + row * stride, strip.begin, strip.end, params.scale, mask, kept, state);
        if (correction != 1.0f) scale_row(out + (group.row + row) * pitch, correction);
      }
    }
    products.add_values(strips, scores, stride, block.count, out + group.row * pitch);
  }

  void scale_row(float* row, float factor) const {
    for (int column = 0; column < width; column += V::lanes) {
      V::store(row + column, V::load(row + column) * V::broadcast(factor));
    }
  }

  void finish(const AttentionForwardParams& params, const Sequence& sequence, const Group& group) {
    const float survivors = survivor_scale(params.dropout_threshold);
    float* lse = params.lse + lse_index(params, sequence, group.head, group.queries.begin);
    for (int row = 0; row < group.rows; ++row) {
      float& sum = sums[group.row + row];
      const bool blind = sum == 0.0f;  // the row sees no key
      lse[row] = blind ? kMinusInfinity : largest[group.row + row] + __builtin_logf(sum);
      sum = blind ? 0.0f : survivors / sum;
    }
    const std::int64_t row_stride = params.heads * params.head_dim;
    const std::int64_t first = row_q(params, sequence, group.queries.begin) * row_stride + group.head * params.head_dim;
    unpack_rows<V>(params.dtype, {out + group.row * pitch, pitch, group.rows, dim, 1.0f, sums + group.row,
                                  at(params.dtype, params.out, first), row_stride});
  }

  int dim, width;                // head_dim, and rounded up as the products want it
  int block_keys;                // of one block
  std::ptrdiff_t stride, pitch;  // of rows of scores, of rows of out
  typename Products::Forward products;
  float *out, *largest, *sums, *scores;
  std::uint8_t *bytes, *alive;
};

}  // namespace
}  // namespace fastbert
