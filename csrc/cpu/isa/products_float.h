// Attention's products in float32 on vectors: what every type is computed in where there are no tiles for it.
//
// Queries are multiplied by the scale as they are packed, so scores come out scaled.
#pragma once

#include "dropout.h"
#include "matmul.h"
#include "pack.h"
#include "scratch.h"
#include "strips.h"

namespace fastbert {
namespace {

template <class V>
struct FloatProducts {
  using Vector = V;
  struct Session {};                     // nothing to set up
  static constexpr int group_rows = 48;  // whole strips of 6 and 12 rows, whole tiles of 16 rows of the dropout bytes
  static constexpr int strip_rows = V::strip_rows;
  static constexpr int panel = 2 * V::lanes;
  static constexpr int block_keys = V::forward_keys;
  static constexpr bool transposed = false;
  static constexpr bool scaled = true;  // scores have been multiplied by the scale, as have the queries of dK

  static int width_of(std::int64_t head_dim) { return static_cast<int>(round_up(head_dim, V::lanes)); }

  // scores[row][column] = rows[row] . keys[column], where a strip sees the column's panel. Panels are outside, so that
  // each stays in the first-level cache while all strips pass.
  static void by_panels(const Strips<FloatProducts>& strips, const float* rows, std::ptrdiff_t pitch, int width,
                        const float* panels, float* scores, std::ptrdiff_t stride) {
    for (int column = strips.first_column; column < strips.past_column; column += panel) {
      for (const Strip& strip : strips) {
        if (column < strip.begin || column >= strip.end) continue;
        multiply_strip<V, false>(strip.rows, {rows + strip.row * pitch, pitch, 1}, panels + column * width, panel,
                                 {scores + strip.row * stride + column, stride}, 2, width);
      }
    }
  }

  // out[row] (+)= sum over the columns a strip sees of weights[row][column] * rows[column].
  template <bool Accumulate>
  static void by_rows(const Strips<FloatProducts>& strips, const float* weights, std::ptrdiff_t stride,
                      const float* rows, std::ptrdiff_t pitch, int width, int count, float* out) {
    for (int column = 0; column < width; column += panel) {
      const int vectors = width - column >= panel ? 2 : 1;
      for (const Strip& strip : strips) {
        if (strip.empty()) continue;
        const int steps = static_cast<int>(lesser(strip.end, count)) - strip.begin;
        multiply_strip<V, Accumulate>(strip.rows, {weights + strip.row * stride + strip.begin, stride, 1},
                                      rows + strip.begin * pitch + column, pitch,
                                      {out + strip.row * pitch + column, pitch}, vectors, steps);
      }
    }
  }

  class Forward {
   public:
    Forward(std::int64_t head_dim, std::int64_t rows, std::int64_t keys, Scratch& scratch)
        : width_(width_of(head_dim)), pitch_(row_pitch(width_)) {
      keys_ = scratch.floats(keys * width_);
      values_ = scratch.floats(keys * pitch_);
      queries_ = scratch.floats(rows * pitch_);
    }

    // Queries to the rows of the piece's buffers from `row` on.
    void load_queries(const Rows& q, Range queries, std::int64_t row, float scale) {
      const int count = static_cast<int>(queries.end - queries.begin);
      pack_rows<V>(q, queries.begin, count, scale, queries_ + row * pitch_, pitch_);
    }

    void load_keys(const Rows& k, const Rows& v, std::int64_t first, int count) {
      pack_panels<V>(k, first, count, keys_);
      pack_rows<V>(v, first, count, 1.0f, values_, pitch_);
    }

    void multiply_keys(const Strips<FloatProducts>& strips, std::int64_t row, float* scores, std::ptrdiff_t stride) {
      by_panels(strips, queries_ + row * pitch_, pitch_, width_, keys_, scores, stride);
    }

    void add_values(const Strips<FloatProducts>& strips, const float* weights, std::ptrdiff_t stride, int count,
                    float* out) {
      by_rows<true>(strips, weights, stride, values_, pitch_, width_, count, out);
    }

   private:
    int width_;
    std::ptrdiff_t pitch_;
    float *keys_, *values_, *queries_;
  };

  class Backward {
   public:
    // Keys and values in three forms and their gradients fit in some 400 KB (AVX-512: 800 KB) together with a tile.
    static std::int64_t chunk(std::int64_t head_dim) {
      return lesser(V::backward_keys, 64 * V::backward_keys / width_of(head_dim) / kTileColumns * kTileColumns);
    }

