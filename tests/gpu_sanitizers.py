"""Build the CUDA kernels for this CPU under sanitizers and run random cases: run as a script.

    python gpu_sanitizers.py {address|thread} CASES SECONDS [KERNELS]

"address" is the address and the undefined-behaviour sanitizer, "thread" finds races between the
threads of a block. KERNELS is a regular expression: only kernels whose names it matches are built,
and problems that others serve are passed over.
"""

import re
import subprocess
import sys
from pathlib import Path

from emulated_kernels import build
from jaxqr._lowering.cuda_instances import list_instances
from sanitizers import FLAGS, run_under

SCRIPT = Path(__file__).parent / "native" / "random_gpu_cases.py"


def sanitize(
    sanitizer: str, cases: int, seconds: float, kernels: str = ""
) -> subprocess.CompletedProcess:
    """Build and run; standard error is in standard output."""
    instances = [instance for instance in list_instances() if re.match(kernels, instance.name)]
    built = build(instances, flags=FLAGS[sanitizer])
    return run_under(sanitizer, SCRIPT, built.driver, cases, seconds, timeout=2 * seconds)


if __name__ == "__main__":
    done = sanitize(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])
    print(done.stdout[-10000:])
    sys.exit(done.returncode)
