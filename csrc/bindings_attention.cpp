// Attention's door to Python: addresses, sizes and strides into the plain structs that kernels take.
#include "bindings_attention.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

#include "bindings.h"
#include "cpu/attention.h"

namespace py = pybind11;

namespace fastbert {
namespace {

AttentionStrides strides_of(const Strides& strides) { return {strides[0], strides[1], strides[2]}; }

std::int64_t window_of(std::optional<std::int64_t> side) {
  return std::clamp(side.value_or(kUnboundedWindow), -kUnboundedWindow, kUnboundedWindow);
}

void check_address(const char* name, Address address, std::int64_t rows) {
  if (address != 0 || rows == 0) return;
  throw std::invalid_argument(std::string(name) + " is null: it must be the address of a tensor, unless that is empty");
}

// What C++ could not survive; see bindings.cpp.
void check(const Problem& problem) {
  constexpr std::int64_t kMost = std::int64_t{1} << 40;
  check_range("batch", problem.batch, 0, std::int64_t{1} << 31);
  check_range("heads", problem.heads, 1, (std::int64_t{1} << 32) / std::max<std::int64_t>(problem.batch, 1));
  check_range("kv_heads", problem.kv_heads, 1, problem.heads);
  if (problem.heads % problem.kv_heads != 0) throw std::invalid_argument("heads must be a multiple of kv_heads");
  check_range("head_dim", problem.head_dim, 1, 256);
  const bool packed = problem.cu_seqlens_q != 0;
  const std::int64_t longest = packed ? kMost : kMost / std::max<std::int64_t>(problem.batch, 1);
  check_range("seq_q", problem.seq_q, 0, longest);
  check_range("seq_k", problem.seq_k, 0, longest);
  check_range("total_q", problem.total_q, 0, packed ? kMost : 0);
  check_range("total_k", problem.total_k, 0, packed ? kMost : 0);
  check_range("dropout_threshold", problem.dropout_threshold, 0, 255);
  check_range("num_threads", problem.num_threads, 1, 1 << 16);
  if ((problem.cu_seqlens_q == 0) != (problem.cu_seqlens_k == 0)) {
    throw std::invalid_argument("cu_seqlens_q and cu_seqlens_k are given together or not at all");
  }
  if (packed && problem.key_padding_mask != 0) {
    throw std::invalid_argument("key_padding_mask is for dense calls: packed ones say with cu_seqlens what a key is");
  }
  if (problem.dropout_threshold > 0 && problem.rng == 0) throw std::invalid_argument("dropout needs an rng");
}

void fill(AttentionParams& params, const Problem& problem) {
  check(problem);
  params.dtype = dtype_of(problem.dtype);
  params.batch = problem.batch;
  params.heads = problem.heads;
  params.kv_heads = problem.kv_heads;
  params.head_dim = problem.head_dim;
  params.seq_q = problem.seq_q;
  params.seq_k = problem.seq_k;
  params.total_q = problem.total_q;
  params.total_k = problem.total_k;
  params.cu_seqlens_q = pointer<const std::int32_t>(problem.cu_seqlens_q);
  params.cu_seqlens_k = pointer<const std::int32_t>(problem.cu_seqlens_k);
  params.key_padding_mask = pointer<const std::uint8_t>(problem.key_padding_mask);
  params.window_left = window_of(problem.window_left);
  params.window_right = window_of(problem.window_right);
  params.scale = static_cast<float>(problem.scale);
  params.dropout_threshold = problem.dropout_threshold;
}

// For kernels on the CPU, where the rng can be read.
void read_rng(AttentionParams& params, const Problem& problem) {
  if (problem.dropout_threshold == 0) return;
  params.seed = pointer<const std::uint64_t>(problem.rng)[0];
  params.offset = static_cast<std::uint32_t>(pointer<const std::uint64_t>(problem.rng)[1]);
}

void set_inputs(AttentionParams& params, const Problem& problem, Address q, const Strides& q_strides, Address k,
                const Strides& k_strides, Address v, const Strides& v_strides) {
  check_address("q", q, problem.rows_q());
  check_address("k", k, problem.rows_k());
  check_address("v", v, problem.rows_k());
  params.q = pointer<const void>(q);
  params.k = pointer<const void>(k);
  params.v = pointer<const void>(v);
  params.q_strides = strides_of(q_strides);
  params.k_strides = strides_of(k_strides);
  params.v_strides = strides_of(v_strides);
}

void forward(const Problem& problem, Address q, const Strides& q_strides, Address k, const Strides& k_strides,
             Address v, const Strides& v_strides, Address out, Address lse) {
  AttentionForwardParams params = forward_params(problem, q, q_strides, k, k_strides, v, v_strides, out, lse);
  read_rng(params, problem);
  attention_forward(params, problem.num_threads);
}

void backward(const Problem& problem, Address q, const Strides& q_strides, Address k, const Strides& k_strides,
              Address v, const Strides& v_strides, Address out, Address lse, Address dout, const Strides& dout_strides,
              Address dlse, Address dq, Address dk, Address dv) {
  AttentionBackwardParams params = backward_params(problem, q, q_strides, k, k_strides, v, v_strides, out, lse, dout,
                                                   dout_strides, dlse, dq, dk, dv);
  read_rng(params, problem);
  attention_backward(params, problem.num_threads);
}

}  // namespace

AttentionForwardParams forward_params(const Problem& problem, Address q, const Strides& q_strides, Address k,
                                      const Strides& k_strides, Address v, const Strides& v_strides, Address out,
                                      Address lse) {
  AttentionForwardParams params{};
  fill(params, problem);
  set_inputs(params, problem, q, q_strides, k, k_strides, v, v_strides);
  check_address("out", out, problem.rows_q());
  check_address("lse", lse, problem.rows_q());
  params.out = pointer<void>(out);
  params.lse = pointer<float>(lse);
  return params;
}

AttentionBackwardParams backward_params(const Problem& problem, Address q, const Strides& q_strides, Address k,
                                        const Strides& k_strides, Address v, const Strides& v_strides, Address out,
                                        Address lse, Address dout, const Strides& dout_strides, Address dlse,
                                        Address dq, Address dk, Address dv) {
  AttentionBackwardParams params{};
  fill(params, problem);
  set_inputs(params, problem, q, q_strides, k, k_strides, v, v_strides);
  check_address("out", out, problem.rows_q());
  check_address("lse", lse, problem.rows_q());
  check_address("dq", dq, problem.rows_q());
  check_address("dk", dk, problem.rows_k());
  check_address("dv", dv, problem.rows_k());
  params.out = pointer<const void>(out);
  params.lse = pointer<const float>(lse);
  params.dout = pointer<const void>(dout);
  params.dout_strides = strides_of(dout_strides);
  params.dlse = pointer<const float>(dlse);
  params.dq = pointer<void>(dq);
  params.dk = pointer<void>(dk);
  params.dv = pointer<void>(dv);
  return params;
}

AttentionBackwardParams without_tensors(const Problem& problem) {
  AttentionBackwardParams params{};
  fill(params, problem);
  return params;
}

void bind_attention(py::module_& module) {
  using namespace pybind11::literals;
  using release_gil = py::call_guard<py::gil_scoped_release>;
  py::class_<Problem>(module, "AttentionProblem", "One attention call without its tensors.")
      .def(py::init([](std::string dtype, std::int64_t batch, std::int64_t heads, std::int64_t kv_heads,
                       std::int64_t head_dim, std::int64_t seq_q, std::int64_t seq_k, std::int64_t total_q,
                       std::int64_t total_k, Address cu_seqlens_q, Address cu_seqlens_k, Address key_padding_mask,
                       std::optional<std::int64_t> window_left, std::optional<std::int64_t> window_right, double scale,
                       int dropout_threshold, Address rng, int num_threads) {
             return Problem{std::move(dtype),
                            batch,
                            heads,
                            kv_heads,
                            head_dim,
                            seq_q,
                            seq_k,
                            total_q,
                            total_k,
                            cu_seqlens_q,
                            cu_seqlens_k,
                            key_padding_mask,
                            window_left,
                            window_right,
                            scale,
                            dropout_threshold,
                            rng,
                            num_threads};
           }),
           "dtype"_a, "batch"_a, "heads"_a, "kv_heads"_a, "head_dim"_a, "seq_q"_a, "seq_k"_a, "total_q"_a, "total_k"_a,
           "cu_seqlens_q"_a, "cu_seqlens_k"_a, "key_padding_mask"_a, "window_left"_a, "window_right"_a, "scale"_a,
           "dropout_threshold"_a, "rng"_a, "num_threads"_a);
  module.def("attention_forward", &forward, "problem"_a, "q"_a, "q_strides"_a, "k"_a, "k_strides"_a, "v"_a,
             "v_strides"_a, "out"_a, "lse"_a, release_gil(), "Write out and lse.");
  module.def("attention_backward", &backward, "problem"_a, "q"_a, "q_strides"_a, "k"_a, "k_strides"_a, "v"_a,
             "v_strides"_a, "out"_a, "lse"_a, "dout"_a, "dout_strides"_a, "dlse"_a, "dq"_a, "dk"_a, "dv"_a,
             release_gil(), "Write dq, dk and dv.");
}

}  // namespace fastbert
