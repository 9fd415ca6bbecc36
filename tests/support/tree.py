"""Files of the repository, and modules of the product."""

from tests.support.runs import REPO

SOURCES = [
    path
    for folder in ("nemo_bt", "conf", "converters", "tests", "benchmarks", "docs")
    for path in (REPO / folder).rglob("*.py")
    if not {REPO / "nemo_bt" / "conf", REPO / "nemo_bt" / "converters"} & set(path.parents)
]

LINKED = ("conf", "converters")
"""In nemo_bt/, links to the folders beside it."""

MODULES = {
    ".".join(path.relative_to(REPO / "nemo_bt").with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((REPO / "nemo_bt").rglob("*.py"))
    if path.relative_to(REPO / "nemo_bt").parts[0] not in (*LINKED, "gpu")
}
"""By their names below nemo_bt."""
