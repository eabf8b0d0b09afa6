"""`--config FILE.toml`: flags from a file, for every command.

A key stands for the flag of its name, for every command below its table: at the top of the file for all commands that have
the flag, under `[features]` for those of `bench features`, under `[run]` for `bench run` alone. A flag on the command line
goes before the file.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections import Counter
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.models import CommandFunctionType

from marble_bench.errors import UsageError, suggest_name

REFUSED: Any = typer.BadParameter.__base__  # what typer raises for a value that it refuses, by no name of its own
NOT_IN_A_FILE = {"config", "help", "install-completion", "show-completion", "version"}


class Commands(typer.Typer):
    """A `typer.Typer` whose commands have the option `--config`."""

    def command(self, name: str | None = None, **more: Any) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """As `typer.Typer.command`."""
        register = super().command(name, **more)

        def decorate(function: CommandFunctionType) -> CommandFunctionType:
            register(_with_config(function))
            return function

        return decorate


def _with_config(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same command with the option, which is worked off before it is called."""
    hints = typing.get_type_hints(function, include_extras=True)
    shown = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints.get(each.name, each.annotation))
        for each in inspect.signature(function).parameters.values()
    ]
    shown.append(inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Config))

    @wraps(function)
    def wrapped(**given: Any) -> Any:
        del given["config"]
        return function(**given)

    wrapped.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {each.name: each.annotation for each in shown}
    return wrapped


def _read_config(ctx: typer.Context, value: Path | None) -> Path | None:
    """Make the flags of a file the defaults of the command that is called."""
    if value is None or ctx.resilient_parsing:
        return value
    file = value.expanduser()
    table, chain = _read_toml(file), _chain(ctx)
    _check_keys(file, table, chain[0].command)
    flags = flags_of(ctx.command)
    found: dict[str, Any] = {}
    for context in chain:  # from the top of the file down to the command's own table
        if context is not chain[0]:
            table = table.get(context.info_name or "", {})
        for key, given in table.items():
            if not isinstance(given, dict) and (parameter := flags.get(_flag(key))):
                found[parameter.name] = _convert(ctx, parameter, given, f"{file}: {key}")
    if found.get("debug") and isinstance(ctx.find_root().obj, dict):
        ctx.find_root().obj["debug"] = True
    ctx.default_map = {**(ctx.default_map or {}), **found}
    return value


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        help="Read flags from this file; flags given here win (docs/command-line.md).",
        is_eager=True,
        callback=_read_config,
    ),
]


def _read_toml(file: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises UsageError naming the file."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config: {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config: {file} is not TOML: {error}") from error


def _chain(ctx: typer.Context) -> list[Any]:
    """The contexts from `bench` down to the command that is called."""
    found: list[Any] = [ctx]
    while found[0].parent is not None:
        found.insert(0, found[0].parent)
    return found


def flags_of(command: Any) -> dict[str, Any]:
    """The parameters of a command that a file may hold, by their flags without the hyphens before them."""
    return {
        option[2:]: parameter
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--") and option[2:] not in NOT_IN_A_FILE
    }


def _flag(key: str) -> str:
    return key.replace("_", "-")


def _below(command: Any) -> Iterator[Any]:
    """The commands that a table stands for: a command alone, or all of a group."""
    for each in getattr(command, "commands", {}).values():
        yield from _below(each)
    if not hasattr(command, "commands"):
        yield command


def _check_keys(file: Path, table: dict[str, Any], command: Any, where: str = "") -> None:
    """Raise UsageError naming the file and the key that is neither a flag nor a command there."""
    below = getattr(command, "commands", {})
    flags = {flag for each in _below(command) for flag in flags_of(each)}
    for flag, several in Counter(map(_flag, table)).items():
        if several > 1:
            both = " and ".join(repr(key) for key in table if _flag(key) == flag)
            raise UsageError(f"{file}: {both} are one flag, --{flag}: give it once")
    for key, value in table.items():
        name = f"{where}.{key}".removeprefix(".")
        if isinstance(value, dict):
            if key not in below and _flag(key) in flags:
                raise UsageError(f"{file}: {name}: --{_flag(key)} takes a value, not a table")
            if key not in below:
                raise UsageError(f"{file}: [{name}]: bench has no such command{suggest_name(key, below)}")
            _check_keys(file, value, below[key], name)
        elif _flag(key) not in flags:
            place = f" in [{where}]" if where else ""
            call = f"bench {where.replace('.', ' ')} --help" if where else "bench --help"
            raise UsageError(f"{file}: no flag '{key}'{place}{suggest_name(_flag(key), flags)} ({call})")


def _convert(ctx: typer.Context, parameter: Any, value: Any, what: str) -> Any:
    """A value as the command takes it; what is no value of the flag is refused. what: file and key, for the message."""
    given = _read_flag(parameter, value, what)
    try:
        parameter.process_value(ctx, given)
    except REFUSED as error:
        raise UsageError(f"{what}: {error.message}") from error
    return given


def _read_flag(parameter: Any, value: Any, what: str) -> Any:
    """A TOML value as a flag has it on the command line: true or false, or text, or a list of texts."""
    flag = f"--{parameter.opts[0].lstrip('-')}"
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise UsageError(f"{what}: {flag} takes true or false, not {_describe(value)}")
        return value
    several = getattr(parameter, "multiple", False)
    if isinstance(value, list) and not several:
        raise UsageError(f"{what} has several values, and {flag} takes one")
    values = value if isinstance(value, list) else [value]
    for each in values:
        if isinstance(each, bool) or not isinstance(each, str | int | float):
            raise UsageError(f"{what}: {flag} takes a text or a number, not {_describe(each)}")
    return [str(each) for each in values] if several else str(value)


def _describe(value: Any) -> str:
    """A TOML value in a message: a plain one as the file has it, another by its kind."""
    if isinstance(value, bool | int | float):
        return str(value).lower()
    if isinstance(value, str):
        return f"'{value}'"
    return "a table" if isinstance(value, dict) else "a list" if isinstance(value, list) else "a date or time"
