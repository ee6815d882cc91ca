"""ldmatrix, stmatrix, movmatrix: 8 x 8 matrices of 16-bit numbers between shared memory and the registers of a warp.

In registers, lane l holds of row l // 4 the elements 2 * (l % 4) and the next. In memory a row is 16 bytes, and lane
8 * i + r gives the address of row r of matrix i.
"""

from __future__ import annotations

import numpy as np

from ptx_emulator.errors import DivergenceError
from ptx_emulator.instructions.common import Modifiers, operands
from ptx_emulator.instructions.load_store import address_reader
from ptx_emulator.lanes import Action, Lanes, Linker, unknown
from ptx_emulator.module import Instruction


def need_whole_warps(lanes: Lanes, instruction: Instruction) -> None:
    """Raises DivergenceError unless every warp is here with all of its lanes (.aligned)."""
    if not lanes.whole_warps:
        partial = np.bincount(lanes.index >> 5, minlength=lanes.machine.warps)[lanes.index >> 5] != 32
        detail = f"only {int(np.count_nonzero(partial))} lanes of a warp reach an instruction that needs all 32"
        raise DivergenceError(detail, lanes.machine.place(instruction, int(lanes.index[partial.argmax()])))


def _form(instruction: Instruction) -> tuple[int, bool, str]:
    modifiers = Modifiers(instruction)
    if not (modifiers.flag("sync") and modifiers.flag("aligned") and modifiers.flag("m8n8")):
        raise unknown(instruction)
    count = int(modifiers.one_of(("x1", "x2", "x4"))[1:])
    transposed = modifiers.flag("trans")
    space = modifiers.one_of(("shared", "shared::cta"), "generic").split("::")[0]
    modifiers.type(("b16",))
    modifiers.done()
    return count, transposed, space


def _to_registers(matrices: np.ndarray, transposed: bool) -> np.ndarray:
    """(..., 8 rows, 8 columns) uint16 to (..., 32 lanes) uint32."""
    if transposed:
        matrices = matrices.swapaxes(-1, -2)
    return np.ascontiguousarray(matrices).view(np.uint32).reshape(*matrices.shape[:-2], 32)


def _to_matrices(registers: np.ndarray, transposed: bool) -> np.ndarray:
    """(..., 32 lanes) uint32 to (..., 8 rows, 8 columns) uint16."""
    matrices = np.ascontiguousarray(registers).view(np.uint16).reshape(*registers.shape[:-1], 8, 8)
    return np.ascontiguousarray(matrices.swapaxes(-1, -2)) if transposed else matrices


def _row_places(
    lanes: Lanes, address: np.ndarray, count: int, space: str, instruction: Instruction
) -> tuple[Lanes, str, np.ndarray]:
    """The lanes whose addresses count, in order of warp, matrix and row; the space and where in it they point."""
    where = lanes.machine.access.broadcast(lanes, address)
    if count < 4:
        giving = (lanes.index & 31) < 8 * count
        lanes, where = lanes.where(giving), where[giving]
    if space == "generic":
        space, where = lanes.machine.access.space_of(lanes, where, instruction)
    return lanes, space, where


def load_matrix(instruction: Instruction, linker: Linker) -> Action:
    count, transposed, space = _form(instruction)
    destination, source = operands(instruction, 2)
    items = linker.items(destination)
    if len(items) != count:
        raise unknown(instruction)
    writers = [linker.writer(item, "b32", instruction) for item in items]
    address = address_reader(source, linker, instruction)

    def action(lanes: Lanes) -> None:
        need_whole_warps(lanes, instruction)
        givers, name, where = _row_places(lanes, address(lanes), count, space, instruction)
        rows = lanes.machine.access.load(givers, name, where, 16, 8, instruction)
        registers = _to_registers(rows.reshape(-1, count, 8, 8), transposed)
        for number, write in enumerate(writers):
            write(lanes, registers[:, number].reshape(-1))

    return action


def store_matrix(instruction: Instruction, linker: Linker) -> Action:
    count, transposed, space = _form(instruction)
    destination, source = operands(instruction, 2)
    items = linker.items(source)
    if len(items) != count:
        raise unknown(instruction)
    readers = [linker.reader(item, "b32", instruction) for item in items]
    address = address_reader(destination, linker, instruction)

    def action(lanes: Lanes) -> None:
        need_whole_warps(lanes, instruction)
        givers, name, where = _row_places(lanes, address(lanes), count, space, instruction)
        registers = np.stack(
            [np.broadcast_to(reader(lanes), lanes.count).reshape(-1, 32) for reader in readers], axis=1
        )
        lanes.machine.access.store(givers, name, where, _to_matrices(registers, transposed).reshape(-1, 8), instruction)

    return action


def move_matrix(instruction: Instruction, linker: Linker) -> Action:
    if instruction.modifiers != ("sync", "aligned", "m8n8", "trans", "b16"):
        raise unknown(instruction)
    destination, source = operands(instruction, 2)
    write, read = linker.writer(destination, "b32", instruction), linker.reader(source, "b32", instruction)

    def action(lanes: Lanes) -> None:
        need_whole_warps(lanes, instruction)
        registers = np.broadcast_to(read(lanes), lanes.count).reshape(-1, 32)
        write(lanes, _to_registers(_to_matrices(registers, False), True).reshape(-1))

    return action


TABLE = {"ldmatrix": load_matrix, "stmatrix": store_matrix, "movmatrix": move_matrix}
