"""The door out: videos leave marked and signed (`seal`), and what a video says of itself can be checked (`verify`)."""

from lichtspiel.seal.card import card
from lichtspiel.seal.credentials import Input, Provenance, SourceType, digest
from lichtspiel.seal.door import Sealed, check_output, seal
from lichtspiel.seal.keys import Identity, identity, new_identity
from lichtspiel.seal.verify import Ingredient, Report, Signer, exit_code, verify

__all__ = [
    "Identity",
    "Ingredient",
    "Input",
    "Provenance",
    "Report",
    "Sealed",
    "Signer",
    "SourceType",
    "card",
    "check_output",
    "digest",
    "exit_code",
    "identity",
    "new_identity",
    "seal",
    "verify",
]
