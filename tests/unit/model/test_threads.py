"""What a process that runs a model's part takes of a machine."""

import subprocess
import sys

PROGRAM = """
import torch
from threadpoolctl import threadpool_info
from splitvlm.model.threads import use_threads
use_threads(3)
print(torch.get_num_threads(), *(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"))
"""


def test_torch_takes_what_it_is_given_and_numpy_s_products_one():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "1"]
