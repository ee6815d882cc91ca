// Four counters a vector: exactly the four lanes of one row pair of the tile.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>

#include "philox_vector.h"

namespace fastbert {
namespace {

struct Avx2 {
  using type = __m256i;
  static constexpr int lanes = 4;
  static type broadcast(std::uint32_t word) { return _mm256_set1_epi64x(word); }
  static type product(type a, type b) { return _mm256_mul_epu32(a, b); }
  static type high_half(type a) { return _mm256_srli_epi64(a, 32); }
  static type exclusive_or(type a, type b) { return _mm256_xor_si256(a, b); }
};

__m256i counters_from(std::uint32_t first) {
  return _mm256_add_epi64(_mm256_set1_epi64x(first), _mm256_setr_epi64x(0, 1, 2, 3));
}

// Per lane: word 0 below word 1, and word 2 below word 3.
void pair_words(const __m256i (&words)[4], __m256i& words01, __m256i& words23) {
  words01 = _mm256_blend_epi32(words[0], _mm256_slli_epi64(words[1], 32), 0b10101010);
  words23 = _mm256_blend_epi32(words[2], _mm256_slli_epi64(words[3], 32), 0b10101010);
}

// 16-bit pieces in each lane c in the order of words 0 2 1 3 -> word-major, lanes inside: the bytes of one row.
__m256i to_row(__m256i pieces) {
  const __m256i by_word = _mm256_setr_epi8(0, 1, 8, 9, 4, 5, 12, 13, 2, 3, 10, 11, 6, 7, 14, 15,  //
                                           0, 1, 8, 9, 4, 5, 12, 13, 2, 3, 10, 11, 6, 7, 14, 15);
  const __m256i interleave_halves = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  return _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(pieces, by_word), interleave_halves);
}

void store_row_pair(const __m256i (&words)[4], std::uint8_t* out, std::ptrdiff_t row_stride) {
  __m256i words01, words23;
  pair_words(words, words01, words23);
  const __m256i low = _mm256_blend_epi16(words01, _mm256_slli_epi32(words23, 16), 0b10101010);
  const __m256i high = _mm256_blend_epi16(_mm256_srli_epi32(words01, 16), words23, 0b10101010);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), to_row(low));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8 * row_stride), to_row(high));
}

void tiles(const PhiloxStream& stream, std::uint32_t first, std::int64_t count, std::uint8_t* out,
           std::ptrdiff_t row_stride) {
  const PhiloxPrelude<Avx2> prelude(stream);
  for (std::int64_t tile = 0; tile < count; ++tile, out += kTileColumns) {
    const std::uint32_t counter0 = (first + static_cast<std::uint32_t>(tile)) * kTileColumns;
    for (int row = 0; row < kTileRows / 2; ++row) {
      __m256i words[4];
      philox_lanes<Avx2>(prelude, counters_from(counter0 + row * 4), words);
      store_row_pair(words, out + row * row_stride, row_stride);
    }
  }
}

void store_blocks(const __m256i (&words)[4], std::uint8_t* out) {
  __m256i words01, words23;
  pair_words(words, words01, words23);
  const __m256i even = _mm256_unpacklo_epi64(words01, words23), odd = _mm256_unpackhi_epi64(words01, words23);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute2x128_si256(even, odd, 0x20));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32), _mm256_permute2x128_si256(even, odd, 0x31));
}

void blocks(const PhiloxStream& stream, std::uint32_t first, std::int64_t count, std::uint8_t* out) {
  const PhiloxPrelude<Avx2> prelude(stream);
  for (std::int64_t index = 0; index < count; index += Avx2::lanes, out += Avx2::lanes * kBlockBytes) {
    __m256i words[4];
    philox_lanes<Avx2>(prelude, counters_from(first + static_cast<std::uint32_t>(index)), words);
    if (count - index >= Avx2::lanes) {
      store_blocks(words, out);
    } else {
      std::uint8_t last[Avx2::lanes * kBlockBytes];
      store_blocks(words, last);
      std::memcpy(out, last, static_cast<std::size_t>(count - index) * kBlockBytes);
    }
  }
}

}  // namespace

const PhiloxStreamKernels& philox_stream_avx2() {
  static constexpr PhiloxStreamKernels kernels{tiles, blocks};
  return kernels;
}

}  // namespace fastbert

#endif
