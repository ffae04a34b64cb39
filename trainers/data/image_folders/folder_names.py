"""Meanings of the names of folders and files: those that systems create, and the splits of a data set."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence

from trainers.base.paths import in_utf8

SYSTEM_FOLDERS = frozenset(
    (
        # macOS, and what speaks its protocols
        "__MACOSX", "Network Trash Folder", "Temporary Items", "TheFindByContentFolder", "TheVolumeSettingsFolder",
        "Cleanup At Startup", "Desktop Folder", "Move&Rename", "Backups.backupdb",
        # Windows
        "$RECYCLE.BIN", "$RECYCLE", "System Volume Information", "$Extend", "$SysReset", "$WinREAgent", "$GetCurrent",
        "$PatchCache$", "$Hyperv.tmp", "$360Section", "Windows.old", "Config.Msi", "MSOCache", "PerfLogs",
        "OneDriveTemp", "FileHistory", "WindowsImageBackup", "WindowsApps", "msdownld.tmp", "WPSystem",
        "WUDownloadCache", "_vti_cnf", "_vti_pvt",
        # Linux, Android, cameras, Python
        "lost+found", "LOST.DIR", "CANONMSC", "__pycache__",
        # Synology, and others that took its names
        "@eaDir", "@tmp", "@sharebin", "@img_bkp_cache", "@cloudsync", "@database", "@docker", "@S2S", "@sharesync",
        "@iphoto", "@download", "@autoupdate", "@userpreference", "@optware", "@quarantine", "@spool", "@clamav",
        "@MailScanner", "@maillog", "@surveillance", "@ssbackup", "@SnapshotReplication", "@ActiveBackup", "@iSCSI",
        "@config_backup", "@Repository", "@GlusterFS", "#recycle", "#snapshot", "#snapshots", "#trashbox",
        "@recycle", "@recycle bin", "@snapshot", "@snapshots",
        # QNAP, Thecus, NetApp, GoodSync
        "@Recently-Snapshot", "@__thumb", "@__desc", "@__qini", "Network Recycle Bin", "_NAS_Module_Source_",
        "~snapshot", "~snapshots", "_gsdata_",
    )
)  # fmt: skip
OF_SYSTEMS = re.compile(
    r"found\.\d{3,}|@gmt-[\d.]+-[\d.]+|network recycle bin \d+|_nas_recycle_\w*|@syno.+|com\.apple\..+"
    r"|@app(store|conf|data|home|share|temp|cache)|@smallupd@.+|\$av_\w+|\$\w+\.~\w+|windows\.~\w+|\$ntuninstall.+"
)
COPIED = re.compile(r"( \d+| \(\d+\)|( -)? copy( \d+| \(\d+\))?)$")  # added to the name of a copy: `__MACOSX 2`
OLD_WINDOWS = ("RECYCLER", "RECYCLED")  # in capitals alone: a class may be `recycled`
MARKS = ("@", "#", "$", "~")  # first characters of names that systems give to folders, or a user: `@home`, `$100`
BINS = frozenset(("recycle bin", "recyclebin", "recycle.bin", "trashbox", "trash box", "trash bin"))  # or a class
CAPITALIZED = frozenset(  # as systems write them; in small letters they are words for a class
    (
        "recycle",
        "recycled",
        "recycler",
        "trash",
        "trash can",
        "trashcan",
        "deleted items",
        "papierkorb",
        "corbeille",
        "papelera",
        "cestino",
        "lixeira",
        "recovery",
        "snapshots",
    )
)
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

TRAIN, TEST, VALIDATION, EVALUATION, UNLABELED = "train", "test", "validation", "evaluation", "unlabeled"
WORDS = {
    TRAIN: ("train", "trn", "training", "trainings", "trainval", "trainvalid", "trainvalidation",
            "treino", "treinamento", "entrenamiento", "entraînement", "apprentissage", "addestramento", "trening",
            "eğitim", "träning", "обучение", "обучающая", "тренировка", "тренировочная", "训练", "訓練", "学習",
            "훈련", "학습"),
    TEST: ("test", "tst", "testing", "tests", "holdout", "heldout", "privatetest",
           "teste", "testes", "prueba", "pruebas", "essai", "тест", "тестовая", "测试", "測試", "テスト", "테스트"),
    VALIDATION: ("val", "valid", "validate", "validation", "validating", "dev", "devel", "development", "vali",
                 "crossval", "crossvalidation", "publictest",
                 "validação", "validación", "validierung", "validierungs", "validazione", "validering", "walidacja",
                 "doğrulama", "валидация", "валидационная", "验证", "驗證", "検証", "검증"),
    EVALUATION: ("eval", "evals", "evaluate", "evaluation", "evaluating",  # for the test, or for validation
                 "avaliação", "evaluación", "évaluation", "evaluierung", "auswertung", "评估"),
    UNLABELED: ("unlabeled", "unlabelled", "unlab", "unlabel", "unsup", "unsupervised", "nolabel", "nolabels",
                "notlabeled", "notlabelled", "withoutlabels", "pred", "predict", "prediction", "predictions"),
}  # fmt: skip
SHORT = {"tr": TRAIN, "te": TEST, "ts": TEST, "va": VALIDATION, "vl": VALIDATION}  # or codes of languages, ...
FILLERS = (
    "set", "sets", "data", "dataset", "datasets", "image", "images", "imgs", "img", "pictures", "photos", "samples",
    "sample", "split", "part", "folder", "subset", "the", "dir", "files",
    "daten", "datensatz", "satz", "menge", "bilder", "datos", "dados", "dati", "données", "imagens", "imágenes",
    "immagini", "conjunto", "ensemble", "de", "выборка", "данные", "集", "数据", "数据集", "图像", "データ",
    "データセット", "画像", "데이터", "데이터셋", "세트",
)  # fmt: skip
VARIANTS = frozenset(  # words for a variant of a split: `train_cleaned` is a training split
    ("aug", "augment", "augmented", "augmentation", "mini", "small", "tiny", "full", "clean", "cleaned", "labeled",
     "labelled", "resized", "cropped", "original", "orig", "raw", "final", "jpg", "jpeg", "png", "tif", "tiff", "webp")
)  # fmt: skip
INPUTS = frozenset(("images", "image", "imgs", "img", "jpegimages", "photos", "inputs", "input"))
TARGETS = frozenset(  # of other tasks, beside such folders
    (
        "masks",
        "mask",
        "labels",
        "label",
        "annotations",
        "annotation",
        "groundtruth",
        "gt",
        "targets",
        "target",
        "segmentation",
        "segmentations",
        "segmentationclass",
        "segmentationobject",
    )
)


def text_of(path: str) -> str:
    """A name or path as text that does not depend on the locale or on how the disk stores accents: macOS separates
    them from their letters (NFD), others do not (NFC)."""
    return path if path.isascii() else unicodedata.normalize("NFC", in_utf8(path))


def _small(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name.casefold() for name in names)


def _plain(word: str) -> str:
    """A word in lower case without accents, which some people omit."""
    apart = unicodedata.normalize("NFKD", word.casefold())
    return "".join(character for character in apart if not unicodedata.combining(character))


_FOLDERS, _FILES = _small(SYSTEM_FOLDERS), _small(SYSTEM_FILES)
_PARTS = {_plain(word): kind for kind, words in WORDS.items() for word in words}
_FILLERS = tuple(_plain(word) for word in FILLERS)


def of_system(name: str, is_folder: bool) -> bool:
    """Whether a file or folder of this name comes from a system and not from the user. Hidden ones count as such; `:2e`
    is netatalk's spelling of the dot that hides a file."""
    small = text_of(name).casefold()
    if small.startswith((".", ":2e")):
        return True
    if is_folder:
        names = {small, COPIED.sub("", small)}
        return bool(names & _FOLDERS) or name in OLD_WINDOWS or any(map(OF_SYSTEMS.fullmatch, names))
    return small in _FILES or small.startswith(THUMBNAILS) or STREAMS.search(small) is not None


