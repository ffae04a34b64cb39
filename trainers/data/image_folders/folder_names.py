"""Meanings of the names of folders and files: those that systems create, and the splits of a data set."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

from trainers.base.paths import in_utf8

SYSTEM_FOLDERS = frozenset(
    (
        # macOS, and what speaks its protocols
        "__MACOSX", "Network Trash Folder", "Temporary Items", "TheFindByContentFolder", "TheVolumeSettingsFolder",
        # Windows
        "$RECYCLE.BIN", "$RECYCLE", "System Volume Information", "$Extend", "$SysReset", "$WinREAgent", "$GetCurrent",
        "$Windows.~BT", "$Windows.~WS", "Config.Msi", "MSOCache", "WPSystem", "WUDownloadCache", "_vti_cnf", "_vti_pvt",
        # Linux, Android, cameras, Python
        "lost+found", "LOST.DIR", "CANONMSC", "__pycache__",
        # Synology, and others that took its names
        "@eaDir", "@tmp", "@sharebin", "@img_bkp_cache", "@cloudsync", "#recycle", "#snapshot", "#trashbox",
        "@recycle", "@recycle bin", "@snapshot", "@snapshots",
        # QNAP, Thecus, NetApp, GoodSync
        "@Recently-Snapshot", "@__thumb", "@__desc", "@__qini", "Network Recycle Bin", "_NAS_Module_Source_",
        "~snapshot", "~snapshots", "_gsdata_",
    )
)  # fmt: skip
OF_SYSTEMS = re.compile(
    r"found\.\d{3}|@gmt-[\d.]+-[\d.]+|network recycle bin \d+|_nas_recycle_\w*|@syno.+|com\.apple\..+"
)
OLD_WINDOWS = ("RECYCLER", "RECYCLED")  # in capitals alone: a class may be `recycled`
SYSTEM_FILES = frozenset(
    (
        "Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "Icon\r", "Desktop DB", "Desktop DF",
        "Picasa.ini", "autorun.inf", "ZbThumbnail.info", "pspbrwse.jbf", "NIKON001.DSC", "INFO2", "IndexerVolumeGuid",
        "WPSettings.dat",
    )
)  # fmt: skip
STREAMS = re.compile(  # next to a file, prefixed by its name: attributes and resources that a disk could not store
    r"@syno(eastream|resource)$|[:\uf03a](zone\.identifier|afp_\w+|com\.\w+[.\w]*|encryptable|ea|streams?)(:\$data)?$"
)
THUMBNAILS = ("synophoto_thumb", "synofile_thumb", "synoindex_media")  # contents of @eaDir, also when copied elsewhere
DOUBTFUL = ("Recycle Bin", "trashbox", "Recycled")  # of NAS vendors and old Windows, or a class

TRAIN, TEST, VALIDATION, EVALUATION, UNLABELED = "train", "test", "validation", "evaluation", "unlabeled"
WORDS = {
    TRAIN: ("train", "trn", "training"),
    TEST: ("test", "tst", "testing", "tests", "holdout", "heldout", "privatetest"),
    VALIDATION: ("val", "valid", "validate", "validation", "validating", "dev", "devel", "development", "vali",
                 "crossval", "crossvalidation", "publictest"),
    EVALUATION: ("eval", "evals", "evaluate", "evaluation", "evaluating"),  # for the test, or for validation
    UNLABELED: ("unlabeled", "unlabelled", "unlab", "unlabel", "unsup", "unsupervised", "nolabel", "nolabels",
                "notlabeled", "notlabelled", "withoutlabels", "pred", "predict", "prediction", "predictions"),
}  # fmt: skip
PARTS = {word: kind for kind, words in WORDS.items() for word in words}
FILLERS = (
    "set",
    "sets",
    "data",
    "dataset",
    "datasets",
    "image",
    "images",
    "imgs",
    "img",
    "pictures",
    "photos",
    "samples",
    "sample",
    "split",
    "part",
    "folder",
    "subset",
    "the",
)


def text_of(path: str) -> str:
    """A name or path as text that does not depend on the locale or on how the disk stores accents: macOS separates
    them from their letters (NFD), others do not (NFC)."""
    return path if path.isascii() else unicodedata.normalize("NFC", in_utf8(path))


def _small(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name.casefold() for name in names)


_FOLDERS, _FILES = _small(SYSTEM_FOLDERS), _small(SYSTEM_FILES)


def of_system(name: str, is_folder: bool) -> bool:
    """Whether a file or folder of this name comes from a system and not from the user. Hidden ones count as such; `:2e`
    is netatalk's spelling of the dot that hides a file."""
    small = text_of(name).casefold()
    if small.startswith((".", ":2e")):
        return True
    if is_folder:
        return small in _FOLDERS or name in OLD_WINDOWS or OF_SYSTEMS.fullmatch(small) is not None
    return small in _FILES or small.startswith(THUMBNAILS) or STREAMS.search(small) is not None


def part_kinds(names: Iterable[str]) -> dict[str, str]:
    """Which split of a data set each folder is by its name, "" if none is recognized.

    Ignores case, numbers, separators, words such as `set` or `images`, and words that all names share:
    `Training_Set`, `test-images`, `seg_train` beside `seg_test`.
    """
    words = {name: [word for word in _words(name) if word not in FILLERS] for name in names}
    if len(words) > 1:
        shared = set.intersection(*map(set, words.values()))
        own = {name: [word for word in of_name if word not in shared] for name, of_name in words.items()}
        words = own if all(own.values()) else words
    return {name: PARTS.get(_bare("".join(of_name)), "") for name, of_name in words.items()}


def _words(name: str) -> list[str]:
    """The words of a name in lower case: `TestSet2` and `test-set` are `test`, `set`."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text_of(name))
    return [word.casefold() for word in re.split(r"[\W\d_]+", apart) if word]


def _bare(word: str) -> str:
    """A word without a common suffix: `trainset`, `testdata`."""
    longest = next((word.removesuffix(end) for end in FILLERS if word.endswith(end) and word not in PARTS), word)
    return longest or word


def placed(kinds: Mapping[str, str]) -> dict[str, str]:
    """The same with every folder for evaluations as the split that is missing: test, else validation."""
    free = TEST if TEST not in kinds.values() else VALIDATION
    return {name: free if kind == EVALUATION else kind for name, kind in kinds.items()}
