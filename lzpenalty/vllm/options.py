"""What a request, and a server, say about the compressed cache. Needs neither torch nor vLLM.

    cache_interval     P, tokens between compressions; 0 or null: this request's cache is not compressed
    cache_ratio        c, of which 1 / c are kept
    cache_recent       R, the newest tokens, which stay, and whose queries vote
    cache_kernel       neighbours that scores are averaged over
    cache_budget       at most so many generated tokens stay
    cache_selector     the rule; 'echo' has one budget for all heads, the others are even
    cache_aggregation  'layer' or 'group': whether all heads of a layer keep the same tokens; with 'echo' they never do

One of them is enough; the others have the defaults of :class:`lzpenalty.hf.CompressedCache`. What a server does for requests
that name none is the object `cache` of `--additional-config`, with the same names without `cache_`, and

    slots         requests whose newest queries are kept at the same time; others wait
    echo          whether requests may have 'echo', which needs memory of its own, and is then the rule where none is named
    most_recent   the largest R of a request, which a slot has room for
    log           whether a line is logged for each request at its end
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lzpenalty.cache.plan import Plan, check_integer

__all__ = ["CacheOptions", "ServerOptions", "cache_options", "server_options"]

PREFIX = "cache_"
COUNTS = ("interval", "ratio", "recent", "kernel", "budget")
NAMES = (*COUNTS, "selector", "aggregation")
# Those that need a layer's keys and values and the last R queries. h2o watches every step.
EVEN = ("rpc", "snapkv", "tova", "streaming", "random", "rkv", "vase")
UNEVEN = ("echo",)
SELECTORS = UNEVEN + EVEN
AGGREGATIONS = ("layer", "group")
SLOTS, MOST_RECENT = 32, 32
_PROTECT = "expected none, since prompts stay whole in vLLM, where requests share what they have in common"


@dataclass(frozen=True)
class CacheOptions:
    """The options of one request."""

    plan: Plan
    kernel: int = 7
    selector: str = "echo"
    aggregation: str | None = None  # of the selector: each head its own if these are uneven, else all of a layer the same

    def __post_init__(self):
        check_integer("kernel", self.kernel, 1)
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel: expected an odd number, got {self.kernel}")
        if self.selector not in SELECTORS:
            raise ValueError(f"selector: expected one of {', '.join(SELECTORS)}, got {self.selector!r}")
        if self.aggregation is None:
            object.__setattr__(self, "aggregation", "group" if self.uneven else "layer")
        if self.aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation: expected one of {', '.join(AGGREGATIONS)}, got {self.aggregation!r}")
        if self.uneven and self.aggregation == "layer":
            raise ValueError(
                f"aggregation: expected 'group' with the selector {self.selector!r}, whose heads keep what each finds, got "
                "'layer'; name another selector, such as 'rpc'"
            )

    @property
    def uneven(self) -> bool:
        """Whether heads may keep different numbers of tokens."""
        return self.selector in UNEVEN


@dataclass(frozen=True)
class ServerOptions:
    """The object `cache` of `--additional-config`."""

    default: Mapping[str, Any]  # names without the prefix
    slots: int = SLOTS
    most_recent: int = MOST_RECENT
    log: bool = False
    echo: bool = True


def _compile(given: Mapping[str, Any], echo: bool) -> CacheOptions | None:
    """Of names without the prefix, where a request may have 'echo' or not."""
    # Numbers that come in JSON, or from clients that know one kind of number alone.
    options = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in given.items() if v is not None}
    if not given or ("interval" in given and not options.get("interval")):
        return None
    plan = Plan(**{name: options.pop(name) for name in ("interval", "ratio", "recent", "budget") if name in options})
    compiled = CacheOptions(plan, **({} if echo else {"selector": EVEN[0]}) | options)
    if compiled.uneven and not echo:
        raise ValueError(
            f'selector: expected one of {", ".join(EVEN)} of this server, which was started with "echo": false, got '
            f"{compiled.selector!r}"
        )
    return compiled


def cache_options(params: Mapping[str, Any] | None, server: ServerOptions | None = None) -> CacheOptions | None:
    """What a request asks for; None if its cache is not to be compressed.

    Parameters
    ----------
    params : mapping, optional
        What came with the request. Keys that do not begin with `cache_` belong to others.
    server : ServerOptions, optional
        What holds for options that the request does not name.

    Raises
    ------
    ValueError
        Naming the option.
    """
    given = {key: value for key, value in (params or {}).items() if isinstance(key, str) and key.startswith(PREFIX)}
    for key in given:
        if key == PREFIX + "protect":
            raise ValueError(f"{key}: {_PROTECT}")
        if key.removeprefix(PREFIX) not in NAMES:
            raise ValueError(f"{key}: no such option, expected one of {', '.join(PREFIX + name for name in NAMES)}")
    own = {key.removeprefix(PREFIX): value for key, value in given.items()}
    try:
        options = _compile({**(server.default if server else {}), **own}, server is None or server.echo)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{PREFIX}{error}") from None
    if options and server and options.plan.recent > server.most_recent:
        raise ValueError(
            f"{PREFIX}recent: expected at most {server.most_recent}, which this server has room for the queries of, got "
            f"{options.plan.recent}"
        )
    return options


def server_options(additional_config: Any) -> ServerOptions:
    """Of the object that `--additional-config` was given. Raises ValueError naming the option."""
    given = additional_config.get("cache", {}) if isinstance(additional_config, Mapping) else {}
    where = "--additional-config: cache"
    if not isinstance(given, Mapping):
        raise ValueError(f'{where}: expected an object such as {{"interval": 4096}}, got {given!r}')
    default = {name: value for name, value in given.items() if name in NAMES}
    own = {name: value for name, value in given.items() if name not in NAMES}
    if "protect" in own:
        raise ValueError(f"{where}.protect: {_PROTECT}")
    known = ("slots", "most_recent", "log", "echo")
    if unknown := set(own) - set(known):
        raise ValueError(f"{where}.{min(unknown)}: no such option, expected one of {', '.join((*NAMES, *known))}")
    for name in ("slots", "most_recent"):
        value = own.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{where}.{name}: expected an integer >= 1, got {value!r}")
    for name in ("log", "echo"):
        if not isinstance(own.get(name, False), bool):
            raise ValueError(f"{where}.{name}: expected true or false, got {own[name]!r}")
    try:
        compiled = _compile(default, own.get("echo", True))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}.{error}") from None
    if compiled and "most_recent" not in own:
        own["most_recent"] = max(MOST_RECENT, compiled.plan.recent)
    server = ServerOptions(default, **own)
    cache_options(None, server)  # raises if a slot has no room for it
    return server
