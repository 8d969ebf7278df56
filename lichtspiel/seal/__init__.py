"""Write videos marked and signed (`seal`), and check what a file proves (`verify`)."""

from lichtspiel.seal.animation import ANIMATIONS, seal_animation
from lichtspiel.seal.credentials import Change, Input, Provenance, SourceType, digest
from lichtspiel.seal.enroll import import_identity
from lichtspiel.seal.export import Sealed, check_output, seal
from lichtspiel.seal.identity import Identity, find_identity, load_identity, new_identity
from lichtspiel.seal.identity import describe as describe_identity
from lichtspiel.seal.marks import Marks
from lichtspiel.seal.picture import seal_picture
from lichtspiel.seal.report import card
from lichtspiel.seal.sound import Sound
from lichtspiel.seal.verify import Credentials, Ingredient, Labels, Report, Signer, Watermark, exit_code, verify

__all__ = [
    "ANIMATIONS",
    "Change",
    "Credentials",
    "Identity",
    "Ingredient",
    "Input",
    "Labels",
    "Marks",
    "Provenance",
    "Report",
    "Sealed",
    "Signer",
    "Sound",
    "SourceType",
    "Watermark",
    "card",
    "check_output",
    "describe_identity",
    "digest",
    "exit_code",
    "find_identity",
    "import_identity",
    "load_identity",
    "new_identity",
    "seal",
    "seal_animation",
    "seal_picture",
    "verify",
]
