"""In 16 bits, products come in few shapes, however many lengths batches have."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.speed.tiny_trainers import row
from tuner.training.speed.few_shapes import rounded_up
from tuner.training.speed.row_collator import RowCollator
from tuner.training.speed.trained_loss import summed_loss_of

SIZES = range(1, 4097)


class Products(TorchDispatchMode):
    """Shapes of the matrix products within."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.mm.default:
            self.shapes.add(tuple(tuple(tensor.shape) for tensor in args))
        return function(*args, **(kwargs or {}))


def test_a_size_grows_by_little_to_one_of_few():
    assert all(size <= rounded_up(size) < size + max(32, size / 16 + 1) for size in SIZES)
    assert len({rounded_up(size) for size in SIZES}) == 32 + 2 * 16


@pytest.mark.parametrize(("dtype", "different"), [(torch.bfloat16, 2), (torch.float32, 40)])
def test_so_do_the_trained_tokens_of_a_batch(dtype, different):
    torch.manual_seed(0)
    weight, products = torch.randn(50, 8, dtype=dtype), Products()
    for count in range(21, 61):
        hidden = torch.randn(1, 64, 8, dtype=dtype, requires_grad=True)
        targets = torch.full((1, 64), -100)
        targets[0, :count] = torch.randint(0, 50, (count,))
        with products:
            loss = summed_loss_of(hidden, targets, weight)
        loss.backward()
        wanted = torch.nn.functional.cross_entropy(
            (hidden.float() @ weight.float().T)[0], targets[0], reduction="sum"
        )
        torch.testing.assert_close(
            loss, wanted.detach(), rtol=1e-2 if dtype != torch.float32 else 1e-5, atol=0
        )
        assert not hidden.grad[0, count:].any() and hidden.grad[0, :count].any(-1).all()
    assert len(products.shapes) == 2 * different  # forward and backward


def test_and_the_tokens_of_a_part():
    lengths = {
        RowCollator(0, few_lengths=True)([row(n, 1), row(n + 7, 1)])["input_ids"].shape[1]
        for n in range(100, 200)
    }
    assert lengths == set(range(224, 417, 32))
