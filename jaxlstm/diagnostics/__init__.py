"""Where gradients come from and where they go: by lag, by way, by step and by gate."""

from jaxlstm.diagnostics.advice import Advice as Advice
from jaxlstm.diagnostics.advice import advise as advise
from jaxlstm.diagnostics.flow import Flow as Flow
from jaxlstm.diagnostics.flow import flow_norms as flow_norms
from jaxlstm.diagnostics.flow import gradient_flow as gradient_flow
from jaxlstm.diagnostics.gates import Saturation as Saturation
from jaxlstm.diagnostics.gates import cell_gates as cell_gates
from jaxlstm.diagnostics.gates import gate_values as gate_values
from jaxlstm.diagnostics.gates import saturation as saturation
from jaxlstm.diagnostics.jacobians import Products as Products
from jaxlstm.diagnostics.jacobians import Rate as Rate
from jaxlstm.diagnostics.jacobians import fit_rate as fit_rate
from jaxlstm.diagnostics.jacobians import forget_products as forget_products
from jaxlstm.diagnostics.jacobians import jacobian_products as jacobian_products
from jaxlstm.diagnostics.jacobians import step_jacobians as step_jacobians
from jaxlstm.diagnostics.lags import LagGradients as LagGradients
from jaxlstm.diagnostics.lags import lag_gradients as lag_gradients
from jaxlstm.diagnostics.terms import HiddenTerms as HiddenTerms
from jaxlstm.diagnostics.terms import MemoryTerms as MemoryTerms
from jaxlstm.diagnostics.terms import lstm_terms as lstm_terms
