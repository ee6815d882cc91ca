// Rows of float32, bfloat16 or float16 into float32 operands of matmul.h, and back.
//
// Dead rows (beyond the sequence, seen by nobody, or masked as padding) are packed as zeros without being read, so
// that whatever they hold reaches nothing.
#pragma once

#include <cstring>

#include "../attention_geometry.h"
#include "scratch.h"

namespace fastbert {
namespace {

// Rows of head_dim numbers somewhere in a tensor.
struct Rows {
  DType dtype;
  const void* data;     // the row with index 0
  std::int64_t stride;  // in elements
  int columns;
  Range live;                  // indices of the rows that may be read
  const std::uint8_t* living;  // by index: nonzero = alive; null = all in `live` are

  bool alive(std::int64_t row) const {
    return row >= live.begin && row < live.end && (living == nullptr || living[row] != 0);
  }
  bool all_alive(std::int64_t first, std::int64_t count) const {
    return first >= live.begin && first + count <= live.end && living == nullptr;
  }
};

template <class V, DType dtype>
inline __attribute__((always_inline)) typename V::Float load_as(const void* data, std::int64_t index) {
  if constexpr (dtype == DType::float32) return V::load(static_cast<const float*>(data) + index);
  if constexpr (dtype == DType::bfloat16) return V::load_bfloat16(static_cast<const std::uint16_t*>(data) + index);
  if constexpr (dtype == DType::float16) return V::load_float16(static_cast<const std::uint16_t*>(data) + index);
}

// The last, incomplete vector of a row; missing lanes are zero.
template <class V, DType dtype>
inline typename V::Float load_tail_as(const void* data, std::int64_t index, int count) {
  constexpr std::size_t size = dtype == DType::float32 ? 4 : 2;
  alignas(64) unsigned char buffer[V::lanes * size] = {};
  std::memcpy(buffer, static_cast<const unsigned char*>(data) + index * size, static_cast<std::size_t>(count) * size);
  return load_as<V, dtype>(buffer, 0);
}

template <class V, DType dtype>
inline void store_as(void* data, std::int64_t index, typename V::Float x) {
  if constexpr (dtype == DType::float32) V::store(static_cast<float*>(data) + index, x);
  if constexpr (dtype == DType::bfloat16) V::store_bfloat16(static_cast<std::uint16_t*>(data) + index, x);
  if constexpr (dtype == DType::float16) V::store_float16(static_cast<std::uint16_t*>(data) + index, x);
}

// Calls function.run<dtype>(): a dtype known at run time becomes one known to the compiler.
template <class Function>
inline void with_dtype(DType dtype, const Function& function) {
  switch (dtype) {
    case DType::float32:
      return function.template run<DType::float32>();
    case DType::bfloat16:
      return function.template run<DType::bfloat16>();
    case DType::float16:
      return function.template run<DType::float16>();
  }
}

// Rows of a tensor lie pages apart, where the processor's own prefetcher does not follow: they are asked for ahead.
constexpr int kRowsAhead = 8;

template <bool Written>
inline void prefetch(const void* data, std::int64_t bytes) {
  constexpr std::int64_t line = 64;
  for (std::int64_t byte = 0; byte < bytes; byte += line) {
    __builtin_prefetch(static_cast<const char*>(data) + byte, Written);
  }
}

// To the second-level cache, for later.
inline void prefetch_far(const void* data, std::int64_t bytes) {
  constexpr std::int64_t line = 64;
  for (std::int64_t byte = 0; byte < bytes; byte += line) {
    __builtin_prefetch(static_cast<const char*>(data) + byte, 0, 2);
  }
}

template <DType dtype>
inline void prefetch_row(const Rows& rows, std::int64_t row) {
  constexpr std::int64_t size = dtype == DType::float32 ? 4 : 2;
  prefetch<false>(static_cast<const char*>(rows.data) + row * rows.stride * size, rows.columns * size);
}

// `count` rows from `first` on to out[row][stride], multiplied by `factor`; columns are filled up to a whole vector.
template <class V>
struct PackRows {
  const Rows& rows;
  std::int64_t first;
  int count;
  float factor;
  float* out;
  std::ptrdiff_t stride;

  template <DType dtype>
  void run() const {
    const typename V::Float multiplier = V::broadcast(factor);
    const int whole = rows.columns / V::lanes * V::lanes, rest = rows.columns - whole;
    for (int row = 0; row < count; ++row) {
      float* destination = out + row * stride;
      if (row + kRowsAhead < count) prefetch_row<dtype>(rows, first + row + kRowsAhead);
      if (!rows.alive(first + row)) {
        for (int column = 0; column < rows.columns; column += V::lanes) V::store(destination + column, V::zero());
        continue;
      }
      const std::int64_t source = (first + row) * rows.stride;
      for (int column = 0; column < whole; column += V::lanes) {
        V::store(destination + column, load_as<V, dtype>(rows.data, source + column) * multiplier);
      }
      if (rest > 0) V::store(destination + whole, load_tail_as<V, dtype>(rows.data, source + whole, rest) * multiplier);
    }
  }
};

template <class V>
void pack_rows(const Rows& rows, std::int64_t first, int count, float factor, float* out, std::ptrdiff_t stride) {
  with_dtype(rows.dtype, PackRows<V>{rows, first, count, factor, out, stride});
}

// `count` rows from `first` on, transposed, to panels of 2 vectors: out[panel][column][row in panel]. The last panel is
// filled up with zeros.
template <class V>
struct PackPanels {
  const Rows& rows;
  std::int64_t first;
  int count;
  float* out;

