"""Data sets on disk: a folder of HDF5 shards under one manifest, nothing is lost, PyTorch reads it."""

from wichan.registry import lazy_exports

_HOME = {
    "wichan.store.records": ("Cell", "Column", "Header", "Shard", "ShardPlan", "current_versions", "make_plan"),
    "wichan.store.manifest": ("FORMAT_VERSION", "Manifest", "load_manifest"),
    "wichan.store.layout": ("samples_per_shard",),
    "wichan.store.shards": ("ShardJob", "ShardWriter"),
    "wichan.store.writer": ("DatasetWriter", "merge"),
    "wichan.store.dataset": ("WichanDataset", "open"),
    "wichan.store.verification": ("ShardReport", "VerifyReport", "info", "verify"),
    "wichan.store.importers": ("import_file",),
    "wichan.store.adafortitran": ("import_adafortitran",),
}
_NAMES = {name: module for module, names in _HOME.items() for name in names}

__getattr__, __dir__ = lazy_exports(__name__, _NAMES)
__all__ = sorted(_NAMES)  # noqa: PLE0605 (names load lazily)
