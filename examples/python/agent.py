"""An agent that remembers: it chats, calls tools, and waits for a human before it sends anything.

    pip install langgraph ../../clients/python
    export CHECKPOINT_URL=http://127.0.0.1:5003
    python agent.py my-thread

Say `hello`, `how long is <text>?` or `send <text> to <name>`. Kill it at any moment, also while it waits for your
approval, and start it again with the same thread: it goes on where it was. Rules take the place of a model, so it needs
neither a key nor a network.
"""

from __future__ import annotations

import re
import sys
from typing import Any, Literal

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from langgraph_checkpoint_http import HttpCheckpointSaver


def length(text: str) -> str:
    return f"{len(text)} characters"


def send(text: str, to: str) -> str:
    # Whatever stands before an interrupt runs again on resume, so what cannot be undone stands behind it.
    answer = interrupt(f"Send {text!r} to {to}? (yes or no)")
    return f"sent {text!r} to {to}" if answer == "yes" else "not sent"


TOOLS = {"length": length, "send": send}
RULES = {"length": r"how long is (?P<text>.+)\?", "send": r"send (?P<text>.+) to (?P<to>\w+)"}


def model(state: MessagesState) -> dict[str, Any]:
    """Stands for a language model: answers, or asks for a tool."""
    last = state["messages"][-1]
    if isinstance(last, ToolMessage):
        return {"messages": [AIMessage(f"Done: {last.content}.")]}
    for tool, rule in RULES.items():
        if found := re.fullmatch(rule, str(last.content)):
            call = {"name": tool, "args": found.groupdict(), "id": f"call-{len(state['messages'])}"}
            return {"messages": [AIMessage("", tool_calls=[call])]}
    said = sum(isinstance(message, HumanMessage) for message in state["messages"])
    return {"messages": [AIMessage(f"You said {last.content!r}; that was message {said} of our talk.")]}


def tools(state: MessagesState) -> dict[str, Any]:
    calls = state["messages"][-1].tool_calls  # type: ignore[union-attr]
    return {"messages": [ToolMessage(TOOLS[call["name"]](**call["args"]), tool_call_id=call["id"]) for call in calls]}


def tools_or_end(state: MessagesState) -> Literal["tools", "__end__"]:
    return "tools" if getattr(state["messages"][-1], "tool_calls", None) else END


builder = StateGraph(MessagesState)
builder.add_node("model", model)
builder.add_node("tools", tools)
builder.add_edge(START, "model")
builder.add_conditional_edges("model", tools_or_end)
builder.add_edge("tools", "model")


def main(thread_id: str) -> None:
    config: Any = {"configurable": {"thread_id": thread_id}}
    with HttpCheckpointSaver.from_env() as checkpointer:
        graph = builder.compile(checkpointer=checkpointer)
        while True:
            state = graph.get_state(config)
            if state.next and not state.interrupts:
                # It was killed in the middle of a step: nothing new to say, just go on.
                graph.invoke(None, config)
                continue
            if state.interrupts:
                print(f"agent asks: {state.interrupts[0].value}", flush=True)
            elif state.values:
                print(f"agent: {state.values['messages'][-1].content}", flush=True)
            line = sys.stdin.readline()
            if not line:
                return
            said = line.strip()
            graph.invoke(Command(resume=said) if state.interrupts else {"messages": [("user", said)]}, config)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "my-thread")
