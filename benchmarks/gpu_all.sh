#!/usr/bin/env bash
# Every number of the GPU pages, on a machine with one NVIDIA GPU: bash benchmarks/gpu_all.sh FOLDER [PART ...]
# About sixteen minutes for all parts; names of parts run those alone. Each part has a limit of its own, and writes its JSON
# even if others fail. Where there are two GPUs, gpu.py also times one image on both of them, and many.py many images by two
# processes.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT=${1:?folder for the results}
shift
CHOSEN=" $* "
mkdir -p "$OUT"
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

part() { # name, seconds, command
  local name=$1 limit=$2
  shift 2
  [[ $CHOSEN == "  " || $CHOSEN == *" $name "* ]] || return 0
  timeout "$limit" python3 "$@" > "$OUT/$name.log" 2>&1
  echo "$name: exit code $? after $SECONDS s"
}

part start 150 benchmarks/start.py --out "$OUT/start.json"
part gpu 210 benchmarks/gpu.py --out "$OUT/gpu.json"
part kernels 140 benchmarks/step_kernels.py --out "$OUT/kernels.json"
part memory 60 benchmarks/memory.py --out "$OUT/memory.json"
part approximate 45 benchmarks/approximate.py --out "$OUT/approximate.json"
part serve 60 benchmarks/serve.py --model sd15 --random --requests 32 --running 16 --rows 32 --rounds 5 --out "$OUT/serve.json"
part compiled 270 benchmarks/gpu.py --only "SD 1.5 512, step with guidance" --compile sd15 --out "$OUT/gpu-compiled.json"
part compiled-xl 330 benchmarks/gpu.py --only SDXL --compile sdxl --out "$OUT/gpu-compiled-xl.json"
if [ "$(nvidia-smi -L | wc -l)" -ge 2 ]; then
  part many 180 benchmarks/many.py --processes 1 2 --out "$OUT/many.json"
fi
