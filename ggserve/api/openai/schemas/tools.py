"""The functions that a chat may call (tool calling)."""

from collections.abc import Collection, Sequence
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from ggserve.api.fields import Strict, ToolSchema, one_of
from ggserve.messages import Tools


class Function(Strict):
    """A function that the model may call. `parameters` is a JSON schema."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: ToolSchema | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Function


class FunctionName(Strict):
    name: str


class NamedTool(Strict):
    type: Literal["function"]
    function: FunctionName


class AllowedTools(Strict):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1)]


class AllowedChoice(Strict):
    """The answer may call only some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


Choice = Literal["none", "auto", "required"] | NamedTool | AllowedChoice
ToolChoice = Annotated[
    Choice,
    one_of("'none', 'auto', 'required', or an object that names a function or lists allowed_tools"),
]


def chosen_tools(tools: Sequence[Tool], choice: Choice | None, *, parallel: bool) -> Tools | None:
    """Return the tools that an answer may call. Raises ValueError, without the field's name, if the choice matches no
    tool."""
    if not tools and choice == "required":
        raise ValueError("is 'required', but there are no tools")
    names: Collection[str] = [tool.function.name for tool in tools]
    chosen, required = names, choice == "required"
    if isinstance(choice, NamedTool):
        chosen, required, parallel = [choice.function.name], True, False
    elif isinstance(choice, AllowedChoice):
        chosen = [tool.function.name for tool in choice.allowed_tools.tools]
        required = choice.allowed_tools.mode == "required"
    for name in chosen:
        if name not in names:
            raise ValueError(f"names {name!r}, which is not among the tools")
    if not tools or choice == "none":
        return None
    functions = [tool.model_dump(exclude_none=True) for tool in tools if tool.function.name in chosen]
    return Tools(tuple(functions), required=required, parallel=parallel)
