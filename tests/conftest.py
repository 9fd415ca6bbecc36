import os
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck

from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from tests.support.preferences import write_sets

# The same examples in every run: HYPOTHESIS_PROFILE=explore looks for new ones.
same = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
hypothesis.settings.register_profile("same", derandomize=True, **same)
hypothesis.settings.register_profile("explore", max_examples=1000, **same)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


TIERS = ("integration", "phantom", "gpu", "real", "interop", "unit")

ON_REQUEST = {"real": "NEMO_BT_TEST_REAL", "interop": "NEMO_BT_TEST_INTEROP"}
collect_ignore = [tier for tier, asked in ON_REQUEST.items() if not os.environ.get(asked)]  # make test-real, ...


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run in several processes, modules that share a costly fixture of the session run in one of them.

    What takes long comes first: at the end no process waits for another's last test.
    """
    shared = {}
    for item in items:
        for fixture in {"launched", "converters_folder"} & set(item.fixturenames):
            shared[item.module] = fixture
    for item in items:
        item.add_marker(pytest.mark.xdist_group(shared.get(item.module, item.module.__name__)))
    items.sort(key=lambda item: (shared.get(item.module) != "launched", TIERS.index(item.path.parent.name)))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests, and the commands that they start, leave the user's cache alone."""
    os.environ["NEMO_BT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of tests.support.preferences.write_sets."""
    folder = tmp_path_factory.mktemp("data")
    write_sets(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(dataset: Path) -> Any:
    return load_tokenizer(str(dataset / "tokenizer"), None)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a cache of the test's own."""
    monkeypatch.setenv("NEMO_BT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
