"""Hooks of schemathesis: names of things that exist, so that requests reach more than "there is no such job". check.py sets FATHOM_NAMES."""

import json
import os

import schemathesis
from hypothesis import strategies
from schemathesis.core.failures import AcceptedNegativeData

# By operation (or "*"), by parameter: values that mean something on this server.
NAMES = json.loads(os.environ["FATHOM_NAMES"])
STREAMS = ["streamEvents", "streamRunEvents"]


def names_of(operation: str) -> dict[str, list]:
    return NAMES["*"] | NAMES.get(operation, {})


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """The phase that tries boundary values begins at examples."""
    for item in raw_schema["paths"].values():
        for operation in item.values():
            names = names_of(operation["operationId"])
            for parameter in operation.get("parameters", []):
                if parameter["name"] in names:
                    values = names[parameter["name"]]
                    parameter["examples"] = {f"real{index}": {"value": value} for index, value in enumerate(values)}


def mixed(context, strategy):
    """Half of the requests are about something that exists."""
    if context.operation is None:
        return strategy
    names = names_of(context.operation.definition.raw["operationId"])

    def replace(parameters, real):
        # Negative data comes wrapped, and stays as it is.
        if not isinstance(parameters, dict) or real is None:
            return parameters
        return parameters | {name: real[name] for name in parameters if name in real}

    real = strategies.fixed_dictionaries({name: strategies.sampled_from(values) for name, values in names.items()})
    return strategies.builds(replace, strategy, strategies.one_of(strategies.none(), real))


@schemathesis.hook
def before_generate_path_parameters(context, strategy):
    return mixed(context, strategy)


@schemathesis.hook
def before_generate_query(context, strategy):
    return mixed(context, strategy)


@schemathesis.hook
def before_call(context, case, kwargs):
    """A reader from before the server's start is told at once that it missed something: no case waits for something to happen."""
    if case.operation.definition.raw["operationId"] in STREAMS:
        case.headers["Last-Event-ID"] = "0.00000000.0"


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """A query parameter without a value counts as absent, so it is no wrong value."""
    empty = any(value == "" for value in (case.query or {}).values())
    return not (isinstance(failure, AcceptedNegativeData) and empty)
