"""Pages and links that are made when the site is built: API reference, catalogue of recipes and models, benchmarks."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
OUT = DOCS / "_generated"
REPOSITORY_FILES = ("CONTRIBUTING.md", "CHANGELOG.md")

# What stands between single backticks may be an argument or a word of another package; a full name of ours must exist.
NITPICK_IGNORE = [("py:.*", r"(?!wichan\.).*")]
# Of these a class page lists nothing that was inherited: their docstrings are written for another site.
FOREIGN_BASES = "Module, LightningModule, ModelHooks, DataHooks, CheckpointHooks, BaseModel, ABC, Mapping, tuple, object"


# -- What is public ----------------------------------------------------------------------------------------------------


@functools.cache
def rooms() -> list[str]:
    """The rooms, the packages that they offer by name, and the public files."""
    import wichan

    found = [f"wichan.{name}" for name in public_names(wichan) if inspect.ismodule(getattr(wichan, name))]
    for room in found:
        found += [value.__name__ for value in offered(importlib.import_module(room)) if inspect.ismodule(value)]
    return sorted({*found, "wichan.cli", "wichan.grid", "wichan.random", "wichan.registry"})


def offered(module: ModuleType) -> list[Any]:
    """The public objects of a module."""
    return [getattr(module, name) for name in public_names(module)]


def public_names(module: ModuleType) -> list[str]:
    """What ``__all__`` says, or what is defined in the file itself."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    return sorted(name for name in own if not name.startswith("_"))


@functools.cache
def homes() -> dict[str, list[str]]:
    """Public name -> the rooms that offer it."""
    found: dict[str, list[str]] = {}
    for room in rooms():
        for name in public_names(importlib.import_module(room)):
            found.setdefault(name, []).append(room)
    return found


# -- Pages -------------------------------------------------------------------------------------------------------------


def all_pages() -> dict[str, str]:
    """Path below docs/_generated -> text, for every page and notebook that is made."""
    pages = {f"api/{room}.md": api_page(room) for room in rooms()}
    pages |= {f"recipes/{path.stem}.md": recipe_page(path) for path in recipe_files()}
    pages |= {f"models/{path.parent.name}.md": model_page(path) for path in sorted((ROOT / "models").glob("*/card.md"))}
    pages |= {
        "recipes.md": recipes_page(),
        "models.md": models_page(),
        "benchmarks.md": benchmark_page(DOCS / "benchmarks.json"),
    }
    pages |= {name: links_into_site((ROOT / name).read_text(encoding="utf-8")) for name in REPOSITORY_FILES}
    notebooks = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    pages["notebooks.md"] = notebooks_page(notebooks)
    return pages | {f"notebooks/{path.name}": path.read_text(encoding="utf-8") for path in notebooks}


def write_pages() -> None:
    """Write everything under docs/_generated anew; a page that has not changed keeps its date."""
    pages = all_pages()
    for name, text in pages.items():
        write(OUT / name, text)
    for path in OUT.rglob("*"):
        if path.is_file() and str(path.relative_to(OUT)) not in pages:
            path.unlink()


def write(path: Path, text: str) -> None:
    """Write ``text`` unless the file holds it already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def api_page(room: str) -> str:
    """The docstrings of one room: a table of its names, then each in full."""
    module = importlib.import_module(room)
    lines = [f"# {room}", "", first_paragraph(module), "", "```{eval-rst}", f".. py:module:: {room}", ""]
    for name in public_names(module):
        lines += entry(room, name, getattr(module, name)) + [""]
    return "\n".join([*lines, "```", ""])


def entry(room: str, name: str, value: Any) -> list[str]:
    """reStructuredText for one name; a name that a room above offers already is described there."""
    full = f"{room}.{name}"
    index = [] if described_at(name) == room else ["   :no-index:"]
    if inspect.ismodule(value):
        return [f"A package of its own: `{value.__name__}`."]
    if inspect.isclass(value):
        inherited = [f"   :inherited-members: {FOREIGN_BASES}"]
        kind = "autoexception" if issubclass(value, BaseException) else "autoclass"
        return [f".. {kind}:: {full}", *index] + ([] if kind == "autoexception" else inherited)
    if inspect.isroutine(value):
        return [f".. autofunction:: {full}", *index]
    text = summaries(room).get(name, "")
    more = [f"   Names: {', '.join(f'``{key}``' for key in value)}."] if hasattr(value, "keys") else []
    return [f".. py:data:: {name}", *index, "", f"   {text}.", "", *more]


def described_at(name: str) -> str:
    """The room whose entry is the one that links lead to: where the object is defined, or the first that offers it."""
    for room in homes()[name]:
        if getattr(getattr(importlib.import_module(room), name), "__module__", "").startswith(room):
            return room
    return homes()[name][0]


@functools.cache
def summaries(room: str) -> dict[str, str]:
    """Name -> what docs/api.md says of it, in reStructuredText."""
    text = (DOCS / "api.md").read_text(encoding="utf-8").partition(f"## `{room}`")[2].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", text, flags=re.MULTILINE)
    return {name: re.sub(r"\$([^$]+)\$", r":math:`\1`", words.replace("`", "``")) for name, words in rows}


def first_paragraph(module: ModuleType) -> str:
    """The first paragraph of a module's docstring, in Markdown."""
    return re.sub(r"``", "`", inspect.cleandoc(module.__doc__ or "").split("\n\n")[0])


