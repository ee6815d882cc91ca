// The CUDA kernels' door to Python: plans, which need no GPU, and their launch, where the kernels were built.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "bindings_attention.h"
#include "build_config.h"  // written by setup.py
#include "cuda/launch.h"
#include "cuda/plan.h"

namespace py = pybind11;

namespace fastbert {
namespace {

// A plan of either direction.
struct Plan {
  std::vector<cuda::Launch> launches;
  std::vector<std::byte> params;  // every kernel's one parameter
  AttentionParams call;
};

template <class Directed>
Plan plan_of(Directed plan) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&plan.params);
  return {std::move(plan.launches), {bytes, bytes + sizeof(plan.params)}, plan.params};
}

cuda::DeviceLimits limits_of(int shared_bytes) {
  check_range("shared_bytes", shared_bytes, 48 << 10, 1 << 20);
  return {shared_bytes};
}

Plan forward_plan(const Problem& problem, int shared_bytes, Address q, const Strides& q_strides, Address k,
                  const Strides& k_strides, Address v, const Strides& v_strides, Address out, Address lse) {
  return plan_of(cuda::plan_launch(forward_params(problem, q, q_strides, k, k_strides, v, v_strides, out, lse),
                                   pointer<const std::uint64_t>(problem.rng), limits_of(shared_bytes)));
}

std::size_t workspace(const Problem& problem, int shared_bytes, bool deterministic) {
  return cuda::backward_workspace(without_tensors(problem), deterministic, limits_of(shared_bytes));
}

Plan backward_plan(const Problem& problem, int shared_bytes, bool deterministic, Address workspace, Address q,
                   const Strides& q_strides, Address k, const Strides& k_strides, Address v, const Strides& v_strides,
                   Address out, Address lse, Address dout, const Strides& dout_strides, Address dlse, Address dq,
                   Address dk, Address dv) {
  const AttentionBackwardParams params = backward_params(problem, q, q_strides, k, k_strides, v, v_strides, out, lse,
                                                         dout, dout_strides, dlse, dq, dk, dv);
  return plan_of(cuda::plan_launch(params, pointer<const std::uint64_t>(problem.rng), deterministic,
                                   pointer<void>(workspace), limits_of(shared_bytes)));
}

#if FASTBERT_CUDA_KERNELS

std::vector<std::string> kernels() { return cuda::kernel_names(); }
int shared_bytes(int device) { return cuda::limits_of_device(device).shared_bytes; }
int driver_version() { return cuda::driver_version(); }
void launch(const Plan& plan, int device, Address stream) {
  cuda::launch(plan.launches, plan.params.data(), plan.call, device, pointer<void>(stream));
}

#else

[[noreturn]] void refuse() { throw std::runtime_error("fastbert._C has " FASTBERT_CUDA); }
std::vector<std::string> kernels() { return {}; }
int shared_bytes(int) { refuse(); }
int driver_version() { return 0; }
void launch(const Plan&, int, Address) { refuse(); }

#endif

}  // namespace

void bind_cuda(py::module_& module) {
  using namespace pybind11::literals;
  using release_gil = py::call_guard<py::gil_scoped_release>;
  py::class_<cuda::Launch>(module, "KernelLaunch", "One launch of a plan.")
      .def_readonly("kernel", &cuda::Launch::kernel)
      .def_readonly("grid", &cuda::Launch::grid)
      .def_readonly("threads", &cuda::Launch::threads)
      .def_readonly("shared_bytes", &cuda::Launch::shared_bytes);
  py::class_<Plan>(module, "AttentionPlan", "How a call is launched.")
      .def_readonly("launches", &Plan::launches)
      .def_property_readonly("params", [](const Plan& plan) {
        return py::bytes(reinterpret_cast<const char*>(plan.params.data()), plan.params.size());
      });
  module.def("attention_forward_plan", &forward_plan, "problem"_a, "shared_bytes"_a, "q"_a, "q_strides"_a, "k"_a,
             "k_strides"_a, "v"_a, "v_strides"_a, "out"_a, "lse"_a, "How attention_forward is launched on CUDA.");
  module.def("attention_backward_workspace", &workspace, "problem"_a, "shared_bytes"_a, "deterministic"_a,
             "Bytes of device memory that the backward needs beside its tensors.");
  module.def("attention_backward_plan", &backward_plan, "problem"_a, "shared_bytes"_a, "deterministic"_a, "workspace"_a,
             "q"_a, "q_strides"_a, "k"_a, "k_strides"_a, "v"_a, "v_strides"_a, "out"_a, "lse"_a, "dout"_a,
             "dout_strides"_a, "dlse"_a, "dq"_a, "dk"_a, "dv"_a, "How attention_backward is launched on CUDA.");
  module.def("cuda_kernels", &kernels, "Names of the kernels in this build.");
  module.def("cuda_driver_version", &driver_version, "Newest CUDA that the driver supports, as 12080; 0 = no driver.");
  module.def("cuda_shared_bytes", &shared_bytes, "device"_a, "Shared memory that a block of a device may have.");
  module.def("cuda_launch", &launch, "plan"_a, "device"_a, "stream"_a, release_gil(), "Launch a plan on a stream.");
}

}  // namespace fastbert
