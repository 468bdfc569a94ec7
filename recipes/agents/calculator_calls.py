"""Conversations that show how the calculator is called, for the first stage of calculator.yaml."""

from alignkit.data.generators import generate
from alignkit.environments.toolbox import tool_schema
from alignkit.environments.tools.calculator import calculator


def conversations(split, seed, count=100, digits=2, operations="+-"):
    """Sums and differences: the question, a call with its expression, the result, the answer."""
    asked = {"digits": digits, "operations": operations, "count": count}
    for row in generate("arithmetic", asked, split=split, seed=seed):
        expression = row["prompt"].removeprefix("What is ").partition("?")[0]
        call = {"type": "function", "function": {"name": "calculator", "arguments": {"expression": expression}}}
        yield {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "name": "calculator", "content": calculator(expression)},
                {"role": "assistant", "content": row["reference"]},
            ],
            "tools": [tool_schema(calculator)],
        }
