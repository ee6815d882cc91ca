// The parts of the extension's door to Python.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "common/dtype.h"

namespace fastbert {

// Throws std::invalid_argument, which Python sees as ValueError, unless low <= value <= high.
void check_range(const char* name, std::int64_t value, std::int64_t low, std::int64_t high);

// The type of that name; std::invalid_argument for an unknown one.
DType dtype_of(const std::string& name);

void bind_attention(pybind11::module_& module);
void bind_cuda(pybind11::module_& module);
void bind_elementwise(pybind11::module_& module);

}  // namespace fastbert
