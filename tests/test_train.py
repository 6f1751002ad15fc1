"""Training: the loop equals its formulas, resumes bit for bit, and says what is wrong."""

import json
import math
import sys
from itertools import islice, pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from minidiff import train
from minidiff.nets import MLP
from minidiff.times import uniform_density
from minidiff.train import EMA, checkpoint
from minidiff.train.loop import learning_rate


def network(seed=0):
    with train.seeded(seed):
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


def stream(rows=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    while True:
        x = torch.randn(rows, 3, generator=generator)
        yield x, torch.stack([x.sum(1), x.prod(1)], 1)


def squared_error(net):
    return lambda x, target: (net(x) - target).square().mean(1)


def run(net, steps=12, **settings):
    return train.fit(
        squared_error(net), net.parameters(), stream(), steps=steps, **({"lr": 0.01, "warmup": 3} | settings)
    )


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


# The average of the weights


def test_ema_is_its_closed_form():
    net, d = network().double(), 0.9
    ema, path = EMA(net, d), []
    for step in range(1, 8):
        for p in net.parameters():
            p.data.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)))
        ema.update()
        path.append(weights(net))
        kernel = torch.tensor([d ** (step - k) for k in range(1, step + 1)], dtype=torch.float64)
        torch.testing.assert_close(weights(ema.module), (kernel[:, None] * torch.stack(path)).sum(0) / kernel.sum())


def test_ema_starts_at_the_first_update_not_at_the_initial_weights():
    net = network()
    ema = EMA(net, 0.9999)
    net[0].weight.data.fill_(7.0)
    ema.update()
    assert torch.equal(weights(ema.module), weights(net))


def test_ema_with_decay_zero_is_the_last_weights():
    net = network()
    ema = EMA(net, 0.0)
    for _ in run(net, ema=ema):
        pass
    assert torch.equal(weights(ema.module), weights(net))


def test_ema_copies_buffers_and_is_ready_to_sample():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ema = EMA(net, 0.5)
    for _ in range(3):
        net(torch.rand(5, 3))
        ema.update()
    assert torch.equal(ema.module[1].running_mean, net[1].running_mean)
    assert ema.module[1].num_batches_tracked == 3
    assert net.training
    assert not ema.module.training
    assert not any(p.requires_grad for p in ema.module.parameters())


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan])
def test_ema_refuses_a_decay_outside(decay):
    with pytest.raises(ValueError, match="decay must be"):
        EMA(network(), decay)


# The loop against its formulas


@pytest.mark.parametrize("clip", [None, 0.05])
def test_fit_is_adamw_with_warmup_cosine_and_clipping(clip):
    net, twin, steps = network().double(), network().double(), 12
    logs = list(
        train.fit(
            squared_error(net), net.parameters(), map(double, stream()), steps=steps, lr=0.01, warmup=3, clip=clip
        )
    )

    m = v = torch.zeros_like(weights(twin))
    theta = weights(twin)
    for n, (x, target) in enumerate(islice(map(double, stream()), steps), start=1):
        twin.zero_grad()
        loss = (twin(x) - target).square().mean()
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in twin.parameters()])
        norm = gradient.norm()
        rate = 0.01 * n / 3 if n <= 3 else 0.01 * (1 + math.cos(math.pi * (n - 4) / 9)) / 2
        assert logs[n - 1] == pytest.approx((n, float(loss.detach()), rate, float(norm)), rel=1e-9)
        gradient = gradient * min(1.0, clip / (float(norm) + 1e-6)) if clip else gradient  # torch's 1e-6
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        update = (m / (1 - 0.9**n)) / ((v / (1 - 0.999**n)).sqrt() + 1e-8)
        theta = theta - rate * (0.01 * theta + update)  # Loshchilov & Hutter 2019, algorithm 2
        nn.utils.vector_to_parameters(theta, twin.parameters())
    torch.testing.assert_close(weights(net), theta)


def test_gradients_are_clipped_to_norm_one_unless_told_otherwise():
    ends = []
    for settings in ({}, {"clip": 1.0}, {"clip": None}):
        net = network()
        logs = list(run(net, **settings))
        ends.append(weights(net))
        assert max(log.grad_norm for log in logs) > 1
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def double(batch):
    return tuple(x.double() for x in batch)


