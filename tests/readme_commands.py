"""Runs every command of the README, in the order in which their inputs are made.

    python tests/readme_commands.py --short

A command is a line of a bash block, or code in the text that begins with `python -m ...` and the
like; `a && b` are two. Each runs in a folder where everything of the repository but `runs/` is at
hand, by this Python. A folder `runs/NAME` that it reads is made before, by the command whose
`--workdir` it is, or else by `python -m train --config configs/NAME.py --workdir runs/NAME`.

With `--short`, training is cut to two steps on few images, and other long work likewise (`SHORT`).
Without it all stands as in the README and takes days of CPU: choose with `--only PATTERN`, and keep
what is made with `--folder`. With `--install`, virtual environment and packages are installed too,
and what follows runs in there.

A command that is neither run nor listed in `NOT_RUN` with a reason fails, and so does the script.
It wants the extras test and bench. Data are looked for in folders BOTTLENECKS_DATA (see `FILES`)
and TFDS_DATA_DIR; a command whose data are not there is not run, and the table at the end says so.
"""

import argparse
import os
import re
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

_PROGRAMS = "python3?|pip|jupyter|gcloud|tfds|taskset|pytest"
_INLINE = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:\S*/)?(?:{_PROGRAMS}) \S")
# One command of those that `&&` joins; what is in quotes stays whole.
_JOINED = re.compile(r"""(?:"[^"]*"|'[^']*'|[^&"']|&(?!&))+""")
MAKES_PLACE = re.compile(r"python3 -m venv ")
INSTALLS = re.compile(r"python3 -m venv |\S*pip install ")

# What is not run, and why.
NOT_RUN = (
    (r"export NAME=|gcloud ", "wants an account of Google Cloud"),
    (r"pip install .*(cuda|tpu)", "wants an accelerator"),
    (r"tfds build NAME", "downloads a data set"),
    (r"python -m pytest$", "the tests, which .ci/run runs"),
    (r"jupyter execute", "tests/test_notebooks.py runs these cells"),
    (r"python tests/readme_commands.py", "this script"),
)
# Words that stand for something: what is put there.
WORDS = {
    "--workdir RUN --workdir RUN ...": " ".join(
        f"--workdir runs/compare_photos/{system}/seed0" for system in ("sparse", "vq", "vae")
    ),
    "ROW": "broadcast",
    "=SEED": "=0",
    "deviation=D": "deviation=3",
    "iterations=R": "iterations=3",
    "IMAGE...": "digit0.png digit1.png",
}
# Names that the README gives to files of the user's: where they are in BOTTLENECKS_DATA.
FILES = {
    "BSDS500": "bsds500",
    "PATH": "fsdd",
    "x.wav": "fsdd/recordings",
    "FOLDER": "alista",
    "FILE.npz": "dsprites_rerendered/topographic_subset.npz",
}
# Of a run that is trained in short.
_STEPS = {
    "train.steps": 2,
    "optimizer.warmup_steps": 0,
    "train.steps_per_call": 1,
    "log_every": 1,
    "checkpoint_every": 2,
    "evaluation.every": 0,
    "evaluation.importance_samples": 2,
}
_FEW = 64  # examples of a split
# What else is appended in short, to the first that fits.
SHORT = (
    ("train.disentangle", "--draws=3"),
    ("train.segment", "--limit=2"),
    ("train.clusters.*--images", "--limit=2"),
    ("train.speech", "--seconds=0.1 --limit=12"),
    ("train.speak", "--samples=1"),
    ("train.video", "--samples=4"),
    ("benchmarks/sequences.py --curve", "--curve 20"),
    ("benchmarks/sequences.py", "--steps 10 --rounds 1"),
    ("benchmarks/training.py", "--steps 2 --rounds 1"),
    ("benchmarks/learned_ista.py", "--steps 2"),
    ("benchmarks/(functions|bench_vq|subresolution).py", "--rounds 1"),
    ("benchmarks/cached_sampling.py", "--rounds 1 --positions 1 --batches 1"),
    ("benchmarks/compressed_sizes.py", "--limit 1"),
)


