from omgbench_acme.model import AcmeModel
from omgbench_acme.task import AcmeColours

from omgbench.testing import check_model, check_task


def test_the_model_keeps_the_contract() -> None:
    check_model(AcmeModel).raise_for_failures()


def test_the_task_keeps_the_contract() -> None:
    check_task(AcmeColours).raise_for_failures()
