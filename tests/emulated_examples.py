"""The kernels of native/gpu/examples.cu on random data: run as a script under sanitizers.

python emulated_examples.py DRIVER KERNEL ORDER
"""

import sys
from pathlib import Path

import numpy as np

from emulated_kernels import Built, Kernels

DTYPES = {"f32": np.float32, "f64": np.float64, "s32": np.int32, "u32": np.uint32}
SCALARS = {"f32": "float", "f64": "double", "s32": "int", "u32": "unsigned"}
LACKS = {"lacks_first": "kBarrierAfterWriting", "lacks_second": "kBarrierAfterReading"}
WARPS = 3
THREADS = 32 * WARPS
INSTANCES = [
    *((f"sum_rows_{d}", THREADS, f"sum_rows<{SCALARS[d]}, kNothing>") for d in ("f32", "f64")),
    *((f"sum_rows_{lack}_f64", 96, f"sum_rows<double, {name}>") for lack, name in LACKS.items()),
    ("pass_on_f32", THREADS, "pass_on<float, kNothing>"),
    ("pass_on_lacks_first_f32", THREADS, "pass_on<float, kBarrierAfterWriting>"),
    ("add_blocks_f64", THREADS, "add_blocks<double>"),
    ("transpose_f64", THREADS, "transpose<double>"),
    *((f"exchange_{d}", THREADS, f"exchange<{scalar}>") for d, scalar in SCALARS.items()),
    ("misuse_f32", THREADS, "misuse<float>"),
    ("uninitialized_f32", THREADS, "uninitialized<float>"),
]


def difference(kernels: Kernels, kernel: str, backwards: bool) -> float:
    """Run a kernel on three matrices; give how far from right it is, NaN where it gives NaN."""
    shapes = {
        "sum_rows": (5, 200),
        "pass_on": (WARPS, 32),
        "transpose": (32, 32),
        "add_blocks": (),
    }
    rng, dtype = np.random.default_rng(7), DTYPES[kernel[-3:]]
    name, shape = next((n, shape) for n, shape in shapes.items() if kernel.startswith(n))
    x = rng.integers(-9, 9, (3, *shape)).astype(dtype)
    want = {
        "sum_rows": x.sum(-1),
        "pass_on": np.roll(x, -1, axis=-1),
        "transpose": np.moveaxis(x, -1, 1) if x.ndim == 3 else x,
        "add_blocks": x.sum(),
    }[name]
    y = np.zeros(want.shape, dtype)
    kernels.run(
        kernel, {0: x, 1: y}, shape, batch=3, threads=THREADS, shared=512, backwards=backwards
    )
    return float(np.max(np.abs(y - want)))


if __name__ == "__main__":
    driver = Path(sys.argv[1])
    found = difference(Kernels(Built(driver, driver, driver)), sys.argv[2], sys.argv[3] == "1")
    print("difference", found)
