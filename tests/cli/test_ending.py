"""How a job ends: signals as Ctrl-C does, output that nobody reads stops no work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers_jobs import enter
from helpers_study import command, make_models, make_study, make_tokens

from universal_ray.cli import doors
from universal_ray.errors import StorageError
from universal_ray.runtime.ending import SIGNALS, Lasting, guarded, lasting_output, stoppable
from universal_ray.storage.lock import read_lock
from universal_ray.storage.store import Store

ROOT = Path(__file__).parents[2]
RECORD = b"{configuration: {}, bits: {}, models: [], corpus: {rows: 1, context: 1, units: []}}"
"""The least that a `study.yaml` says."""


@pytest.fixture(params=[*SIGNALS, signal.SIGINT])
def number(request):
    """A signal as it comes to a process in the foreground, whatever started the tests."""
    usual = signal.default_int_handler if request.param == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(request.param, usual)
    yield request.param
    signal.signal(request.param, before)


def test_a_signal_undoes_what_is_open_and_tells_its_number(number, capsys):
    undone = []
    with pytest.raises(SystemExit) as caught, stoppable(), guarded():
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            if number in SIGNALS:
                os.kill(os.getpid(), number)  # impatience changes nothing
            undone.append(True)
    assert caught.value.code == 128 + number
    assert undone == [True]
    told = capsys.readouterr().err
    assert told.startswith("interrupted") and told.count("\n") == 1
    assert number == signal.SIGINT or signal.Signals(number).name in told


def test_handlers_are_given_back_and_what_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # whoever was here first (a cluster's own shutdown, say) gets its handler back
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGTERM) is not terminate
        assert signal.getsignal(signal.SIGTERM) is terminate
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_error_made_on_purpose_is_one_sentence_and_status_1(capsys):
    with pytest.raises(SystemExit) as caught, guarded():
        raise StorageError("the disk is full: free some space")
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: the disk is full: free some space\n"


def test_a_process_without_memory_is_told_in_one_sentence(capsys):
    with pytest.raises(SystemExit) as caught, guarded():
        bytearray(2**62)
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("error: this process got no more memory")


@pytest.mark.parametrize("door", [doors.main, doors.door("status")])
@pytest.mark.parametrize("module", ["universal_ray.cli.commands", "universal_ray.cli.options"])
def test_ctrl_c_in_the_first_second_is_one_sentence(monkeypatch, capsys, door, module):
    class Impatient:
        """Ctrl-C, while a module is being imported."""

        def find_spec(self, name, *_):
            if name == module:
                raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["universal-ray", "status", "run.dir=x"])
    for each in ("universal_ray.cli.commands", "universal_ray.cli.options"):
        monkeypatch.delitem(sys.modules, each, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Impatient(), *sys.meta_path])
    with pytest.raises(SystemExit) as caught:
        door()
    assert caught.value.code == 128 + signal.SIGINT
    assert capsys.readouterr().err == "interrupted: the same command goes on from here\n"


HASTY = """
import signal, sys
from pathlib import Path
from universal_ray.runtime import ending

signal.signal(signal.SIGINT, signal.default_int_handler)
print(*sorted(name for name in sys.modules if name.startswith("universal_ray")))

class Impatient:
    def find_spec(self, name, *_):
        if name not in ("universal_ray.cli", "universal_ray.cli.doors"):
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Impatient())
for path in [None, *sys.argv[1:]]:
    try:
        if path is None:
            from universal_ray.cli.doors import main
            main()
        else:
            exec(Path(path).read_text(), {"__name__": "__main__"})
    except SystemExit as ended:
        print(ended.code)
"""
"""Every way in, and Ctrl-C at the first import after the two lines that stand before the guard."""


def test_ctrl_c_is_one_sentence_from_the_first_import_on_whatever_the_door():
    jobs = sorted(map(str, ROOT.glob("jobs/*.py")))
    told = subprocess.run(
        [sys.executable, "-c", HASTY, *jobs], capture_output=True, text=True, check=True
    )
    before, *statuses = told.stdout.splitlines()
    names = ("", ".errors", ".runtime", ".runtime.ending")
    assert before.split() == [f"universal_ray{name}" for name in names]
    assert statuses == [str(128 + signal.SIGINT)] * (1 + len(jobs))
    assert told.stderr == "interrupted: the same command goes on from here\n" * (1 + len(jobs))


def test_of_several_jobs_one_that_fails_keeps_none_from_being_done(tmp_path):
    Store(str(tmp_path / "a=1")).put("study.yaml", RECORD)
    ended = enter("jobs/status.py", "-m", "run.dir=none,a=1,nothing", folder=tmp_path)
    assert ended.returncode == 1
    assert ended.stdout.count("stopped before the first unit") == 1
    failed = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert [line.split()[1].split("/")[-1] for line in failed] == ["none", "nothing", "2"]
    assert failed[-1] == "error: 2 of these jobs failed, each for what it says above"


def test_a_stream_outlasts_its_reader():
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", buffering=1) as stream:
        lasting = Lasting(stream)
        print("read", file=lasting)
        assert os.read(reader, 99) == b"read\n"
        os.close(reader)
        for _ in range(3):
            print("to nobody", file=lasting, flush=True)


def test_output_is_wrapped_for_a_job_alone():
    before = sys.stdout, sys.stderr
    with lasting_output():
        assert isinstance(sys.stdout, Lasting) and isinstance(sys.stderr, Lasting)
    assert (sys.stdout, sys.stderr) == before


def test_a_job_whose_output_nobody_reads_ends_well(tmp_path):
    Store(str(tmp_path)).put("study.yaml", b"")
    reader, writer = os.pipe()
    os.close(reader)
    found = subprocess.run(
        [sys.executable, ROOT / "jobs" / "status.py", f"run.dir={tmp_path}"],
        stdout=writer, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False,
    )
    os.close(writer)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_job_without_a_stream_ends_well(tmp_path, closed):
    Store(str(tmp_path)).put("study.yaml", b"")
    told = subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, ROOT / "jobs" / "status.py",
         f"run.dir={tmp_path}"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert (told.returncode, told.stderr) == (0, "")


@pytest.mark.cluster
def test_a_run_goes_on_unread_and_ends_by_a_signal_with_its_lock_given_back(tmp_path):
    study = make_study(
        tmp_path / "run", make_models(tmp_path, "ab"), make_tokens(tmp_path / "tokens")
    )
    store = Store(study.run.dir)
    running = subprocess.Popen(
        command(study), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert running.stdout is not None
    running.stdout.readline()
    running.stdout.close()
    while running.poll() is None and not store.exists("metrics.jsonl"):
        time.sleep(0.01)
    started = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(signal.SIGTERM)
    _, told = running.communicate()
    assert running.returncode == 128 + signal.SIGTERM, told
    assert told == "interrupted by SIGTERM: the same command goes on from here\n"
    assert read_lock(store) is None
    assert store.get_json("progress.json")["stage"] == "stopped"
    assert not psutil.wait_procs(started, timeout=30)[1]
