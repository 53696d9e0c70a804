"""Compare the speed of decoding with CTranslate2's, on real sentences and the same weights.

Exported first, then measured:

    keras-transformer export runs/multi30k exported/multi30k
    python benchmarks/decode.py runs/multi30k exported/multi30k --output decode.json

It needs the extras [train] and [references], and the validation text of Multi30k (`--data`).

The sentences have their natural lengths. Sorted by length they go into batches, the same ones for
every contestant (decode_contestants.py), as ids (to the SavedModel as texts). Every contestant is
a process of its own. Round by round they decode in shuffled order, each while the others are
stopped. Threads that wait spin, as each engine has it by default; on a machine whose cores others
use as well, that is slow by chance, and `--passive` lets them sleep, in all engines.

Printed: medians over the rounds; output tokens for each second, end symbols included; the ratio to
CTranslate2 in float32, round by round, its median, for time and for CPU time: above 1 is faster or
cheaper for each token; how many outputs are those of Keras, which decodes once. The SavedModel and
the recompute loop are slow: they decode a part of the batches, and are compared on that part.
"""

import argparse
import os
import random
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from decode_contestants import BASELINE, CONTESTANTS, KERAS, NAMES
from decode_process import get_ready
from decode_report import Entry, Footprint, draw, print_tables, write
from decode_tasks import ALPHA, Sentence, Setting, Task, make_tasks
from turns import Runner, print_failures

SOURCES = "val.en"
STARTS = 3  # of each contestant, for its load time and memory
MEMORY_TASK = "greedy, batch 32"


def main() -> None:
    """Prepare, let the contestants take turns, print and write the results."""
    options = parse()
    names = [name for name in CONTESTANTS if name in {BASELINE, *(options.only or CONTESTANTS)}]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        setting, sentences = prepare(options, folder)
        tasks = {
            task.name: task
            for task in make_tasks(sentences, options.singles, options.batched)
            if not options.tasks or task.name in options.tasks
        }
        print_setting(setting, sentences, next(iter(tasks.values())))
        names = [name for name in names if has_files(name, setting)]
        entries, runners = measure(names, setting, tasks, options.rounds, folder)
        footprints = start_afresh(names, setting, tasks, folder, options.starts)
    print(f"load of the machine {os.getloadavg()[0]:.1f}")
    print_tables(tasks, entries, footprints, options.rounds)
    if options.output:
        write(options.output, vars(options), tasks, entries, footprints)
    if options.plot:
        draw(options.plot, tasks, entries)
    sys.exit(print_failures(runners))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the training run")
    parser.add_argument("bundle", type=Path, help="the exported folder of it")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/multi30k"))
    parser.add_argument("--singles", type=int, default=100, help="sentences at batch 1")
    parser.add_argument("--batched", type=int, default=512, help="sentences at batch 32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--starts", type=int, default=STARTS, help="for load time and memory")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--passive", action="store_true", help="waiting threads sleep")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, metavar="NAME", help=NAMES)
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="only these, by their names")
    parser.add_argument("--output", type=Path, help="results as .json or .csv")
    parser.add_argument("--plot", type=Path, help="a picture, .png or .svg")
    options = parser.parse_args()
    for path, advice in (
        (options.run / "best.keras", "train it with `keras-transformer train multi30k`"),
        (options.bundle, "make it with `keras-transformer export`"),
        (options.data / SOURCES, "give the folder of Multi30k with --data"),
    ):
        if not path.exists():
            parser.error(f"{path} is not there: {advice}")
    if options.output and options.output.suffix not in (".json", ".csv"):
        parser.error(f"--output must end with .json or .csv. Received: {options.output}")
    return options


def prepare(options: argparse.Namespace, folder: Path) -> tuple[Setting, list[Sentence]]:
    """Convert the weights and tokenize the sentences, in a process that ends with it."""
    texts = (options.data / SOURCES).read_text(encoding="utf-8").splitlines()
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        converted = process.submit(convert, options.run, texts, folder / "ctranslate2")
        special_ids, sentences = converted.result()
    setting = Setting(
        options.run,
        options.bundle,
        folder / "ctranslate2",
        special_ids,
        options.threads,
        not options.passive,
    )
    return setting, sentences


def convert(
    run: Path, texts: list[str], folder: Path
) -> tuple[tuple[int, int, int], list[Sentence]]:
    """Write the CTranslate2 model; return the ids of pad, start and end, and the sentences."""
    from ctranslate2_model import write_ctranslate2

    from keras_transformer.translator import Translator

    translator = Translator.load(run)
    write_ctranslate2(translator.model, folder)
    config = translator.config
    rows = translator.source.encode(texts)
    sentences = [Sentence(t, [*row, config.eos_id]) for t, row in zip(texts, rows, strict=True)]
    return (config.pad_id, config.start_id, config.eos_id), sentences


