"""Tests ask no network for anything: where there is none, Hugging Face's libraries would try for half a minute."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
