"""Live widgets: one mechanism (`sweep`), one file for each chapter's tables and views."""

from irlib.widgets.closed_form import closed_form
from irlib.widgets.sweep import Param, Sweep, Table

__all__ = ["Param", "Sweep", "Table", "closed_form"]
