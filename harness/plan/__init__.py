"""What a run would cost, and what it could show, before anything is spent."""

from harness.plan.planning import Assumptions, Rate, plan_of
from harness.plan.schema import Amount, Basis, Exactness, Flag, Level, MethodPlan, RolePlan, RunPlan, StagePlan
from harness.plan.show import show

__all__ = [
    "Amount",
    "Assumptions",
    "Basis",
    "Exactness",
    "Flag",
    "Level",
    "MethodPlan",
    "Rate",
    "RolePlan",
    "RunPlan",
    "StagePlan",
    "plan_of",
    "show",
]
