"""LlamaIndex's class for servers with OpenAI's API."""

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike


def model(url: str) -> OpenAILike:
    return OpenAILike(
        api_base=url,
        api_key="none",
        model="default",
        is_chat_model=True,
        is_function_calling_model=True,
        temperature=0,
        max_tokens=60,
    )


def test_a_chat_whole_and_streamed(url: str):
    whole = model(url).complete("Write one sentence about the sea.").text
    assert "sea" in whole
    messages = [ChatMessage(role="user", content="Write one sentence about the sea.")]
    assert "".join(piece.delta or "" for piece in model(url).stream_chat(messages)) == whole


def test_a_tool_is_called(url: str):
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return "sunny"

    llm = model(url)
    tool = FunctionTool.from_defaults(get_weather)
    answer = llm.chat_with_tools([tool], user_msg="The weather in Paris?", tool_required=True)
    calls = llm.get_tool_calls_from_response(answer)
    assert calls and all(call.tool_name == "get_weather" for call in calls)