def recipes_page() -> str:
    """The catalogue of recipes."""
    from wichan.simulate import list_recipes

    known = [info for info in list_recipes() if info.card is not None]
    lines = [
        "# Recipes",
        "",
        "What `wichan simulate` makes out of the box. Each page is the recipe's card and its settings.",
        "",
    ]
    lines += ["| recipe | what it makes |", "|---|---|"]
    lines += [f"| [{info.name}](recipes/{info.name}.md) | {info.title} |" for info in known]
    lines += ["", "```{toctree}", ":hidden:", "", *(f"recipes/{info.name}" for info in known), "```", ""]
    return "\n".join(lines)


def recipe_files() -> list[Path]:
    """The recipes that have a card (tests see to it that all have)."""
    return [path for path in sorted((ROOT / "datasets").glob("*.yaml")) if path.with_suffix(".md").exists()]


def recipe_page(path: Path) -> str:
    """One recipe: its card, then the file."""
    card = path.with_suffix(".md").read_text(encoding="utf-8").rstrip()
    return f"{card}\n\n## The recipe\n\n```yaml\n{path.read_text(encoding='utf-8').rstrip()}\n```\n"


def models_page() -> str:
    """The catalogue of released models."""
    text = (ROOT / "models" / "README.md").read_text(encoding="utf-8").rstrip()
    names = [path.parent.name for path in sorted((ROOT / "models").glob("*/card.md"))]
    if not names:
        return text + "\n"
    links = "\n".join(f"- [{name}](models/{name}.md)" for name in names)
    return "\n".join([text, "", links, "", "```{toctree}", ":hidden:", "", *(f"models/{name}" for name in names), "```", ""])


def model_page(card: Path) -> str:
    """One model: its card, then its configuration."""
    config = (card.parent / "config.yaml").read_text(encoding="utf-8").rstrip()
    return f"{card.read_text(encoding='utf-8').rstrip()}\n\n## Configuration\n\n```yaml\n{config}\n```\n"


def notebooks_page(paths: list[Path]) -> str:
    """The tutorials; each is shown with the outputs that it holds."""
    lines = ["# Notebooks", "", "Tutorials to start from; the files lie in `notebooks/` of the repository.", ""]
    return "\n".join([*lines, "```{toctree}", ":maxdepth: 1", "", *(f"notebooks/{path.stem}" for path in paths), "```", ""])


def links_into_site(text: str) -> str:
    """Turn links of a page of the repository's root into links from docs/_generated."""
    return re.sub(r"\]\(docs/", "](../", text)


# -- Benchmarks --------------------------------------------------------------------------------------------------------


def benchmark_page(path: Path) -> str:
    """Tables from the file that ``python sims/bench -o docs/benchmarks.json`` writes."""
    bench = json.loads(path.read_text(encoding="utf-8"))
    machine = bench["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lines = [
        "# Benchmarks",
        "",
        "wichan and its peer in turn, in one process; medians of repeated pairs. Quote the ratio: times belong to the machine.",
        "The floor is counted first: complex matrix products over the machine's measured rate of them, or bytes over its rate",
        "of writing; the last column says how much of it is reached.",
        "",
        f"Made by `{bench['command']}` on {machine['cores']} cores ({machine['processor']}), PyTorch threads: "
        f"{machine['threads']}, timed pairs a line: {bench['repeats']}, load average at the end: {machine['load']:.1f};",
        f"{packages}.",
        "",
    ]
    if machine["load"] > machine["cores"] or bench["repeats"] < 5:
        lines += ["```{warning}", "A trial run on a busy machine or with few repetitions: not for quoting.", "```", ""]
    lines += ["| kernel | setting | wichan | peer | ratio | of the floor |", "|---|---|---|---|---|---|"]
    for row in bench["rows"]:
        floor = "" if row["floor_fraction"] is None else f"{row['floor_fraction']:.0%}"
        mine, peer = (f"{duration(row[key])} a {row['unit']}" for key in ("wichan", "peer"))
        ratio = f"{row['ratio']:,.0f}" if row["ratio"] >= 100 else f"{row['ratio']:.3g}"
        lines.append(f"| {row['kernel']} | {row['setting']} | {mine} | {row['peer_name']}: {peer} | {ratio} | {floor} |")
    if bench["nmse"]:
        lines += [
            "",
            "## NMSE of the LMMSE estimators that were timed",
            "",
            "Same channels and noise for both.",
            "",
            *bench["nmse"],
        ]
    return "\n".join([*lines, ""])


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


