"""Every name that this project gives a file of a run directory. Pure.

A run directory may lie where files of others lie too, by mistake or not: what carries none of
these names was not made here, and is never deleted.
"""

import re

STUDY_FILE = "study.yaml"
REPORT = "report"
"""The folder of the site."""
PARTIAL = ".partial-"
"""Part of every temporary name: what carries it was never finished."""

_ID = "[0-9a-f]{12}"
_KEY = "[0-9a-f]{8}"
_ITEM = rf"(model-{_ID}|(pair|shifted-?\d+\.\d+)-{_ID}-{_ID})"
_LAYER = r"(done\.json|layer-\d{2,}\.(safetensors|json))"
_NAMES = (
    r"study\.yaml|hardware\.json|progress\.json|metrics\.jsonl",
    r"lock/\d{6,}\.json",
    r"\.nonce/[0-9a-f]{32}",
    rf"calibration/{_ID}-{_ID}\.(safetensors|json)",
    rf"moments/{_ITEM}/(unit|block)-\d{{6,}}-{_KEY}/{_LAYER}",
    rf"reduce/{_ITEM}-{_KEY}/(model\.(safetensors|json)|{_LAYER})",
    rf"similarity/pair-{_ID}-{_ID}-{_KEY}/({_LAYER}|matched\.(safetensors|json))",
    rf"profile/topics-{_ID}(\.json|/(done|topics)\.json|/topics\.safetensors)",
    rf"profile/bank-{_ID}/bank\.(safetensors|json)",
    rf"profile/labels-{_ID}/shard-\d{{2,}}\.(safetensors|json)",
    rf"profile/(shifts|weights)-{_ID}/{_ID}\.(safetensors|json)",
    rf"profile/sums-{_ID}/{_ID}/shard-\d{{2,}}/{_LAYER}",
    rf"profile/scores-{_ID}/{_ID}/{_LAYER}",
    # of earlier versions
    rf"profile/weights(-\d+)?/{_ID}-(folded|raw)(-\d+)?\.(safetensors|json)",
    rf"profile/{_ID}/labels/shard-\d{{2,}}\.(safetensors|json)",
    rf"profile/{_ID}/{_ID}/shift\.(safetensors|json)",
    rf"profile/{_ID}/{_ID}/(shard-\d{{2,}}|scores-{_KEY})/{_LAYER}",
    rf"roles/scores-{_ID}/{_ID}\.(safetensors|json)",
    rf"roles/responses-{_ID}/{_ID}/{_LAYER}",
    rf"roles/(effects|paths)-{_ID}/{_ID}/shard-\d{{3,}}(-{_KEY})?/(done\.json|sums\.safetensors)",
    rf"examples/(sample|descriptions)-{_ID}/{_ID}/{_LAYER}",
    rf"examples/(peaks|groups|partners)-{_ID}/{_ID}/shard-\d{{3,}}\.(safetensors|json)",
    rf"examples/(windows|transfer)-{_ID}/{_ID}\.(safetensors|json)",
    r"tables/(unfinished/\w+-[0-9a-f]{12}/)?(done|profile|roles|summary)\.json",
    r"tables/(unfinished/\w+-[0-9a-f]{12}/)?(pairs|neurons|statistics|features|taxonomy|bank|roles|interventions|attention|heads"
    r"|vocabulary|examples|conditional|descriptions|similarity)\.parquet",
    rf"{REPORT}/(unfinished/)?(done\.json|index\.html|app\.js|style\.css)",
    rf"{REPORT}/(unfinished/)?figures/[a-z_]+(-\d+)?\.(svg|pdf|csv)",
    rf"{REPORT}/(unfinished/)?data/(front|levels|vocabulary|descriptions|tokens|(index|tokens|neurons)-\d+)\.js",
)
_OURS = re.compile("|".join(_NAMES))
_SCRATCH = re.compile(rf"(.+){re.escape(PARTIAL)}[0-9a-z_]{{8}}")
_BEFORE = re.compile(rf"lock|corpus-(\d+|all|{_ID})({re.escape(PARTIAL)}.+)?")


def ours(path: str) -> bool:
    """Whether a path, relative to its run directory, is of a file that this project makes."""
    return _OURS.fullmatch(path) is not None


def our_scratch(path: str) -> bool:
    """Whether a path is of a folder in which this project makes a file, or died as it did."""
    found = _SCRATCH.fullmatch(path)
    return found is not None and ours(found[1])


def before_a_study(name: str) -> bool:
    """Whether a file or folder may lie in a run directory before its `study.yaml` does: the lock,
    and text that was tokenised, or tokens that were aligned, to plan the study.
    """
    return _BEFORE.fullmatch(name) is not None or our_scratch(name)