  template <DType dtype>
  void run() const {
    constexpr int width = 2 * V::lanes;
    const int padded = static_cast<int>(round_up(rows.columns, V::lanes));
    for (int row = 0; row < count; row += V::lanes) {
      float* destination = out + row / width * padded * width + row % width;
      for (int ahead = row + V::lanes; ahead < lesser(row + 2 * V::lanes, count); ++ahead) {
        prefetch_row<dtype>(rows, first + ahead);
      }
      for (int column = 0; column < rows.columns; column += V::lanes) {
        typename V::Float block[V::lanes];
        const int present = static_cast<int>(lesser(V::lanes, rows.columns - column));
        for (int lane = 0; lane < V::lanes; ++lane) {
          const std::int64_t index = first + row + lane;
          if (row + lane >= count || !rows.alive(index)) {
            block[lane] = V::zero();
          } else if (present == V::lanes) {
            block[lane] = load_as<V, dtype>(rows.data, index * rows.stride + column);
          } else {
            block[lane] = load_tail_as<V, dtype>(rows.data, index * rows.stride + column, present);
          }
        }
        V::transpose(block);
        for (int lane = 0; lane < V::lanes; ++lane) V::store(destination + (column + lane) * width, block[lane]);
      }
    }
    if (count % width != 0 && count % width <= V::lanes) {  // the second vector of the last panel
      float* destination = out + count / width * padded * width + V::lanes;
      for (int column = 0; column < padded; ++column) V::store(destination + column * width, V::zero());
    }
  }
};

template <class V>
void pack_panels(const Rows& rows, std::int64_t first, int count, float* out) {
  with_dtype(rows.dtype, PackPanels<V>{rows, first, count, out});
}

// in[row][stride] times `factor` (one for each row where `factors` is given) to rows of `columns` numbers that are
// `out_stride` elements apart.
template <class V>
struct UnpackRows {
  const float* in;
  std::ptrdiff_t stride;
  int count, columns;
  float factor;
  const float* factors;
  void* out;
  std::int64_t out_stride;

  template <DType dtype>
  void run() const {
    constexpr std::int64_t size = dtype == DType::float32 ? 4 : 2;
    const int whole = columns / V::lanes * V::lanes, rest = columns - whole;
    for (int row = 0; row < count; ++row) {
      if (row + kRowsAhead < count) {
        prefetch<true>(static_cast<char*>(out) + (row + kRowsAhead) * out_stride * size, columns * size);
      }
      const typename V::Float multiplier = V::broadcast(factors == nullptr ? factor : factors[row]);
      for (int column = 0; column < whole; column += V::lanes) {
        store_as<V, dtype>(out, row * out_stride + column, V::load(in + row * stride + column) * multiplier);
      }
      if (rest > 0) {
        alignas(64) unsigned char buffer[V::lanes * size];
        store_as<V, dtype>(buffer, 0, V::load(in + row * stride + whole) * multiplier);
        std::memcpy(static_cast<unsigned char*>(out) + (row * out_stride + whole) * size, buffer,
                    static_cast<std::size_t>(rest * size));
      }
    }
  }
};

template <class V>
void unpack_rows(DType dtype, const UnpackRows<V>& task) {
  with_dtype(dtype, task);
}

// sums[row] += a[row] . b[row]; dead rows of either add nothing.
template <class V>
struct AddDotProducts {
  const Rows &a, &b;
  int count;
  float* sums;

  template <DType dtype>
  void run() const {
    const int whole = a.columns / V::lanes * V::lanes, rest = a.columns - whole;
    for (int row = 0; row < count; ++row) {
      if (!a.alive(row) || !b.alive(row)) continue;
      const std::int64_t from_a = row * a.stride, from_b = row * b.stride;
      typename V::Float sum = V::zero();
      for (int column = 0; column < whole; column += V::lanes) {
        sum = V::multiply_add(load_as<V, dtype>(a.data, from_a + column), load_as<V, dtype>(b.data, from_b + column),
                              sum);
      }
      if (rest > 0) {
        sum = V::multiply_add(load_tail_as<V, dtype>(a.data, from_a + whole, rest),
                              load_tail_as<V, dtype>(b.data, from_b + whole, rest), sum);
      }
      sums[row] += V::sum(sum);
    }
  }
};

template <class V>
void add_dot_products(const Rows& a, const Rows& b, int count, float* sums) {
  with_dtype(a.dtype, AddDotProducts<V>{a, b, count, sums});
}

// The keys or values of one head of a sequence, of which `seen` may be read.
inline Rows key_rows(const AttentionParams& params, const void* data, const AttentionStrides& strides,
                     const Sequence& sequence, std::int64_t kv_head, Range seen, const std::uint8_t* living) {
  return {params.dtype, at(params.dtype, data, offset_of(strides, sequence, sequence.first_k, 0, kv_head)),
          strides.row,  static_cast<int>(params.head_dim),
          seen,         living};
}

// The padding mask of a sequence's keys, or null.
inline const std::uint8_t* living_keys(const AttentionParams& params, const Sequence& sequence) {
  return params.key_padding_mask == nullptr ? nullptr : params.key_padding_mask + sequence.index * params.seq_k;
}

// Of that mask the part of a block, in a buffer from which whole panels may be read.
template <int Panel>
const std::uint8_t* whole_panels(const std::uint8_t* living, std::int64_t first, int count, std::uint8_t* buffer) {
  if (living == nullptr) return nullptr;
  std::memset(buffer, 0, static_cast<std::size_t>(round_up(count, Panel)));
  std::memcpy(buffer, living + first, static_cast<std::size_t>(count));
  return buffer;
}

}  // namespace
}  // namespace fastbert
