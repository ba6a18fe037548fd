"""Where recipes live: packed into the wheel, or in the repository of an editable install."""

from __future__ import annotations

from pathlib import Path

from wichan.errors import WichanError

PACKAGE_FOLDER = Path(__file__).resolve().parent.parent


def recipe_folder(package: Path = PACKAGE_FOLDER) -> Path:
    """Return the folder of the shipped recipes ``NAME.yaml`` and their cards ``NAME.md``.

    A wheel carries them under ``wichan/_data/datasets``; an editable install has no such folder, there they are found in
    ``datasets/`` beside the package.

    Args:
        package: folder of the installed ``wichan`` package (an argument so that both layouts can be tested).

    Raises:
        WichanError: neither folder exists.
    """
    candidates = (package / "_data" / "datasets", package.parent / "datasets")
    for folder in candidates:
        if folder.is_dir() and any(folder.glob("*.yaml")):
            return folder
    places = " or ".join(str(folder) for folder in candidates)
    raise WichanError(f"no recipes found in {places}; reinstall wichan")


def shipped_recipes(package: Path = PACKAGE_FOLDER) -> dict[str, Path]:
    """Return name -> file of every shipped recipe, in alphabetical order."""
    return {path.stem: path for path in sorted(recipe_folder(package).glob("*.yaml"))}
