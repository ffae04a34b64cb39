"""Every time that something is waited for, or rests before it is done again; a test may shorten each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Waits:
    """Seconds. Those called `look_...` lie between two looks at the same; the others end a wait."""

    # a group of workers, and the nodes that it lies on
    look_at_workers: float = 0.25
    look_at_results: float = 0.1
    look_at_nodes: float = 1.0
    silence_at_start: float = 45.0  # without any answer of a worker that has not begun yet
    first_microbatch: float = 300.0  # imports, data, compiling
    watcher_away: float = 2.0  # between two looks: from then on the watcher itself was stopped, or kept
    seen_begun: float = 2.0  # for an answer of workers that have not begun, as far as is known
    end_of_group: float = 10.0  # for the other workers to end, or to say who is guilty, once one has ended
    room: float = 60.0  # for all workers
    nodes: float = 900.0  # on a cluster that has just lost one: another may be on its way
    room_taken: float = 3.0  # then room that should be there is taken to be somebody else's
    room_asked_anew: float = 30.0  # some were never answered where a link had been cut
    more_nodes: float = 1.0  # once one has come
    head: float = 40.0  # without an answer; Ray itself ends our process after 60
    knock: float = 3.0  # for a first answer of whoever listens at an address
    facts_of_node: float = 60.0
    gpu_asked: float = 120.0  # for torch to be imported and to use one
    check_of_nodes: float = 20.0  # for their answers to `troupe check`
    end_of_ray: float = 5.0  # for killed processes to have gone, and for those that were about to begin to show

    # the end of a command, and of a Ray of our own that is begun anew
    same_request: float = 1.0  # within which signals that ask for an end are one: to a process, and to its group
    clean_up: float = 10.0  # after the answer: then the process ends as it is
    look_at_files: float = 1.0  # of a Ray of our own, whether all are there
    files_touched: float = 600.0  # so that cleaners of temporary files leave them
    saves_for_new_ray: float = 8.0  # for trials to save before theirs, whose files have gone, is ended

    # trials of a search
    look_for_stop: float = 0.5  # of the whole search
    look_for_stop_in_bucket: float = 5.0
    checkpoint_sent: float = 60.0  # into the bucket of the search

    # buckets
    look_at_changes: float = 15.0  # of what is to be sent, besides at each checkpoint
    bucket_tried_again: float = 60.0  # at most, while it fails
    bucket: float = 600.0  # that fails, where nothing can be done without it
    fetch_of_others: float = 3600.0  # of the same by another process

    # jobs, and the dashboard that they go through
    dashboard_found: float = 2.0  # its first answer
    dashboard: float = 30.0  # each of the later ones
    dashboard_asked_again: float = 60.0  # in all, where it does not answer
    cluster_begun: float = 30.0  # for one that has just begun to take jobs
    look_at_job: float = 1.0
    job_saves: int = 1800  # after a stop; Ray alone gives 3

    # a run on this machine
    lasting_record: float = 1.0  # between records that also a pulled plug leaves
    look_at_disk: float = 5.0
    write_before: float = 60.0  # for a write of the group before to end
    picture_of_evaluation: float = 60.0  # between two
    look_at_thread: float = 1.0  # whether the one that computes is still there
    end_of_thread: float = 2.0  # where an exception ended the waiting
    look_at_log: float = 0.2
    plain_line: float = 10.0  # between those of progress, where the output is no terminal
    page_renewed: float = 5.0  # at least, between renewals of `troupe report --watch`


WAITS = Waits()
