"""One finder by name for all that a recipe refers to. There is no registry: a file is found because it is there.

Search order: an explicit `./file.py:name` or `package.module:name`, the folder beside the recipe, `$ALIGNKIT_PATH`,
entry points, the shelf. The first place that has the name wins, so a user's copy beats the shipped file.
"""

from __future__ import annotations

import difflib
import functools
import glob
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from alignkit.content import ROOT
from alignkit.errors import ContentError
from alignkit.recipe.lookup.outline import module_file, outline
from alignkit.recipe.lookup.secrets import withhold


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What can be found: its folder beside a recipe, its files, and where the shipped ones lie.

    attribute: the object a Python file must define; None means an object of the file's own name.
    module: dotted name of the shelf folder, so that shipped Python files are imported under their real name.
    """

    name: str
    one: str
    folder: str
    suffixes: tuple[str, ...]
    shelf: Path
    module: str = ""
    attribute: str | None = None

    @property
    def is_python(self) -> bool:
        return self.suffixes == (".py",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Where a name leads. Pickles as plain data: `load(found)` gives the same object in any process.

    path: the file. origin: which place of the search order had it. summary: its first docstring or comment line.
    module: import name when the file belongs to an importable package, else None. attribute: the object wanted of a
    Python file, else None.
    """

    kind: str
    name: str
    path: Path
    origin: str
    summary: str
    module: str | None = None
    attribute: str | None = None

    @property
    def is_shipped(self) -> bool:
        """Whether it is one of alignkit's own files, and no copy beside the recipe or elsewhere."""
        return self.origin == "shelf"


_PACKAGE = Path(__file__).resolve().parents[2]
KINDS = {
    kind.name: kind
    for kind in (
        Kind(name="recipes", one="recipe", folder="recipes", suffixes=(".yaml",), shelf=ROOT / "recipes"),
        Kind(
            name="rewards",
            one="reward",
            folder="reward_models",
            suffixes=(".py",),
            shelf=ROOT / "reward_models",
            module="alignkit.content.reward_models",
        ),
        Kind(
            name="algorithms",
            one="algorithm",
            folder="algorithms",
            suffixes=(".py",),
            shelf=_PACKAGE / "algorithms",
            module="alignkit.algorithms",
            attribute="ALGORITHM",
        ),
        Kind(
            name="environments",
            one="environment",
            folder="environments",
            suffixes=(".py",),
            shelf=_PACKAGE / "environments",
            module="alignkit.environments",
        ),
        Kind(
            name="tools",
            one="tool",
            folder="tools",
            suffixes=(".py",),
            shelf=_PACKAGE / "environments" / "tools",
            module="alignkit.environments.tools",
        ),
        Kind(name="evals", one="eval", folder="evals", suffixes=(".yaml",), shelf=ROOT / "evals"),
        Kind(
            name="launch",
            one="launch profile",
            folder="launch",
            suffixes=(".yaml", ".sh.j2", ".kubectl.j2", ".sky.j2", ".ray.j2"),
            shelf=ROOT / "launch",
        ),
    )
}


def find(kind: str, name: str, *, beside: Path | None = None) -> Found:
    """The file behind `name`. `beside` is the folder of the recipe that names it (default: the working folder).

    Raises ContentError, with the nearest existing name, when no place has it or one place has it twice.
    """
    entry = get_kind(kind)
    explicit = _find_explicit(entry, name, beside or Path())
    if explicit is not None:
        return explicit
    for place in _places(entry, beside, name):
        matches = [found for found in place if _answers_to(found, name)]
        matches = [found for found in matches if found.name == name] or matches  # `dpo` before `smoke/dpo`
        if len(matches) > 1:
            names = ", ".join(sorted(_long_name(found) for found in matches))
            raise ContentError(f"{entry.one} '{name}' could be any of: {names}; write one of these names")
        if matches:
            return _checked(entry, matches[0])
    known = [known.name for known in list_content(kind, beside=beside)]
    raise ContentError(f"no {entry.one} is called '{name}'{did_you_mean(name, known)}; see `alignkit ls {kind}`")