class Command(NamedTuple):
    """A command of the README: its line there, from 1, and its text as it is run."""

    line: int
    text: str


class Result(NamedTuple):
    """What became of a command: "ok", "failed" or "not run", why, and seconds."""

    outcome: str
    why: str = ""
    seconds: float = 0.0


def commands(readme: str) -> list[Command]:
    """All commands of a README, from top to bottom, each once."""
    found: dict[str, Command] = {}
    for line, code in _code(readme):
        for piece in _JOINED.findall(re.sub(r"\s+# .*", "", code)):
            text = piece.strip("& ")
            for word, instead in WORDS.items():
                text = text.replace(word, instead)
            if not is_name(text):
                found.setdefault(text, Command(line, text))
    every = found.pop(train("NAME"))
    made = {makes(text) for text in found}
    rest = [Command(every.line, train(name)) for name in measured(readme)]
    return [*found.values(), *(command for command in rest if makes(command.text) not in made)]


def measured(readme: str) -> list[str]:
    """Names of the configs in the table of figures, but those that say why they are not run."""
    table = readme[readme.index("| config | time |") :].split("\n\n")[0]
    rows = [row for row in table.splitlines() if "not run: " not in row]
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    return [name for name in names if not name.startswith("compare_")]


def train(name: str) -> str:
    """The command that trains configs/NAME.py."""
    return f"python -m train --config configs/{name}.py --workdir runs/{name}"


def _code(readme: str) -> Iterator[tuple[int, str]]:
    """Lines of bash blocks, and code in the text that starts as a command does."""
    block, text = None, []
    for number, line in enumerate([*readme.splitlines(), ""], start=1):
        if line.startswith("```"):
            block = line.removeprefix("```") if block is None else None
        elif block == "bash" and line.strip() and not line.startswith("#"):
            yield number, line
        if block is None and line.strip() and not line.startswith("```"):
            text.append(line)
        elif text:
            paragraph = "\n".join(text)
            for span in re.finditer(r"`([^`]+)`", paragraph):
                code = " ".join(span[1].split())
                if _INLINE.match(code):
                    yield number - len(text) + paragraph[: span.start()].count("\n"), code
            text = []


def is_name(text: str) -> bool:
    """Whether it only names a program, as in "`python -m train.export` writes ..."."""
    return bool(re.fullmatch(r"python -m train(\.\w+)?( --config \.\.\.)?", text))


def why_not(text: str) -> str:
    """Why a command is not run, or nothing."""
    return next((why for pattern, why in NOT_RUN if re.match(pattern, text)), "")


def is_ours(text: str) -> bool:
    """Whether it runs a module or a script of this repository, or pytest."""
    module = module_of(text)
    files = (module, f"{module.replace('.', '/')}.py", f"{module}/__main__.py")
    return module == "pytest" or any((ROOT / file).is_file() for file in files)


def module_of(text: str) -> str:
    """`train.sample` of `python -m train.sample ...`, or the path of a script, or nothing."""
    found = re.search(r"python -m (\S+)|python (\S+\.py)", text)
    return (found[1] or found[2]) if found else ""


def option(text: str, name: str) -> str:
    """The value of an option, or nothing."""
    found = re.search(rf"--{name}[ =](\S+)", text)
    return found[1].strip("\"'") if found else ""


def read_config(text: str):
    """The config that a command names, or None."""
    file, _, variant = option(text, "config").partition(":")
    if not file:
        return None
    return runpy.run_path(str(ROOT / file))["get_config"](*([variant] if variant else []))


def makes(text: str) -> str:
    """The folder that a command trains, or nothing."""
    return option(text, "workdir") if module_of(text) in ("train", "train.compare") else ""


