// Philox4x32-7 on several counters at once, for any vector type with 64-bit lanes.
//
// Each lane holds one 32-bit word in its low half and rubbish in the high half: the 32 x 32 -> 64 bit multiplication
// reads low halves only, so a round is two products, two shifts and four exclusive-ors, with no shuffle to bring words
// together. (Packing eight words to a vector of 32-bit lanes needs as many products and four shuffles more.)
//
// Only the first counter word varies along a stream. Hence in round 1 one of the two products is the same for all
// lanes, in round 2 the other one is, and both are computed once, in PhiloxPrelude.
//
// Vector: `type`, `lanes`, and static broadcast(uint32), product(a, b), high_half(a), exclusive_or(a, b).
#pragma once

#include "philox_stream.h"

namespace fastbert {
namespace {  // compiled once for each instruction set: must not be merged by the linker

template <class Vector>
struct PhiloxPrelude {
  using V = typename Vector::type;

  V multiplier0, multiplier1;
  V round1_mix;   // counter3 ^ key1
  V round2_mix0;  // word 1 after round 1 ^ key0 of round 2
  V round2_mix2;  // high half of round 2's constant product ^ key1 of round 2
  V round2_low;   // its low half: word 3 after round 2
  V key0[kPhiloxRounds], key1[kPhiloxRounds];

  explicit PhiloxPrelude(const PhiloxStream& stream) {
    PhiloxKey key = stream.key;
    for (int round = 0; round < kPhiloxRounds; ++round, key = philox_next_key(key)) {
      key0[round] = Vector::broadcast(key.word[0]);
      key1[round] = Vector::broadcast(key.word[1]);
    }
    const PhiloxKey second = philox_next_key(stream.key);
    const PhiloxBlock after1 = philox_round({{0, stream.counter1, stream.counter2, stream.counter3}}, stream.key);
    const std::uint64_t constant = static_cast<std::uint64_t>(kPhiloxMultiplier0) * after1.word[0];
    multiplier0 = Vector::broadcast(kPhiloxMultiplier0);
    multiplier1 = Vector::broadcast(kPhiloxMultiplier1);
    round1_mix = Vector::broadcast(stream.counter3 ^ stream.key.word[1]);
    round2_mix0 = Vector::broadcast(after1.word[1] ^ second.word[0]);
    round2_mix2 = Vector::broadcast(static_cast<std::uint32_t>(constant >> 32) ^ second.word[1]);
    round2_low = Vector::broadcast(static_cast<std::uint32_t>(constant));
  }
};

// words[0..3] of the blocks whose first counter words lie in counter0's lanes; high halves of the lanes are rubbish.
template <class Vector>
inline __attribute__((always_inline)) void philox_lanes(const PhiloxPrelude<Vector>& prelude,
                                                        typename Vector::type counter0,
                                                        typename Vector::type (&words)[4]) {
  using V = typename Vector::type;
  const V first = Vector::product(counter0, prelude.multiplier0);
  const V word2 = Vector::exclusive_or(Vector::high_half(first), prelude.round1_mix);
  const V second = Vector::product(word2, prelude.multiplier1);
  words[0] = Vector::exclusive_or(Vector::high_half(second), prelude.round2_mix0);
  words[1] = second;
  words[2] = Vector::exclusive_or(first, prelude.round2_mix2);
  words[3] = prelude.round2_low;
  for (int round = 2; round < kPhiloxRounds; ++round) {
    const V product0 = Vector::product(words[0], prelude.multiplier0);
    const V product1 = Vector::product(words[2], prelude.multiplier1);
    words[0] = Vector::exclusive_or(Vector::exclusive_or(Vector::high_half(product1), words[1]), prelude.key0[round]);
    words[2] = Vector::exclusive_or(Vector::exclusive_or(Vector::high_half(product0), words[3]), prelude.key1[round]);
    words[1] = product1;
    words[3] = product0;
  }
}

}  // namespace
}  // namespace fastbert
