"""All timeouts and polling intervals; tests can shorten each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Waits:
    """Seconds. Those called `poll_...` are polling intervals; the others are timeouts."""

    # a worker group and its nodes
    poll_workers: float = 0.25
    poll_results: float = 0.1
    poll_nodes: float = 1.0
    silence_at_start: float = 45.0  # without an answer from a worker that has not started yet
    first_microbatch: float = 300.0  # imports, data, compiling
    watcher_away: float = 2.0  # between two polls: beyond it, the watcher itself was stopped or delayed
    answer_at_start: float = 2.0  # for an answer of workers that are not known to have started
    end_of_group: float = 10.0  # for the others to end or to report the failed one, after one has ended
    room: float = 60.0  # for all workers
    nodes: float = 900.0  # on a cluster that has just lost one: another can be starting
    room_taken: float = 3.0  # then missing room counts as used by another user
    room_requested_again: float = 30.0  # repeat the request: some were never answered after a cut link
    more_nodes: float = 1.0  # after one has joined
    head: float = 40.0  # without an answer; Ray ends this process after 60
    knock: float = 3.0  # for a first answer from an address
    facts_of_node: float = 60.0
    gpu_check: float = 120.0  # for torch to be imported and to use a GPU
    check_of_nodes: float = 20.0  # for their answers to `troupe check`
    end_of_ray: float = 5.0  # for killed processes to exit, and for starting ones to appear

    # the end of a command, and of a local Ray that is restarted
    same_request: float = 1.0  # signals to a process and to its group within this time are one request
    clean_up: float = 10.0  # after the answer: then the process exits anyway
    poll_files: float = 1.0  # of a local Ray: are all present
    files_touched: float = 600.0  # so that cleaners of temporary files keep them
    saves_for_new_ray: float = 8.0  # for trials to save before a Ray with missing files is ended

    # trials of a search
    poll_stop: float = 0.5  # of the complete search
    poll_stop_in_bucket: float = 5.0
    checkpoint_sent: float = 60.0  # into the bucket of the search

    # buckets
    poll_changes: float = 15.0  # to be sent, besides at each checkpoint
    bucket_tried_again: float = 60.0  # at most, while it fails
    bucket: float = 600.0  # a failing bucket that is indispensable
    fetch_of_others: float = 3600.0  # of the same run by another process

    # jobs, and the dashboard that runs them
    dashboard_first_answer: float = 2.0  # first answer
    dashboard: float = 30.0  # each later answer
    dashboard_retries: float = 60.0  # in total, if it does not answer
    cluster_start: float = 30.0  # for a new cluster to accept jobs
    poll_job: float = 1.0
    job_saves: int = 1800  # after a stop; the default of Ray is 3

    # a run on this machine
    lasting_record: float = 1.0  # between records that survive a power failure
    poll_disk: float = 5.0
    write_before: float = 60.0  # for a write of the previous group to end
    picture_of_evaluation: float = 60.0  # between two
    poll_thread: float = 1.0  # whether the computing thread is alive
    end_of_thread: float = 2.0  # after an exception ended the wait
    poll_log: float = 0.2
    plain_line: float = 10.0  # between progress lines, if the output is not a terminal
    page_renewed: float = 5.0  # at least, between updates of `troupe report --watch`


WAITS = Waits()
