// The element-wise operators' door to Python: addresses and sizes into the plain structs that kernels take.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "bindings.h"
#include "cpu/bias_gelu.h"
#include "cpu/cross_entropy.h"
#include "cpu/elementwise_dropout.h"
#include "cpu/layer_norm.h"

namespace py = pybind11;

namespace fastbert {
namespace {

using Address = std::uintptr_t;

template <class Pointer>
Pointer* pointer(Address address) {
  return reinterpret_cast<Pointer*>(address);
}

// Every array of (rows, columns) and beside it is there, unless it would be empty.
void check_arrays(std::int64_t rows, std::int64_t columns, std::initializer_list<Address> addresses, int num_threads) {
  constexpr std::int64_t kMost = std::int64_t{1} << 32;
  check_range("rows", rows, 0, kMost);
  check_range("columns", columns, 1, kMost);
  if (rows > 0) check_range("columns", columns, 1, (std::int64_t{1} << 60) / rows);
  check_range("num_threads", num_threads, 1, 1 << 16);
  for (const Address address : addresses) {
    if (address == 0 && rows > 0) throw std::invalid_argument("a pointer is null: it must address a contiguous array");
  }
}

// rng addresses two 64-bit integers, seed and offset.
DropoutParams dropout_of(int threshold, Address rng, std::int64_t site) {
  check_range("threshold", threshold, 0, 255);
  check_range("site", site, 0, (std::int64_t{1} << 31) - 1);
  if (threshold == 0) return {};
  if (rng == 0) throw std::invalid_argument("dropout needs an rng");
  const auto* pair = pointer<const std::uint64_t>(rng);
  return {threshold, pair[0], static_cast<std::uint32_t>(pair[1]), static_cast<std::uint32_t>(site)};
}

void run_dropout_add(const std::string& dtype, std::int64_t rows, std::int64_t columns, Address x, Address residual,
                     Address out, int threshold, Address rng, std::int64_t site, int num_threads) {
  check_range("threshold", threshold, 1, 255);
  check_arrays(rows, columns, {x, out}, num_threads);
  DropoutAddParams params{};
  params.dtype = dtype_of(dtype);
  params.rows = rows;
  params.columns = columns;
  params.x = pointer<const void>(x);
  params.residual = pointer<const void>(residual);
  params.out = pointer<void>(out);
  params.dropout = dropout_of(threshold, rng, site);
  dropout_add(params, num_threads);
}

void run_layer_norm_forward(const std::string& dtype, std::int64_t rows, std::int64_t columns, Address x,
                            Address residual, Address weight, Address bias, double eps, Address out, Address sum,
                            Address mean, Address rstd, int threshold, Address rng, std::int64_t site,
                            int num_threads) {
  check_arrays(rows, columns, {x, residual, weight, bias, out, mean, rstd}, num_threads);
  LayerNormForwardParams params{};
  params.dtype = dtype_of(dtype);
  params.rows = rows;
  params.columns = columns;
  params.x = pointer<const void>(x);
  params.residual = pointer<const void>(residual);
  params.weight = pointer<const float>(weight);
  params.bias = pointer<const float>(bias);
  params.eps = static_cast<float>(eps);
  params.out = pointer<void>(out);
  params.sum = pointer<void>(sum);
  params.mean = pointer<float>(mean);
  params.rstd = pointer<float>(rstd);
  params.dropout = dropout_of(threshold, rng, site);
  layer_norm_forward(params, num_threads);
}

void run_layer_norm_backward(const std::string& dtype, std::int64_t rows, std::int64_t columns, Address dout,
                             Address dsum, Address sum, Address x, Address residual, Address weight, Address mean,
                             Address rstd, Address dx, Address dresidual, Address dweight, Address dbias, int threshold,
                             Address rng, std::int64_t site, int num_threads) {
  check_arrays(rows, columns, {dout, weight, mean, rstd, dresidual, dweight, dbias}, num_threads);
  if (sum == 0) check_arrays(rows, columns, {x, residual}, num_threads);
  if (threshold > 0) check_arrays(rows, columns, {dx}, num_threads);
  LayerNormBackwardParams params{};
  params.dtype = dtype_of(dtype);
  params.rows = rows;
  params.columns = columns;
  params.dout = pointer<const void>(dout);
  params.dsum = pointer<const void>(dsum);
  params.sum = pointer<const void>(sum);
  params.x = pointer<const void>(x);
  params.residual = pointer<const void>(residual);
  params.weight = pointer<const float>(weight);
  params.mean = pointer<const float>(mean);
  params.rstd = pointer<const float>(rstd);
  params.dx = pointer<void>(dx);
  params.dresidual = pointer<void>(dresidual);
  params.dweight = pointer<float>(dweight);
  params.dbias = pointer<float>(dbias);
  params.dropout = dropout_of(threshold, rng, site);
  layer_norm_backward(params, num_threads);
}

void fill(BiasGeluParams& params, const std::string& dtype, bool tanh, std::int64_t rows, std::int64_t columns,
          Address x, Address bias) {
  params.dtype = dtype_of(dtype);
  params.tanh = tanh;
  params.rows = rows;
  params.columns = columns;
  params.x = pointer<const void>(x);
  params.bias = pointer<const float>(bias);
}

void run_bias_gelu_forward(const std::string& dtype, bool tanh, std::int64_t rows, std::int64_t columns, Address x,
                           Address bias, Address out, int num_threads) {
  check_arrays(rows, columns, {x, bias, out}, num_threads);
  BiasGeluForwardParams params{};
  fill(params, dtype, tanh, rows, columns, x, bias);
  params.out = pointer<void>(out);
  bias_gelu_forward(params, num_threads);
}

void run_bias_gelu_backward(const std::string& dtype, bool tanh, std::int64_t rows, std::int64_t columns, Address dout,
                            Address x, Address bias, Address dx, Address dbias, int num_threads) {
  check_arrays(rows, columns, {dout, x, bias, dx, dbias}, num_threads);
  BiasGeluBackwardParams params{};
  fill(params, dtype, tanh, rows, columns, x, bias);
  params.dout = pointer<const void>(dout);
  params.dx = pointer<void>(dx);
  params.dbias = pointer<float>(dbias);
  bias_gelu_backward(params, num_threads);
}

void fill(CrossEntropyParams& params, const std::string& dtype, std::int64_t rows, std::int64_t classes, Address logits,
          Address targets, std::int64_t ignore_index) {
  params.dtype = dtype_of(dtype);
  params.rows = rows;
  params.classes = classes;
  params.logits = pointer<const void>(logits);
  params.targets = pointer<const std::int64_t>(targets);
  params.ignore_index = ignore_index;
  const std::int64_t wrong = first_wrong_target(params);
  if (wrong < 0) return;
  throw std::invalid_argument("cross_entropy: targets[" + std::to_string(wrong) + "] is " +
                              std::to_string(params.targets[wrong]) + "; it must be " + std::to_string(ignore_index) +
                              " (ignored) or lie in [0, " + std::to_string(classes) + ")");
}

void run_cross_entropy_forward(const std::string& dtype, std::int64_t rows, std::int64_t classes, Address logits,
                               Address targets, std::int64_t ignore_index, Address losses, Address total,
                               Address largest, Address log_rest, int num_threads) {
  check_arrays(rows, classes, {logits, targets, losses, largest, log_rest}, num_threads);
  CrossEntropyForwardParams params{};
  fill(params, dtype, rows, classes, logits, targets, ignore_index);
  params.losses = pointer<float>(losses);
  params.total = pointer<float>(total);
  params.largest = pointer<float>(largest);
  params.log_rest = pointer<float>(log_rest);
  cross_entropy_forward(params, num_threads);
}

void run_cross_entropy_backward(const std::string& dtype, std::int64_t rows, std::int64_t classes, Address dlosses,
                                std::int64_t dlosses_stride, Address logits, Address targets, std::int64_t ignore_index,
                                Address largest, Address log_rest, Address dlogits, int num_threads) {
  check_arrays(rows, classes, {dlosses, logits, targets, largest, log_rest, dlogits}, num_threads);
  check_range("dlosses_stride", dlosses_stride, 0, 1);
  CrossEntropyBackwardParams params{};
  fill(params, dtype, rows, classes, logits, targets, ignore_index);
  params.dlosses = pointer<const float>(dlosses);
  params.dlosses_stride = dlosses_stride;
  params.largest = pointer<const float>(largest);
  params.log_rest = pointer<const float>(log_rest);
  params.dlogits = pointer<void>(dlogits);
  cross_entropy_backward(params, num_threads);
}

}  // namespace

void bind_elementwise(py::module_& module) {
  using namespace pybind11::literals;
  using release_gil = py::call_guard<py::gil_scoped_release>;
  module.def("dropout_add", &run_dropout_add, "dtype"_a, "rows"_a, "columns"_a, "x"_a, "residual"_a, "out"_a,
             "threshold"_a, "rng"_a, "site"_a, "num_threads"_a, release_gil(), "Write residual + dropout(x).");
  module.def("layer_norm_forward", &run_layer_norm_forward, "dtype"_a, "rows"_a, "columns"_a, "x"_a, "residual"_a,
             "weight"_a, "bias"_a, "eps"_a, "out"_a, "total"_a, "mean"_a, "rstd"_a, "threshold"_a, "rng"_a, "site"_a,
             "num_threads"_a, release_gil(), "Write LayerNorm(residual + dropout(x)).");
  module.def("layer_norm_backward", &run_layer_norm_backward, "dtype"_a, "rows"_a, "columns"_a, "dout"_a, "dtotal"_a,
             "total"_a, "x"_a, "residual"_a, "weight"_a, "mean"_a, "rstd"_a, "dx"_a, "dresidual"_a, "dweight"_a,
             "dbias"_a, "threshold"_a, "rng"_a, "site"_a, "num_threads"_a, release_gil(),
             "Write the gradients of layer_norm_forward.");
  module.def("bias_gelu_forward", &run_bias_gelu_forward, "dtype"_a, "tanh"_a, "rows"_a, "columns"_a, "x"_a, "bias"_a,
             "out"_a, "num_threads"_a, release_gil(), "Write GELU(x + bias).");
  module.def("bias_gelu_backward", &run_bias_gelu_backward, "dtype"_a, "tanh"_a, "rows"_a, "columns"_a, "dout"_a, "x"_a,
             "bias"_a, "dx"_a, "dbias"_a, "num_threads"_a, release_gil(), "Write the gradients of bias_gelu_forward.");
  module.def("cross_entropy_forward", &run_cross_entropy_forward, "dtype"_a, "rows"_a, "classes"_a, "logits"_a,
             "targets"_a, "ignore_index"_a, "losses"_a, "total"_a, "largest"_a, "log_rest"_a, "num_threads"_a,
             release_gil(), "Write the loss of each row, and their sum.");
  module.def("cross_entropy_backward", &run_cross_entropy_backward, "dtype"_a, "rows"_a, "classes"_a, "dlosses"_a,
             "dlosses_stride"_a, "logits"_a, "targets"_a, "ignore_index"_a, "largest"_a, "log_rest"_a, "dlogits"_a,
             "num_threads"_a, release_gil(), "Write the gradient of cross_entropy_forward.");
}

}  // namespace fastbert
