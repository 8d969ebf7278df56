"""Print the table of docs/weights.md: what a GPU with so much memory can do with each published model.

    python -m scripts.make_memory_table

It is worked out by `lichtspiel plan` from the shapes of the weights, in bfloat16, at the model's usual size and 81
frames. The VAE decodes fewer frames at once where memory is short.
"""

from __future__ import annotations

from lichtspiel.inference.cards import RESERVED
from lichtspiel.inference.estimate import plan_for
from lichtspiel.inference.plan import Plan
from lichtspiel.spec import MODELS

MEMORY = (8, 12, 16, 24, 48, 80)


def cell(made: Plan) -> str:
    """A plan in a few words."""
    dit = made.stage("dit")
    if made.refusal:
        return "no"
    if made.peak > (made.free_bytes or 0):
        return "tight"
    return "all in memory" if not dit.streamed else f"{dit.streamed} of {dit.blocks} from disk"


def table() -> str:
    """The table in Markdown."""
    import torch

    rows = [["model", "size", *(f"{memory} GB" for memory in MEMORY)]]
    for name, row in MODELS.items():
        if row.embedded:
            continue
        size, frames = row.sampling.sizes[0], row.sampling.frames
        plans = [
            plan_for(row, size, frames, torch.device("cuda"), "bfloat16", sizes=None, free=memory * 2**30 - RESERVED)
            for memory in MEMORY
        ]
        rows.append([name, f"{size[0]}x{size[1]}", *map(cell, plans)])
    head, *rest = ("| " + " | ".join(each) + " |" for each in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *rest])


if __name__ == "__main__":
    print(table())
