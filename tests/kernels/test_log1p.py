"""Importing the kernels leaves PyTorch's log1p as fast as it can be, in a process that has computed nothing yet."""

import json
import subprocess
import sys

SCRIPT = """
import json, time
import torch
import boxwright.kernels

def seconds(function):
    times = []
    for _ in range(20):
        start = time.thread_time()
        function(x)
        times.append(time.thread_time() - start)
    return min(times)

torch.set_num_threads(1)
x = torch.rand(2**15)
first = {function.__name__: seconds(function) for function in (torch.log1p, torch.expm1)}
torch.atan2(x, -x)  # reads the same constant
x.pow(1.5)
second = {function.__name__: seconds(function) for function in (torch.log1p, torch.expm1)}
print(json.dumps([first, second]))
"""


def test_log1p_is_fast_from_the_start() -> None:
    answer = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    first, second = json.loads(answer.stdout)
    for name in first:
        assert first[name] < 4 * second[name]
