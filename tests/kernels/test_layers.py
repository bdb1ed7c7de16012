"""Reading layers: it equals the plain pass, nothing runs after it, and the model stays as it was."""

import random
import threading
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lecture7_utils.kernels.layers import (
    activations,
    activations_with_grad,
    evaluation,
    find_layer,
    hooked,
    layer_names,
    run_to,
)
from tests.guards import refuses, unchanged
from tests.nets import random_images, random_net

SIZE = (12, 14)
NET = random_net(0)
LAYERS = layer_names(NET)


def counted(model):
    """The names of the layers without layers inside, in the order in which a pass calls them."""
    calls, handles = [], []
    for name, module in model.named_modules():
        if name and not list(module.children()):
            handles.append(module.register_forward_pre_hook(lambda _m, _x, name=name: calls.append(name)))
    return calls, handles


def outputs(model, images):
    """What each layer gives in one plain pass: copies, by hooks that do nothing else."""
    found, handles = {}, []
    for name, module in model.named_modules():

        def hook(_module, _inputs, output, name=name):
            found.setdefault(name, output.detach().clone())

        handles.append(module.register_forward_hook(hook))
    with torch.no_grad():
        model(images.clone())
    for handle in handles:
        handle.remove()
    return found


class Steps(nn.Module):
    """A network of functions: each step is called on what the one before gave."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.steps = forward

    def forward(self, x):
        return self.steps(self, x)


# --- reading


@given(seed=st.integers(0, 10**6), layer=st.sampled_from(LAYERS), train=st.booleans())
@settings(max_examples=40)
def test_activations_equal_the_plain_pass(seed, layer, train):
    net = random_net(seed, SIZE, train=train, in_place_first=seed % 2 == 0)
    images = random_images(seed, 3, SIZE)
    with unchanged(net, images):
        got = activations(net, images, layer)
    assert not got.requires_grad
    assert torch.equal(got, outputs(net.eval(), images)[layer])


@given(seed=st.integers(0, 10**6), layers=st.lists(st.sampled_from(LAYERS), min_size=1, max_size=5))
@settings(max_examples=40)
def test_several_layers_equal_the_plain_pass(seed, layers):
    net, images = random_net(seed, SIZE), random_images(seed, 2, SIZE)
    want = outputs(net, images)
    with unchanged(net, images):
        got = activations(net, images, layers)
        assert list(got) == list(dict.fromkeys(layers))
        graph = activations_with_grad(net, images.clone().requires_grad_(), layers)
    for name in layers:
        assert torch.equal(got[name], want[name])
        assert torch.equal(graph[name], want[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype):
    net, images = random_net(3, dtype=dtype), random_images(3, dtype=dtype)
    got = activations(net, images, ("body", "head"))
    assert got["body"].dtype == got["head"].dtype == dtype
    assert torch.equal(got["head"], net(images))


@pytest.mark.parametrize("layer", LAYERS)
def test_nothing_runs_after_the_layer(layer):
    net, images = random_net(1, SIZE), random_images(1, 1, SIZE)
    calls, _ = counted(net)
    net(images)
    everything = calls.copy()
    calls.clear()
    activations(net, images, layer)
    leaf = layer if layer in everything else [name for name in everything if name.startswith(f"{layer}.")][-1]
    assert calls == everything[: everything.index(leaf) + 1]


def test_stops_at_the_deepest():
    net, images = random_net(1, SIZE), random_images(1, 1, SIZE)
    calls, _ = counted(net)
    activations(net, images, ["pool", "stem", "body.0"])
    assert calls[-1] == "pool"
    assert "head" not in calls


def test_a_later_step_in_place_does_not_change_what_was_read():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Dropout(inplace=True), nn.Flatten())
    images = random_images(0, dtype=torch.float32)
    want = net[0](images)
    assert (want < 0).any()
    got = activations(net, images, ["0", "1", "3"])
    assert torch.equal(got["0"], want)
    assert torch.equal(got["1"], want.relu())
    graph = activations_with_grad(net.eval(), images, ["0", "1", "3"])
    assert torch.equal(graph["0"], want)
    assert torch.equal(graph["1"], want.relu())


def test_a_view_whose_base_is_changed_in_place_later():
    def forward(net, x):
        y = net.conv(x)
        flat = net.flat(y)  # a view of y
        y.mul_(-2)  # changes flat as well
        return net.head(flat + 1)

    torch.manual_seed(0)
    net = Steps(forward, conv=nn.Conv2d(3, 2, 1), flat=nn.Flatten(), head=nn.Linear(32, 2))
    images = random_images(0, 1, (4, 4), torch.float32)
    conv = net.conv(images)
    with unchanged(net, images):
        got = activations(net, images, ["flat", "head"])
    assert torch.equal(got["flat"], conv.flatten(1))  # as it was when the layer gave it
    with torch.no_grad():
        assert torch.equal(got["head"], net(images))  # and reading it did not change what comes later


def test_a_layer_called_repeatedly_counts_at_its_first_call():
    net = Steps(
        lambda net, x: net.last(net.act(net.b(net.act(net.a(x))))),
        act=nn.ReLU(),
        a=nn.Conv2d(3, 3, 1),
        b=nn.Conv2d(3, 3, 1),
        last=nn.Flatten(),
    )
    images = random_images(0, dtype=torch.float32)
    calls, _ = counted(net)
    assert torch.equal(activations(net, images, "act"), net.a(images).relu())
    assert calls[:2] == ["a", "act"]
    both = activations(net, images, ["act", "last"])
    assert torch.equal(both["act"], net.a(images).relu())
    assert torch.equal(both["last"], net(images))


def test_one_layer_under_two_names():
    shared = nn.Conv2d(3, 3, 1)
    net = nn.Sequential(shared, nn.Tanh(), shared, nn.Flatten())
    images = random_images(0, dtype=torch.float32)
    assert layer_names(net) == ["0", "1", "3"]
    assert find_layer(net, "2") is find_layer(net, "0")
    got = activations(net, images, ["2", "0", "3"])
    assert torch.equal(got["0"], shared(images))
    assert torch.equal(got["2"], shared(images))
    assert torch.equal(got["3"], net(images))


def test_a_network_that_catches_exceptions():
    def forward(net, x):
        try:
            return net.b(net.a(x))
        except Exception:
            return net.c(x)

    net = Steps(forward, a=nn.Flatten(), b=nn.Linear(48, 2), c=nn.Flatten())
    calls, _ = counted(net)
    images = random_images(0, 1, (4, 4), torch.float32)
    assert torch.equal(activations(net, images, "a"), images.flatten(1))
    assert calls == ["a"]


def test_user_hooks_on_the_layer_are_kept_and_seen():
    net, images = random_net(0), random_images(0)
    net.stem.register_forward_hook(lambda _m, _x, y: y + 1)
    with unchanged(net):
        assert torch.equal(activations(net, images, "stem"), net.stem(images))


def test_gradient_between_two_layers():
    net, images = random_net(4), random_images(4)
    found = activations_with_grad(net, images, ["body.2", "head"])
    (got,) = torch.autograd.grad(found["head"][:, 1].sum(), found["body.2"])
    # the same by a hook that swaps the layer's output for a leaf
    leaf = found["body.2"].detach().requires_grad_()
    with hooked(net.body[2], lambda _m, _x, _y: leaf.clone()):
        (want,) = torch.autograd.grad(net(images)[:, 1].sum(), leaf)
    assert want.abs().max() > 0
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_run_to_keeps_the_graph_and_the_mode():
    net, images = random_net(2), random_images(2)
    output = run_to(net, images, "pool")
    assert output.requires_grad
    with torch.no_grad():
        assert not run_to(net, images, "pool").requires_grad
    net.train()
    run_to(net, images, "stem_norm")  # train mode is the caller's choice: the statistics move
    assert net.stem_norm.num_batches_tracked == 2


def test_data_parallel_and_nested_names():
    net, images = nn.DataParallel(random_net(0)), random_images(0)
    assert "module.body.2" in layer_names(net)
    assert torch.equal(activations(net, images, "module.body.2"), activations(net.module, images, "body.2"))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_other_modes(mode):
    net, images = random_net(0), random_images(0)
    want = outputs(net, images)["pool"]
    with mode(), unchanged(net, images):
        assert torch.equal(activations(net, images, "pool"), want)


# --- nothing stays changed


class Draws(nn.Module):
    """Draws from every global source of random numbers, in eval mode too."""

    def forward(self, x):
        shift = random.random() + np.random.rand() + torch.rand(()).item()  # noqa: NPY002
        return F.dropout(x, 0.5, training=True) + shift


def broken_at(net, name, error):
    def forward(*_args, **_kwargs):
        raise error

    module = net.get_submodule(name)
    module.forward = forward
    return net


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), KeyboardInterrupt(), ValueError("x"), SystemExit(3)]
)
@pytest.mark.parametrize("name", ["entry", "body.1", "left", "pool", "head"])
def test_left_as_it_was_when_the_pass_breaks(name, error):
    net, images = broken_at(random_net(0, train=True), name, error), random_images(0)
    net.body[1].eval()  # not all flags alike
    net.head.weight.requires_grad_(False)
    net.stem.weight.grad = torch.ones_like(net.stem.weight)
    with unchanged(net, images), pytest.raises(type(error)) as caught:
        activations(net, images, ["stem", "body", "head"])
    assert caught.value is error


def test_left_as_it_was_by_a_normal_call():
    net, images = random_net(0, train=True, in_place_first=True), random_images(0).requires_grad_()
    net.body[1].eval()
    net.drop = nn.Sequential(Draws(), nn.Dropout(0.9))
    with unchanged(net, images):
        activations(net, images, ["stem", "head"])
        activations(net, images, "pool")
    assert net.training
    assert not net.body[1].training


def test_evaluation():
    net = random_net(0, train=True)
    net.body[1].eval()
    with unchanged(net):
        with evaluation(net) as inside:
            assert inside is net
            assert not any(module.training for module in net.modules())
            torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
    interrupt = broken_at(nn.ReLU(), "", KeyboardInterrupt())
    with unchanged(net), pytest.raises(KeyboardInterrupt), evaluation(net, torch.device("cpu")):
        interrupt(net.train())  # what happens to the flags inside is undone too
    net.eval()
    with unchanged(net), evaluation(net):
        net.train()


def test_evaluation_of_what_overrides_train():
    class Frozen(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            self[1].eval()
            return self

    net = Frozen(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).train()
    with unchanged(net), evaluation(net):
        assert not net.training
        assert not net[0].training


def test_hooked_is_removed_on_an_error():
    net = random_net(0)
    broken_at(net, "stem", ZeroDivisionError())
    with unchanged(net), pytest.raises(ZeroDivisionError), hooked(net.stem, lambda *_: None):
        net(random_images(0))


def test_two_threads_read_two_models():
    nets = [random_net(seed) for seed in range(2)]
    want = [outputs(net, random_images(5))["pool"] for net in nets]
    got = [[], []]

    def work(k):
        for _ in range(10):
            got[k].append(activations(nets[k], random_images(5), "pool"))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(g, want[k]) for k in range(2) for g in got[k])


# --- errors


@pytest.mark.parametrize(
    "call", [lambda m: activations(m, None, "a"), layer_names, lambda m: evaluation(m).__enter__()]
)
@pytest.mark.parametrize("model", [None, nn.Linear, "resnet18", torch.relu])
def test_model_refused(call, model):
    refuses("model", call, model, says="torch.nn.Module")


@pytest.mark.parametrize("images", [None, torch.zeros(3, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.int64)])
def test_images_refused(images):
    refuses("images", activations, random_net(0), images, "stem")


@given(st.one_of(st.none(), st.integers(), st.floats(), st.binary(), st.lists(st.text())))
def test_layer_that_is_no_name(name):
    refuses("layer", find_layer, NET, name)
    refuses("unit", find_layer, NET, name, "unit")


@given(st.text(max_size=100).filter(lambda name: name not in LAYERS))
def test_unknown_name(name):
    refuses("layer", find_layer, NET, name, says="the nearest are")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("steam", "stem"), ("body.9", "body.3"), ("body2", "body.2"), ("depth_wise", "depthwise")],
)
def test_nearest_names(wrong, right):
    refuses("layer", find_layer, random_net(0), wrong, says=f"nearest are.*'{right}'")
    refuses("layer", activations, random_net(0), random_images(0), wrong, says=f"'{right}'")
    refuses("layers", activations, random_net(0), random_images(0), ["stem", wrong], says=f"'{right}'")


def test_model_without_layers():
    assert layer_names(nn.ReLU()) == []
    refuses("layer", find_layer, nn.ReLU(), "0", says="no layers inside")


@pytest.mark.parametrize("layers", [None, 5, 2.5, [], [None], [3], ["stem", None], ()])
def test_layers_refused(layers):
    refuses("layer" if isinstance(layers, list) and len(layers) == 1 else "layers",
            activations, random_net(0), random_images(0), layers)  # fmt: skip


def test_layer_that_is_never_called():
    net = random_net(0)
    net.spare = nn.Conv2d(3, 3, 1)
    with unchanged(net):
        refuses("layer", activations, net, random_images(0), "spare", says="forward pass calls, got 'spare'")
        refuses("layer", activations, net, random_images(0), ["spare", "stem"], says="'spare'")


@pytest.mark.parametrize("give", [lambda x: (x, x), lambda x: {"out": x}, lambda _: None, lambda x: [x] * 9])
def test_layer_that_gives_no_tensor(give):
    class Odd(nn.Module):
        def forward(self, x):
            return give(x)

    net = nn.Sequential(nn.Conv2d(3, 3, 1), Odd())
    images = random_images(0, dtype=torch.float32)
    with unchanged(net, images):
        refuses("layer", activations, net, images, "1", says="'1' to give one tensor")


def test_compiled_by_torchscript():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 2, 1)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # TorchScript is on its way out
                self.b = torch.jit.script(nn.Sequential(nn.Conv2d(2, 2, 1), nn.Flatten()))

        def forward(self, x):
            return self.b(self.a(x))

    net, images = Mixed(), random_images(0, dtype=torch.float32)
    with unchanged(net, images):
        refuses("layer", activations, net, images, "b.0", says="TorchScript")
        refuses("layers", activations, net, images, ["a", "b"], says="TorchScript")
        assert torch.equal(activations(net, images, "a"), net.a(images))