def test_fit_finds_the_least_squares_solution():
    truth = torch.tensor([[1.0, -2.0, 0.5]])
    net = nn.Linear(3, 1, bias=False)
    batches = ((x, x @ truth.T) for x, _ in stream(32))
    loss = lambda x, y: (net(x) - y).square().sum(1)  # noqa: E731
    logs = list(train.fit(loss, net.parameters(), batches, steps=400, lr=0.05, warmup=10))
    torch.testing.assert_close(net.weight.detach(), truth, rtol=5e-3, atol=0)  # weight decay pulls a little
    assert [log.step for log in logs] == list(range(1, 401))


def test_learning_rate_rises_to_lr_and_falls_towards_zero():
    rates = [learning_rate(n, 100, 2.0, 10) for n in range(1, 101)]
    assert rates[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)  # half-way down the cosine
    assert all(a > b > 0 for a, b in pairwise(rates[10:]))
    assert learning_rate(5, 5, 2.0, 5) == 2.0


def test_frozen_parameters_stay():
    net = network()
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    list(run(net))
    assert torch.equal(net[0].weight, before)


def test_bfloat16_evaluates_the_loss_under_autocast():
    net, seen = network(), set()

    def loss(x, target):
        out = net(x)
        seen.add(out.dtype)
        return (out - target).square().mean(1)

    logs = list(train.fit(loss, net.parameters(), stream(), steps=3, amp=torch.bfloat16))
    assert seen == {torch.bfloat16}
    exact = list(run(network(), steps=3, lr=1e-3, warmup=0))
    assert [log.loss for log in logs] == pytest.approx([log.loss for log in exact], rel=0.02)
    assert net[0].weight.dtype == torch.float32


def test_a_diffusion_step_learns():
    """A point mass at c: D(x, t) = c exactly, so the loss of an x_0 prediction falls towards 0."""
    with train.seeded(0):
        net = MLP(2, width=32, depth=1)
    points = ((torch.tensor([[1.0, -1.0]]).expand(64, 2),) for _ in iter(int, 1))
    batches = train.noised(points, uniform_density(), seed=0)
    loss = lambda x0, t, eps: (net(x0 + t[:, None].to(x0) * eps, t.to(x0)) - x0).square().mean(1)  # noqa: E731
    logs = list(train.fit(loss, net.parameters(), batches, steps=60, lr=0.01, warmup=5))
    assert logs[-1].loss < 0.01 * logs[0].loss


# What can go wrong


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step():
    net, states = network(), []

    def loss(x, target):
        states.append(weights(net))
        return squared_error(net)(x, target) * (math.nan if len(states) == 4 else 1.0)

    with pytest.raises(FloatingPointError, match="the loss is nan at step 4 of 9: lower lr or check the data"):
        list(train.fit(loss, net.parameters(), stream(), steps=9))
    assert torch.equal(weights(net), states[-1])


def test_an_infinite_gradient_stops_the_run():
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    batches = ((torch.ones(4, 1),) for _ in iter(int, 1))
    with pytest.raises(FloatingPointError, match="the gradient norm is inf at step 1 of 5"):
        list(train.fit(lambda x: net(x)[:, 0].sqrt(), net.parameters(), batches, steps=5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"warmup": 13}, "warmup must be at most steps = 12, got 13"),
        ({"lr": -1.0}, "lr must be a finite number"),
        ({"lr": math.nan}, "lr must be a finite number"),
        ({"clip": 0.0}, "clip must be a finite number"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"amp": torch.float16}, r"amp must be torch.bfloat16 or None .*, got torch.float16"),
    ],
)
def test_bad_settings_are_refused_at_the_call(settings, message):
    with pytest.raises(ValueError, match=message):
        run(network(), **settings)


def test_no_parameters():
    with pytest.raises(ValueError, match=r"parameters must be trainable and on one device, got \[\]"):
        train.fit(lambda x: x, [torch.zeros(2)], stream(), steps=1)


def test_the_loss_must_be_one_value_a_row():
    net = network()
    with pytest.raises(ValueError, match=r"loss must return one value a row, \(16,\), got \(\)"):
        list(train.fit(lambda x, y: (net(x) - y).square().mean(), net.parameters(), stream(), steps=1))


def test_batches_that_end_early():
    net = network()
    with pytest.raises(ValueError, match="the batches ended before the 5 steps were done"):
        list(train.fit(squared_error(net), net.parameters(), islice(stream(), 3), steps=5))


