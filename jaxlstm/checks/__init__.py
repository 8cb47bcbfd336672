"""Checks of cells and gradient estimators of one's own, by identities."""

from jaxlstm.checks.cells import check_cell as check_cell
from jaxlstm.checks.estimators import check_estimator as check_estimator
from jaxlstm.checks.estimators import squared_error as squared_error
from jaxlstm.checks.report import Report as Report
from jaxlstm.checks.report import Row as Row
