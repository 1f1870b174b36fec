#!/usr/bin/env bash
# The numbers of training that need a GPU: bash benchmarks/train_gpu.sh OUT PART...
# Parts: speed (5 minutes with compiling), memory (3), precision (1), loader (4), processes (7; one, two and four GPUs, as
# many as there are), fashion (FASHION_SECONDS of training, 600 if nothing is said, and 3 minutes), speedrun-1 and
# speedrun-2 (25 each).
# FASHION is the folder with the four files of Debian's package dataset-fashion-mnist, for precision and fashion; CORPUS
# and FEATURE_NET are files for the speedruns. Each part writes its JSON into OUT even if others fail. LIMIT is the most
# seconds of a part, 570 if nothing is said; fashion and the speedruns then stop, and go on when they are called again.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT=$(realpath -m "${1:?folder for the results}")
shift
mkdir -p "$OUT"
FASHION=${FASHION:-/usr/share/datasets/fashion-mnist} LIMIT=${LIMIT:-570}
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

for part in "$@"; do
  case $part in
    speed | memory | precision | loader | processes)
      command=(benchmarks/train_gpu.py --part "$part" --folder "$FASHION" --out "$OUT/train-$part.json") ;;
    fashion)
      command=(benchmarks/fashion.py --folder "$FASHION" --seconds "${FASHION_SECONDS:-600}" --run "$OUT/fashion"
        --out "$OUT/fashion.json" --sheet "$OUT/fashion.png") ;;
    speedrun-*)
      command=(benchmarks/speedrun.py --corpus "${CORPUS:?}" --feature-net "${FEATURE_NET:?}" --seed "${part#*-}"
        --out "$OUT/$part" --records "$OUT/speedrun.jsonl" --note "seed ${part#*-}") ;;
    *)
      echo "no part $part" >&2
      exit 2 ;;
  esac
  timeout --kill-after 30 "$LIMIT" python3 "${command[@]}" ${TINY:+--is-tiny --device cpu} > "$OUT/$part.log" 2>&1
  echo "$part: exit code $? after $SECONDS s"
done