# Stop and resume


def interrupted_by_break(path, at):
    net = network()
    ema = EMA(net, 0.9)
    return [log.loss for log in islice(run(net, ema=ema, checkpoint=path), at)]


def interrupted_in_the_loss(path, at):
    net, losses = network(), []
    ema = EMA(net, 0.9)

    def loss(x, target):
        if len(losses) == at:
            raise KeyboardInterrupt
        return squared_error(net)(x, target)

    with pytest.raises(KeyboardInterrupt):
        for log in train.fit(loss, net.parameters(), stream(), steps=12, lr=0.01, warmup=3, ema=ema, checkpoint=path):
            losses.append(log.loss)
    return losses


def interrupted_in_the_update(path, at):
    """Here the state is half old, half new: the last periodic file must stay (every = 2, so step 4 of 5)."""
    net, losses = network(), []
    ema = EMA(net, 0.9)
    update = ema.update

    def stop():
        update()
        if ema.updates > at:
            raise KeyboardInterrupt

    ema.update = stop
    with pytest.raises(KeyboardInterrupt):
        for log in run(net, ema=ema, checkpoint=path, every=2):
            losses.append(log.loss)
    return losses[: at - at % 2]


@pytest.mark.parametrize("interrupt", [interrupted_by_break, interrupted_in_the_loss, interrupted_in_the_update])
@pytest.mark.parametrize("at", [3, 5])
def test_a_resumed_run_equals_one_that_never_stopped(tmp_path, interrupt, at):
    whole = network()
    whole_ema = EMA(whole, 0.9)
    expected = list(run(whole, ema=whole_ema))

    path = tmp_path / "new folder" / "state.safetensors"
    first = interrupt(path, at)
    net = network(seed=1)  # other weights: all of the state must come from the file
    ema = EMA(net, 0.9)
    rest = list(run(net, ema=ema, checkpoint=path))
    assert first + [log.loss for log in rest] == [log.loss for log in expected]
    assert rest == expected[len(first) :]
    assert torch.equal(weights(net), weights(whole))
    assert torch.equal(weights(ema.module), weights(whole_ema.module))
    assert ema.updates == 12


def test_an_interrupt_while_loading_leaves_the_file(tmp_path, monkeypatch):
    path, net = tmp_path / "state", network()
    list(islice(run(net, checkpoint=path), 4))
    before = path.read_bytes()

    def half(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "load", half)
    with pytest.raises(KeyboardInterrupt):
        list(run(net, checkpoint=path))
    assert path.read_bytes() == before


def test_a_finished_run_is_not_repeated(tmp_path):
    path, net = tmp_path / "state", network()
    list(run(net, checkpoint=path))
    again = network(seed=1)
    assert list(run(again, checkpoint=path)) == []
    assert torch.equal(weights(again), weights(net))


def test_the_file_is_tensors_and_json(tmp_path):
    from safetensors import safe_open

    path = tmp_path / "state"
    list(run(network(), steps=4, checkpoint=path))
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["minidiff"])
        assert {"parameter.0", "optimizer.0.exp_avg", "optimizer.3.step"} <= set(file.keys())
    assert header["step"] == 4
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_a_crash_while_writing_leaves_the_last_file(tmp_path, monkeypatch):
    import safetensors.torch

    path = tmp_path / "state"
    list(islice(run(network(), checkpoint=path), 2))
    before = path.read_bytes()

    def crash(tensors, target, metadata):
        target.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(safetensors.torch, "save_file", crash)
    with pytest.raises(OSError, match="no space left"):
        list(run(network(), checkpoint=path, every=3))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda path: run(network(), checkpoint=path, steps=13), "is of another run: steps = 12 there, 13 here"),
        (lambda path: run(network(), checkpoint=path, lr=0.1), "is of another run: lr = 0.01 there, 0.1 here"),
        (lambda path: run(network(), checkpoint=path, warmup=2), "is of another run: warmup = 3 there, 2 here"),
        (lambda path: run(network(), checkpoint=path, clip=0.5), "is of another run: clip = 1.0 there, 0.5 here"),
        (lambda path: run(network(), checkpoint=path, clip=None), "is of another run: clip = 1.0 there, None here"),
        (lambda path: run(network(), checkpoint=path, amp=torch.bfloat16), "amp = None there, torch.bfloat16 here"),
        (lambda path: run(network(), checkpoint=path, ema=EMA(network())), "ema decay = None there, 0.999 here"),
        (
            lambda path: run(nn.Sequential(nn.Linear(3, 2)), checkpoint=path),
            r"is of another network: parameter.0 is \(8, 3\) there, \(2, 3\) here",
        ),
    ],
)
def test_a_checkpoint_of_another_run(tmp_path, other, message):
    path = tmp_path / "state"
    list(islice(run(network(), checkpoint=path), 2))
    with pytest.raises(ValueError, match=message):
        list(other(path))


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", (8).to_bytes(8, "little") + b'{"a":1} '])
def test_a_damaged_checkpoint(tmp_path, content):
    path = tmp_path / "state"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read .*delete it to start over"):
        list(run(network(), checkpoint=path))


