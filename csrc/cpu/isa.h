// Which instruction set the CPU kernels run on.
//
// The best one that processor and operating system offer, unless the environment variable FASTBERT_CPU_ISA, read when
// the extension is loaded, names a lower one. Higher ones include lower ones, so kernels may compare with >=.
#pragma once

#include <string>

namespace fastbert {

enum class Isa { generic, avx2, avx512, avx512_bf16, amx };

// The set in use. Throws std::invalid_argument when FASTBERT_CPU_ISA names an unknown set or one this machine lacks. On
// amx the process has been granted its tile registers.
Isa active_isa();

std::string isa_name(Isa isa);

}  // namespace fastbert
