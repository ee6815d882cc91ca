// What an x86-64 processor and its operating system offer. Other architectures answer generic.
#pragma once

#include "../isa.h"

namespace fastbert {

// The highest set whose instructions the processor has and whose registers the operating system saves. avx2 includes
// FMA and F16C; avx512 is F, BW, CD, DQ and VL; avx512_bf16 is avx512 with AVX512-BF16; amx is that with AMX-TILE and
// AMX-BF16. A build with emulated instructions answers amx wherever there is AVX2.
Isa best_x86_isa();

// Asks Linux to let this process use the AMX tile registers; needed once a process, inherited by fork. False if
// refused.
bool request_amx_permission();

}  // namespace fastbert