    Backward(std::int64_t head_dim, std::int64_t keys, Scratch& scratch)
        : width_(width_of(head_dim)), pitch_(row_pitch(width_)) {
      key_panels_ = scratch.floats(keys * width_);
      value_panels_ = scratch.floats(keys * width_);
      key_rows_ = scratch.floats(keys * pitch_);
      dk_ = scratch.floats(keys * pitch_);
      dv_ = scratch.floats(keys * pitch_);
      q_ = scratch.floats(group_rows * pitch_);
      dout_ = scratch.floats(group_rows * pitch_);
    }

    void load_keys(const Rows& k, const Rows& v, std::int64_t first, int count) {
      pack_panels<V>(k, first, count, key_panels_);
      pack_panels<V>(v, first, count, value_panels_);
      pack_rows<V>(k, first, count, 1.0f, key_rows_, pitch_);
      std::memset(dk_, 0, sizeof(float) * static_cast<std::size_t>(count * pitch_));
      std::memset(dv_, 0, sizeof(float) * static_cast<std::size_t>(count * pitch_));
    }

    // The rows 0 to count - 1 of a group.
    void load_queries(const Rows& q, const Rows& dout, int count, float scale) {
      pack_rows<V>(q, 0, count, scale, q_, pitch_);
      pack_rows<V>(dout, 0, count, 1.0f, dout_, pitch_);
    }

    void multiply_keys(const Strips<FloatProducts>& strips, float* scores, float* gradients, std::ptrdiff_t stride) {
      by_panels(strips, q_, pitch_, width_, key_panels_, scores, stride);
      by_panels(strips, dout_, pitch_, width_, value_panels_, gradients, stride);
    }

    // dV += P^T dO, dK += dS^T Q.
    void add_to_keys(const Strips<FloatProducts>& strips, const Band& band, const KeyBlock& block, Range queries,
                     const float* weights, const float* gradients, std::ptrdiff_t stride) {
      add_transposed(strips, band, block, queries, weights, stride, dout_, dv_);
      add_transposed(strips, band, block, queries, gradients, stride, q_, dk_);
    }

    // dQ = dS K, in rows of row_pitch(width).
    void multiply_gradients(const Strips<FloatProducts>& strips, const float* gradients, std::ptrdiff_t stride,
                            int count, float* dq) {
      by_rows<false>(strips, gradients, stride, key_rows_, pitch_, width_, count, dq);
    }

    void store_keys(DType dtype, int count, int dim, float dk_factor, void* dk, float dv_factor, void* dv,
                    std::int64_t row_stride) {
      unpack_rows<V>(dtype, {dk_, pitch_, count, dim, dk_factor, nullptr, dk, row_stride});
      unpack_rows<V>(dtype, {dv_, pitch_, count, dim, dv_factor, nullptr, dv, row_stride});
    }

   private:
    // out[key] += sum over the rows that see the key of weights[row][key] * rows[row]. Read across its rows, the tile
    // of weights needs no transposed copy.
    void add_transposed(const Strips<FloatProducts>& strips, const Band& band, const KeyBlock& block, Range queries,
                        const float* weights, std::ptrdiff_t stride, const float* rows, float* out) const {
      const int end = static_cast<int>(lesser(strips.past_column, block.count));
      for (int column = 0; column < width_; column += panel) {
        const int vectors = width_ - column >= panel ? 2 : 1;
        for (int key = strips.first_column; key < end; key += strip_rows) {
          const int keys = static_cast<int>(lesser(strip_rows, end - key));
          const Range seeing = band.queries(block.first + key, block.first + key + keys);
          const int first = static_cast<int>(greater(seeing.begin - queries.begin, 0));
          const int past = static_cast<int>(lesser(seeing.end, queries.end) - queries.begin);
          if (first >= past) continue;
          multiply_strip<V, true>(keys, {weights + first * stride + key, 1, stride}, rows + first * pitch_ + column,
                                  pitch_, {out + key * pitch_ + column, pitch_}, vectors, past - first);
        }
      }
    }

    int width_;
    std::ptrdiff_t pitch_;
    float *key_panels_, *value_panels_, *key_rows_, *dk_, *dv_, *q_, *dout_;
  };
};

}  // namespace
}  // namespace fastbert
