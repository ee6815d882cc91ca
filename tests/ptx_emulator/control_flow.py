"""Basic blocks, immediate post-dominators, and with them the places where diverged threads meet again.

Post-dominators by the iteration of Cooper, Harvey and Kennedy, "A simple, fast dominance algorithm" (2001), on the
reversed graph.
"""

from __future__ import annotations

from dataclasses import dataclass

from ptx_emulator.errors import PtxError, UnknownInstructionError
from ptx_emulator.module import Function, Instruction, Symbol

EXITS = ("exit", "ret", "trap")


@dataclass
class Block:
    """Instructions ``start`` to ``end`` (not included) run without a jump; the last one may be a jump."""

    start: int
    end: int
    successors: tuple[int, ...] = ()  # block numbers
    reconvergence: int | None = None  # the immediate post-dominator; None: only the kernel's end


@dataclass(frozen=True)
class Flow:
    blocks: list[Block]
    block_of: dict[int, int]  # the block that starts at an instruction


def blocks_barrier(instruction: Instruction) -> bool:
    """Whether a thread may have to wait there."""
    return instruction.opcode in ("bar", "barrier") and not {"warp", "arrive"} & set(instruction.modifiers)


def branch_targets(function: Function, instruction: Instruction) -> list[int]:
    """The instructions that a bra or brx may jump to."""
    name = instruction.operands[-1]
    if not isinstance(name, Symbol):
        raise UnknownInstructionError(f"{function.name}, PTX line {instruction.line}: the target of {instruction.name}")
    names = function.targets.get(name.name, ()) if instruction.opcode == "brx" else (name.name,)
    missing = [n for n in names if n not in function.labels]
    if missing or not names:
        raise PtxError(f"{function.name}, PTX line {instruction.line}: no label {missing or name.name}")
    return [function.labels[n] for n in names]


def control_flow(function: Function) -> Flow:
    """Blocks of a function whose calls are already inlined."""
    count = len(function.instructions)
    starts = {0}  # labels that nothing jumps to (debug information has many) start no block
    for index, instruction in enumerate(function.instructions):
        if instruction.opcode in ("bra", "brx"):
            starts.update(branch_targets(function, instruction))
        if instruction.opcode in ("bra", "brx", *EXITS) or blocks_barrier(instruction):
            starts.add(index + 1)
    edges = sorted(start for start in starts if start < count)
    block_of = {start: number for number, start in enumerate(edges)}
    blocks = [Block(start, end) for start, end in zip(edges, [*edges[1:], count], strict=True)]
    for block in blocks:
        last = function.instructions[block.end - 1]
        follow = [block.end] if block.end < count else []
        if last.opcode in EXITS:
            after = follow if last.guard else []
        elif last.opcode in ("bra", "brx"):
            after = branch_targets(function, last) + (follow if last.guard else [])
        else:
            after = follow
        block.successors = tuple(sorted({block_of[target] for target in after if target < count}))
    for number, meeting in enumerate(post_dominators([block.successors for block in blocks])):
        blocks[number].reconvergence = meeting
    return Flow(blocks, block_of)


def post_dominators(successors: list[tuple[int, ...]]) -> list[int | None]:
    """The immediate post-dominator of every block, None where only the end of the kernel is one."""
    end = len(successors)  # a node that every block without successor leads to
    following = [list(s) or [end] for s in successors]
    predecessors: list[list[int]] = [[] for _ in range(end + 1)]
    for block, after in enumerate(following):
        for target in after:
            predecessors[target].append(block)
    order, seen, stack = [], {end}, [(end, iter(predecessors[end]))]
    while stack:  # depth first from the end, backwards
        node, rest = stack[-1]
        for block in rest:
            if block not in seen:
                seen.add(block)
                stack.append((block, iter(predecessors[block])))
                break
        else:
            order.append(node)
            stack.pop()
    rank = {node: position for position, node in enumerate(order)}
    meeting: dict[int, int] = {end: end}
    changed = True
    while changed:
        changed = False
        for node in reversed(order[:-1]):
            new: int | None = None
            for target in following[node]:
                if target in meeting:
                    new = target if new is None else _common(new, target, meeting, rank)
            if new is not None and meeting.get(node) != new:
                meeting[node] = new
                changed = True
    return [None if meeting.get(block, end) == end else meeting[block] for block in range(end)]


def _common(a: int, b: int, meeting: dict[int, int], rank: dict[int, int]) -> int:
    while a != b:
        while rank[a] < rank[b]:
            a = meeting[a]
        while rank[b] < rank[a]:
            b = meeting[b]
    return a
