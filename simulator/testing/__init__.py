"""What every policy must keep to, shipped or of your own, as calls that raise where one does not.

::

    from simulator.testing import check_autoscaler, check_router

    def test_my_router_keeps_the_contract():
        check_router(MyRouter())
"""

from simulator.testing.autoscalers import check_autoscaler
from simulator.testing.choices import (
    check_admission,
    check_flipping,
    check_flow_control,
    check_local_prefill,
    check_matcher,
    check_queue_order,
    check_rebalancing,
)
from simulator.testing.contract import ContractError
from simulator.testing.forecasts import check_forecaster
from simulator.testing.quotas import check_quota
from simulator.testing.routers import check_router

__all__ = [
    "ContractError",
    "check_admission",
    "check_autoscaler",
    "check_flipping",
    "check_flow_control",
    "check_forecaster",
    "check_local_prefill",
    "check_matcher",
    "check_queue_order",
    "check_quota",
    "check_rebalancing",
    "check_router",
]
