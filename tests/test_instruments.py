"""Tags of which only some were judged, and the tasks on instruments: OpenMIC and Medley-solos-DB."""

import numpy as np
import pytest
import torch
from marble_bench.probes import exact, network
from marble_bench.tasks.corpora import medley_solos, openmic, resonances
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from torch.nn import functional

from marble_bench import Clip, MaskedTags, audio
from marble_bench.core import plugins
from marble_bench.data.corpus import compute_fingerprint
from marble_bench.errors import DataError
from marble_bench.metrics import accuracy, masked_ap, masked_f1
from marble_bench.protocols.linear import PROTOCOL as LINEAR

TARGET = MaskedTags(("piano", "drums", "voice"))


def _draw(random, clips=60, tags=6, probes=3, decimals=9):
    truth = random.choice([-1.0, 0.0, 1.0], size=(clips, tags), p=[0.5, 0.3, 0.2])
    truth[:2] = [[1.0] * tags, [0.0] * tags]  # each tag has both kinds
    return random.normal(size=(probes, clips, tags)).round(decimals), truth


def _average(score, outputs, truth, weights=None):
    found = []
    for tag in range(truth.shape[1]):
        judged = truth[:, tag] >= 0
        weight = None if weights is None else weights[judged]
        found.append(score(truth[judged, tag], outputs[judged, tag], sample_weight=weight))
    return np.mean(found)


def _f1(truth, outputs, sample_weight=None):
    return f1_score(truth, outputs > 0, sample_weight=sample_weight, zero_division=0)


@pytest.mark.parametrize("decimals", [1, 9], ids=["many ties", "no ties"])
@pytest.mark.parametrize("seed", range(6))
def test_scores_are_sklearns_on_the_judged_clips_alone(seed, decimals):
    random = np.random.default_rng(seed)
    outputs, truth = _draw(random, decimals=decimals)
    batch = torch.from_numpy(outputs), torch.from_numpy(truth)
    weights = random.integers(1, 4, (2, len(truth)))
    for metric, score in ((masked_ap, average_precision_score), (masked_f1, _f1)):
        expected = [_average(score, each, truth) for each in outputs]
        assert metric.compute(*batch).tolist() == pytest.approx(expected, abs=1e-9)
        weighted = metric.weighted(*batch, torch.from_numpy(weights))
        expected = [[_average(score, each, truth, weight) for each in outputs] for weight in weights]
        assert weighted.numpy() == pytest.approx(np.array(expected), abs=1e-6)


def test_what_nobody_judged_is_in_no_score_and_no_loss():
    random = np.random.default_rng(0)
    outputs, truth = _draw(random)
    other = np.where(truth < 0, 100 * random.normal(size=truth.shape), outputs)
    for metric in (masked_ap, masked_f1):
        here, there = (metric.compute(torch.from_numpy(each), torch.from_numpy(truth)) for each in (outputs, other))
        assert torch.equal(here, there)
    losses = [
        network.compute_loss_gradients(
            torch.from_numpy(each).mT.float(),
            torch.from_numpy(truth)[None].float(),
            "masked_binary_cross_entropy",
            None,
        )
        for each in (outputs, other)
    ]
    assert torch.allclose(losses[0][0], losses[1][0])
    assert not losses[0][1].mT[:, torch.from_numpy(truth) < 0].any()


def test_the_loss_and_its_gradient_are_torchs_over_the_judged_pairs():
    outputs, truth = (torch.from_numpy(each).float() for each in _draw(np.random.default_rng(1)))
    ours, gradient = network.compute_loss_gradients(
        outputs.mT.clone(), truth[None], "masked_binary_cross_entropy", None
    )
    wanted = outputs.clone().requires_grad_()
    judged = truth >= 0
    losses = torch.stack([functional.binary_cross_entropy_with_logits(each[judged], truth[judged]) for each in wanted])
    losses.sum().backward()
    assert torch.allclose(ours, losses)
    assert torch.allclose(gradient.mT, wanted.grad, atol=1e-7)


