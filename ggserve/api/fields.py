"""Request bodies and field types that the dialects share."""

import warnings
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic.warnings import UnsupportedFieldAttributeWarning
from pydantic_core import PydanticCustomError

from ggserve.api.field_table import REFUSED
from ggserve.durations import seconds

_LARGEST = 2**63 - 1  # the largest integer that JSON libraries agree on


# A warning caused by how FastAPI builds validators; FastAPI silences it itself at startup.
warnings.simplefilter("ignore", UnsupportedFieldAttributeWarning)


class Strict(BaseModel):
    """Strict JSON: no string is read as a number. The validator is built on first use, not at startup."""

    model_config = ConfigDict(strict=True, protected_namespaces=(), defer_build=True)


Seconds = Annotated[float, BeforeValidator(seconds)]


class ModelRequest(Strict):
    """A request body that names its model."""

    endpoint: ClassVar[str] = ""  # its name in the field table
    prompt_field: ClassVar[str | None] = None  # the field that errors about the prompt name

    model: str | None = None
    keep_alive: Seconds | None = None  # how long the model stays loaded; Ollama's field
    ttl: Seconds | None = None  # LM Studio's field for the same

    @property
    def streams(self) -> bool:
        """True if the response is streamed."""
        return bool(getattr(self, "stream", False))

    @property
    def stay(self) -> float | None:
        """The seconds that the model stays loaded after the request, `math.inf` for ever; None: as configured."""
        return self.ttl if self.keep_alive is None else self.keep_alive

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, body: Any) -> Any:
        for name, harmless in REFUSED.get(cls.endpoint, {}).items() if isinstance(body, dict) else ():
            if not _asks_for_nothing(_value(body, name), harmless):
                raise PydanticCustomError(
                    "unsupported_parameter", "{param} is not supported by this server", {"param": name}
                )
        return body


def _value(body: dict[str, Any], name: str) -> Any:
    """Return the value of a field, which can be nested: `options.tfs_z`."""
    value: Any = body
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _asks_for_nothing(value: Any, harmless: Sequence[Any]) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or any(value == ok and (number or type(value) is type(ok)) for ok in harmless)


def _whole(value: Any) -> Any:
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    if isinstance(whole, int) and abs(whole) > _LARGEST:
        raise PydanticCustomError("invalid_value", "must have at most 64 bits")
    return whole


Whole = Annotated[int, BeforeValidator(_whole)]  # 5.0 is 5, because some languages' JSON has only floats


def whole_items(value: Any) -> Any:
    """Return a list with floats such as 5.0 as integers."""
    return [_whole(item) for item in value] if isinstance(value, list) and float in set(map(type, value)) else value


TokenId = Annotated[int, Field(ge=0, lt=2**31)]
# Pydantic's checks, stopped at the first error: a long list takes milliseconds instead of half a second.
TokenIds = Annotated[list[TokenId], Field(fail_fast=True), BeforeValidator(whole_items)]

Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]  # of presence or frequency
RepetitionPenalty = Annotated[float, Field(ge=0.01, le=10, allow_inf_nan=False)]  # divides logits


def field_error(param: str, message: str) -> PydanticCustomError:
    """Return the error about a combination of fields, reported for one of them."""
    return PydanticCustomError("invalid_value", "{message}", {"param": param, "message": message})


def thinking(thinks: bool | None, effort: str | bool | None = None) -> dict[str, Any]:
    """Return the chat template variables that turn reasoning on or off (read by Qwen's) and set its effort
    (gpt-oss's)."""
    told: dict[str, Any] = {} if thinks is None else {"enable_thinking": thinks}
    return {**told, "reasoning_effort": effort} if thinks and isinstance(effort, str) else told


# Reasoning tokens. A higher effort ("xhigh", "max") has no limit.
_BUDGETS = {"none": 0, "minimal": 128, "low": 512, "medium": 2048, "high": 8192}
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


def thinking_budget(tokens: int | None, effort: str | bool | None = None) -> int | None:
    """Return the maximum number of reasoning tokens: the client's own number (-1: no limit), else the one for its
    effort."""
    if tokens is not None:
        return tokens if tokens >= 0 else None
    return _BUDGETS.get(effort) if isinstance(effort, str) else None


def _without_nulls(schema: Any) -> Any:
    """Return a JSON schema without the nulls that some clients send for omitted keywords."""
    if isinstance(schema, list):
        return [_without_nulls(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: value if name in _VALUES else _without_nulls(value)
        for name, value in schema.items()
        if value is not None or name in _VALUES
    }


_VALUES = ("const", "default", "enum", "examples")  # keywords under which a null means null
ToolSchema = Annotated[dict[str, Any], AfterValidator(_without_nulls)]  # for the arguments of a tool


def one_of(forms: str) -> WrapValidator:
    """Return a validator for a field with several forms. Its error lists all forms instead of what is wrong with the
    first."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError("invalid_value", "must be {forms}", {"forms": forms}) from error

    return WrapValidator(check)
