"""The policy: what a request may ask for, which pictures it may bring, and which frames may leave."""

from lichtspiel.policy.guards import Guard, HttpGuard
from lichtspiel.policy.rules import describe as describe_policy
from lichtspiel.policy.rules import judge_frames, judge_image, judge_prompt
from lichtspiel.policy.verdict import Verdict, enforce, strictest

__all__ = [
    "Guard",
    "HttpGuard",
    "Verdict",
    "describe_policy",
    "enforce",
    "judge_frames",
    "judge_image",
    "judge_prompt",
    "strictest",
]