def test_exact_probes_are_sklearns_on_the_judged_windows():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 6, generator=generator, dtype=torch.float64)
    y = (x @ torch.randn(6, 4, generator=generator, dtype=torch.float64) > 0).double()
    y[torch.rand(80, 4, generator=generator) < 0.4] = -1
    y[:, 3] = -1  # nobody judged it: it is never there
    penalties = (0.1, 0.01)
    for found, penalty in zip(exact.solve_masked_tags(x.clone(), y, penalties), penalties, strict=True):
        ours = torch.sigmoid(found["weight"] @ x.T + found["bias"])
        for tag in range(3):
            judged = y[:, tag] >= 0
            model = LogisticRegression(C=1 / (penalty * int(judged.sum())), tol=1e-12, solver="newton-cholesky")
            expected = model.fit(x[judged].numpy(), y[judged, tag].numpy()).predict_proba(x.numpy())[:, 1]
            assert ours[tag].numpy() == pytest.approx(expected, abs=1e-6)
        assert (ours[3] == 0).all()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (("piano",), "clip 'a' has the target ('piano',); say of each judged tag whether it holds: {'piano': True}"),
        ({}, "say of each judged tag whether it holds"),
        ({"piano": 1}, "clip 'a' has 1 for the tag 'piano'; give True or False"),
        ({"pianoo": True}, "clip 'a' is labelled 'pianoo', which is not a label of the task; did you mean 'piano'?"),
    ],
)
def test_a_target_of_another_form_is_named(target, words):
    with pytest.raises(DataError) as refused:
        TARGET.encode([target], ["a"])
    assert words in str(refused.value)


def test_truth_says_what_holds_what_does_not_and_what_is_unknown():
    assert TARGET.encode([{"voice": True, "piano": False}], ["a"]).tolist() == [[0, -1, 1]]
    train = TARGET.encode([{"piano": True}, {"piano": True}, {"piano": False, "drums": False}], list("abc"))
    odds = TARGET.trivial(train)
    assert odds[0] == pytest.approx(np.log(2), abs=1e-5)
    assert odds[1] < -10
    assert odds[2] == 0


def test_the_fingerprint_does_not_depend_on_the_order_of_judgements():
    one, other = ({"piano": True, "voice": False}, {"voice": False, "piano": True})
    digests = [compute_fingerprint([Clip("a", "test", "a.wav", each)], ["0"]) for each in (one, other)]
    assert digests[0] == digests[1]


def test_a_head_must_say_that_it_reads_gaps():
    assert "masked_binary_cross_entropy" in plugins.get_head(LINEAR).losses
    from marble_bench import Head

    own = Head(name="own", description="of one's own", fit=lambda data: {}, predict=lambda state, x: x)
    assert "masked_binary_cross_entropy" not in own.losses


# --- the two corpora -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for module in (openmic, medley_solos):
        made[module] = tmp_path_factory.mktemp("mini")
        module.mini(made[module])
    return made


def _measure_resonances(path, resonances_hz):
    """Of each resonance the energy near it, as a share of what lies a little beside it: a rule that needs no training."""
    sound = np.asarray(audio.read(path, sample_rate_hz=resonances.RATE_HZ), np.float64)
    power, hz = np.abs(np.fft.rfft(sound)) ** 2, np.fft.rfftfreq(len(sound), 1 / resonances.RATE_HZ)
    found = []
    for centre in resonances_hz:
        away = np.abs(hz - centre) / centre
        found.append(power[away < 0.06].mean() / (power[(away > 0.1) & (away < 0.5)].mean() + 1e-12))
    return np.log(found)


@pytest.mark.parametrize("task", ["openmic", "medley-solos"])
def test_a_rule_for_resonances_solves_the_miniature(folders, task):
    """Where a sound resonates tells its instrument: 90 % of the way from the trivial score to a perfect one."""
    module = {"openmic": openmic, "medley-solos": medley_solos}[task]
    target, folder = plugins.find_task(task).task.target, folders[module]
    test = [clip for clip in module.clips(folder) if clip.split == "test"]
    outputs = np.stack([_measure_resonances(module.locate(folder, clip.audio), module.RESONANCES_HZ) for clip in test])
    truth = torch.from_numpy(target.encode([clip.target for clip in test], [clip.id for clip in test]))
    metric, trivial = (masked_ap, 0.55) if task == "openmic" else (accuracy, 1 / 8)
    score = float(metric.compute(torch.from_numpy(outputs)[None], truth)[0])
    assert score >= trivial + 0.9 * (1 - trivial)


