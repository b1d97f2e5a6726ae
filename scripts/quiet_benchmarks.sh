#!/usr/bin/env bash
# Runs the benchmarks whose figures README and docs quote, on an idle machine, most valuable first.
#
#   scripts/quiet_benchmarks.sh prepare           exports and environments; needs a network, times nothing
#   scripts/quiet_benchmarks.sh                   all steps, at most 39 minutes
#   scripts/quiet_benchmarks.sh turns families    some steps
#   scripts/quiet_benchmarks.sh --small turns     smallest sizes: whether it works, no figures
#
# Every step ends at its bound and does not stop the others. A step writes a page and a raw record to
# benchmarks/results; afterwards `python scripts/update_docs.py` and tests/test_quotes.py show which
# quotations have to follow.
#
# RUN        run with exported encoders in fp32 and int8 (default: demo, of `edgedistil run tiny --run demo`)
# TOKENIZER  folder of a BERT's tokenizer (default: the run's teacher)
# CORPUS     text, one sequence a line (default: the run's held-out text)
# FAMILIES   families to compare (default: bert roberta deberta-v2; all take 12 minutes)
# PYTHON     default: .venv/bin/python
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-.venv/bin/python}
RUN=${RUN:-demo}
FOLDER=${EDGEDISTIL_RUNS:-runs}/$RUN
TOKENIZER=${TOKENIZER:-$FOLDER/teacher}
CORPUS=${CORPUS:-$FOLDER/heldout.txt}
FAMILIES=${FAMILIES:-bert roberta deberta-v2}
STEPS="turns demo_record host peers repeat throughput families"
# Runnable tasks beyond which other work shows in medians (edgedistil/runtime/disturbance.py).
IDLE_LOAD=0.25

small=""
if [ "${1:-}" = "--small" ]; then small=yes; shift; fi

# size QUIET SMALL: the second where only a try is asked for
size() { if [ -n "$small" ]; then echo "$2"; else echo "$1"; fi; }

other_load() {  # other runnable tasks now, the mean of 10 samples
    local total=0 running
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        read -r _ _ _ running _ < /proc/loadavg
        total=$((total + ${running%%/*} - 1))
        sleep 0.1
    done
    awk "BEGIN { print $total / 10 }"
}

bounded() {  # bounded SECONDS SCRIPT ARGUMENTS...
    local seconds=$1
    shift
    timeout --kill-after 10 "$seconds" "$PYTHON" "$@"
}

prepare() {
    "$PYTHON" benchmarks/export_peers.py shapes --prepare --alternatives
    "$PYTHON" benchmarks/families.py --prepare
    "$PYTHON" benchmarks/cost_model_host.py --tokenizer "$TOKENIZER" --export-only
}

turns() {  # times and ratios of README, and whether the ratios depend on the size of a block
    bounded 180 benchmarks/latency_in_turns.py --run "$RUN" --processes "$(size 8 2)" &&
        bounded 180 benchmarks/latency_in_turns.py --run "$RUN" --processes "$(size 8 2)" \
            --calls-per-block 20
}

demo_record() {  # README's table; the run itself is made before
    bounded 60 benchmarks/raw_record.py "$FOLDER" --name demo
}

host() {  # docs/measuring.md: predictions against this machine
    bounded 540 benchmarks/cost_model_host.py --tokenizer "$TOKENIZER" \
        --rounds "$(size 2 1)" --blocks "$(size 12 2)" &&
        bounded 60 benchmarks/cost_model.py
}

peers() {
    bounded 420 benchmarks/export_peers.py shapes --alternatives --rounds "$(size 20 2)" \
        --openings "$(size 4 1)" --cold-rounds "$(size 5 1)" --threads 1 "$(size 2 1)"
}

repeat() {
    bounded 240 benchmarks/profile_repeat.py --run "$RUN" --times "$(size 5 2)"
}

throughput() {
    bounded 240 benchmarks/distill_throughput.py --corpus "$CORPUS" --rounds "$(size 3 1)" \
        --sequences "$(size 8 2)" --lines 600 --threads "$(nproc)" --write benchmarks/results
}

families() {  # one after the other: the page keeps those of the same day
    local family code=0
    for family in $FAMILIES; do
        # Without quotes: no option at all where figures count.
        # shellcheck disable=SC2046
        bounded 130 benchmarks/families.py --families "$family" \
            $(size "" "--rounds 2 --openings 1 --layers 1") || code=$?
    done
    return "$code"
}

[ "$#" -gt 0 ] || set -- $STEPS
failed=0
for step in "$@"; do
    case " prepare $STEPS " in
        *" $step "*) ;;
        *) echo "unknown step '$step': expected prepare or one of $STEPS" >&2; exit 2 ;;
    esac
done
if [ "$1" != prepare ]; then
    load=$(other_load)
    if awk "BEGIN { exit !($load > $IDLE_LOAD) }" && [ -z "$small" ]; then
        echo "this machine is busy ($load other tasks run): expected at most $IDLE_LOAD" >&2
        exit 4
    fi
fi
for step in "$@"; do
    echo "== $step, $(date -u +%H:%M:%S), load $(cut -d' ' -f1 /proc/loadavg)"
    started=$SECONDS
    "$step"
    code=$?
    outcome="done"
    if [ "$code" -eq 124 ]; then outcome="ended at its bound"; fi
    if [ "$code" -ne 0 ]; then failed=1; [ "$code" -eq 124 ] || outcome="failed with code $code"; fi
    echo "== $step: $outcome after $((SECONDS - started)) s"
done
exit "$failed"
