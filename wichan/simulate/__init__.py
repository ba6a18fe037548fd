"""Recipe to data set: what to simulate, block by block, to disk or straight into training."""

from wichan.registry import lazy_exports

_EXPORTS = {
    "Batch": "batch",
    "BlockKey": "sampler",
    "BlockSampler": "sampler",
    "ChannelSource": "sources",
    "Condition": "sources",
    "DryRun": "report",
    "Interference": "interference",
    "KINDS": "sources",
    "Law": "conditions",
    "Link": "link",
    "Plan": "planner",
    "Progress": "report",
    "Recipe": "schema",
    "RecipeInfo": "recipe",
    "RunReport": "report",
    "SOURCES": "sources",
    "build_link": "link",
    "list_recipes": "recipe",
    "load_recipe": "recipe",
    "make_run_plan": "planner",
    "parse_law": "conditions",
    "parse_overrides": "recipe",
    "plan_cells": "planner",
    "plan_report": "engine",
    "recipe_folder": "locate",
    "recipe_from_dict": "recipe",
    "run": "engine",
    "stream": "live",
}

__getattr__, __dir__ = lazy_exports(__name__, {name: f"{__name__}.{module}" for name, module in _EXPORTS.items()})
__all__ = sorted(_EXPORTS)  # noqa: PLE0605 (names load lazily)
