"""What is measured: a kind of work on a corpus, as in "store-L"."""

KINDS = {
    "store": "a fresh, empty repository takes in {corpus}; MB: the lengths of all its files",
    "second": "{corpus} is stored once more, unchanged; MB: what that added",
    "restore": "{corpus} is restored to a new place on the same file system, until the command returns",
    "further": "further versions of {corpus} ({versions}) join it in the repository, one by one; MB: what they added",
}
# Those of one corpus follow one another on the same repository.
JOBS = [
    *("store-L", "second-L", "restore-L", "further-L"),
    *("store-T", "second-T", "restore-T"),
    *("store-file", "restore-file"),
]
FULL_JOBS = [job for job in JOBS if job not in ("second-T", "restore-T")]
QUICK_JOBS = [job for job in JOBS if not job.endswith("-L")]


def kind_of(job):
    return job.split("-")[0]


def corpus_of(job):
    return job.split("-")[1]


def does(system, job):
    return corpus_of(job) in system.corpora and (system.finds_old or kind_of(job) in ("store", "restore"))
