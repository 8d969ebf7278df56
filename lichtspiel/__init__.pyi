from lichtspiel.errors import Cancelled as Cancelled
from lichtspiel.errors import Interrupted as Interrupted
from lichtspiel.errors import InvalidInput as InvalidInput
from lichtspiel.errors import LichtspielError as LichtspielError
from lichtspiel.errors import MediaError as MediaError
from lichtspiel.errors import NonFinite as NonFinite
from lichtspiel.errors import OutOfMemory as OutOfMemory
from lichtspiel.errors import OutputError as OutputError
from lichtspiel.errors import Refused as Refused
from lichtspiel.errors import RequestError as RequestError
from lichtspiel.errors import WeightsError as WeightsError
from lichtspiel.inference.pipeline import Conditions as Conditions
from lichtspiel.inference.pipeline import Pipeline as Pipeline
from lichtspiel.inference.pipeline import Step as Step
from lichtspiel.inference.pipeline import load as load
from lichtspiel.policy import HttpGuard as HttpGuard
from lichtspiel.request import Request as Request
from lichtspiel.seal.marks import Marks as Marks
from lichtspiel.seal.verify import Report as Report
from lichtspiel.seal.verify import verify as verify
from lichtspiel.spec import MODELS as MODELS
from lichtspiel.workflows.generate import Observer as Observer
from lichtspiel.workflows.generate import Result as Result
from lichtspiel.workflows.generate import decode as decode
from lichtspiel.workflows.generate import generate as generate
from lichtspiel.workflows.terms import Terms as Terms

__version__: str