def perhaps_of_system(names: Collection[str]) -> list[str]:
    """Which folders, beside one another, may come from a system or be classes: recycle bins, and names that begin with
    a mark, unless all do."""
    marked = [name for name in names if name.startswith(MARKS)]
    marked = [] if len(marked) == len(names) else marked
    return [name for name in names if name in marked or _is_bin(name)]


def _is_bin(name: str) -> bool:
    """Whether a folder of this name may be a recycle bin, or hold what a system has kept."""
    small = COPIED.sub("", text_of(name).casefold())
    return small in BINS or (small in CAPITALIZED and not name.islower())


def part_kinds(names: Iterable[str], short: bool = False) -> dict[str, str]:
    """Which split of a data set each folder is by its name, "" if none is recognized; `short`: also by two letters.

    Ignores case, numbers, accents, separators, words such as `set`, `images` or `cleaned`, and words that all names
    share: `Training_Set`, `test-images`, `seg_train` beside `seg_test`.
    """
    known = {**_PARTS, **SHORT} if short else _PARTS
    words = {name: [word for word in _words(name) if word not in _FILLERS] for name in names}
    if len(words) > 1:
        shared = set.intersection(*map(set, words.values()))
        own = {name: [word for word in of_name if word not in shared] for name, of_name in words.items()}
        words = own if all(own.values()) else words
    return {name: _kind_of(of_name, known) for name, of_name in words.items()}


