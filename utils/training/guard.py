"""What keeps one bad step from ruining a training: it is skipped, counted, and too many in a row end the run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import InputError
from utils.log import warn

MAX_SKIPPED = 10  # steps in a row
NAMED = 8  # files named at most


class Guard:
    """Counts steps whose loss or gradient was not finite, and takes back what such a batch did to the statistics.

    `go_back` is the checkpoint named when it ends.
    """

    def __init__(self, model: nn.Module, go_back: Path, scaler: torch.amp.GradScaler) -> None:
        statistics = [buffer for name, buffer in model.named_buffers() if ".running_" in name or "num_batches" in name]
        self.kinds = [
            [buffer for buffer in statistics if buffer.dtype == kind] for kind in {b.dtype for b in statistics}
        ]
        self.before = [[buffer.clone() for buffer in buffers] for buffers in self.kinds]
        self.go_back, self.scaler = go_back, scaler
        self.skipped = self.in_a_row = 0

    def remember_statistics(self) -> None:
        """Call before a forward pass."""
        for before, buffers in zip(self.before, self.kinds, strict=True):
            torch._foreach_copy_(before, buffers)

    def restore_statistics(self) -> None:
        """Batch normalisation's running statistics as they were before the pass."""
        for before, buffers in zip(self.before, self.kinds, strict=True):
            torch._foreach_copy_(buffers, before)

    def finite(self, loss: Tensor, norm: Tensor) -> bool:
        """Whether both are. `norm` is that of all processes together, so all decide alike."""
        return bool(torch.isfinite(norm)) and bool(torch.isfinite(loss))

    def count(self, finite: bool, epoch: int, step: int, lr: float, files: Sequence[Any]) -> None:
        """Count a step; raise InputError when the last MAX_SKIPPED were not finite.

        A float16 scale that still comes down is no fault and is not counted.
        """
        if finite:
            self.in_a_row = 0
            return
        if self.scaler.is_enabled() and self.scaler.get_scale() > 1:
            return
        self.skipped += 1
        self.in_a_row += 1
        where = f"epoch {epoch + 1}, step {step}"
        if self.in_a_row == 1:
            warn(f"{where}: loss or gradient is not finite; the step is skipped")
        if self.in_a_row >= MAX_SKIPPED:
            unique = list(dict.fromkeys(map(str, files)))
            more = f" and {len(unique) - NAMED} more" if len(unique) > NAMED else ""
            raise InputError(
                f"{where}: loss or gradient was not finite in {MAX_SKIPPED} steps in a row, at learning rate {lr:.3g}. "
                f"The last batch: {', '.join(unique[:NAMED])}{more}. "
                f"Go back to {self.go_back} (--weights) with a smaller --lr"
            )