def print_setting(setting: Setting, sentences: list[Sentence], task: Task) -> None:
    """Say what a reader must know to judge the numbers."""
    mean = sum(len(sentence.ids) for sentence in sentences) / len(sentences)
    print(
        f"{len(sentences)} sentences of {mean:.1f} tokens in the mean, end symbol included; "
        f"{setting.threads} threads, {'spinning' if setting.spin else 'not spinning'}; "
        f"load of the machine {os.getloadavg()[0]:.1f}"
    )
    print(
        f"Beam 4: our length penalty is {ALPHA}. CTranslate2 divides by length^penalty, and gets "
        f"{task.ctranslate2_penalty}, which weighs length alike around the mean. It also ends "
        "when 4 outputs are complete, ours when no better one can come."
    )


def has_files(name: str, setting: Setting) -> bool:
    """Whether the bundle has what a contestant needs; if not, say so."""
    missing = [f for f in CONTESTANTS[name].files if not (setting.bundle / f).exists()]
    if missing:
        print(f"{name}: skipped, {setting.bundle} has no {' and no '.join(missing)}")
    return not missing


def environment(name: str, setting: Setting) -> dict[str, str]:
    """Return the variables of a contestant's process; OpenMP is CTranslate2's and TensorFlow's."""
    passive = {} if setting.spin else {"OMP_WAIT_POLICY": "PASSIVE"}
    return CONTESTANTS[name].environment | passive


def measure(
    names: list[str], setting: Setting, tasks: dict[str, Task], rounds: int, folder: Path
) -> tuple[dict[tuple[str, str], Entry], list[Runner]]:
    """Let all decode once, then round by round; return what was measured by task and name."""
    runners = [Runner(name, folder / f"{name}.log") for name in names]
    entries: dict[tuple[str, str], Entry] = {}
    try:
        for runner in runners:
            arguments = (runner.name, setting, tasks)
            runner.start(get_ready, arguments, environment(runner.name, setting), setting.threads)
        for runner in runners:
            firsts = {task: runner.ask(("first", task)) for task in tasks}
            done = {task: first for task, first in firsts.items() if first and not first.refusal}
            entries |= {(task, runner.name): Entry(first) for task, first in done.items()}
            print_refusals(runner.name, [first.refusal for first in firsts.values() if first])
        timed = [runner for runner in runners if CONTESTANTS[runner.name].timed]
        chance = random.Random(0)
        for number in range(rounds):
            for task in tasks:
                for runner in chance.sample(timed, len(timed)):
                    if (task, runner.name) in entries:
                        times = runner.ask(("again", task))
                        if times:
                            entries[task, runner.name].rounds.append(times)
            print(f"round {number + 1} of {rounds} done", flush=True)
    finally:
        for runner in runners:
            runner.end()
    for (task, _), entry in entries.items():
        entry.compare(entries.get((task, BASELINE)), entries.get((task, KERAS)))
    return {key: entry for key, entry in entries.items() if entry.rounds}, runners


def print_refusals(name: str, refusals: list[str]) -> None:
    """Say which inputs a contestant lacks, and how many tasks it leaves out for that."""
    for refusal in dict.fromkeys(filter(None, refusals)):
        print(f"{name}: {refusals.count(refusal)} tasks skipped, {refusal}", flush=True)


def start_afresh(
    names: list[str], setting: Setting, tasks: dict[str, Task], folder: Path, starts: int
) -> dict[str, Footprint]:
    """Start each contestant a few times more, alone, and let it do one task."""
    footprints = {}
    task = MEMORY_TASK if MEMORY_TASK in tasks else next(iter(tasks))
    for name in (name for name in names if CONTESTANTS[name].timed):
        loads, peaks = [], []
        for _ in range(starts):
            runner = Runner(name, folder / f"{name} afresh.log", quiet=True)
            try:
                arguments = (name, setting, {task: tasks[task]})
                load = runner.start(
                    get_ready, arguments, environment(name, setting), setting.threads
                )
                runner.ask(("first", task))
                peak = runner.ask(("memory", ""))
            finally:
                runner.end()
            if not runner.error:
                loads.append(load)
                peaks.append(peak)
        if loads:
            footprints[name] = Footprint(median(loads), median(peaks))
    return footprints


if __name__ == "__main__":
    main()
