"""Settings for everything that is compared with the official package."""

from __future__ import annotations

import torch

# The networks here are tiny: a second thread gains nothing, and where cores are shared the threads
# spin while they wait for each other (measured: 20 times slower on two busy cores).
torch.set_num_threads(1)
