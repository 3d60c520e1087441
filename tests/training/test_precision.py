"""Which numbers a network is computed in, by what the processor can do."""

import pytest
import torch

from utils.errors import InputError
from utils.precision import choose_precision, inference_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "automatic"),
    [({"amx_bf16": True}, torch.bfloat16), ({"amx_bf16": False, "avx512": True}, None), ({}, None)],
)
def test_precision_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], automatic: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_precision("off", CPU) is None and choose_precision("bf16", CPU) is torch.bfloat16
    assert choose_precision("auto", CPU) is automatic
    with pytest.raises(InputError, match="--amp fp16: expected a GPU"):
        choose_precision("fp16", CPU)
    if automatic is None:
        with pytest.raises(InputError, match="--half: expected a device with native bfloat16"):
            inference_precision("auto", True, CPU)
    else:
        assert inference_precision("auto", True, CPU) is automatic
