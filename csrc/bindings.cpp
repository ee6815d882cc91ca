// The one door between Python and the compiled kernels.
//
// Nothing here knows a tensor: callers pass addresses, sizes and strides, and own the memory. Arguments are checked for
// what C++ could not survive (null, negative, beyond a counter's 32 bits); shapes and dtypes are Python's business. The
// GIL is released while a kernel runs.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "bindings.h"
#include "build_config.h"  // written by setup.py
#include "common/philox.h"
#include "cpu/isa.h"
#include "cpu/philox_bytes.h"
#include "cpu/threads.h"

namespace py = pybind11;

namespace fastbert {

void check_range(const char* name, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value >= low && value <= high) return;
  throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + ": allowed are " +
                              std::to_string(low) + " to " + std::to_string(high));
}

DType dtype_of(const std::string& name) {
  if (name == "float32") return DType::float32;
  if (name == "bfloat16") return DType::bfloat16;
  if (name == "float16") return DType::float16;
  throw std::invalid_argument("dtype is '" + name + "': allowed are float32, bfloat16 and float16");
}

namespace {

constexpr std::int64_t kCounterLimit = std::int64_t{1} << 32;

std::uint8_t* output_pointer(std::uintptr_t address, bool empty) {
  if (address == 0 && !empty) throw std::invalid_argument("pointer is null: it must address a contiguous uint8 buffer");
  return reinterpret_cast<std::uint8_t*>(address);
}

// Addresses inside the buffer are 64-bit sums of products of its sizes, none of which may be negative.
void check_bytes(std::initializer_list<std::int64_t> sizes) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  for (const std::int64_t size : sizes) {
    if (size == 0) return;
  }
  std::int64_t bytes = 1;
  for (const std::int64_t size : sizes) {
    if (bytes > kMost / size) throw std::invalid_argument("the buffer's sizes multiply to more than 2^63 - 1 bytes");
    bytes *= size;
  }
}

void attention_bytes(std::uintptr_t pointer, std::int64_t batch, std::int64_t heads, std::int64_t seq_q,
                     std::int64_t seq_k, std::uint64_t seed, std::int64_t offset, int num_threads,
                     std::int64_t first_sequence, std::int64_t first_head, std::optional<std::int64_t> all_heads) {
  check_range("batch", batch, 0, kCounterLimit);
  check_range("heads", heads, 0, kCounterLimit);
  check_range("seq_q", seq_q, 0, kCounterLimit);
  check_range("seq_k", seq_k, 0, kCounterLimit);
  check_range("num_threads", num_threads, 1, 1 << 16);
  check_range("first_sequence", first_sequence, 0, kCounterLimit);
  check_range("first_head", first_head, 0, kCounterLimit);
  const std::int64_t total_heads = all_heads.value_or(first_head + heads);
  check_range("total_heads", total_heads, first_head + heads, 2 * kCounterLimit);
  if (total_heads > 0) check_range("batch", batch, 0, kCounterLimit / total_heads - first_sequence);
  check_bytes({batch, heads, seq_q, seq_k});
  const bool empty = batch == 0 || heads == 0 || seq_q == 0 || seq_k == 0;
  philox_attention_bytes(output_pointer(pointer, empty), batch, heads, seq_q, seq_k,
                         {first_sequence, first_head, total_heads}, seed, offset, num_threads);
}

void elementwise_bytes(std::uintptr_t pointer, std::int64_t rows, std::int64_t columns, std::uint64_t seed,
                       std::int64_t offset, std::int64_t site, int num_threads) {
  check_range("rows", rows, 0, kCounterLimit);
  check_range("columns", columns, 0, kCounterLimit);
  check_range("site", site, 0, (std::int64_t{1} << 31) - 1);
  check_range("num_threads", num_threads, 1, 1 << 16);
  check_bytes({rows, columns});
  philox_elementwise_bytes(output_pointer(pointer, rows == 0 || columns == 0), rows, columns, seed, offset,
                           static_cast<std::uint32_t>(site), num_threads);
}

std::tuple<std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t> philox_words(
    std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key, int rounds) {
  check_range("rounds", rounds, 0, 16);
  const PhiloxBlock block = philox4x32({{counter[0], counter[1], counter[2], counter[3]}}, {{key[0], key[1]}}, rounds);
  return {block.word[0], block.word[1], block.word[2], block.word[3]};
}

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

py::dict build_info() {
  py::dict info;
  info["version"] = FASTBERT_VERSION;
  info["compiler"] = compiler();
  info["cpp_standard"] = static_cast<std::int64_t>(__cplusplus);
  info["flags"] = FASTBERT_FLAGS;
  info["cuda"] = FASTBERT_CUDA;
  info["cuda_runtime"] = FASTBERT_CUDA_RUNTIME;
  info["cuda_binaries"] = FASTBERT_CUDA_BINARIES;
  info["cuda_ptx"] = FASTBERT_CUDA_PTX;
#if defined(_OPENMP)
  info["openmp"] = std::to_string(_OPENMP);
#else
  info["openmp"] = "not built: the compiler has no OpenMP, kernels run on one thread";
#endif
  info["openmp_library"] = openmp_library();
  return info;
}

}  // namespace
}  // namespace fastbert

PYBIND11_MODULE(_C, module, py::mod_gil_not_used()) {
  using namespace pybind11::literals;
  using release_gil = py::call_guard<py::gil_scoped_release>;
  fastbert::install_fork_guard();

  module.doc() = "fastbert's compiled kernels. See fastbert/_C.pyi.";
  module.def("build_info", &fastbert::build_info, "How this extension was built, and the OpenMP runtime it has found.");
  module.def(
      "instruction_set", [] { return fastbert::isa_name(fastbert::active_isa()); },
      "The instruction set in use: 'amx', 'avx512_bf16', 'avx512', 'avx2' or 'generic'.");
  module.def("philox4x32", &fastbert::philox_words, "counter"_a, "key"_a, "rounds"_a = fastbert::kPhiloxRounds,
             "Four random 32-bit words from a counter of four and a key of two.");
  module.def("philox_attention_bytes", &fastbert::attention_bytes, "pointer"_a, "batch"_a, "heads"_a, "seq_q"_a,
             "seq_k"_a, "seed"_a, "offset"_a, "num_threads"_a, "first_sequence"_a = 0, "first_head"_a = 0,
             "total_heads"_a = py::none(), release_gil(),
             "Fill (batch, heads, seq_q, seq_k) uint8 with attention dropout's bytes.");
  module.def("philox_elementwise_bytes", &fastbert::elementwise_bytes, "pointer"_a, "rows"_a, "columns"_a, "seed"_a,
             "offset"_a, "site"_a, "num_threads"_a, release_gil(),
             "Fill (rows, columns) uint8 with element-wise dropout's bytes.");
  fastbert::bind_attention(module);
  fastbert::bind_cuda(module);
  fastbert::bind_elementwise(module);
}
