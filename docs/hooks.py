"""A page for each folder of nemo_bt, made when the site is built: its modules' docstrings, and the map of them all."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PACKAGE = Path(__file__).parents[1] / "nemo_bt"
FOLDERS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists() and not path.is_symlink())
_FRONT = "---\nsearch: { boost: 0.3 }\n---\n"
"""The search shows what was written for readers before the pages of the code."""
FILES = sorted(path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__"))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages into the navigation, below Reference."""
    (reference,) = (part["Reference"] for part in config.nav if "Reference" in part)
    pages = [{f"nemo_bt.{name}": f"reference/code/{name}.md"} for name in FOLDERS]
    reference.append({"Modules": [{"The files beside them": "reference/code/files.md"}, *pages]})
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for name in FOLDERS:
        text = f"{_FRONT}# nemo_bt.{name}\n\n" + "".join(_section(path) for path in _modules(PACKAGE / name))
        files.append(File.generated(config, f"reference/code/{name}.md", content=text))
    text = f"{_FRONT}# Files beside the folders\n\n" + "".join(_section(PACKAGE / f"{name}.py") for name in FILES)
    files.append(File.generated(config, "reference/code/files.md", content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the map of the folders."""
    mark = "<!-- the map of the folders -->"
    return markdown.replace(mark, folder_map()) if mark in markdown else markdown


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Take the script that lets the search run on pages from the disk from this site, not from a server."""
    return _with_own_worker(output, "../" * page.url.count("/"))


def on_post_template(output: str, *, template_name: str, config: MkDocsConfig) -> str:
    """Do the same for pages that no Markdown makes: 404.html."""
    return _with_own_worker(output, "/")


def _with_own_worker(output: str, root: str) -> str:
    return re.sub(r'src="?https://unpkg\.com/iframe-worker/shim"?', f'src="{root}assets/frame_worker.js"', output)


def folder_map() -> str:
    """Markdown; what each folder's docstring says of it."""
    parts = []
    for name in FOLDERS:
        text = ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text()))
        parts.append(f"### [`nemo_bt/{name}`](../reference/code/{name}.md)\n\n{text}\n")
    return "\n".join(parts)


def _modules(folder: Path) -> list[Path]:
    """Files of a folder and of those inside it, the folder's own text first."""
    files = [folder / "__init__.py"]
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (path / "__init__.py").exists():
            files += _modules(path)
        elif path.suffix == ".py" and not path.stem.startswith("__"):
            files.append(path)
    return files


def _section(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    return f"::: {name}\n    options: {{show_submodules: false}}\n\n"
