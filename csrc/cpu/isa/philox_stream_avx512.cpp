// Eight counters a vector: two row pairs of the tile.
#if defined(__x86_64__)

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12's own AVX-512 header: "undefined" is meant there
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include <cstring>

#include "philox_vector.h"

namespace fastbert {
namespace {

struct Avx512 {
  using type = __m512i;
  static constexpr int lanes = 8;
  static type broadcast(std::uint32_t word) { return _mm512_set1_epi64(word); }
  static type product(type a, type b) { return _mm512_mul_epu32(a, b); }
  static type high_half(type a) { return _mm512_srli_epi64(a, 32); }
  static type exclusive_or(type a, type b) { return _mm512_xor_si512(a, b); }  // the compiler joins two to a vpternlog
};

__m512i counters_from(std::uint32_t first) {
  return _mm512_add_epi64(_mm512_set1_epi64(first), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
}

// Per lane: word 0 below word 1, and word 2 below word 3.
void pair_words(const __m512i (&words)[4], __m512i& words01, __m512i& words23) {
  words01 = _mm512_mask_shuffle_epi32(words[0], 0xAAAA, words[1], _MM_PERM_CCAA);
  words23 = _mm512_mask_shuffle_epi32(words[2], 0xAAAA, words[3], _MM_PERM_CCAA);
}

// Which 16-bit piece of words01 (0..31) or words23 (32..63) goes where: two rows of 16 pieces, piece 4 * word + lane.
// `half` is 0 for the low halves of the words (rows r and r + 1), 1 for the high halves (rows r + 8 and r + 9).
__m512i row_order(int half) {
  alignas(64) std::uint16_t order[32];
  for (int row = 0; row < 2; ++row) {
    for (int word = 0; word < 4; ++word) {
      for (int lane = 0; lane < 4; ++lane) {
        order[row * 16 + word * 4 + lane] =
            static_cast<std::uint16_t>(word / 2 * 32 + (row * 4 + lane) * 4 + word % 2 * 2 + half);
      }
    }
  }
  return _mm512_load_si512(order);
}

void store_two_rows(__m512i rows, std::uint8_t* out, std::ptrdiff_t row_stride) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_castsi512_si256(rows));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + row_stride), _mm512_extracti64x4_epi64(rows, 1));
}

void tiles(const PhiloxStream& stream, std::uint32_t first, std::int64_t count, std::uint8_t* out,
           std::ptrdiff_t row_stride) {
  const PhiloxPrelude<Avx512> prelude(stream);
  const __m512i low_order = row_order(0), high_order = row_order(1);
  for (std::int64_t tile = 0; tile < count; ++tile, out += kTileColumns) {
    const std::uint32_t counter0 = (first + static_cast<std::uint32_t>(tile)) * kTileColumns;
    for (int row = 0; row < kTileRows / 2; row += 2) {
      __m512i words[4], words01, words23;
      philox_lanes<Avx512>(prelude, counters_from(counter0 + row * 4), words);
      pair_words(words, words01, words23);
      std::uint8_t* upper = out + row * row_stride;
      store_two_rows(_mm512_permutex2var_epi16(words01, low_order, words23), upper, row_stride);
      store_two_rows(_mm512_permutex2var_epi16(words01, high_order, words23), upper + 8 * row_stride, row_stride);
    }
  }
}

void store_blocks(const __m512i (&words)[4], std::uint8_t* out) {
  __m512i words01, words23;
  pair_words(words, words01, words23);
  const __m512i first = _mm512_permutex2var_epi64(words01, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), words23);
  const __m512i second = _mm512_permutex2var_epi64(words01, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), words23);
  _mm512_storeu_si512(out, first);
  _mm512_storeu_si512(out + 64, second);
}

void blocks(const PhiloxStream& stream, std::uint32_t first, std::int64_t count, std::uint8_t* out) {
  const PhiloxPrelude<Avx512> prelude(stream);
  for (std::int64_t index = 0; index < count; index += Avx512::lanes, out += Avx512::lanes * kBlockBytes) {
    __m512i words[4];
    philox_lanes<Avx512>(prelude, counters_from(first + static_cast<std::uint32_t>(index)), words);
    if (count - index >= Avx512::lanes) {
      store_blocks(words, out);
    } else {
      std::uint8_t last[Avx512::lanes * kBlockBytes];
      store_blocks(words, last);
      std::memcpy(out, last, static_cast<std::size_t>(count - index) * kBlockBytes);
    }
  }
}

// Two words of eight rows r, each with two bytes of row r below two of row r + 8, to two rows of 16 pairs of bytes.
__m512i pair_order() {
  alignas(64) std::uint16_t order[32];
  for (int word = 0; word < 2; ++word) {
    for (int row = 0; row < 16; ++row) {
      order[word * 16 + row] = static_cast<std::uint16_t>(word * 32 + row % 8 * 4 + row / 8);
    }
  }
  return _mm512_load_si512(order);
}

}  // namespace

void philox_pairs_avx512(const PhiloxStream& stream, std::uint32_t first, std::int64_t count, std::uint8_t* out) {
  const PhiloxPrelude<Avx512> prelude(stream);
  const __m512i order = pair_order(), rows = _mm512_setr_epi64(0, 4, 8, 12, 16, 20, 24, 28);
  for (std::int64_t tile = 0; tile < count; ++tile, out += kTileRows * kTileColumns) {
    const std::uint32_t counter0 = (first + static_cast<std::uint32_t>(tile)) * kTileColumns;
    for (int pair = 0; pair < 4; ++pair) {
      __m512i words[4];
      philox_lanes<Avx512>(prelude, _mm512_add_epi64(_mm512_set1_epi64(counter0 + pair), rows), words);
      for (int word = 0; word < 4; word += 2) {
        const __m512i two = _mm512_permutex2var_epi16(words[word], order, words[word + 1]);
        store_two_rows(two, out + (4 * word + pair) * 2 * kTileRows, 4 * 2 * kTileRows);
      }
    }
  }
}

const PhiloxStreamKernels& philox_stream_avx512() {
  static constexpr PhiloxStreamKernels kernels{tiles, blocks};
  return kernels;
}

}  // namespace fastbert

#endif