def find_suite(name: str, *, beside: Path | None = None) -> Found:
    """A suite of evals by its file, or by a name such as `quick`. Raises ContentError, as `find` does."""
    plain = name.endswith(".yaml") or name.startswith("suites/")
    return find("evals", name if plain else f"suites/{name}", beside=beside)


def list_content(kind: str, *, beside: Path | None = None) -> list[Found]:
    """All that `find` can find by a plain name, sorted by name; where two places share a name, the one that wins."""
    winners: dict[str, Found] = {}
    for place in _places(get_kind(kind), beside):
        for found in place:
            winners.setdefault(found.name, found)
    return [winners[name] for name in sorted(winners)]


def load(found: Found) -> object:
    """The Python object behind a Found. `sys.path` is left alone; a file is imported once per content.

    A file that is not alignkit's own runs without the environment's secrets, and so does this process from then on.
    Raises ContentError when the file cannot be imported or does not define the object.
    """
    if not (found.module or "").startswith("alignkit."):
        withhold()
    try:
        module = importlib.import_module(found.module) if found.module else _import_file(found.path)
    except Exception as error:  # a user's file may raise anything while it is imported
        raise ContentError(f"{found.path}: importing it raised {type(error).__name__}: {error}") from error
    attribute = found.attribute or found.name
    if not hasattr(module, attribute):
        raise ContentError(f"{found.path} does not define '{attribute}'{did_you_mean(attribute, dir(module))}")
    return getattr(module, attribute)


def get_kind(kind: str) -> Kind:
    """Raises ContentError for a kind that does not exist."""
    if kind not in KINDS:
        raise ContentError(
            f"no kind of content is called '{kind}'{did_you_mean(kind, KINDS)}; kinds: {', '.join(KINDS)}"
        )
    return KINDS[kind]


def did_you_mean(name: str, known: Iterable[object]) -> str:
    """` (did you mean 'x'?)`, or an empty string when nothing is near."""
    names = [str(entry) for entry in known if not str(entry).startswith("__")]
    guesses = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    return f" (did you mean {' or '.join(repr(guess) for guess in guesses)}?)" if guesses else ""


def _find_explicit(kind: Kind, name: str, beside: Path) -> Found | None:
    """`file.py[:name]`, `file.yaml`, `package.module:name` and `trl:function`; None for a plain name."""
    file, _, attribute = name.partition(":")
    if file.endswith(kind.suffixes):
        return _find_file(kind, file, attribute, beside)
    if not kind.is_python or not attribute:
        return None
    if kind.name == "rewards" and file == "trl":
        return _find_trl(attribute)
    path = module_file(file)
    if path is None:
        raise ContentError(f"{kind.one} '{name}': there is no module '{file}' in this environment")
    found = Found(
        kind=kind.name, name=attribute, path=path, origin=f"module {file}", summary="", module=file, attribute=attribute
    )
    return _checked(kind, found)


def _find_file(kind: Kind, file: str, attribute: str, beside: Path) -> Found:
    path = (beside / Path(file).expanduser()).resolve()
    if not path.is_file():
        raise ContentError(f"{kind.one} '{file}': there is no file {path}")
    stem = _strip(path.name, kind.suffixes)
    wanted = (attribute or kind.attribute or stem) if kind.is_python else None
    summary, _ = outline(path)
    found = Found(kind=kind.name, name=attribute or stem, path=path, origin="file", summary=summary, attribute=wanted)
    return _checked(kind, found)


def _find_trl(function: str) -> Found:
    """A stock reward of trl, which rewards/serve/trl.py adapts; found without importing trl."""
    package = module_file("trl.rewards")
    if package is None:
        raise ContentError(f"reward 'trl:{function}' needs trl: pip install trl")
    names: set[str] = set()
    for path in sorted(package.parent.glob("*_rewards.py")):
        _, defined = outline(path)
        names |= defined or set()
    if function not in names:
        public = [name for name in names if name.endswith("reward")]
        raise ContentError(f"trl has no reward '{function}'{did_you_mean(function, public)}")
    return Found(
        kind="rewards",
        name=function,
        path=package,
        origin="trl",
        summary="",
        module="trl.rewards",
        attribute=function,
    )


