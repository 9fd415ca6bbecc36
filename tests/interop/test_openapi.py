"""schemathesis asks the server what its own OpenAPI allows, and what it does not."""

import subprocess
from pathlib import Path

from tests.interop.environment import python_of
from tests.support.serving import serving

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "unsupported_method",
)
"""All but those that take every text for one that can be scored, and every number in quotes for a mistake."""
NUM_EXAMPLES = 60
SEED = 1


def test_every_answer_is_one_that_the_openapi_has(exported: Path, tmp_path: Path) -> None:
    """The same requests each time, in some minutes: no 500, and no status that is not described."""
    program = python_of("schemathesis").parent / "schemathesis"
    options = f"--max-examples {NUM_EXAMPLES} --seed {SEED} --checks {','.join(CHECKS)} --mode all --no-color".split()
    options += ["--generation-database", "none", "--phases", "examples,coverage,fuzzing"]
    with serving(exported) as (address, process):
        command = [str(program), "run", f"{address}/openapi.json", *options]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        assert process.poll() is None
    assert (exported.parent / "stderr.txt").read_text() == ""
