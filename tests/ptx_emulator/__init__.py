"""A functional emulator of PTX: runs a kernel's whole grid without a GPU and reports what hardware would let pass.

memory = Memory()
x, y = memory.upload(array), memory.empty(array.nbytes)
run(parse(ptx), Launch("kernel", grid=(8,), block=(128,), params=[x, y, array.size]), memory)
result = memory.read(y, np.float32)
"""

from __future__ import annotations

from ptx_emulator.counters import Report
from ptx_emulator.launch import Launch, run, run_all_orders
from ptx_emulator.memory import Buffer, Memory
from ptx_emulator.module import Module
from ptx_emulator.options import ORDERS, Options
from ptx_emulator.parser import parse

__all__ = ["ORDERS", "Buffer", "Launch", "Memory", "Module", "Options", "Report", "parse", "run", "run_all_orders"]
