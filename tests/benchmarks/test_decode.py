"""What the decode benchmark counts, and the processes that take turns."""

import math
import os

import onnx.parser
import pytest
from decode_contestants import DECODER, ENCODER, Split
from decode_process import First, timed
from decode_report import Entry, print_tables, write
from decode_tasks import ALPHA, Sentence, Setting, Task, equal_penalty, in_batches, make_tasks
from turns import Runner

SENTENCES = [Sentence(f"text {n}", [5] * (n % 7) + [3]) for n in range(40)]


def test_batches_are_sorted_by_length_and_hold_every_sentence():
    batches = in_batches(SENTENCES, 16)
    assert [len(batch) for batch in batches] == [16, 16, 8]
    lengths = [len(sentence.ids) for batch in batches for sentence in batch]
    assert lengths == sorted(len(sentence.ids) for sentence in SENTENCES)


def test_all_contestants_get_one_limit_for_a_batch():
    free, *_, forced = make_tasks(SENTENCES, 4, 40)
    assert free.limit(free.batches[-1]) == len(free.batches[-1][0].ids) + 50
    assert {forced.limit(batch) for batch in forced.batches} == {256}


def test_a_slow_contestant_decodes_batches_of_all_lengths():
    task = Task("", [[]] * 16, cut=8)
    assert task.share(slow=True) == [4, 12]
    assert task.share(slow=False) == list(range(16))


def test_the_penalties_are_equally_steep_at_the_mean_length():
    exponent = equal_penalty([Sentence("", [0] * 15)])
    ours = [ALPHA * math.log((5 + n) / 6) for n in (14, 16)]
    theirs = [exponent * math.log(n) for n in (14, 16)]
    assert theirs[1] - theirs[0] == pytest.approx(ours[1] - ours[0], rel=0.01)


def entries():
    """A baseline that decodes two batches, and a contestant that decodes the second of them."""
    baseline = Entry(First("", [0, 1], [[[5, 3]], [[6, 6, 3]]]))
    baseline.rounds = [[(1.0, 2.0), (3.0, 6.0)], [(1.0, 2.0), (6.0, 6.0)]]
    own = Entry(First("", [1], [[[6, 7, 8, 8, 7, 3]]]))
    own.rounds = [[(1.0, 1.0)], [(1.0, 1.0)]]
    own.compare(baseline, baseline)
    baseline.compare(baseline, baseline)
    return baseline, own


def test_ratios_are_per_token_and_on_the_same_batches():
    baseline, own = entries()
    assert (baseline.tokens, baseline.ratio, baseline.cpu_ratio) == (5, 1, 1)
    assert own.ratio == 2 * (3 + 6) / 2  # twice the tokens; 3 and 6 times the speed
    assert own.cpu_ratio == 12
    assert (baseline.same, baseline.compared) == (2, 2)
    assert (own.same, own.compared) == (0, 1)


def test_tables_and_files_are_written(tmp_path, capsys):
    baseline, own = entries()
    tasks = {"greedy": Task("greedy", in_batches(SENTENCES[:2], 1))}
    found = {("greedy", "theirs"): baseline, ("greedy", "ours"): own}
    print_tables(tasks, found, {}, 2)
    assert "0/1" in capsys.readouterr().out
    write(tmp_path / "r.csv", {}, tasks, found, {})
    write(tmp_path / "r.json", {}, tasks, found, {})
    assert (tmp_path / "r.csv").read_text().count("\n") == 3
    assert '"tokens": 5' in (tmp_path / "r.json").read_text()


def test_time_of_the_clock_and_of_the_cpu_are_measured():
    seconds, cpu = timed(lambda: sum(range(200_000)))
    assert 0 < cpu <= seconds * 2


def make_doubler(number):
    """For the next test: runs in a process."""

    def answer(question):
        return (os.getpid(), number * question)

    return "ready", answer


def test_a_runner_answers_in_turns_and_its_failure_is_reported(tmp_path):
    runner = Runner("doubler", tmp_path / "log", quiet=True)
    try:
        assert runner.start(make_doubler, (2,), {}, 1) == "ready"
        pid, doubled = runner.ask(21)
        assert (doubled, pid != os.getpid()) == (42, True)
        assert runner.ask([1])[1] == [1, 1]
        assert runner.ask(None) is None
        assert "TypeError" in runner.error
        assert runner.ask(1) is None
    finally:
        runner.end()


ENCODER_GRAPH = (
    "encoder (int64[B,S] source_ids) => (int64[B,S] memory) {memory = Identity(source_ids)}"
)
DECODER_GRAPH = """
decoder (int64[B] ids, int64 step, int64[B,S] memory, float[B,t] seen)
    => (float[B,9] logits, float[B,u] next_seen) {
  zero = Constant<value = int64[1] {0}>()
  one = Constant<value = int64[1] {1}>()
  first = Slice(memory, zero, one, one)
  chosen = Add(step, first)
  new = Cast<to = 1>(chosen)
  next_seen = Concat<axis = 1>(seen, new)
  sum = ReduceSum<keepdims = 1>(next_seen, one)
  most = Constant<value = float {17.0}>()
  over = Greater(sum, most)
  end = Constant<value = int64 {3}>()
  column = Where(over, end, chosen)
  row = Squeeze(column, one)
  depth = Constant<value = int64 {9}>()
  heights = Constant<value = float[2] {0.0, 1.0}>()
  logits = OneHot(row, depth, heights)
}
"""


def test_the_loop_around_split_files_hands_the_past_on(tmp_path):
    # it counts on from the first id of the source, and ends when the sum is above 17
    write_onnx(tmp_path / ENCODER, ENCODER_GRAPH)
    write_onnx(tmp_path / DECODER, DECODER_GRAPH)
    engine = Split(Setting(tmp_path, tmp_path, tmp_path, (0, 2, 3)))
    batch = [Sentence("", [5, 3]), Sentence("", [6, 7, 3])]
    assert engine.rows(engine.prepare(batch, Task("", [batch]))()) == [[5, 6, 3], [6, 7, 3]]
    short = Task("", [batch], forced_length=2)
    assert engine.rows(engine.prepare(batch, short)()) == [[5, 6], [6, 7]]
    assert "min_decoding_length" in engine.refusal(short)


def write_onnx(path, graph):
    head = '<ir_version: 8, opset_import: ["": 18]>'
    path.write_bytes(onnx.parser.parse_model(head + graph).SerializeToString())
