"""The road step by step: load, encode, denoise, decode. Nothing is written until you write it."""

import numpy as np
from PIL import Image

from lichtspiel import Request, load

request = Request.of(prompt="a sailboat sails to the left on the sea", seed=3, steps=8, frames=9)

pipeline = load(request)  # finds the weights and plans the memory; networks load when they are first used
conditions = pipeline.encode(request)  # text states, and pictures or a video where the request has them

for step in pipeline.denoise(conditions, request):  # one solver step at a time: leave the loop to cancel
    print(f"step {step.index} of {step.total}, latents {tuple(step.latents.shape)}")
    preview = pipeline.preview(step.latents)  # a first frame of what is not finished, where memory allows
    if preview is not None:
        Image.fromarray(preview).save("preview.png")

frames = list(pipeline.decode(step.latents))  # uint8 arrays [height, width, 3], one after another
print(len(frames), frames[0].shape, np.mean(frames))