def _copy_tables(folders, module, tmp_path):
    """The tables of a miniature without its audio."""
    for path in folders[module].rglob("*.csv"):
        copy = tmp_path / path.relative_to(folders[module])
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())


def _write_table(folder, module, line):
    """Add a line to a table: its path, and the number of the line."""
    name = {openmic: f"openmic-2018/{openmic.LABELS}", medley_solos: medley_solos.METADATA}[module]
    path = folder / name
    path.write_text(path.read_text() + line + "\n")
    return path, len(path.read_text().splitlines())


@pytest.mark.parametrize(
    ("module", "line", "words"),
    [
        (openmic, "000001_0,kazoo,0.7,3", "the instrument is 'kazoo'; it should be one of accordion"),
        (openmic, "000001_0,piano,1.7,3", "the relevance is '1.7'; it should be a number from 0 to 1"),
        (openmic, "000001_0,piano,nan,3", "the relevance is 'nan'; it should be a number from 0 to 1"),
        (openmic, "1_0,piano,0.7,3", "the sample_key is '1_0'; it should be such as 000046_3840"),
        (
            openmic,
            "999999_0,piano,0.7,3",
            "excerpt 999999_0 is in no partition; get the table and partitions/ from one",
        ),
        (openmic, "000001_0,piano", "has 2 fields, the header 4"),
        (medley_solos, "tests,flute,3,1,0a282672-c22c-59ff-faaa-ff9eb73fc8e6", "the subset is 'tests'"),
        (medley_solos, "test,flute,4,1,0a282672-c22c-59ff-faaa-ff9eb73fc8e6", "the instrument_id is '4'; flute has 3"),
        (medley_solos, "test,flute,3,x,0a282672-c22c-59ff-faaa-ff9eb73fc8e6", "the song_id is 'x'"),
        (medley_solos, "test,flute,3,1,../../x", "the uuid4 is '../../x'"),
    ],
)
def test_a_broken_row_is_named_with_its_line(folders, tmp_path, module, line, words):
    _copy_tables(folders, module, tmp_path)
    path, number = _write_table(tmp_path, module, line)
    with pytest.raises(DataError) as refused:
        list(module.clips(tmp_path))
    assert str(refused.value).startswith(f"{path} line {number}: ")
    assert words in str(refused.value)


def test_openmic_partitions_are_checked(folders, tmp_path):
    _copy_tables(folders, openmic, tmp_path)
    path = tmp_path / "openmic-2018" / openmic.PARTITIONS["test"]
    keys = path.read_text()
    for more, words in (
        ("hello", "holds 'hello', which is no sample_key"),
        ("999999_0", "excerpt 999999_0 has no row in openmic-2018-aggregated-labels.csv"),
        (keys.split()[0], f"excerpt {keys.split()[0]} is in partitions/split01_test.csv line 1 too"),
    ):
        path.write_text(keys + more + "\n")
        with pytest.raises(DataError) as refused:
            list(openmic.clips(tmp_path))
        assert words in str(refused.value)


def test_openmic_takes_the_later_row_and_no_track_is_in_two_splits(folders, tmp_path):
    _copy_tables(folders, openmic, tmp_path)
    found = list(openmic.clips(tmp_path))
    first = found[0]
    name, held = next(iter(first.target.items()))
    _write_table(tmp_path, openmic, f"{first.id},{name},{0.2 if held else 0.8},3")
    assert next(openmic.clips(tmp_path)).target[name] is not held
    splits = {}
    for clip in found:
        assert splits.setdefault(clip.group, clip.split) == clip.split


def test_medley_solos_finds_both_names_of_a_file(folders, tmp_path):
    audio_name = "audio/Medley-solos-DB_test-0_0a282672-c22c-59ff-faaa-ff9eb73fc8e6.wav"
    assert medley_solos.locate(tmp_path, audio_name) is None
    (tmp_path / "audio").mkdir()
    (tmp_path / f"{audio_name}.wav").touch()
    assert medley_solos.locate(tmp_path, audio_name) == tmp_path / f"{audio_name}.wav"