def reads(text: str) -> list[str]:
    """Folders of runs that have to be there before a command."""
    sources = text
    if makes(text):
        sources = text.replace(f"--workdir {makes(text)}", "") + " " + " ".join(_sources(text))
    return sorted(set(re.findall(r"\bruns/[\w/]+", sources)))


def _sources(text: str) -> list[str]:
    """`data.source` of what a command trains."""
    config = read_config(text)
    given = option(text, "config.data.source")
    runs = config.runs.values() if "runs" in config else [config]
    return [given or run.data.source for run in runs]


def shortened(text: str) -> str:
    """The command with less to do."""
    if makes(text):
        config = read_config(text)
        if "runs" not in config:
            return f"{text} {_short_training('config', option(text, 'config.data.source'), config)}"
        runs = [_short_training(f"config.runs.{k}", "", v) for k, v in config.runs.items()]
        return " ".join([text, "--config.seeds='(0,)'", *runs])
    for pattern, options in SHORT:
        if re.search(pattern, text):
            return f"{text} {options}"
    return text


def _short_training(prefix: str, source: str, config) -> str:
    given = {f"{prefix}.{name}": value for name, value in _STEPS.items()}
    source = source or config.data.source
    # Speech wants all speakers and digits, `train.bits` all images, `train.disentangle` frames with
    # equal factors; codes are as few as images.
    if not source.startswith(("digits", "codes:", "audio:", "game:")):
        given[f"{prefix}.data.limit"] = _FEW
    if source.startswith("codes:"):
        given[f"{prefix}.data.test"] = "test"  # of which a command's slice may be more
    return " ".join(f"--{name}={value}" for name, value in given.items())


class Runner:
    """Runs commands in a folder, each once, after those that make what it reads."""

    def __init__(self, folder: Path, known: list[Command], *, short: bool, install: bool):
        self.folder, self.known, self.short, self.install = folder, known, short, install
        self.results: dict[Command, Result] = {}
        self.made: dict[str, Command] = {}
        for command in known:
            if makes(command.text):
                self.made.setdefault(makes(command.text), command)
        data = Path(os.environ.get("BOTTLENECKS_DATA", "nowhere"))
        for entry in ROOT.iterdir():
            if entry.name not in ("runs", ".git", ".venv"):
                _link(folder / entry.name, entry)
        for name, place in FILES.items():
            if name == "x.wav":
                _write_recording(folder / name, data / place)
            elif (data / place).exists():
                _link(folder / name, data / place)
        _write_digits(folder)

    def run(self, command: Command) -> Result:
        """Runs it, unless that has been done, after what it needs; and prints how it went."""
        if command in self.results:
            return self.results[command]
        self.results[command] = Result("failed", "it needs what it makes itself")
        result = self._refused(command.text) or self._needs(command) or self._start(command)
        self.results[command] = result
        print(line_of(command, result), flush=True)
        return result

    def _refused(self, text: str) -> Result | None:
        """Why it is not run, before anything is."""
        if why := why_not(text):
            return Result("not run", why)
        if INSTALLS.match(text) and not self.install:
            return Result("not run", "installs; --install does")
        if not INSTALLS.match(text) and not is_ours(text):
            return Result("failed", "neither a command of the project nor in NOT_RUN")
        if self.short and "-m slow" in text:
            return Result("not run", "a test of many minutes; not in short")
        for name, place in FILES.items():
            named = re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text)
            if named and not (self.folder / name).exists():
                return Result("not run", f"BOTTLENECKS_DATA has no {place}")
        return self._unprepared(text) if makes(text) else None

    def _unprepared(self, text: str) -> Result | None:
        for source in _sources(text):
            kind, _, name = source.partition(":")
            folder = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
            prepared = kind == "tfds" or source in ("sequences:mnist", "sequences:dsprites")
            if prepared and not (folder / name).exists():
                return Result("not run", f"TFDS_DATA_DIR has no {name}")
        return None

    def _needs(self, command: Command) -> Result | None:
        """Makes the environment and the runs that it uses; what stopped that, if something did."""
        # Nothing may be installed elsewhere.
        if self.install and not MAKES_PLACE.match(command.text):
            place = next(c for c in self.known if MAKES_PLACE.match(c.text))
            if self.run(place).outcome != "ok":
                return Result(self.results[place].outcome, "without an environment")
        for folder in reads(command.text):
            maker = next(
                (m for made, m in self.made.items() if f"{folder}/".startswith(f"{made}/")), None
            )
            name = folder.removeprefix("runs/")
            if maker is None and (ROOT / "configs" / f"{name}.py").exists():
                maker = self.made[folder] = Command(command.line, train(name))
            if maker is None:
                return Result("failed", f"nothing in the README makes {folder}")
            if maker != command and self.run(maker).outcome != "ok":
                return Result(self.results[maker].outcome, f"without {folder}")
        return None

    def _start(self, command: Command) -> Result:
        text = shortened(command.text) if self.short else command.text
        environment = os.environ | {"MPLBACKEND": "Agg"}
        if self.install and not MAKES_PLACE.match(text):
            environment["PATH"] = f"{self.folder / '.venv/bin'}:{environment['PATH']}"
            environment.pop("PYTHONPATH", None)
        elif not self.install:
            text = text.replace(".venv/bin/", "")
            environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
            environment["PYTHONPATH"] = str(self.folder)
        log = self.folder / "logs" / f"{command.line:03}_{len(self.results):03}.txt"
        log.parent.mkdir(exist_ok=True)
        start = time.monotonic()
        with log.open("w") as output:
            output.write(f"$ {text}\n")
            output.flush()
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
            command_line = ["bash", "-c", text]
            done = subprocess.run(command_line, cwd=self.folder, env=environment, **streams)
        seconds = time.monotonic() - start
        if done.returncode == 0:
            return Result("ok", "", seconds)
        last = log.read_text().strip().splitlines()[-1]
        return Result("failed", f"{last}; all of it in {log}", seconds)