# -- Links -------------------------------------------------------------------------------------------------------------


def prepare_docstring(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """``[Key2020]_`` cites the bibliography; a one-line section (``Cost: ...``) is set off; shapes and norms are plain text."""
    text = "\n".join(escaped(lines))
    text = re.sub(r"\[([A-Z][A-Za-z0-9]+)\]_", r":cite:t:`\1`", text)
    text = re.sub(r"^(Cost[^:\n]{0,40}|Bytes|Sources?): (?=\S)", r"**\1.** ", text, flags=re.MULTILINE)
    lines[:] = text.split("\n")
    if what in ("property", "attribute", "data"):  # napoleon takes what stands before a colon there for a type
        lines[0] = lines[0].replace(": ", " – ")


def skip_member(app: Any, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Fields of a named tuple are described by the docstring of their class."""
    return True if (getattr(value, "__doc__", None) or "").startswith("Alias for field number") else None


def escaped(lines: list[str]) -> list[str]:
    """Escape ``*`` and ``|`` of shapes (*batch, n) and norms |h| outside of code, math and examples."""
    done, code = [], None  # indentation of the block that is left alone
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.strip() and code is not None and indent <= code:
            code = None
        if code is None and line.lstrip().startswith((".. math::", ">>> ")):
            code = indent - line.lstrip().startswith(">>> ")
        done.append(line if code is not None else escape_line(line))
    return done


def escape_line(line: str) -> str:
    """One line of prose; what stands between backticks stays."""
    pieces = re.split(r"(``.*?``|:[\w:]+:`[^`]*`|`[^`]*`|(?<!\S)\*[\w ]+\*(?!\w))", line)
    pieces[::2] = [re.sub(r"(?<!\\)\|", r"\\|", re.sub(r"(?<![\w*\\])\*(?=\w)", r"\\*", piece)) for piece in pieces[::2]]
    return "".join(pieces)


def adapt_source(app: Any, page: str, source: list[str]) -> None:
    """Put in what a plain Markdown reader would not understand: links into the API."""
    if page == "api":
        source[0] = link_names(source[0])


def link_names(text: str) -> str:
    """On the page of names, each room leads to its docstrings, and each name to its own."""
    room, lines = "", []
    for line in text.split("\n"):
        heading = re.match(r"## `(wichan[.\w]*)`", line)
        row = re.match(r"\| `(\w+)` \|(.*)", line)
        if heading:
            room = heading[1]
            lines += [f"## [`{room}`](_generated/api/{room}.md)"]
        elif row and row[1] in homes():
            lines.append(f"| {{py:obj}}`{row[1]} <{described_at(row[1])}.{row[1]}>` |{row[2]}")
        else:
            lines.append(line)
    return "\n".join(lines)


def resolve(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Link a bare public name (`LMMSE`, `Rays.gain`) to its entry; what exists but is not public stays plain text."""
    from sphinx.util.nodes import make_refnode

    python, target = env.get_domain("py"), node.get("reftarget", "")
    for full in candidates(target):
        if full in python.objects:
            entry = python.objects[full]
            return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, full)
    return contnode if target.startswith("wichan.") and exists(target) else None


def candidates(target: str) -> list[str]:
    """Full names that a mention may mean: `LMMSE` and `wichan.estimators.LMMSE`, `Rays.gain` and `gain` of a class."""
    parts = target.removeprefix("wichan.").split(".")
    names = [(part, parts[index + 1 :]) for index, part in enumerate(parts) if part in homes()]
    return [".".join([described_at(name), name, *rest]) for name, rest in names]


def exists(target: str) -> bool:
    """Whether a full dotted name leads to a module or an attribute."""
    parts = target.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        return functools.reduce(lambda found, name: getattr(found, name, None), parts[cut:], value) is not None
    return False
