// Plays AVX-512, AVX512-BF16 and AMX-BF16 on machines that have only AVX2: slow, and exact in every bit that Intel
// defines.
//
// Where this folder comes first on the include path, a kernel's own `#include <immintrin.h>` finds this file. Up to
// AVX2 it is the compiler's header. Beyond, the names that the kernels use are plain C++ (the files beside this one),
// written from the operations in Intel's Intrinsics Guide and Software Developer's Manual, volume 2. A use that would
// fault on a processor, such as an aligned load from an odd address, ends the program with a sentence that says what
// was wrong.
#pragma once

#include_next <immintrin.h>

#include "amx.h"
#include "avx512_float.h"
#include "avx512_integer.h"
#include "avx512_moves.h"
//
#include "names.h"
