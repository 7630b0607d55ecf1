#!/usr/bin/env bash
# A model of the BART shape that reads dialogues and summarises them, from nothing, in about an hour on two CPU cores: the
# checkpoint that every run of `scripts/policy_study.py dialogsum` starts from.
#
#   python scripts/prepare.py --data dialogsum/train.jsonl.xz --field dialogue --field summary --heldout 600 \
#     --vocab_size 4096 --output runs/dialogsum
#   scripts/reading_base.sh squad/train.jsonl:context cnndm/train.jsonl:article xsum/train.jsonl:document
#
# Arguments: more texts to read, FILE:FIELD each.
set -euo pipefail
texts=(--texts runs/dialogsum/train.jsonl:dialogue)
for each in "$@"; do texts+=(--texts "$each"); done
python scripts/reading_pairs.py "${texts[@]}" --passage 12 36 --target 12 --output runs/reading_short
python scripts/reading_pairs.py "${texts[@]}" --output runs/reading

train() { # MODEL_DIR, folder of its data, source, target, then flags
  calm train --gin.MODEL_DIR="'$1'" --gin.TRAIN_DATA="'$2/train.jsonl'" --gin.EVAL_DATA="'$2/heldout.jsonl'" \
    --gin.SOURCE="'$3'" --gin.TARGET="'$4'" --gin.EXIT_WEIGHTS=@last_only --gin.LOG_EVERY=20 --gin.SAVE_EVERY=250 "${@:5}"
}
short=(--gin_file=runs/dialogsum.gin --gin.TOKENIZER="'runs/dialogsum/tokenizer'" --gin.TransformerConfig.max_positions=256
  --gin.SAMPLED_EXITS=False --gin.DROPOUT_RATE=0.0 --gin.LABEL_SMOOTHING=0.0 --gin.BATCH_SIZE=32 --gin.MAX_SOURCE_LENGTH=96
  --gin.MAX_TARGET_LENGTH=32 --gin.TRAIN_STEPS=2000 --gin.EVAL_EVERY=500)
long=(--gin_file=runs/finetune.gin --gin.BATCH_SIZE=16 --gin.MAX_SOURCE_LENGTH=256 --gin.MAX_TARGET_LENGTH=64
  --gin.LENGTH_MULTIPLE=64 --gin.OPTIMIZER="'adamw'" --gin.WEIGHT_DECAY=0.01 --gin.DECAY="'linear'" --gin.LEARNING_RATE=8e-4)
train runs/reading_short/model runs/reading_short source target "${short[@]}"
train runs/reading/model runs/reading source target "${long[@]}" --gin.CHECKPOINT="'runs/reading_short/model/best'" \
  --gin.WARMUP_STEPS=50 --gin.TRAIN_STEPS=600 --gin.EVAL_EVERY=200
train runs/dialogsum_read/model runs/dialogsum dialogue summary "${long[@]}" --gin.CHECKPOINT="'runs/reading/model/best'" \
  --gin.LABEL_SMOOTHING=0.1 --gin.WARMUP_STEPS=100 --gin.TRAIN_STEPS=2400 --gin.EVAL_EVERY=300
