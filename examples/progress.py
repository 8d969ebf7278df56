"""Follow a generation: progress, notes, a callback after each step, and how to stop it."""

from lichtspiel import Cancelled, Observer, Request, Step, generate


def watch(step: Step) -> None:
    print(f"step {step.index} of {step.total}")
    if step.index == 6:
        raise Cancelled("that is enough")  # takes effect at once; no file is written


request = Request.of(prompt="a turtle walks to the right on the beach", steps=12, frames=9)
observer = Observer(progress=lambda stage, share: print(f"{share:4.0%} {stage}"), note=print, step=watch)
try:
    generate(request, "turtle.mp4", observer=observer)
except Cancelled as stopped:
    print(f"stopped: {stopped}")