def _link(path: Path, target: Path) -> None:
    if not path.exists():
        path.symlink_to(target)


def _write_recording(path: Path, recordings: Path) -> None:
    """The first of the recordings, WAV or FLAC, as a WAV file, where there is one."""
    for recording in sorted(recordings.glob("*_*_*.*"))[:1]:
        import soundfile

        soundfile.write(path, *soundfile.read(recording))


def _write_digits(folder: Path) -> None:
    """Two of scikit-learn's digits as files."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    for i, digit in enumerate(load_digits().images[:2]):
        Image.fromarray(np.uint8(digit / 16 * 255)).save(folder / f"digit{i}.png")


def line_of(command: Command, result: Result) -> str:
    """A row of the table."""
    why = f"  ({result.why})" if result.why else ""
    return f"{result.outcome:8}{result.seconds:6.0f} s  line {command.line}: {command.text}{why}"


def main() -> int:
    """Runs the commands; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="two steps of training each")
    parser.add_argument("--only", default="", help="those in which this is found, and their inputs")
    parser.add_argument("--install", action="store_true", help="into a new virtual environment")
    parser.add_argument("--folder", type=Path, help="where to run and keep all that is made")
    options = parser.parse_args()
    known = commands((ROOT / "README.md").read_text())
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if options.short:
            os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
            os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
            # Of what is compiled, little is run.
            os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        runner = Runner(folder, known, short=options.short, install=options.install)
        for command in sorted(known, key=lambda c: not INSTALLS.match(c.text)):
            if re.search(options.only, command.text):
                runner.run(command)
    results = sorted(runner.results.items(), key=lambda item: item[0].line)
    print("\n" + "\n".join(line_of(*item) for item in results))
    outcomes = [result.outcome for _, result in results]
    print({outcome: outcomes.count(outcome) for outcome in ("ok", "failed", "not run")})
    return int("failed" in outcomes)


if __name__ == "__main__":
    sys.exit(main())
