"""A server with many connections may open as many files."""

import resource
import subprocess
import sys


def test_connections_have_files() -> None:
    """In a process of its own, whose limits are lowered for good."""
    code = """
import resource, sys
from nemo_bt.serving.connections import allow_files
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))
allow_files(300)
print(resource.getrlimit(resource.RLIMIT_NOFILE))
allow_files(313)
"""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 512
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout == "(500, 512)\n"
    assert "serve.max_connections: expected at most 312, as this process may open 512 files" in result.stderr
