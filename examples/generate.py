"""Make a video from a prompt, and check what it says about itself."""

from lichtspiel import Marks, Request, RequestError, Terms, generate, verify

# A prompt and a file name are enough; everything else has a default.
result = generate("a big tropical fish swims to the left under water", "fish.mp4")
print(result.request.seed, result.timings["total"])

# A Request sets the rest. Its fields are the flags of the command line; `lichtspiel show nano` lists the defaults.
request = Request.of(prompt="a dragon flies over a meadow", seed=7, steps=8, frames=9, upscale=2)
generate(request, "dragon.mp4", sheet="dragon.png", terms=Terms(marks=Marks.of("eu", label=True)))

print(verify("dragon.mp4").verdict)

# What cannot be made is refused before anything loads, with the nearest value that works.
try:
    Request.of(prompt="a dragon", frames=80)
except RequestError as error:
    print(error.field, error.value, error.nearest)
