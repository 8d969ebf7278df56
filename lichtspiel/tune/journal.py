"""What a run reports while it works: a line of JSON for each entry, and curves for TensorBoard if it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["Journal"]


class Journal:
    """The log of one run; entries after `start`, written before a run was killed, are overwritten by their like."""

    def __init__(self, folder: Path, start: int) -> None:
        self.path = folder / "log.jsonl"
        kept = [line for line in self._lines() if json.loads(line)["step"] <= start]
        self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self.board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        made: Any = SummaryWriter
        self.board = made(str(folder / "tensorboard"), purge_step=start + 1)

    def _lines(self) -> list[str]:
        """The whole lines of an earlier log."""
        if not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8")
        return text[: text.rfind("\n") + 1].splitlines()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add the values of a step."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still held back."""
        if self.board is not None:
            self.board.close()
