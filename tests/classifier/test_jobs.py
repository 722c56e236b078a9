import numpy as np
import pytest
from PIL import Image

from balancer.data import ImageStore
from balancer.files import write_text
from classifier.jobs import Job, code_version, digest, remove_stale


def test_a_job_runs_once(tmp_path):
    runs = []

    def work(folder):
        runs.append(folder)
        write_text(folder / "result.txt", "done")

    job = Job("training", {"seed": 1, "arm": {"loss": "focal", "adds": "nothing"}})
    same = Job("training", {"arm": {"adds": "nothing", "loss": "focal"}, "seed": 1})
    assert not job.done(tmp_path)
    folder = job.run(tmp_path, work)
    assert same.run(tmp_path, work) == folder and len(runs) == 1
    assert (folder / "result.txt").read_text() == "done"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("other", [Job("training", {"seed": 2}), Job("other", {"seed": 1})])
def test_another_job_is_not_taken_from_the_cache(tmp_path, other):
    Job("training", {"seed": 1}).run(tmp_path, lambda folder: None)
    assert not other.done(tmp_path)


def test_a_job_that_breaks_leaves_nothing(tmp_path):
    def work(folder):
        write_text(folder / "half.txt", "half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Job("training", {}).run(tmp_path, work)
    assert not list(tmp_path.iterdir())


def test_only_finished_jobs_that_are_not_used_are_removed(tmp_path):
    used, stale, other = (
        Job(kind, {"seed": seed}).run(tmp_path, lambda folder: None)
        for kind, seed in (("training", 1), ("training", 2), ("other", 1))
    )
    (tmp_path / "training-notes").mkdir()
    (tmp_path / "training-notes" / "mine.txt").write_text("kept")
    (tmp_path / ".DS_Store").write_text("kept")
    remove_stale(tmp_path, "training", {used})
    kept = {used.name, other.name, "training-notes", ".DS_Store"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert not stale.exists() and (tmp_path / "training-notes" / "mine.txt").exists()


def test_digest_sees_pixels_labels_order_and_resolution(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(path)
    labels = np.array([0, 1, 1])
    known = digest(ImageStore(paths, 4), labels)
    assert digest(ImageStore(paths, 4), labels) == known
    assert digest(ImageStore(paths[::-1], 4), labels) != known
    assert digest(ImageStore(paths, 4), labels[::-1]) != known
    Image.fromarray(np.full((4, 4, 3), 9, np.uint8)).save(paths[0])
    assert digest(ImageStore(paths, 4), labels) != known


def test_code_version_names_the_package():
    assert "+" in code_version()
