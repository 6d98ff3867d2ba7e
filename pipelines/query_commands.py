"""The commands of `pipelines.cli` that ask a finished run: recommendations for one or for many users, and explanations.

Reads run directories and tables of users; writes the answers for many users.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines import FOLDERS
from pipelines.commands import logging_to
from pipelines.config import stored_config
from pipelines.progress import progress_tracker
from pipelines.seeds import require_own_run
from recsys.artifacts import RunDirectory
from recsys.data.histories import user_history
from recsys.ranking.notices import Notice
from recsys.tables import Interactions
from recsys.tracking import NullTracker


def query(path: Path, history: tuple[str, ...], *, user: str | None, k: int) -> None:
    """`recsys query`: recommendations with the scores of every source, for a history or a user of the run."""
    from pipelines.recommend import load_recommender
    from recsys.ranking.recommender import Request

    directory = _finished(path)
    config, history = stored_config(directory), _history(directory, history, user)
    answer = load_recommender(config, directory).recommend([Request(history, k, user)])[0]
    _show(answer.notices)
    if not answer.items:
        return
    sources = sorted({name for item in answer.items for name in item.source_scores})
    table = Table("rank", "item_id", "title", "score", *sources, box=None, header_style="bold")
    for rank, item in enumerate(answer.items, start=1):
        scores = (f"{item.source_scores[name]:.3f}" if name in item.source_scores else "-" for name in sources)
        table.add_row(str(rank), Text(item.item_id), Text(item.title), f"{item.score:.3f}", *scores)
    Console().print(table)


def query_users(path: Path, users: Path, out: Path, *, k: int) -> None:
    """`recsys query --users`: recommendations for all users of a table, in a file."""
    from pipelines import batch_query

    console, directory = Console(stderr=True), _finished(path)
    with logging_to(console), progress_tracker(NullTracker(), console) as tracker:
        counts = batch_query.query_users(directory, users, out, k=k, tracker=tracker)
    without = f", none for {counts.empty:,}" if counts.empty else ""
    lines = [f"{out}: {counts.recommendations:,} recommendations for {counts.users:,} users{without}"]
    if counts.notices:
        lines.append(
            f"users with notices: {', '.join(f'{code} {number:,}' for code, number in counts.notices.items())}"
        )
    for line in lines:
        Console().print(Text(line), soft_wrap=True)


def explain(path: Path, history: tuple[str, ...], *, user: str | None, k: int) -> None:
    """`recsys explain`: how the language model arrived at its list, for a history or a user of the run."""
    from pipelines.explanation_view import show_explanation
    from pipelines.recommend import load_context, load_recommender
    from recsys.ranking.explainer import Explainer
    from recsys.ranking.recommender import Request

    directory = _finished(path)
    config, history = stored_config(directory), _history(directory, history, user)
    context = load_context(config, directory)
    explainer = Explainer(context, load_recommender(config, directory, context))
    found = explainer.explain(Request(history, k, user))
    _show(found.notices)
    show_explanation(found, Console(highlight=False))


def _finished(path: Path) -> RunDirectory:
    directory = RunDirectory(path, FOLDERS)
    require_own_run(directory)
    stored_config(directory)  # one line where there is no run
    return directory


def _history(directory: RunDirectory, history: tuple[str, ...], user: str | None) -> tuple[str, ...]:
    """The given one, or all interactions of a user of the run."""
    if user is None:
        return history
    return user_history(Interactions.load(directory.verified("prepare") / "interactions.parquet"), user)


def _show(notices: Sequence[Notice]) -> None:
    for notice in notices:
        Console(stderr=True).print(Text(f"{notice.code}: {notice.message}"), soft_wrap=True)
