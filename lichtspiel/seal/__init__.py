"""The door out: videos leave marked and signed (`seal`), and what a file proves can be checked (`verify`).

`Terms` bring the policy and the record to a job; the verdicts and the log can be used by themselves, too.
"""

from lichtspiel.seal.card import card
from lichtspiel.seal.credentials import Input, Provenance, SourceType, digest
from lichtspiel.seal.door import Sealed, check_output, seal
from lichtspiel.seal.guards import Guard, HttpGuard
from lichtspiel.seal.keys import Identity, identity, import_identity, new_identity
from lichtspiel.seal.keys import describe as describe_identity
from lichtspiel.seal.marks import Marks
from lichtspiel.seal.picture import seal_picture
from lichtspiel.seal.policy import Verdict, enforce, judge_frames, judge_image, judge_prompt, strictest
from lichtspiel.seal.policy import describe as describe_policy
from lichtspiel.seal.terms import Inspection, Terms
from lichtspiel.seal.verify import Credentials, Ingredient, Labels, Report, Signer, Watermark, exit_code, verify

__all__ = [
    "Credentials",
    "Guard",
    "HttpGuard",
    "Identity",
    "Ingredient",
    "Input",
    "Inspection",
    "Labels",
    "Marks",
    "Provenance",
    "Report",
    "Sealed",
    "Signer",
    "SourceType",
    "Terms",
    "Verdict",
    "Watermark",
    "card",
    "check_output",
    "describe_identity",
    "describe_policy",
    "digest",
    "enforce",
    "exit_code",
    "identity",
    "import_identity",
    "judge_frames",
    "judge_image",
    "judge_prompt",
    "new_identity",
    "seal",
    "seal_picture",
    "strictest",
    "verify",
]