def _kind_of(words: Sequence[str], known: Mapping[str, str]) -> str:
    """The split that is meant by all words together, or without those for a variant; "" if there is none."""
    needed = [word for word in words if word not in VARIANTS]
    kinds = [known.get(_bare(word), "") for word in needed]
    if UNLABELED in kinds and all(kinds):  # of the training images, or of any
        return UNLABELED
    return known.get(_bare("".join(words)), "") or known.get(_bare("".join(needed)), "")


def alike_but_for_parts(names: Collection[str]) -> list[str]:
    """Folders with a word for the training split or another in their names, if these differ in nothing else, as
    `trainA` and `testA`, or if every folder has one: they may be splits or classes."""
    named: dict[str, tuple[str, str]] = {}
    for name in names:
        words = _words(name)
        kinds = [kind for word in words if (kind := _PARTS.get(_bare(word), ""))]
        rest = " ".join(word for word in words if _bare(word) not in _PARTS)
        named |= {name: (kinds[0], rest)} if kinds else {}
    others = {rest for kind, rest in named.values() if kind != TRAIN}
    pairs = {rest for kind, rest in named.values() if kind == TRAIN and rest in others}
    if len(named) == len(names) and others and any(kind == TRAIN for kind, _ in named.values()):
        return list(named)
    return [name for name, (_, rest) in named.items() if rest in pairs]


def inputs_and_target(names: Iterable[str]) -> tuple[str, str] | None:
    """A folder of images and one of masks or other images that belong to them, as for segmentation; they may be two
    classes."""
    joined = {"".join(_words(name)): name for name in names}
    inputs, targets = INPUTS & joined.keys(), TARGETS & joined.keys()
    return (joined[min(inputs)], joined[min(targets)]) if inputs and targets else None


def is_opposed(name: str, others: Iterable[str]) -> bool:
    """Whether others name the opposite, as `invalid` beside `valid`: then it is a class."""
    joined = {"".join(_words(other)) for other in others}
    return any(f"{no}{''.join(_words(name))}" in joined for no in ("in", "non", "not", "un"))


def _words(name: str) -> list[str]:
    """The words of a name in lower case, without accents: `TestSet2` and `test-set` are `test`, `set`."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text_of(name))
    return [_plain(word) for word in re.split(r"[\W\d_]+", apart) if word]


def _bare(word: str) -> str:
    """A word without common suffixes: `trainset`, `testdata`."""
    while word not in _PARTS:
        longest = max((end for end in _FILLERS if word.endswith(end) and word != end), key=len, default="")
        if not longest:
            break
        word = word.removesuffix(longest)
    return word


def placed(kinds: Mapping[str, str]) -> dict[str, str]:
    """The same with every folder for evaluations as the split that is missing: test, else validation."""
    free = TEST if TEST not in kinds.values() else VALIDATION
    return {name: free if kind == EVALUATION else kind for name, kind in kinds.items()}
