"""What the book needs of Sphinx beyond its configuration."""

import hashlib
import os
from pathlib import Path


def _prepare(app, config) -> None:
    """Cached results are only good for the irlib that made them: jupyter-cache keys on cell sources alone, so irlib's hash goes into its path."""
    digest = hashlib.sha256()
    for path in sorted(Path(app.srcdir, "irlib").rglob("*")):
        if path.suffix in {".py", ".js", ".css", ".json", ".npz", ".safetensors"}:
            digest.update(path.relative_to(app.srcdir).as_posix().encode() + b"\0" + path.read_bytes())
    config.nb_execution_cache_path = str(Path(app.outdir).parent.resolve() / ".jupyter_cache" / digest.hexdigest()[:12])
    os.environ["TQDM_DISABLE"] = "1"  # progress bars go to stderr, which fails a build; readers of the page need none


def _no_colab_for_prose(app, pagename, templatename, context, doctree) -> None:
    """Colab opens notebooks only: a page written in Markdown gets no button for it."""
    if not app.env.doc2path(pagename, base=False).endswith(".ipynb") and "header_buttons" in context:
        context["header_buttons"] = [b for b in context["header_buttons"] if "colab" not in str(b)]


def setup(app):
    app.connect("config-inited", _prepare)
    app.connect("html-page-context", _no_colab_for_prose, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
