// Philox4x32: the counter-based generator behind every dropout mask.
//
// Contract: philox4x32(counter, key, rounds) is the function of Salmon, Moraes, Dror and Shaw, "Parallel random
// numbers: as easy as 1, 2, 3" (SC 2011), section 4.3: 128 counter bits and 64 key bits in, 128 random bits out, no
// state. The library uses 7 rounds, the fewest that pass BigCrush. Read by C++ and CUDA alike, so it includes nothing
// but <cstdint>.
//
// The functions are `static` on purpose: files compiled for different instruction sets include this header, and a
// shared inline function would let the linker keep the copy that needs AVX-512 for everybody.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FASTBERT_PHILOX_INLINE static __host__ __device__ __forceinline__
#else
#define FASTBERT_PHILOX_INLINE static inline __attribute__((always_inline))
#endif

namespace fastbert {

constexpr int kPhiloxRounds = 7;
constexpr std::uint32_t kPhiloxMultiplier0 = 0xD2511F53u;
constexpr std::uint32_t kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr std::uint32_t kPhiloxWeyl0 = 0x9E3779B9u;  // added to the key's words after each round
constexpr std::uint32_t kPhiloxWeyl1 = 0xBB67AE85u;

struct PhiloxBlock {  // a counter going in, four random words coming out
  std::uint32_t word[4];
};

struct PhiloxKey {
  std::uint32_t word[2];
};

// The key of a 64-bit seed: low word first.
FASTBERT_PHILOX_INLINE PhiloxKey philox_key(std::uint64_t seed) {
  return {{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}};
}

FASTBERT_PHILOX_INLINE PhiloxKey philox_next_key(PhiloxKey key) {
  return {{key.word[0] + kPhiloxWeyl0, key.word[1] + kPhiloxWeyl1}};
}

FASTBERT_PHILOX_INLINE PhiloxBlock philox_round(PhiloxBlock x, PhiloxKey key) {
  const std::uint64_t product0 = static_cast<std::uint64_t>(kPhiloxMultiplier0) * x.word[0];
  const std::uint64_t product1 = static_cast<std::uint64_t>(kPhiloxMultiplier1) * x.word[2];
  return {{static_cast<std::uint32_t>(product1 >> 32) ^ x.word[1] ^ key.word[0], static_cast<std::uint32_t>(product1),
           static_cast<std::uint32_t>(product0 >> 32) ^ x.word[3] ^ key.word[1], static_cast<std::uint32_t>(product0)}};
}

FASTBERT_PHILOX_INLINE PhiloxBlock philox4x32(PhiloxBlock counter, PhiloxKey key, int rounds = kPhiloxRounds) {
  for (int round = 0; round < rounds; ++round) {
    counter = philox_round(counter, key);
    key = philox_next_key(key);
  }
  return counter;
}

}  // namespace fastbert
