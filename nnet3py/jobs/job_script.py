"""The script that a scheduler runs for every job of an invocation.

Each job finds its number in the environment, writes Kaldi's log (see :mod:`nnet3py.jobs.log_file`) around the command,
which a bash of its own reads from its standard input as under run-local, and leaves an *end marker*: a file named after
its number that holds the command's exit status. The marker comes last and by renaming, so that one that can be seen is
whole. A job that its scheduler kills leaves none.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from nnet3py.jobs.command_line import Invocation

# Kaldi's engines read path.sh in the job; the environment may not have come along (sbatch --export=PATH).
# Names begin with nnet3py_ because a variable that is in the job's environment already would reach the command changed.
_SCRIPT = r"""#!/bin/bash
# Written by {program}; sbatch or qsub has a copy of its own.
cd {directory} || exit 1
if [ -f ./path.sh ]; then . ./path.sh; fi
set +a +e +f +u
nnet3py_folder={folder}
nnet3py_name={name}
nnet3py_log={log}
nnet3py_command={command}
nnet3py_task=${{{task_variable}:-}}
nnet3py_numbers=({numbers})
nnet3py_marker=1
if [ -n "$nnet3py_name" ]; then
  nnet3py_marker=$nnet3py_task
  [ ${{#nnet3py_numbers[@]}} = 0 ] || nnet3py_marker=${{nnet3py_numbers[nnet3py_task - 1]}}
  nnet3py_log=${{nnet3py_log//"$nnet3py_name"/$nnet3py_marker}}
  nnet3py_command=${{nnet3py_command//"$nnet3py_name"/$nnet3py_marker}}
fi
case $nnet3py_log in */*) mkdir -p -- "${{nnet3py_log%/*}}" ;; esac
rm -f -- "$nnet3py_log"
exec 3>>"$nnet3py_log" || exit 1
printf '# %s\n# Running on %s as job %s of {program}\n# Started at %s\n#\n' \
  "$nnet3py_command" "${{SLURMD_NODENAME:-$(uname -n)}}" "{job}" "$(date)" >&3
nnet3py_before=$(date +%s)
printf '( %s )\n' "$nnet3py_command" | bash >&3 2>&1 3>&-
nnet3py_status=${{PIPESTATUS[1]}}
nnet3py_seconds=$(($(date +%s) - nnet3py_before))
printf '# Accounting: time=%s threads={threads}\n# Ended (code %s) at %s, elapsed time %s seconds\n' \
  "$nnet3py_seconds" "$nnet3py_status" "$(date)" "$nnet3py_seconds" >&3
exec 3>&-
cd "$nnet3py_folder/ended" || exit 1
echo "$nnet3py_status" >".$nnet3py_marker" && mv -f ".$nnet3py_marker" "$nnet3py_marker" || exit 1
[ "$nnet3py_status" = 0 ]
"""


def text(
    invocation: Invocation,
    *,
    program: str,
    folder: str,
    directory: str,
    numbers: Sequence[int],
    task_variable: str,
    job: str,
) -> str:
    """The script's text.

    Args:
        invocation: what to run.
        program: the engine's name, for the log.
        folder: absolute path of the folder where ``ended/`` is.
        directory: where the command runs.
        numbers: the job's number of each task, counted from 1; empty where a task has its job's own number.
        task_variable: the environment variable with the task's number.
        job: the scheduler's number for the job, in bash's terms, for the log.
    """
    return _SCRIPT.format(
        program=program,
        folder=shlex.quote(folder),
        directory=shlex.quote(directory),
        numbers=" ".join(str(number) for number in numbers),
        task_variable=task_variable,
        job=job,
        name=shlex.quote(invocation.array.name if invocation.array else ""),
        log=shlex.quote(invocation.log),
        command=shlex.quote(invocation.command),
        threads=invocation.num_threads,
    )
