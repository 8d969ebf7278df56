"""Makes the commands and compiles the policy's rules when it is loaded, for processes that begin as copies of one that
has loaded it."""

from lichtspiel.cli import app
from lichtspiel.policy.prompts import shipped

_ = app.made
shipped().read("a turtle walks on the beach", has_image=False)
