#include "isa.h"

#include <cstdlib>
#include <stdexcept>

#include "isa/x86.h"

namespace fastbert {
namespace {

constexpr Isa kAll[] = {Isa::generic, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::amx};

std::string environment_value(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

const std::string kForced = environment_value("FASTBERT_CPU_ISA");

std::string names_up_to(Isa best) {
  std::string names;
  for (Isa isa : kAll) {
    if (isa <= best) names += (names.empty() ? "" : ", ") + isa_name(isa);
  }
  return names;
}

Isa parse_forced() {
  for (Isa isa : kAll) {
    if (kForced == isa_name(isa)) return isa;
  }
  throw std::invalid_argument("FASTBERT_CPU_ISA is '" + kForced + "', which is unknown: allowed are " +
                              names_up_to(Isa::amx));
}

Isa choose() {
  const Isa best = best_x86_isa();
  const Isa wanted = kForced.empty() ? best : parse_forced();
  if (wanted > best) {
    throw std::invalid_argument("FASTBERT_CPU_ISA is '" + kForced +
                                "', which this machine does not have: allowed are " + names_up_to(best));
  }
  if (wanted < Isa::amx || request_amx_permission()) return wanted;
  if (kForced.empty()) return Isa::avx512_bf16;
  throw std::invalid_argument(
      "FASTBERT_CPU_ISA is 'amx', but the operating system refuses the tile registers: allowed are " +
      names_up_to(Isa::avx512_bf16));
}

}  // namespace

Isa active_isa() {
  static const Isa chosen = choose();  // an exception leaves it unset, so that every later call explains itself too
  return chosen;
}

std::string isa_name(Isa isa) {
  switch (isa) {
    case Isa::generic:
      return "generic";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512_bf16:
      return "avx512_bf16";
    case Isa::amx:
      return "amx";
  }
  throw std::invalid_argument("isa_name: not an instruction set");
}

}  // namespace fastbert