# Streams


def test_noised_draws_times_and_noise_from_its_seed():
    source = [(torch.zeros(2000, 3, dtype=torch.float64), torch.arange(2000))] * 2
    first, second = train.noised(source, uniform_density(), seed=0)
    again = next(train.noised(source, uniform_density(), seed=0))
    _, t, eps, y = first
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(eps, second[2])
    assert not torch.equal(t, second[1])
    assert eps.dtype == torch.float64
    assert torch.equal(y, torch.arange(2000))
    assert abs(float(t.mean()) - 0.5) < 5 * (1 / 12 / 2000) ** 0.5  # five standard errors
    assert abs(float(eps.mean())) < 5 * (1 / 6000) ** 0.5
    assert abs(float(eps.var()) - 1) < 5 * (2 / 6000) ** 0.5


@pytest.mark.parametrize("probability", [0.0, 0.1, 1.0])
def test_label_dropout(probability):
    x, y = torch.rand(4000, 1), torch.randint(10, (4000,), generator=torch.Generator().manual_seed(0))
    ((same, dropped),) = train.label_dropout([(x, y)], null=10, probability=probability, seed=3)
    assert same is x
    null = dropped == 10
    assert torch.equal(dropped[~null], y[~null])
    standard_error = (probability * (1 - probability) / 4000) ** 0.5
    assert abs(float(null.float().mean()) - probability) <= 5 * standard_error


def test_label_dropout_refuses_other_probabilities():
    with pytest.raises(ValueError, match="probability must be a finite number in"):
        train.label_dropout([], null=10, probability=1.5, seed=0)


# What is shown


LOGS = [train.Log(n, float(n), 0.1, 1.0) for n in range(1, 301)]


def test_progress_prints_one_line_where_nothing_can_be_redrawn(capsys):
    assert list(train.progress(iter(LOGS), 300)) == LOGS
    assert capsys.readouterr().out == f"step 300 of 300: loss {sum(range(201, 301)) / 100:.4f}\n"


def test_progress_of_a_run_that_stopped_early_or_had_ended(capsys):
    list(train.progress(LOGS[:2], 300))
    list(train.progress([], 300))
    assert capsys.readouterr().out == "step 2 of 300: loss 1.5000\n"


def test_progress_draws_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    list(train.progress(LOGS, 300))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "300/300" in printed.err


def test_progress_replaces_one_line_in_a_notebook(capsys, monkeypatch):
    import IPython.display

    shown = []
    shell = SimpleNamespace(has_trait=lambda name: name == "kernel")
    handle = SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.setattr(IPython.display, "display", lambda *_, **__: handle)
    list(train.progress(LOGS, 300))
    assert len(shown) == 100
    assert shown[-1] == "step 300 of 300: loss 250.5000"
    assert capsys.readouterr().out == ""


# Device, scale, seed


def test_device_and_scale(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train.device() == torch.device("cpu")
    assert train.scale(cpu=8, gpu=32) == 8
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert train.device() == torch.device("cuda", 1)
    assert train.scale(cpu=8, gpu=32) == 32


def test_seeded_restores_the_generator():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with train.seeded(0):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with train.seeded(0):
        assert torch.equal(torch.rand(3), inside)


def test_checkpoint_keeps_buffers_of_the_module_that_ema_follows(tmp_path):
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = EMA(net, 0.9)
    list(islice(run(net, ema=ema, checkpoint=tmp_path / "state"), 4))
    other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    list(islice(run(other, ema=EMA(other, 0.9), checkpoint=tmp_path / "state"), 1))
    assert other[1].num_batches_tracked == 5
