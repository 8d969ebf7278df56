"""Compiles the policy's rules when it is loaded, for processes that begin as copies of one that has loaded it."""

from lichtspiel.policy.prompts import shipped

shipped().read("a turtle walks on the beach", has_image=False)
