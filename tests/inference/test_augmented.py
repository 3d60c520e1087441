"""Test-time augmentation: every view's boxes come back to the same place."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from utils.inference.augmented import VIEWS, Augmented


class WhiteRectangle(nn.Module):
    """Finds the one white rectangle of its input."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[2] % 32 == 0 and images.shape[3] % 32 == 0
        rows, columns = (images[0].min(dim=0).values > 0.6).nonzero(as_tuple=True)
        x1, y1, x2, y2 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        return torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0.9, 0.2]).view(1, 1, 6)


@pytest.mark.parametrize(("width", "height"), [(320, 224), (96, 416)])
def test_views_agree(width: int, height: int) -> None:
    images = torch.zeros(1, 3, height, width)
    x1, y1, x2, y2 = width // 8, height // 2, width // 2, height // 2 + 40
    images[:, :, y1:y2, x1:x2] = 1
    rows = Augmented(WhiteRectangle(), 32)(images)[0]
    assert rows.shape == (len(VIEWS), 6)
    expected = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    np.testing.assert_allclose(rows[:, :4].numpy(), [expected] * len(VIEWS), atol=2.5)
    assert rows[0, :4].tolist() == expected and (rows[:, 4:] == torch.tensor([0.9, 0.2])).all()


def test_a_larger_view_is_padded_with_the_grey_of_the_letterbox() -> None:
    seen = []

    class Watching(WhiteRectangle):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return super().forward(images)

    Augmented(Watching(), 32)(torch.ones(1, 3, 96, 160))
    plain, larger = seen
    assert plain.shape[2:] == (96, 160) and (plain == 1).all()
    assert larger.shape[2:] == (128, 192)  # 1.2 times, then the next multiples of 32
    padding = torch.ones(128, 192, dtype=torch.bool)
    padding[:115, :] = False
    assert (larger[:, :, :115] - 1).abs().max() < 1e-5 and (larger[:, :, padding] * 255 - 114).abs().max() < 1e-4