def _places(kind: Kind, beside: Path | None, name: str = "") -> Iterator[list[Found]]:
    """The places that are searched for plain names, in order; each as all it holds that could be called `name`."""
    yield _in_folder(kind, (beside or Path()) / kind.folder, "beside the recipe" if beside else "working folder", name)
    for folder in filter(None, os.environ.get("ALIGNKIT_PATH", "").split(os.pathsep)):
        yield _in_folder(kind, Path(folder).expanduser() / kind.folder, "$ALIGNKIT_PATH", name)
    if kind.is_python:
        yield _in_entry_points(kind)
    yield _in_folder(kind, kind.shelf, "shelf", name)


def _in_folder(kind: Kind, folder: Path, origin: str, name: str) -> list[Found]:
    results = []
    on_shelf = folder.resolve() == kind.shelf.resolve()
    others = [other.shelf for other in KINDS.values() if kind.shelf in other.shelf.parents] if on_shelf else []
    called = glob.escape(name.rsplit("/", 1)[-1]) or "*"  # spares looking at all others
    files = {path for suffix in kind.suffixes for path in folder.rglob(called + suffix)} if folder.is_dir() else ()
    for path in sorted(files):
        relative = path.relative_to(folder)
        if any(part.startswith((".", "_")) for part in relative.parts) or any(o in path.parents for o in others):
            continue
        stem = _strip(relative.as_posix(), kind.suffixes)
        plain = stem.rsplit("/", 1)[-1]
        summary, defined = outline(path)
        attribute = (kind.attribute or plain) if kind.is_python else None
        if attribute and defined is not None and attribute not in defined:
            continue  # a helper module beside the real ones
        results.append(
            Found(
                kind=kind.name,
                name=stem if kind.name in ("recipes", "evals") else plain,
                path=path.resolve(),
                origin="shelf" if on_shelf else origin,
                summary=summary,
                module=f"{kind.module}.{stem.replace('/', '.')}" if on_shelf and kind.module else None,
                attribute=attribute,
            )
        )
    return results


@functools.cache  # reads the metadata of every installed package, and those stay while a process runs
def entry_points(group: str) -> metadata.EntryPoints:
    return metadata.entry_points(group=group)


def _in_entry_points(kind: Kind) -> list[Found]:
    results = []
    for point in entry_points(group=f"alignkit.{kind.name}"):
        path = module_file(point.module)
        if path is not None:
            summary, _ = outline(path)
            attribute = point.attr or kind.attribute or point.name
            origin = f"entry point of {point.dist.name}" if point.dist else "entry point"
            results.append(
                Found(
                    kind=kind.name,
                    name=point.name,
                    path=path,
                    origin=origin,
                    summary=summary,
                    module=point.module,
                    attribute=attribute,
                )
            )
    return results


def _answers_to(found: Found, name: str) -> bool:
    """Whether `name` is the found file's name, or the end of its path without the suffix."""
    return found.name == name or f"/{_long_name(found)}".endswith(f"/{name}")


def _long_name(found: Found) -> str:
    return _strip(f"{found.path.parent.name}/{found.path.name}", KINDS[found.kind].suffixes)


def _checked(kind: Kind, found: Found) -> Found:
    """Raises ContentError when the Python file does not parse or does not define the wanted object."""
    if not kind.is_python or found.attribute is None:
        return found
    summary, defined = outline(found.path)
    if defined is None:
        raise ContentError(f"{found.path}: {summary}")
    is_package = found.path.name == "__init__.py"  # may define names lazily
    if found.attribute not in defined and not is_package:
        guess = did_you_mean(found.attribute, defined)
        raise ContentError(f"{found.path} does not define '{found.attribute}'{guess}")
    return found


def _import_file(path: Path) -> object:
    """Imports a file under a name made of its path and content, so that dataclasses and pickles in it work."""
    digest = hashlib.blake2b(str(path).encode() + path.read_bytes(), digest_size=6).hexdigest()
    name = f"alignkit_file_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # not by the loader, which takes compiled code of a file edited within the same second for the file's own
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _strip(name: str, suffixes: tuple[str, ...]) -> str:
    for suffix in suffixes:
        name = name.removesuffix(suffix)
    return name
