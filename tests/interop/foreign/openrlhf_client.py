"""OpenRLHF's client of a remote reward model. openrlhf_client.py task.json answer.json"""

import asyncio
import json
import sys
from pathlib import Path

from openrlhf.utils.agent import SingleTurnAgentExecutor


def main():
    task = json.loads(Path(sys.argv[1]).read_text())
    client = SingleTurnAgentExecutor(task["url"])
    asked = client._fetch_rewards_via_http(task["queries"], task["prompts"], task["labels"])
    Path(sys.argv[2]).write_text(json.dumps(asyncio.run(asked)))


main()
