"""Compile Triton kernels for an H100 without one, and read what they take: registers, spills, shared memory.

Run as a script it compiles the cases named on its command line (see `CASES`) and prints a JSON line each. Triton's
interpreter must be off, so tests run it as a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from neo_lightning.ops.interval_attention import kernels as attention
from neo_lightning.ops.interval_attention.triton import blocks
from neo_lightning.ops.qk_norm_rope import kernels as qk_norm_rope
from neo_lightning.ops.qk_norm_rope import triton as qk_norm_rope_launch
from neo_lightning.ops.rms_norm import kernels as rms_norm
from neo_lightning.ops.rms_norm import triton as rms_norm_launch
from neo_lightning.ops.swiglu import kernels as swiglu
from neo_lightning.ops.swiglu import triton as swiglu_launch


def compile_kernel(
    kernel: Any, types: dict[str, str], constants: dict[str, Any], warps: int, stages: int, arch: int = 90
) -> dict[str, int]:
    """Registers per thread, bytes of stack (spills), shared memory; spilling, matrix and atomic instructions."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    # the launcher tells pointers from allocations, and sizes that 16 divides
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name][0] in "*i"}
    fixed = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature=signature, constexprs=fixed, attrs=aligned)
    options = {"num_warps": warps, "num_stages": stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", usage)}
    return {
        "registers": found["REG"],
        "stack": found["STACK"],
        "spills": len(re.findall(r"\b(?:LDL|STL)\b", code)),
        "shared": compiled.metadata.shared,
        "warpgroup_products": code.count("HGMMA"),
        "atomics": len(re.findall(r"\b(?:ATOM|ATOMG|ATOMS|RED|REDG)\b", code)),
    }


def _tool(name: str, *args: str) -> str:
    tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", name)
    return subprocess.run([tool, *args], capture_output=True, text=True, check=True).stdout


def attention_case(name: str, d: int, e: int, dtype: str = "bf16", arch: int = 90, cut: Any = None) -> dict[str, int]:
    """One attention kernel at widths d / e, with the blocks that the backend uses."""
    cut = cut or blocks(name, d, 4 if dtype == "fp32" else 2)
    row = {n: f"tensordesc<{dtype}[{cut.rows}, {w}]>" for n, w in (("q_desc", d), ("do_desc", e))}
    key = {n: f"tensordesc<{dtype}[{cut.keys}, {w}]>" for n, w in (("k_desc", d), ("v_desc", e))}
    outputs = dict.fromkeys(("o_ptr", "dq_ptr", "dk_ptr", "dv_ptr"), f"*{dtype}")
    floats = dict.fromkeys(("lse_ptr", "delta_ptr"), "*fp32")
    bounds = dict.fromkeys(("start_ptr", "limit_ptr", "from_ptr", "to_ptr"), "*i32")
    types = {**row, **key, **outputs, **floats, **bounds, "T": "i32", "H": "i32", "scale": "fp32"}
    constants = {"GROUP": 2, "D": d, "E": e, "ROWS": cut.rows, "KEYS": cut.keys, "PRECISION": "tf32x3"}
    return compile_kernel(getattr(attention, f"{name}_kernel"), types, constants, cut.warps, cut.stages, arch)


def streaming_case(kernel: Any, constants: dict[str, Any], float32: tuple[str, ...] = ()) -> dict[str, int]:
    """One kernel of the memory-bound operations on bfloat16; pointers named in `float32` are that."""
    types = {name: "*fp32" if name in float32 else "*bf16" for name in kernel.arg_names if name.endswith("_ptr")}
    types |= dict.fromkeys(("T", "E", "F", "N", "COUNT", "STRIDE"), "i32") | {"eps": "fp32"}
    warps = constants.pop("num_warps")
    return compile_kernel(kernel, types, constants, warps, 3)


def compile_case(case: str) -> dict[str, int]:
    """`operation:kernel:sizes...`, as the launchers would have it."""
    operation, name, *rest = case.split(":")
    sizes = [int(x) for x in rest]
    if operation == "attention":
        return attention_case(name, *sizes)
    if operation == "qk_norm_rope":
        heads, d = sizes
        constants = qk_norm_rope_launch.sizes(heads, d)
        return streaming_case(getattr(qk_norm_rope, f"{name}_kernel"), constants, ("turn_ptr", "dw_ptr"))
    if operation == "rms_norm":
        constants = rms_norm_launch.sizes(*sizes) | {"ADD": True}
        if name == "backward":
            constants["ROWS"] = rms_norm_launch.ROWS
        return streaming_case(getattr(rms_norm, f"{name}_kernel"), constants, ("dw_ptr",))
    constants = {"BLOCK": swiglu_launch.BLOCK, "num_warps": swiglu_launch.WARPS}
    return streaming_case(getattr(swiglu, f"{name}_kernel"), constants)


if __name__ == "__main__":
    for case in sys.argv[1:]:
        print(json.dumps({"case": case, **compile_case(case)}), flush=True)
